package results

import (
	"encoding/json"
	"fmt"
	"time"
)

// count is what Postgres said at one moment, from one snapshot, so that tally and ledger agree with each other. It alone
// is the result: Redis still holds votes that are counted already, so nothing is ever added to it. It is never changed.
type count struct {
	asOf    time.Time
	votes   map[choice]int64
	streams []stream
	gaps    []gap
	checks  []check
	// entries are the presses that were counted for a poll, by node, in the order of the nodes' names.
	entries map[int32][]nodeEntries
	// turnout are a poll's new voters by minute, ascending; see turnoutWindow.
	turnout map[int32][]minuteVoters
	// unknown are polls whose votes are not known here: the count is a sibling's, which does not tell hidden ones.
	unknown map[int32]bool
}

type choice struct {
	poll   int32
	option int16
}

// stream is the account of one incarnation of a node's stream: captured = counted + pending + rejected + lost.
type stream struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
	State       string `json:"state"`
	Captured    int64  `json:"captured"`
	Counted     int64  `json:"counted"`
	Pending     int64  `json:"pending"`
	Rejected    int64  `json:"rejected"`
	Lost        int64  `json:"lost"`
	// Recovered are those of the counted that only copies on other nodes had, Single those of the captured that were
	// confirmed with one copy. LostClosed are those of the lost that an operator has examined and closed.
	Recovered  int64     `json:"recovered"`
	Single     int64     `json:"single"`
	LostClosed int64     `json:"lost_closed"`
	SeenAt     time.Time `json:"seen_at"`
}

// gap is a stretch of time in which a node may have captured votes that nobody can account for. It is open until an
// operator closes it.
type gap struct {
	Node     string     `json:"node"`
	From     time.Time  `json:"from"`
	To       time.Time  `json:"to"`
	ClosedAt *time.Time `json:"closed_at"`
}

// The states of a stream that no operator or newer incarnation has closed. A missing one has not been read for 15 s.
const (
	streamActive  = "active"
	streamMissing = "missing"
)

// check is the last outcome of one of the tally's self-checks; 0 is right.
type check struct {
	Name      string    `json:"name"`
	Drift     int64     `json:"drift"`
	CheckedAt time.Time `json:"checked_at"`
}

type nodeEntries struct {
	Node    string `json:"node"`
	Counted int64  `json:"counted"`
}

type minuteVoters struct {
	Minute time.Time `json:"minute"`
	Voters int64     `json:"voters"`
}

// decodeCount reads what count.sql makes.
func decodeCount(text []byte) (*count, error) {
	var row struct {
		AsOf    time.Time  `json:"as_of"`
		Tally   [][3]int64 `json:"tally"`
		Ledger  []stream   `json:"ledger"`
		Gaps    []gap      `json:"gaps"`
		Checks  []check    `json:"checks"`
		Turnout [][3]int64 `json:"turnout"`
		Entries []struct {
			Poll int32 `json:"poll"`
			nodeEntries
		} `json:"entries"`
	}
	if err := json.Unmarshal(text, &row); err != nil {
		return nil, fmt.Errorf("decoding the count: %w", err)
	}
	c := &count{
		asOf: row.AsOf, streams: row.Ledger, gaps: row.Gaps, checks: row.Checks,
		votes: map[choice]int64{}, entries: map[int32][]nodeEntries{}, turnout: map[int32][]minuteVoters{},
	}
	for _, t := range row.Tally {
		c.votes[choice{int32(t[0]), int16(t[1])}] = t[2]
	}
	for _, e := range row.Entries {
		c.entries[e.Poll] = append(c.entries[e.Poll], e.nodeEntries)
	}
	for _, t := range row.Turnout {
		poll := int32(t[0])
		c.turnout[poll] = append(c.turnout[poll], minuteVoters{time.Unix(60*t[1], 0).UTC(), t[2]})
	}
	return c, nil
}
