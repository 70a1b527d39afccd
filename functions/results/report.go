package results

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// report is the JSON answer, and what the pages show.
type report struct {
	Polls  []pollReport `json:"polls"`
	Ledger ledger       `json:"ledger"`
	// Stale means that Postgres does not answer and this is the last count, of Ledger.AsOf.
	Stale bool `json:"stale"`

	now time.Time
}

// pollReport is one poll. Hidden ones have neither votes, shares, turnout nor total until they close.
type pollReport struct {
	ID       int32     `json:"id"`
	Slug     string    `json:"slug"`
	Question string    `json:"question"`
	Mode     string    `json:"mode"`
	State    string    `json:"state"`
	Opens    time.Time `json:"opens"`
	Closes   time.Time `json:"closes"`
	Zone     string    `json:"zone,omitempty"`
	// Organiser is who asks; Contact and Privacy are addresses.
	Organiser string         `json:"organiser,omitempty"`
	Contact   string         `json:"contact,omitempty"`
	Privacy   string         `json:"privacy,omitempty"`
	Hidden    bool           `json:"hidden"`
	Options   []optionReport `json:"options"`
	Total     *int64         `json:"total"`
	// Tie is the number of options that share the most votes, if several do; else 0.
	Tie int `json:"tie"`
	// Final means that nothing is known that may still change the result. Reasons say what may, and which losses an operator
	// has closed.
	Final   bool     `json:"final"`
	Reasons []reason `json:"reasons"`
	// Entries are the presses counted for this poll, by node: each press of a voter who votes again counts here.
	Entries []nodeEntries `json:"entries"`
	// Turnout are the new voters of each minute with any, in the last two hours of the poll; Earlier are those before. It
	// is there until a day after the poll.
	Turnout []minuteVoters `json:"turnout"`
	Earlier int64          `json:"turnout_earlier"`
	// TurnoutCut means that too many polls are open for this one's turnout to be read.
	TurnoutCut bool `json:"turnout_cut"`
}

type optionReport struct {
	ID    int16  `json:"id"`
	Slug  string `json:"slug"`
	Name  string `json:"name"`
	Votes *int64 `json:"votes"`
	// Share is the part of the total in percent, rounded to a hundredth; null without votes.
	Share *float64 `json:"share"`
	// Leads marks the option with the most votes, or all that share them.
	Leads bool `json:"leads"`
	gone  bool
}

// newReport puts a count beside the polls. It is pure; now decides what is open and what is hidden.
func newReport(polls []poll, c *count, now time.Time, stale bool) report {
	r := report{Stale: stale, Polls: make([]pollReport, 0, len(polls)), Ledger: newLedger(c, stale), now: now}
	shown := 0
	for i := range polls {
		p := &polls[i]
		if p.hasTurnout(now) {
			shown++
		}
		r.Polls = append(r.Polls, newPollReport(p, c, &r.Ledger, now, p.hasTurnout(now) && shown > maxTurnouts))
	}
	return r
}

// only is the report of one poll.
func (r report) only(slug string) report {
	r.Polls = slices.DeleteFunc(slices.Clone(r.Polls), func(p pollReport) bool { return p.Slug != slug })
	return r
}

func newPollReport(p *poll, c *count, l *ledger, now time.Time, turnoutCut bool) pollReport {
	out := pollReport{
		ID: p.ID, Slug: p.Slug, Question: p.Question, Mode: p.Mode, State: p.state(now), Opens: p.Opens, Closes: p.Closes, Zone: p.Zone,
		Organiser: p.Organiser, Contact: p.Contact, Privacy: p.Privacy,
		Entries: []nodeEntries{}, Turnout: []minuteVoters{},
	}
	out.Reasons = notFinal(p, l, now)
	out.Final = !slices.ContainsFunc(out.Reasons, func(r reason) bool { return !r.Closed })
	out.Hidden = p.Results == resultsClose && out.State != "closed" || c.unknown[p.ID]
	for _, o := range p.Options {
		out.Options = append(out.Options, optionReport{ID: o.ID, Slug: o.Slug, Name: o.Name})
	}
	if out.Hidden {
		return out
	}
	// Votes for an option that was taken off the ballot were cast all the same.
	for key, votes := range c.votes {
		listed := slices.ContainsFunc(p.Options, func(o option) bool { return o.ID == key.option })
		if key.poll == p.ID && !listed && votes != 0 {
			out.Options = append(out.Options, optionReport{ID: key.option, gone: true})
		}
	}
	slices.SortFunc(out.Options[len(p.Options):], func(a, b optionReport) int { return cmp.Compare(a.ID, b.ID) })
	out.addVotes(c)
	if entries := c.entries[p.ID]; entries != nil {
		out.Entries = entries
	}
	out.TurnoutCut = turnoutCut
	out.addTurnout(c.turnout[p.ID])
	return out
}

func (p *pollReport) addVotes(c *count) {
	var total, most int64
	for _, o := range p.Options {
		votes := c.votes[choice{p.ID, o.ID}]
		total += votes
		most = max(most, votes)
	}
	p.Total = &total
	for i := range p.Options {
		o := &p.Options[i]
		votes := c.votes[choice{p.ID, o.ID}]
		o.Votes = &votes
		if total > 0 {
			share := math.Round(10_000*float64(votes)/float64(total)) / 100
			o.Share = &share
		}
		if o.Leads = most > 0 && votes == most; o.Leads {
			p.Tie++
		}
	}
	if p.Tie == 1 {
		p.Tie = 0
	}
}

func (p *pollReport) addTurnout(minutes []minuteVoters) {
	if len(minutes) == 0 {
		return
	}
	p.Turnout, p.Earlier = minutes, *p.Total
	for _, m := range minutes {
		p.Earlier -= m.Voters
	}
	p.Earlier = max(p.Earlier, 0)
}

// hasTurnout reports whether the poll's turnout is of interest at now.
func (p *poll) hasTurnout(now time.Time) bool {
	return !now.Before(p.Opens) && !now.After(p.Closes.Add(turnoutKept))
}

// turnoutEnd is the last minute of a poll that can have voters at now.
func (p *poll) turnoutEnd(now time.Time) time.Time {
	if now.Before(p.Closes) {
		return now.Truncate(time.Minute)
	}
	return p.Closes.Add(-1).Truncate(time.Minute)
}

// presses is the number of entries that were counted for the poll: every press of every voter.
func (p *pollReport) presses() (n int64) {
	for _, e := range p.Entries {
		n += e.Counted
	}
	return n
}
