package store_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

// open returns a store on the database, logged in as the worker's role.
func open(t testing.TB, db *harness.Database, shard uint32) *store.Store {
	t.Helper()
	s, err := store.New(store.Config{DSN: db.DSN("waggle_drain"), Shard: shard})
	if err != nil {
		t.Fatalf("opening the store: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

func register(t testing.TB, s *store.Store, node string, k int) store.Stream {
	t.Helper()
	st, err := s.Register(t.Context(), node, fmt.Sprintf("00000000-0000-4000-8000-%012d", k))
	if err != nil {
		t.Fatalf("registering a stream: %v", err)
	}
	return st
}

// event numbers k make a vote each; voters, sequences and times collide often.
func event(rng *rand.Rand, k, voters int) store.Vote {
	v := store.Vote{Poll: int32(1 + k%2), Choice: int16(1 + rng.IntN(3)), Seq: rng.Int64N(3), TS: 1000 + rng.Int64N(3)}
	binary.BigEndian.PutUint64(v.Voter[8:], uint64(rng.IntN(voters)))
	binary.BigEndian.PutUint64(v.EID[8:], uint64(k+1))
	return v
}

func byPoll(votes []store.Vote) map[int32]int64 {
	n := map[int32]int64{}
	for _, v := range votes {
		n[v.Poll]++
	}
	return n
}

// deliver hands events to the store in batches as one worker does, going on from the account after whatever happens.
func deliver(ctx context.Context, s *store.Store, inc string, events []store.Vote, firsts []int32, rng *rand.Rand) (retries int, err error) {
	var st store.Stream
	for fresh := false; ; {
		if !fresh {
			if st, err = s.Read(ctx, inc); err != nil {
				if ctx.Err() != nil {
					return retries, err
				}
				retries++
				continue
			}
			fresh = true
		}
		if st.N == int64(len(events)) {
			return retries, nil
		}
		upTo := min(len(events), int(st.N)+1+rng.IntN(300))
		votes := slices.Clone(events[st.N:upTo])
		folded := store.Fold(votes, firsts)
		after := st.Account
		after.N, after.Pos = int64(upTo), fmt.Sprintf("1-%d", upTo)
		after.Added, after.LastID = int64(upTo), after.Pos
		_, err := s.Commit(ctx, store.Batch{Before: st, After: after, Votes: folded,
			Superseded: int64(upTo) - st.N - int64(len(folded)), Entries: byPoll(events[st.N:upTo]), FirstPolls: firsts})
		if err != nil {
			// Batches lock their rows in one order, so workers wait for each other and never deadlock.
			if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == "40P01" {
				return retries, err
			}
			if class := store.Classify(err); class == store.Data || class == store.Deploy || ctx.Err() != nil {
				return retries, err
			}
			retries++
			fresh = false
			continue
		}
		st.Account = after
		st.Revision++
	}
}

// TestTallyIsExactUnderRaces has four workers race over the same voters. Each event is delivered one to three
// times, on several streams, in shuffled order, while a fault strikes.
func TestTallyIsExactUnderRaces(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		alone bool
		fault func(t *testing.T, db *harness.Database)
		times int
	}{
		"no fault": {fault: func(*testing.T, *harness.Database) {}},
		"backends terminated": {times: 15, fault: func(_ *testing.T, db *harness.Database) {
			db.SQL(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND usename = 'waggle_drain' AND random() < 0.5`)
		}},
		"immediate restarts": {alone: true, times: 4, fault: func(_ *testing.T, db *harness.Database) { db.Restart() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := harness.Postgres
			if tc.alone {
				start = harness.PostgresAlone
			}
			db := start(t)
			if _, err := store.Migrate(t.Context(), db.DSN("waggle_admin")); err != nil {
				t.Fatalf("migrating: %v", err)
			}
			race(t, db, func() {
				for range tc.times {
					tc.fault(t, db)
				}
			})
		})
	}
}

func race(t *testing.T, db *harness.Database, faults func()) {
	t.Helper()
	const workers, count, voters = 4, 12_000, 500
	firsts := []int32{2}
	rng := rand.New(rand.NewPCG(1, 2))
	events := make([]store.Vote, count)
	for k := range events {
		events[k] = event(rng, k, voters)
	}
	queues := make([][]store.Vote, workers)
	for _, e := range events {
		for range 1 + rng.IntN(3) {
			w := rng.IntN(workers)
			queues[w] = append(queues[w], e)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for w, queue := range queues {
		seed := rand.New(rand.NewPCG(3, uint64(w)))
		seed.Shuffle(len(queue), func(i, j int) { queue[i], queue[j] = queue[j], queue[i] })
		s := open(t, db, uint32(w))
		inc := register(t, s, fmt.Sprintf("node%d", w), w).Inc
		wg.Go(func() {
			retries, err := deliver(ctx, s, inc, queue, firsts, seed)
			if err != nil {
				t.Errorf("worker %d: %v", w, err)
			}
			t.Logf("worker %d: %d entries, %d retries", w, len(queue), retries)
		})
	}
	faults()
	wg.Wait()
	assertVotes(t, db, store.Fold(slices.Clone(events), firsts))
	assertNoDrift(t, open(t, db, 0))
}

// assertVotes compares the table, and the tally, with what is right.
func assertVotes(t *testing.T, db *harness.Database, want []store.Vote) {
	t.Helper()
	sums := map[[2]int]int{}
	var rows, tally string
	for _, v := range want {
		rows += fmt.Sprintf("%d|%x|%d|%d|%d|%x\n", v.Poll, v.Voter, v.Choice, v.Seq, v.TS, v.EID)
		sums[[2]int{int(v.Poll), int(v.Choice)}]++
	}
	for poll := range 3 {
		for choice := range 4 {
			if n := sums[[2]int{poll, choice}]; n != 0 {
				tally += fmt.Sprintf("%d|%d|%d\n", poll, choice, n)
			}
		}
	}
	got := db.SQL(`SELECT poll, replace(voter::text, '-', ''), choice, seq, ts, replace(eid::text, '-', '') FROM vote ORDER BY poll, voter`)
	if got+"\n" != rows {
		t.Error("the votes differ from the fold of all events")
	}
	if got := db.SQL(`SELECT poll, choice, votes FROM result_tally WHERE votes <> 0 ORDER BY 1, 2`); got+"\n" != tally {
		t.Errorf("tally:\n%s\nwant:\n%s", got, tally)
	}
}

func assertNoDrift(t *testing.T, s *store.Store) {
	t.Helper()
	checks, err := s.Verify(t.Context())
	if err != nil {
		t.Fatalf("verifying: %v", err)
	}
	if len(checks) != 8 {
		t.Errorf("%d checks, want 8", len(checks))
	}
	for _, c := range checks {
		if c.Drift != 0 {
			t.Errorf("check %s drifts by %d: %s", c.Name, c.Drift, c.Detail)
		}
	}
}

func TestCommitWritesNothingBehindTheFence(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	st := register(t, s, "n", 1)
	after := st.Account
	after.Pos, after.N, after.Added, after.LastID = "5-0", 2, 2, "5-0"
	batch := store.Batch{Before: st, After: after, Votes: []store.Vote{{Poll: 1, Choice: 1}},
		Rejects: []store.Reject{{ID: "4-0", Raw: []byte("\x00raw\xff"), Reason: "no poll"}}}
	effect, err := s.Commit(t.Context(), batch)
	if err != nil || effect != (store.Effect{Inserted: 1}) {
		t.Fatalf("first commit = %+v, %v; want one insert", effect, err)
	}
	if _, err := s.Commit(t.Context(), batch); !errors.Is(err, store.ErrStale) {
		t.Errorf("the same batch again = %v, want ErrStale", err)
	}
	if err := s.Observe(t.Context(), st, store.Stream{Account: after}, store.NoGap); !errors.Is(err, store.ErrStale) {
		t.Errorf("an observation from the old account = %v, want ErrStale", err)
	}
	// A failover undid the registration, and the number went to another incarnation.
	other := st
	other.Account = after
	other.Revision, other.Inc = 1, "00000000-0000-4000-8000-00000000abcd"
	if _, err := s.Commit(t.Context(), store.Batch{Before: other, After: after}); !errors.Is(err, store.ErrStale) {
		t.Errorf("a batch of another incarnation = %v, want ErrStale", err)
	}
	if got := db.SQL(`SELECT added, counted, pending, rejected, lost FROM result_ledger`); got != "2|1|0|1|0" {
		t.Errorf("ledger = %s, want 2|1|0|1|0", got)
	}
	if got := db.SQL(`SELECT encode(raw, 'hex'), reason FROM vote_reject`); got != "00726177ff|no poll" {
		t.Errorf("reject = %s", got)
	}
	assertNoDrift(t, s)
}

func TestRedeliveryAfterACursorSetBackChangesNoCount(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 3)
	inc := register(t, s, "n", 1).Inc
	rng := rand.New(rand.NewPCG(5, 6))
	events := make([]store.Vote, 900)
	for k := range events {
		events[k] = event(rng, k, 50)
	}
	for range 2 {
		if _, err := deliver(t.Context(), s, inc, events, nil, rng); err != nil {
			t.Fatalf("delivering: %v", err)
		}
		assertVotes(t, db, store.Fold(slices.Clone(events), nil))
		db.SQL(`UPDATE drain_stream SET pos = '0-1', n = 0, superseded = 0; UPDATE drain_effect SET stale = 0, changed = 0, inserted = 0`)
	}
}

// Turnout counts each voter once, in the minute of the vote that was counted first; entries count every press.
func TestCommitKeepsTurnoutAndEntriesByPoll(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	inc := register(t, s, "n", 1).Inc
	const minute = 60_000
	vote := func(poll int32, voter byte, seq, at int64) store.Vote {
		v := store.Vote{Poll: poll, Choice: 1, Seq: seq, TS: at}
		v.Voter[15], v.EID[11], v.EID[10] = voter, byte(seq), voter
		return v
	}
	events := []store.Vote{vote(1, 1, 1, 5*minute), vote(1, 2, 1, 6*minute-1), vote(2, 1, 1, 5*minute), vote(1, 1, 2, 9*minute), vote(1, 3, 1, 6*minute)}
	for _, upTo := range []int{3, 5, 5} { // the last delivery changes nothing
		if _, err := deliver(t.Context(), s, inc, events[:upTo], nil, rand.New(rand.NewPCG(1, 1))); err != nil {
			t.Fatalf("delivering: %v", err)
		}
	}
	if got := db.SQL(`SELECT poll, minute, voters FROM result_turnout ORDER BY poll, minute`); got != "1|5|2\n1|6|1\n2|5|1" {
		t.Errorf("turnout:\n%s", got)
	}
	if got := db.SQL(`SELECT poll, node, counted FROM result_poll_ledger ORDER BY poll`); got != "1|n|4\n2|n|1" {
		t.Errorf("entries by poll:\n%s", got)
	}
}

func TestVerifyNoticesATamperedTally(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	inc := register(t, s, "n", 1).Inc
	events := []store.Vote{{Poll: 1, Choice: 1, TS: 1}}
	if _, err := deliver(t.Context(), s, inc, events, nil, rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Fatalf("delivering: %v", err)
	}
	db.SQL(`UPDATE tally SET n = n + 41; UPDATE drain_effect SET stale = stale + 2, unseen = 7;
		INSERT INTO drain_gap (stream, cause, from_at, to_at) VALUES (1, 'cut', now(), now()); UPDATE drain_stream SET lost = 3, seen_at = now() - interval '1 hour'`)
	checks, err := s.Verify(t.Context())
	if err != nil {
		t.Fatalf("verifying: %v", err)
	}
	got := map[string]int64{}
	for _, c := range checks {
		got[c.Name] = c.Drift
	}
	want := map[string]int64{"tally": 41, "effects": 2, "added": 3, "lost": 3, "missing": 1, "votes": 0, "unknown": 1, "copies": 7}
	for name, drift := range want {
		if got[name] != drift {
			t.Errorf("check %s = %d, want %d", name, got[name], drift)
		}
	}
}

func TestRegisterClosesASilentFormerIncarnationOnly(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	former := register(t, s, "n", 1)
	db.SQL(`UPDATE drain_stream SET added = 7, n = 5`)
	register(t, s, "n", 2)
	if got := db.SQL(`SELECT count(*) FROM result_ledger WHERE state = 'active'`); got != "2" {
		t.Errorf("%s active streams while both answer, want 2", got)
	}
	db.SQL(fmt.Sprintf(`UPDATE drain_stream SET seen_at = now() - interval '11 seconds' WHERE id = %d`, former.ID))
	register(t, s, "n", 2)
	if got := db.SQL(`SELECT state, added, counted, pending, lost FROM result_ledger ORDER BY state`); got != "active|0|0|0|0\nreplaced|7|5|0|2" {
		t.Errorf("ledger:\n%s", got)
	}
	st, err := s.Register(t.Context(), "", "00000000-0000-4000-8000-00000000abcd")
	if err != nil || st.Node != "unknown-00000000" {
		t.Errorf("registering a stream without genesis = %q, %v; want it under a made-up name", st.Node, err)
	}
	if st, err = s.Register(t.Context(), "m", st.Inc); err != nil || st.Node != "m" {
		t.Errorf("registering it when its node is known = %q, %v; want m", st.Node, err)
	}
	unknown, err := s.Unknown(t.Context(), []string{st.Inc, "probe", "00000000-0000-4000-8000-00000000beef"})
	if len(unknown) != 1 || unknown[0] != "00000000-0000-4000-8000-00000000beef" || err != nil {
		t.Errorf("unknown streams = %q, %v; want the one that is not registered", unknown, err)
	}
}

func TestRetireRefusesANodeThatAnswers(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	register(t, s, "n", 1)
	db.SQL(`UPDATE drain_stream SET added = 7, n = 5`)
	if n, err := s.Retire(t.Context(), "n", false); n != 0 || err == nil {
		t.Errorf("retiring a live node = %d, %v; want a refusal", n, err)
	}
	db.SQL(`UPDATE drain_stream SET seen_at = now() - interval '2 minutes'`)
	if n, err := s.Retire(t.Context(), "n", false); n != 1 || err != nil {
		t.Errorf("retiring a silent node = %d, %v; want 1", n, err)
	}
	if got := db.SQL(`SELECT state, lost FROM result_ledger`); got != "retired|2" {
		t.Errorf("ledger = %s, want the remainder as lost", got)
	}
	if got := db.SQL(`SELECT node, cause, to_at - from_at > interval '2 minutes', closed_at IS NOT NULL FROM result_gap`); got != "n|retired|t|t" {
		t.Errorf("gap = %s, want one since the node was seen, closed", got)
	}
}

// TestADrainedNodeLeavesNoGap, unless something of it was not counted.
func TestADrainedNodeLeavesNoGap(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	register(t, s, "empty", 1)
	register(t, s, "full", 2)
	db.SQL(`UPDATE drain_stream SET added = 7, n = CASE node WHEN 'empty' THEN 7 ELSE 5 END, seen_at = now() - interval '2 minutes'`)
	for _, node := range []string{"empty", "full"} {
		if n, err := s.Retire(t.Context(), node, true); n != 1 || err != nil {
			t.Errorf("retiring %s = %d, %v; want 1", node, n, err)
		}
	}
	if got := db.SQL(`SELECT node FROM result_gap`); got != "full" {
		t.Errorf("gaps of %s, want one of the node with a pending vote", got)
	}
}

// TestWhatIsNotKnownStaysOpenUntilItIsClosed: a volume was lost between two readings.
func TestWhatIsNotKnownStaysOpenUntilItIsClosed(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	register(t, s, "n", 1)
	db.SQL(`UPDATE drain_stream SET added = 7, n = 5, superseded = 5, seen_at = now() - interval '11 seconds'`)
	register(t, s, "n", 2)
	register(t, s, "n", 2)
	const gaps = `SELECT cause, round(extract(epoch FROM to_at - from_at)), closed_at IS NULL FROM result_gap`
	if got := db.SQL(gaps); got != "replaced|11|t" {
		t.Errorf("gaps = %s, want one of 11 s, open", got)
	}
	drift := func() string {
		if _, err := s.Verify(t.Context()); err != nil {
			t.Fatalf("verifying: %v", err)
		}
		return db.SQL(`SELECT name, drift FROM result_health WHERE drift <> 0 ORDER BY name`)
	}
	if got := drift(); got != "lost|2\nunknown|1" {
		t.Errorf("checks = %s, want the loss and the gap", got)
	}
	if gaps, lost, err := s.CloseLosses(t.Context(), "n"); gaps != 1 || lost != 2 || err != nil {
		t.Errorf("closing = %d gaps, %d entries, %v; want 1 and 2", gaps, lost, err)
	}
	if got := drift(); got != "" {
		t.Errorf("checks = %s after the closing, want none", got)
	}
	if got := db.SQL(`SELECT sum(lost), sum(lost_closed) FROM result_ledger`); got != "2|2" {
		t.Errorf("lost and closed = %s, want 2|2: what is closed stays in the ledger", got)
	}
}

// TestANodeThatWasNeverReachedIsMissing, not absent.
func TestANodeThatWasNeverReachedIsMissing(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	register(t, s, "a", 1)
	ledger := func(nodes ...string) string {
		if err := s.Expect(t.Context(), nodes); err != nil {
			t.Fatalf("expecting %v: %v", nodes, err)
		}
		return db.SQL(`SELECT node, state FROM result_ledger ORDER BY node`)
	}
	if got := ledger("a", "b", "c"); got != "a|active\nb|missing\nc|missing" {
		t.Errorf("ledger = %s, want b and c missing", got)
	}
	if got := ledger("a", "c"); got != "a|active\nc|missing" {
		t.Errorf("ledger = %s, want b gone: it has lost its label", got)
	}
	if n, err := s.Retire(t.Context(), "c", false); n != 1 || err != nil {
		t.Errorf("retiring a node that never came = %d, %v; want 1", n, err)
	}
	if got := db.SQL(`SELECT node FROM result_ledger`); got != "a" {
		t.Errorf("ledger = %s after c was retired, want a alone", got)
	}
}

// TestANodeIsNotMissingBeforeWorkersHadTimeToAskIt: after a pause of all workers nothing was read for long.
func TestANodeIsNotMissingBeforeWorkersHadTimeToAskIt(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	register(t, s, "n", 1)
	db.SQL(`UPDATE drain_stream SET seen_at = now() - interval '20 seconds';
		INSERT INTO drain_worker (id, seen_at, since) VALUES ('w', now() - interval '20 seconds', now() - interval '1 hour')`)
	state := func() string { return db.SQL(`SELECT state FROM result_ledger`) }
	if got := state(); got != "missing" {
		t.Errorf("state = %s while no worker looks, want missing", got)
	}
	beat := func() {
		if _, err := s.Heartbeat(t.Context(), "w"); err != nil {
			t.Fatalf("beating: %v", err)
		}
	}
	beat()
	if got := state(); got != "active" {
		t.Errorf("state = %s when the worker is back, want active", got)
	}
	db.SQL(`UPDATE drain_worker SET since = now() - interval '16 seconds'`)
	beat()
	if got := state(); got != "missing" {
		t.Errorf("state = %s when a worker has had its time, want missing", got)
	}
}

func TestHeartbeatListsTheLiving(t *testing.T) {
	t.Parallel()
	s := open(t, migrated(t), 0)
	for _, w := range []string{"b", "a"} {
		if _, err := s.Heartbeat(t.Context(), w); err != nil {
			t.Fatalf("beating: %v", err)
		}
	}
	if err := s.Leave(t.Context(), "b"); err != nil {
		t.Fatalf("leaving: %v", err)
	}
	live, err := s.Heartbeat(t.Context(), "c")
	if err != nil || !slices.Equal(live, []string{"a", "c"}) {
		t.Errorf("live = %v, %v; want a and c", live, err)
	}
}
