package drain

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waggle/worker/store"
)

// model is a stream and its account, with the truth beside it.
type model struct {
	next    int   // number of the next entry; entry k has id 1-k
	counter int64 // Redis's entries-added without the genesis
	there   []int // entries still in Redis
	account store.Account
	counted int // the last entry counted
	gone    int64
}

func idOf(k int) string { return fmt.Sprintf("1-%d", k) }

func (m *model) read(count int) reading { return m.readAfter(m.account.Pos, count) }

func (m *model) readAfter(after string, count int) reading {
	l := reading{added: m.counter, held: int64(len(m.there)), last: genesisID}
	if m.next > 0 {
		l.last = idOf(m.next - 1)
	}
	for _, k := range m.there {
		if compareIDs(idOf(k), after) > 0 && len(l.entries) < count {
			l.entries = append(l.entries, entry{id: idOf(k)})
		}
	}
	l.complete = len(l.entries) < count
	return l
}

// drain counts one batch; it returns whether the reading was complete.
func (m *model) drain(count int) bool {
	l := m.read(count)
	a, _ := reconcile(m.account, l)
	if n := len(l.entries); n > 0 {
		a.N, a.Pos = m.account.N+int64(n), l.entries[n-1].id
		_, _ = fmt.Sscanf(a.Pos, "1-%d", &m.counted)
	}
	m.account = a
	return l.complete
}

// destroy removes entries from lowest to below k, and notes how many of them had not been counted.
func (m *model) destroy(below int) {
	kept := m.there[:0:0]
	for _, k := range m.there {
		if k >= below {
			kept = append(kept, k)
			continue
		}
		if compareIDs(idOf(k), m.account.Pos) > 0 {
			m.gone++
		}
	}
	m.there = kept
}

// TestLedgerIsExactHoweverItIsTrimmed: the history is any sequence of adds, partial drains and trims, by us and by
// strangers. After a complete reading the lost number is the truth, and it is never above it.
func TestLedgerIsExactHoweverItIsTrimmed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{next: 2, account: store.Account{Pos: genesisID, LastID: genesisID}}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(t, "n") {
					m.there = append(m.there, m.next)
					m.next++
					m.counter++
				}
			},
			"drain": func(t *rapid.T) { m.drain(rapid.IntRange(1, 5).Draw(t, "batch")) },
			"read without counting": func(t *rapid.T) {
				l := m.read(rapid.IntRange(1, 20).Draw(t, "batch"))
				m.account, _ = reconcile(m.account, l)
			},
			"trim what was counted": func(t *rapid.T) { m.destroy(m.counted) },
			"stranger trims":        func(t *rapid.T) { m.destroy(rapid.IntRange(1, m.next).Draw(t, "below")) },
			"": func(t *rapid.T) {
				a := m.account
				if a.Lost > m.gone {
					t.Fatalf("lost = %d, but only %d are gone", a.Lost, m.gone)
				}
				if a.N+a.Lost > a.Added {
					t.Fatalf("%d counted and %d lost of %d added", a.N, a.Lost, a.Added)
				}
			},
		})
		for !m.drain(3) {
		}
		a := m.account
		if a.Lost != m.gone || a.Added != m.counter || a.N+a.Lost != a.Added || a.Shift != 0 {
			t.Fatalf("account %+v, want %d lost of %d added, and all accounted for", a, m.gone, m.counter)
		}
	})
}

// TestLedgerCountsWhatACutLogTook: the tail that had been seen is reported even when new entries hide the fall of the
// counter.
func TestLedgerCountsWhatACutLogTook(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{next: 2, account: store.Account{Pos: genesisID, LastID: genesisID}}
		add := func(n int) {
			for range n {
				m.there = append(m.there, m.next)
				m.next++
				m.counter++
			}
		}
		add(rapid.IntRange(1, 20).Draw(t, "before"))
		m.drain(rapid.IntRange(1, 10).Draw(t, "counted"))
		m.account, _ = reconcile(m.account, m.read(1000))
		uncounted := int(m.account.Added - m.account.N)
		cut := rapid.IntRange(0, uncounted).Draw(t, "cut")
		m.there = m.there[:len(m.there)-cut]
		m.counter -= int64(cut)
		add(rapid.IntRange(0, 20).Draw(t, "after"))
		// A new connection: a backlog is read whole before it is worked off in small batches.
		batch := rapid.IntRange(1, 10).Draw(t, "batch")
		l, err := readBacklog(m.account, func(after string) (reading, error) { return m.readAfter(after, batch), nil })
		if err != nil {
			t.Fatalf("reading the backlog: %v", err)
		}
		var noticed bool
		if m.account, noticed = reconcile(m.account, l); noticed != (cut > 0) {
			t.Fatalf("a cut of %d entries noticed: %v", cut, noticed)
		}
		for !m.drain(batch) {
		}
		a := m.account
		if a.Lost != int64(cut) || a.N+a.Lost != a.Added {
			t.Fatalf("account %+v, want %d lost", a, cut)
		}
		// The counter is short for ever; a stranger's trim is still seen in full.
		m.gone = 0
		add(rapid.IntRange(0, 20).Draw(t, "later"))
		m.destroy(rapid.IntRange(1, m.next).Draw(t, "below"))
		for !m.drain(batch) {
		}
		if got := m.account.Lost - a.Lost; got != m.gone {
			t.Fatalf("%d lost after a stranger's trim of %d", got, m.gone)
		}
	})
}

func TestRewindReadsEverythingAgain(t *testing.T) {
	t.Parallel()
	a := store.Account{Pos: "1-9", N: 9, Added: 12, LastID: "1-12"}
	got, back := rewind(a, reading{last: "1-7", added: 7, held: 7})
	want := store.Account{Pos: genesisID, N: 9, Added: 12, Lost: 3, Shift: 12, LastID: genesisID, Held: 7}
	if !back || got != want {
		t.Errorf("rewind = %+v, %v; want %+v", got, back, want)
	}
	if _, back := rewind(a, reading{last: "1-9"}); back {
		t.Error("rewound although nothing is missing")
	}
	// The seven entries still there are delivered again: they count as entries, and nothing more is lost.
	l := reading{last: "1-7", added: 7, held: 7, complete: true}
	for k := 1; k <= 7; k++ {
		l.entries = append(l.entries, entry{id: idOf(k + 1)})
	}
	if after, cut := reconcile(got, l); after.Lost != 3 || after.Added != 9+3+7 || cut {
		t.Errorf("account after the second delivery = %+v, want 3 lost of 19", after)
	}
}

func TestRetentionKeepsAWindowBehindTheCursor(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	r := retention{window: 10 * time.Second, entries: 100}
	r.note(at(0), "1-0", 10)
	r.note(at(5), "2-0", 20)
	r.note(at(5), "2-0", 20)
	for _, tc := range []struct {
		at   int
		n    int64
		want string
	}{
		{9, 20, ""},
		{10, 20, "1-0"},
		{14, 20, ""},
		{14, 121, "2-0"}, // too many entries for the memory, though the window is not over
	} {
		if got := r.target(at(tc.at), "2-0", tc.n); got != tc.want {
			t.Errorf("target after %d s with %d entries = %q, want %q", tc.at, tc.n, got, tc.want)
		}
	}
	r.note(at(20), "9-0", 50)
	r.note(at(21), "5-0", 40) // Postgres went back
	if got := r.target(at(30), "5-0", 40); got != "" {
		t.Errorf("target = %q, want none: the position beyond was undone", got)
	}
	if got := r.target(at(31), "5-0", 40); got != "5-0" {
		t.Errorf("target = %q, want 5-0", got)
	}
}

// TestNothingBeyondTheAccountIsTrimmed: Postgres may come back with less than was there when a mark was made.
func TestNothingBeyondTheAccountIsTrimmed(t *testing.T) {
	t.Parallel()
	start := time.Now()
	r := retention{window: time.Minute, entries: 1000}
	r.note(start, "50-0", 50)
	r.note(start.Add(time.Second), "100-0", 100)
	if got := r.target(start.Add(2*time.Minute), "90-0", 90); got != "50-0" {
		t.Errorf("target = %q, want 50-0: entries after 90-0 are not counted", got)
	}
	r = retention{window: time.Minute, entries: 10}
	r.note(start, "100-0", 100)
	if got := r.target(start, "90-0", 120); got != "" {
		t.Errorf("target = %q, want none", got)
	}
}
