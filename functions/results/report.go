package results

import (
	"slices"
	"time"
)

// report is the JSON answer, and what the page shows.
type report struct {
	Polls  []pollReport `json:"polls"`
	Ledger ledger       `json:"ledger"`
	// Stale means that Postgres does not answer and this is the last count, of Ledger.AsOf.
	Stale bool `json:"stale"`
}

// pollReport is one poll. Hidden ones have neither votes nor total until they close.
type pollReport struct {
	ID       int32          `json:"id"`
	Slug     string         `json:"slug"`
	Question string         `json:"question"`
	Mode     string         `json:"mode"`
	State    string         `json:"state"`
	Opens    time.Time      `json:"opens"`
	Closes   time.Time      `json:"closes"`
	Hidden   bool           `json:"hidden"`
	Options  []optionReport `json:"options"`
	Total    *int64         `json:"total"`
}

type optionReport struct {
	ID    int16  `json:"id"`
	Slug  string `json:"slug"`
	Name  string `json:"name"`
	Votes *int64 `json:"votes"`
}

// ledger accounts for every entry that a stream ever took. Unaccounted is what is neither counted, pending nor
// rejected: 0, or the number of votes that a fault destroyed. Missing counts the nodes nobody has heard of lately.
type ledger struct {
	Streams     []stream  `json:"streams"`
	Added       int64     `json:"added"`
	Counted     int64     `json:"counted"`
	Pending     int64     `json:"pending"`
	Rejected    int64     `json:"rejected"`
	Unaccounted int64     `json:"unaccounted"`
	Missing     int       `json:"missing"`
	Checks      []check   `json:"checks"`
	AsOf        time.Time `json:"as_of"`
}

const goneOption = "(no longer on the ballot)"

// newReport puts a count beside the polls. It is pure; now decides what is open and what is hidden.
func newReport(polls []poll, c *count, now time.Time, stale bool) report {
	r := report{Stale: stale, Polls: make([]pollReport, 0, len(polls)), Ledger: newLedger(c)}
	for i := range polls {
		r.Polls = append(r.Polls, newPollReport(&polls[i], c, now))
	}
	return r
}

func newPollReport(p *poll, c *count, now time.Time) pollReport {
	out := pollReport{
		ID: p.ID, Slug: p.Slug, Question: p.Question, Mode: p.Mode, State: p.state(now), Opens: p.Opens, Closes: p.Closes,
	}
	out.Hidden = p.Results == resultsClose && out.State != "closed"
	var total int64
	listed := map[int16]bool{}
	for _, o := range p.Options {
		listed[o.ID] = true
		votes := c.votes[choice{p.ID, o.ID}]
		total += votes
		out.Options = append(out.Options, optionReport{ID: o.ID, Slug: o.Slug, Name: o.Name, Votes: &votes})
	}
	// Votes for an option that was taken off the ballot were cast all the same.
	var gone []int16
	for key, votes := range c.votes {
		if key.poll == p.ID && !listed[key.option] && votes != 0 {
			gone = append(gone, key.option)
		}
	}
	slices.Sort(gone)
	for _, id := range gone {
		votes := c.votes[choice{p.ID, id}]
		total += votes
		out.Options = append(out.Options, optionReport{ID: id, Name: goneOption, Votes: &votes})
	}
	out.Total = &total
	if out.Hidden {
		out.Total = nil
		for i := range out.Options {
			out.Options[i].Votes = nil
		}
	}
	return out
}

func newLedger(c *count) ledger {
	l := ledger{Streams: c.streams, Checks: c.checks, AsOf: c.asOf}
	if l.Streams == nil {
		l.Streams = []stream{}
	}
	if l.Checks == nil {
		l.Checks = []check{}
	}
	for _, s := range c.streams {
		l.Added += s.Added
		l.Counted += s.Counted
		l.Pending += s.Pending
		l.Rejected += s.Rejected
		if s.State == "missing" {
			l.Missing++
		}
		// Stream by stream, so that too much on one node never hides too little on another.
		l.Unaccounted += max(0, s.Added-s.Counted-s.Pending-s.Rejected)
	}
	return l
}

// share is an option's part of the total in percent, for the page's bars.
func (o optionReport) share(total int64) float64 {
	if o.Votes == nil || total <= 0 {
		return 0
	}
	return 100 * float64(*o.Votes) / float64(total)
}
