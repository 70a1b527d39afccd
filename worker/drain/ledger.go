package drain

import (
	"fmt"
	"time"

	"waggle/worker/store"
)

// The ledger of one stream. The rule is
//
//	added = accounted for + lost + pending
//
// added comes from Redis's own counter, which survives trims, rewrites and kill -9. Two worked examples, in entries:
//
//	A stranger trims a stream.     added  n  lost  held   entries read
//	  account at the last reading     10  6     0    10
//	  the stranger trims 8; 3 come
//	  complete reading                13         0     5   5: ids 9 to 13
//	  known = 2 (ids 9, 10), so 10 - 6 - 2 = 2 are lost; new = 3, all there
//	  account after it                13  6     2     5   5 pending, then n becomes 11
//
//	A log is cut.                  added  n  lost shift   entries read
//	  account at the last reading     10  6     0     0
//	  the log loses 3 (ids 8 to 10), Redis restarts, 1 comes: its counter says 8
//	  complete reading                 8                   2: ids 7 and 11
//	  known = 1 (id 7), so 10 - 6 - 1 = 3 are lost; new = 1
//	  account after it                11  6     3     3   2 pending; shift keeps added = counter + 3
//
// An entry that was added and cut off between two readings leaves no trace in these numbers.

// reading is what one read of a stream showed. Counts leave out the genesis entry.
type reading struct {
	// added is Redis's own count of entries ever added; it survives trims, rewrites and kill -9.
	added int64
	// last is the last-generated-id.
	last string
	// held is the number of entries still there.
	held int64
	// entries follow the cursor.
	entries []entry
	// complete means that nothing followed the entries when added was read.
	complete bool
	// reconnected means that a connection was made since the last reading, so the server may be another process. It
	// is also set for a reading that failed.
	reconnected bool
	// passed is the number of entries between the cursor and entries that readBacklog has passed, passedKnown the number
	// of those up to the account's LastID.
	passed, passedKnown int64
}

// reconcile brings an account up to what a reading from its position shows, short of counting the reading's entries.
// It finds losses by the rule
//
//	added ever = accounted for + lost + still to come.
//
// A complete reading has all terms. Of the entries known from the last reading, up to LastID, those neither accounted
// for nor present are gone. (A log was cut, or a stranger trimmed.) So are those of the entries added since, by
// Redis's counter, that are not there. Shift corrects a counter that went back.
//
// An incomplete reading can only show that more was removed than accounted for; the rest shows when the worker catches up.
//
// cut tells that the counter went back, even if entries that came since hide it. The log's end is then gone, and it
// may have held entries that no reading has shown.
func reconcile(a store.Account, l reading) (_ store.Account, cut bool) {
	total := l.added + a.Shift
	if l.complete {
		known := l.passedKnown + upTo(l.entries, a.LastID)
		present := l.passed + int64(len(l.entries))
		cut = total-a.Added < present-known
		a.Lost += max(0, a.Added-a.N-a.Lost-known) + max(0, total-a.Added-(present-known))
		total = a.N + a.Lost + present
	} else {
		cut = total < a.Added
		total = max(total, a.Added)
		a.Lost += max(0, total-l.held-a.N-a.Lost)
	}
	a.Shift = total - l.added
	a.Added, a.LastID, a.Held = total, l.last, l.held
	return a, cut
}

// upTo is the number of entries up to an id, of entries in stream order.
func upTo(entries []entry, id string) (n int64) {
	for _, e := range entries {
		if compareIDs(e.id, id) > 0 {
			break
		}
		n++
	}
	return n
}

// maxBacklogPages bounds readBacklog; with full pages it is twenty million entries.
const maxBacklogPages = 10_000

// readBacklog reads from the account's position to the end of the stream without counting. It returns a complete
// reading whose entries are the last page. A worker does it before a backlog on a new connection. The server may have
// restarted on a cut log, and then taken enough votes to hide that its counter fell. Single pages would not show
// that.
func readBacklog(a store.Account, page func(after string) (reading, error)) (reading, error) {
	after := a.Pos
	var passed, known int64
	for range maxBacklogPages {
		l, err := page(after)
		l.passed, l.passedKnown = passed, known
		if err != nil || l.complete || len(l.entries) == 0 {
			return l, err
		}
		passed += int64(len(l.entries))
		known += upTo(l.entries, a.LastID)
		after = l.entries[len(l.entries)-1].id
	}
	return reading{}, fmt.Errorf("reading a backlog: it has no end after %d pages", maxBacklogPages)
}

// rewind reports whether Redis has fallen back behind the position, and returns the account to go on with. Redis then
// lost entries that had been counted, and everything after them: what was known and not counted is lost. New entries
// may get ids below the position, so everything still there is read again. Counting it twice does no harm; missing a
// vote would.
func rewind(a store.Account, l reading) (store.Account, bool) {
	if compareIDs(l.last, a.Pos) >= 0 {
		return a, false
	}
	a.Lost = a.Added - a.N
	a.Shift = a.Added + l.held - l.added // what it holds is delivered, and added, once more
	a.Pos, a.LastID, a.Held = genesisID, genesisID, l.held
	return a, true
}

// compareIDs orders stream ids; one that can't be parsed, which Redis never sends, sorts first.
func compareIDs(a, b string) int {
	x, _ := parseID(a)
	y, _ := parseID(b)
	return x.compare(y)
}

// retention remembers when positions were reached, by this process's monotonic clock: neither the nodes' clocks nor a
// jump of the worker's own shorten the window. A restarted worker starts a new window, which only delays the trim.
type retention struct {
	window  time.Duration
	entries int64
	marks   []mark // ascending
}

type mark struct {
	at  time.Time
	pos string
	n   int64
}

// note records that everything up to pos, n entries, is accounted for in Postgres at now. A position that went back,
// because Postgres did, drops the marks beyond it.
func (r *retention) note(now time.Time, pos string, n int64) {
	r.dropBeyond(pos)
	if last := len(r.marks) - 1; last >= 0 && r.marks[last].pos == pos {
		return
	}
	r.marks = append(r.marks, mark{now, pos, n})
}

func (r *retention) dropBeyond(pos string) {
	for len(r.marks) > 0 && compareIDs(r.marks[len(r.marks)-1].pos, pos) > 0 {
		r.marks = r.marks[:len(r.marks)-1]
	}
}

// target returns the position before which entries may go, or "" if none. It is the newest position that was reached
// a window ago, or that has more than the allowed number of counted entries after it. pos and n are the account's.
// What is beyond them is not counted, even if it once was.
func (r *retention) target(now time.Time, pos string, n int64) string {
	r.dropBeyond(pos)
	before := ""
	for len(r.marks) > 0 && (now.Sub(r.marks[0].at) >= r.window || n-r.marks[0].n > r.entries) {
		before = r.marks[0].pos
		r.marks = r.marks[1:]
	}
	return before
}
