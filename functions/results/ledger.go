package results

import (
	"slices"
	"time"
)

// ledger accounts for every entry that a stream ever took. Captured is what a node's Redis took and voters were told
// of. Counted is in the tally, pending is not read yet, and rejected was no valid vote. Lost was captured and can no
// longer be read. Recovered are those of the counted that only a copy had. Single are those of the captured that were
// confirmed with one copy. Missing counts the nodes that nobody has
// read lately.
type ledger struct {
	Streams  []stream `json:"streams"`
	Captured int64    `json:"captured"`
	Counted  int64    `json:"counted"`
	Pending  int64    `json:"pending"`
	Rejected int64    `json:"rejected"`
	Lost     int64    `json:"lost"`
	// Lost is at least this many: Gaps are the times of which nobody can know.
	Recovered int64   `json:"recovered"`
	Single    int64   `json:"single"`
	Gaps      []gap   `json:"gaps"`
	Missing   int     `json:"missing"`
	Checks    []check `json:"checks"`
	// Whole means that every captured vote is accounted for; Reasons say what is in the way.
	Whole   bool      `json:"whole"`
	Reasons []reason  `json:"reasons"`
	AsOf    time.Time `json:"as_of"`

	stale      bool
	lostClosed int64
}

// reason is one thing that may still change a result. Code is for programs.
type reason struct {
	Code string `json:"code"`
	// Node and Check name what it is about, Since and Until the time, N how many votes; each only where it applies.
	Node  string     `json:"node,omitempty"`
	Check string     `json:"check,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	Until *time.Time `json:"until,omitempty"`
	N     int64      `json:"n,omitempty"`
	// Closed means that an operator has looked into it: it stays true, and holds no result back any more.
	Closed bool `json:"closed,omitempty"`
}

// liveChecks are self-checks that repeat what the ledger says. The ledger is of now, while they may be a minute old.
var liveChecks = []string{"missing", "lost", "unknown"}

func newLedger(c *count, stale bool) ledger {
	l := ledger{Streams: c.streams, Gaps: c.gaps, Checks: []check{}, AsOf: c.asOf, Reasons: []reason{}, stale: stale}
	if l.Streams == nil {
		l.Streams = []stream{}
	}
	if l.Gaps == nil {
		l.Gaps = []gap{}
	}
	for _, ch := range c.checks {
		if !slices.Contains(liveChecks, ch.Name) {
			l.Checks = append(l.Checks, ch)
		}
	}
	for _, s := range c.streams {
		l.Captured += s.Captured
		l.Counted += s.Counted
		l.Pending += s.Pending
		l.Rejected += s.Rejected
		l.Recovered += s.Recovered
		l.Single += s.Single
		l.lostClosed += s.LostClosed
		if s.State == streamMissing {
			l.Missing++
		}
		// Stream by stream, so that too much on one node never hides too little on another.
		l.Lost += max(0, s.Captured-s.Counted-s.Pending-s.Rejected)
	}
	l.Reasons = append(l.Reasons, l.notWhole()...)
	l.Whole = len(l.Reasons) == 0
	return l
}

// notWhole says why it is not certain that every captured vote is accounted for.
func (l *ledger) notWhole() (reasons []reason) {
	if l.stale {
		reasons = append(reasons, reason{Code: "unread", Since: &l.AsOf})
	}
	if len(l.Streams) == 0 {
		reasons = append(reasons, reason{Code: "no_nodes"})
	}
	if l.Pending > 0 {
		reasons = append(reasons, reason{Code: "pending", N: l.Pending})
	}
	for _, s := range l.Streams {
		if s.State == streamMissing {
			reasons = append(reasons, reason{Code: "silent", Node: s.Node, Since: &s.SeenAt})
		}
	}
	if closed := min(l.lostClosed, l.Lost); l.Lost > closed {
		reasons = append(reasons, reason{Code: "lost", N: l.Lost - closed})
	}
	if closed := min(l.lostClosed, l.Lost); closed > 0 {
		reasons = append(reasons, reason{Code: "lost", N: closed, Closed: true})
	}
	for _, g := range l.Gaps {
		reasons = append(reasons, reason{Code: "gap", Node: g.Node, Since: &g.From, Until: &g.To, Closed: g.ClosedAt != nil})
	}
	for _, c := range l.Checks {
		if c.Drift != 0 {
			reasons = append(reasons, reason{Code: "check", Check: c.Name, N: c.Drift})
		}
	}
	return reasons
}

// captureTime is how long after a poll's end a vote that was pressed in time may still reach a node's Redis. The
// function vote answers within 8 s (exec_timeout in stack.yml).
const captureTime = 10 * time.Second

// notFinal says why a poll's result may still change. What is pending may be of any poll.
func notFinal(p *poll, l *ledger, now time.Time) []reason {
	reasons := []reason{}
	switch p.state(now) {
	case "waiting":
		return append(reasons, reason{Code: "waiting", Since: &p.Opens})
	case "open":
		reasons = append(reasons, reason{Code: "open", Since: &p.Closes})
	case "closed":
		settled := p.Closes.Add(captureTime)
		for _, s := range l.Streams {
			if s.State == streamActive && s.SeenAt.Before(settled) {
				reasons = append(reasons, reason{Code: "not_read_since", Node: s.Node, Since: &p.Closes})
			}
		}
		for _, c := range l.Checks {
			if c.Drift == 0 && c.CheckedAt.Before(settled) {
				reasons = append(reasons, reason{Code: "not_checked_since", Check: c.Name, Since: &p.Closes})
			}
		}
		if len(l.Checks) == 0 {
			reasons = append(reasons, reason{Code: "not_checked_since", Since: &p.Closes})
		}
	}
	return append(reasons, l.Reasons...)
}
