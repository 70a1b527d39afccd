package drain

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

// TestEveryCommandChecksWhoAnswers: an address can pass to another server between any two commands.
func TestEveryCommandChecksWhoAnswers(t *testing.T) {
	t.Parallel()
	r := harness.Redis(t)
	cast(t, capture(t, r), crowd(0, 500)...)
	q := dialRedis(r.Addr(), "drain", harness.RedisPassword)
	t.Cleanup(func() { _ = q.close() })
	const other = "11111111-1111-4111-8111-111111111111"
	if _, err := q.read(t.Context(), other, genesisID, 10); !errors.Is(err, errMoved) {
		t.Errorf("a reading of another incarnation = %v, want errMoved", err)
	}
	if n, err := q.trim(t.Context(), other, "9999999999999-0"); n != 0 || !errors.Is(err, errMoved) {
		t.Errorf("a trim of another incarnation = %d, %v; want errMoved", n, err)
	}
	if got := r.Do("XLEN", "votes"); got != "501" {
		t.Errorf("%s entries are left, want all 501", got)
	}
}

func TestLookSaysWhatItSaw(t *testing.T) {
	t.Parallel()
	r := harness.Redis(t)
	cast(t, capture(t, r), crowd(0, 5)...)
	q := dialRedis(r.Addr(), "drain", harness.RedisPassword)
	t.Cleanup(func() { _ = q.close() })
	inc, node, err := q.identify(t.Context())
	if err != nil || inc != r.Incarnation() || node != r.Node() {
		t.Fatalf("identify = %s, %s, %v; want %s, %s", inc, node, err, r.Incarnation(), r.Node())
	}
	for name, tc := range map[string]struct {
		count    int
		entries  int
		complete bool
	}{
		"a part":      {4, 4, false},
		"up to count": {5, 5, false}, // there may be more
		"to the end":  {6, 5, true},
	} {
		l, err := q.read(t.Context(), inc, genesisID, tc.count)
		if err != nil {
			t.Fatalf("reading: %v", err)
		}
		if len(l.entries) != tc.entries || l.complete != tc.complete || l.added != 5 || l.held != 5 {
			t.Errorf("%s: %d entries, complete %v, %d added, %d held", name, len(l.entries), l.complete, l.added, l.held)
		}
	}
	r.Restart()
	// The first reading may fail on the dead connection; it or the next says that the connection is new.
	l, err := q.read(t.Context(), inc, genesisID, 10)
	if err != nil {
		l, err = q.read(t.Context(), inc, genesisID, 10)
	}
	if err != nil || !l.reconnected {
		t.Errorf("a reading after a restart: reconnected = %v, %v; want reconnected", l.reconnected, err)
	}
	if l, err := q.read(t.Context(), inc, genesisID, 10); err != nil || l.reconnected {
		t.Errorf("the reading after it: reconnected = %v, %v", l.reconnected, err)
	}
}

// TestALookNeverShowsMoreEntriesThanWereAdded has an entry arrive between the first counters and the entries.
func TestALookNeverShowsMoreEntriesThanWereAdded(t *testing.T) {
	t.Parallel()
	info := func(added int64, last string) *redis.Cmd {
		cmd := redis.NewCmd(t.Context())
		cmd.SetVal([]any{"length", added, "last-generated-id", last, "entries-added", added + 1})
		return cmd
	}
	entries := redis.NewCmd(t.Context())
	entries.SetVal([]any{[]any{"1-1", []any{"a", "b"}}, []any{"1-2", []any{"a", "b"}}})
	l, err := parseReading(info(1, "1-1"), entries, info(2, "1-2"), 10)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := reconcile(store.Account{Pos: genesisID, LastID: genesisID}, l); l.complete || got.Added != 2 || got.Lost != 0 {
		t.Errorf("a reading with 2 entries: complete %v, account %+v; want 2 added", l.complete, got)
	}
}

// TestHugeEntriesAreReadInParts: what one node's function adds must not take the memory of the worker, which others need.
func TestHugeEntriesAreReadInParts(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	c := capture(t, r)
	blob := strings.Repeat("x", 256<<10)
	for range 80 {
		if err := c.XAdd(t.Context(), &redis.XAddArgs{Stream: streamKey, Values: []string{"blob", blob}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	cast(t, c, crowd(0, 10)...)
	q := dialRedis(r.Addr(), "drain", harness.RedisPassword)
	t.Cleanup(func() { _ = q.close() })
	l, err := q.read(t.Context(), r.Incarnation(), genesisID, 1000)
	if n := len(l.entries); err != nil || n == 0 || n*len(blob) > maxReply || l.complete || !l.reconnected {
		t.Fatalf("a reading has %d entries, complete %v, reconnected %v, %v; want a part of at most %d bytes", n, l.complete, l.reconnected, err, maxReply)
	}
	b.run(b.worker("w", nil, r))
	b.settled(90)
	b.eventually(`SELECT counted, rejected, lost FROM result_ledger`, "10|80|0")
	b.noDrift()
}

func TestAnEntryTooLargeToReadStopsItsOwnStreamOnly(t *testing.T) {
	t.Parallel()
	b, bad, good := newBench(t), harness.Redis(t), harness.Redis(t)
	fields := make([]string, 20)
	for i := range fields {
		fields[i] = strings.Repeat("x", 1<<20)
	}
	if err := capture(t, bad).XAdd(t.Context(), &redis.XAddArgs{Stream: streamKey, Values: fields}).Err(); err != nil {
		t.Fatal(err)
	}
	q := dialRedis(bad.Addr(), "drain", harness.RedisPassword)
	t.Cleanup(func() { _ = q.close() })
	if _, err := q.read(t.Context(), bad.Incarnation(), genesisID, 100); !errors.Is(err, errTooLarge) {
		t.Errorf("a reading of it = %v, want errTooLarge", err)
	}
	b.run(b.worker("w", nil, bad, good))
	cast(t, capture(t, good), crowd(0, 10)...)
	b.eventually(`SELECT sum(votes) FROM result_tally`, "10")
}
