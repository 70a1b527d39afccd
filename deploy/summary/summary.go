// Package summary is the paper for an announcement: the results as they were shown, beside a recount of the votes, signed.
//
// In: the JSON of the function results and that of `worker recount`. Out: a document that says where the two agree
// and where not, and a signature. Whoever has the public key knows by it that nobody has edited the document. Later,
// with a new recount, it tells whether a vote has changed since.
package summary

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Summary is what is signed.
type Summary struct {
	// At is the moment of the recount, by Postgres's clock.
	At    time.Time `json:"at"`
	Polls []Poll    `json:"polls"`
	// Votes is the number of all rows of votes, Inserted the number of new voters by the streams' accounts.
	Votes    int64  `json:"votes"`
	Inserted int64  `json:"inserted"`
	Ledger   Ledger `json:"ledger"`
	// Faults are what does not agree; a summary with any is no basis for an announcement.
	Faults []string `json:"faults"`
}

// Poll is one poll's result. Options have the votes that the recount found.
type Poll struct {
	ID       int32    `json:"id"`
	Slug     string   `json:"slug"`
	Question string   `json:"question"`
	Final    bool     `json:"final"`
	Reasons  []string `json:"reasons"` // why it is not final, and what an operator has closed
	Hidden   bool     `json:"hidden"`  // nothing of it may be shown yet: the options have no votes
	Options  []Option `json:"options"`
	Total    int64    `json:"total"`
	Digest   string   `json:"digest"` // of all rows, as worker/store defines it
}

// Option is one answer.
type Option struct {
	ID    int16  `json:"id"`
	Name  string `json:"name"`
	Votes int64  `json:"votes"`
}

// Ledger is the sum of all nodes' ledgers, in the words of the results page.
type Ledger struct {
	Captured int64 `json:"captured"`
	Counted  int64 `json:"counted"`
	Pending  int64 `json:"pending"`
	Rejected int64 `json:"rejected"`
	Lost     int64 `json:"lost"`
	Whole    bool  `json:"whole"`
}

// Recount is the answer of `worker recount`.
type Recount struct {
	At    time.Time `json:"at"`
	Polls []struct {
		Poll   int32           `json:"poll"`
		Votes  map[int16]int64 `json:"votes"`
		Tally  map[int16]int64 `json:"tally"`
		Digest string          `json:"digest"`
	} `json:"polls"`
	Votes    int64 `json:"votes"`
	Inserted int64 `json:"inserted"`
	// Faults are where the rows and what was added up differ.
	Faults []string `json:"faults"`
}

// shown is the part of the results' JSON that goes into a summary.
type shown struct {
	Stale bool `json:"stale"`
	Polls []struct {
		ID       int32           `json:"id"`
		Slug     string          `json:"slug"`
		Question string          `json:"question"`
		Final    bool            `json:"final"`
		Hidden   bool            `json:"hidden"`
		Reasons  json.RawMessage `json:"reasons"`
		Options  []struct {
			ID    int16  `json:"id"`
			Name  string `json:"name"`
			Votes *int64 `json:"votes"`
		} `json:"options"`
	} `json:"polls"`
	Ledger Ledger `json:"ledger"`
}

// Make puts the results beside a recount that was made right after or before. Poll is the slug of the only poll wanted,
// or "" for all; explain makes sentences of the results' reasons.
func Make(results []byte, recount Recount, poll string, explain func(json.RawMessage) ([]string, error)) (Summary, error) {
	var s shown
	if err := json.Unmarshal(results, &s); err != nil {
		return Summary{}, fmt.Errorf("reading the results: %w", err)
	}
	out := Summary{At: recount.At, Votes: recount.Votes, Inserted: recount.Inserted, Ledger: s.Ledger,
		Polls: []Poll{}, Faults: append([]string{}, recount.Faults...)}
	if s.Stale {
		out.Faults = append(out.Faults, "the results page cannot read the count just now")
	}
	for _, p := range s.Polls {
		if poll != "" && p.Slug != poll {
			continue
		}
		reasons, err := explain(p.Reasons)
		if err != nil {
			return Summary{}, fmt.Errorf("reading why poll %s is not final: %w", p.Slug, err)
		}
		made := Poll{ID: p.ID, Slug: p.Slug, Question: p.Question, Final: p.Final, Reasons: reasons, Hidden: p.Hidden, Options: []Option{}}
		votes := map[int16]int64{}
		for _, counted := range recount.Polls {
			if counted.Poll == p.ID {
				votes, made.Digest = counted.Votes, counted.Digest
			}
		}
		for _, o := range p.Options {
			// While votes come in, page and recount are of two moments.
			if p.Final && o.Votes != nil && *o.Votes != votes[o.ID] {
				out.Faults = append(out.Faults, fmt.Sprintf("poll %s: the results page shows %d votes for %s, the rows are %d", p.Slug, *o.Votes, o.Name, votes[o.ID]))
			}
			option := Option{ID: o.ID, Name: o.Name}
			if !p.Hidden {
				option.Votes = votes[o.ID]
				made.Total += option.Votes
			}
			made.Options = append(made.Options, option)
		}
		out.Polls = append(out.Polls, made)
	}
	if poll != "" && len(out.Polls) == 0 {
		return Summary{}, fmt.Errorf("the results have no poll %q", poll)
	}
	return out, nil
}

// Since says what a new recount finds changed in the polls that were final.
func (s Summary) Since(recount Recount) (changes []string) {
	for _, p := range s.Polls {
		if !p.Final {
			continue
		}
		digest := ""
		votes := map[int16]int64{}
		for _, counted := range recount.Polls {
			if counted.Poll == p.ID {
				digest, votes = counted.Digest, counted.Votes
			}
		}
		before := len(changes)
		for _, o := range p.Options {
			if !p.Hidden && votes[o.ID] != o.Votes {
				changes = append(changes, fmt.Sprintf("poll %s: %s had %d votes, the rows are now %d", p.Slug, o.Name, o.Votes, votes[o.ID]))
			}
		}
		if digest != p.Digest && len(changes) == before {
			changes = append(changes, fmt.Sprintf("poll %s: the numbers are the same, but some votes have changed", p.Slug))
		}
	}
	return append(changes, recount.Faults...)
}

// Print writes the summary for people.
func (s Summary) Print(out io.Writer) {
	for _, p := range s.Polls {
		state := "NOT FINAL"
		if p.Final {
			state = "FINAL"
		}
		fmt.Fprintf(out, "%s\n%s\n", p.Question, state)
		for _, r := range p.Reasons {
			fmt.Fprintf(out, "  - %s\n", r)
		}
		if p.Hidden {
			fmt.Fprintf(out, "  hidden until voting has closed\n\n")
			continue
		}
		rows := slices.Clone(p.Options)
		slices.SortStableFunc(rows, func(a, b Option) int { return int(min(1, max(-1, b.Votes-a.Votes))) })
		for i, o := range rows {
			rank := 1 + slices.IndexFunc(rows, func(other Option) bool { return other.Votes == o.Votes })
			tie := ""
			if i > 0 && rows[i-1].Votes == o.Votes || i+1 < len(rows) && rows[i+1].Votes == o.Votes {
				tie = "  tie"
			}
			fmt.Fprintf(out, "  %2d. %12s  %7s  %s%s\n", rank, Thousands(o.Votes), percent(o.Votes, p.Total), o.Name, tie)
		}
		fmt.Fprintf(out, "      %12s  votes\n\n", Thousands(p.Total))
	}
	l := s.Ledger
	fmt.Fprintf(out, "Ledger: %d captured = %d counted + %d pending + %d rejected + %d lost.\n", l.Captured, l.Counted, l.Pending, l.Rejected, l.Lost)
	if len(s.Faults) == 0 {
		fmt.Fprintf(out, "Recount of %s votes on %s: rows, tally and accounts agree.\n", Thousands(s.Votes), s.At.UTC().Format("2 January 2006, 15:04:05 UTC"))
		return
	}
	fmt.Fprintf(out, "THE RECOUNT DOES NOT AGREE:\n")
	for _, f := range s.Faults {
		fmt.Fprintf(out, "  - %s\n", f)
	}
}

// Thousands writes a number in groups of three digits.
func Thousands(n int64) string {
	digits := fmt.Sprint(n)
	var groups []string
	for len(digits) > 3 && digits[len(digits)-4] != '-' {
		groups = append([]string{digits[len(digits)-3:]}, groups...)
		digits = digits[:len(digits)-3]
	}
	return strings.Join(append([]string{digits}, groups...), ",")
}

func percent(n, total int64) string {
	switch share := 100 * float64(n) / float64(max(total, 1)); {
	case n > 0 && share < 0.1:
		return "< 0.1 %"
	case n < total && share > 99.9:
		return "> 99.9 %"
	default:
		return fmt.Sprintf("%.1f %%", share)
	}
}
