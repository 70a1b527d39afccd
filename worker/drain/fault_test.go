package drain

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

func TestKilledRedisLosesNothing(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	c := capture(t, r)
	b.run(b.worker("w", nil, r))
	acked := map[int]int{}
	voters := 0
	for round := range 3 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		begun := make(chan struct{}, 4)
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					v := ballot{1, round*1_000_000 + w*100_000 + i, 1 + i%3, 0, 100}
					if c.XAdd(context.Background(), &redis.XAddArgs{Stream: streamKey, NoMkStream: true, Values: v.fields()}).Err() != nil {
						return // unknown: it may be counted or not
					}
					mu.Lock()
					acked[v.voter] = v.choice
					voters++
					mu.Unlock()
					if i == 100 {
						begun <- struct{}{}
					}
				}
			})
		}
		for range 4 {
			<-begun
		}
		r.Kill()
		wg.Wait()
		r.Restart()
	}
	b.eventually(fmt.Sprintf(`SELECT sum(added) >= %d, sum(pending) FROM result_ledger`, voters), "t|0")
	b.eventually(`SELECT count(*) FROM vote WHERE voter IN (`+voterList(acked)+`)`, fmt.Sprint(voters))
	if got := b.db.SQL(`SELECT lost, (SELECT sum(votes) FROM result_tally) - added FROM result_ledger`); got != "0|0" {
		t.Errorf("lost and unaccounted = %s, want none", got)
	}
	b.noDrift()
}

func voterList(voters map[int]int) string {
	list := ""
	for v := range voters {
		list += fmt.Sprintf(",'%032x'", v)
	}
	return list[1:]
}

func TestTrimByAStrangerIsReportedExactly(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	c := capture(t, r)
	stop := b.run(b.worker("w", nil, r))
	cast(t, c, crowd(0, 40)...)
	b.settled(40)
	stop()
	cast(t, c, crowd(40, 60)...)
	r.Do("XTRIM", "votes", "MAXLEN", "=", "25")
	b.run(b.worker("w2", nil, r))
	b.eventually(`SELECT added, counted, pending, lost FROM result_ledger`, "100|65|0|35")
	b.eventually(`SELECT sum(votes) FROM result_tally`, "65")
}

func TestCutLogIsReportedExactly(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	c := capture(t, r)
	cast(t, c, crowd(0, 200)...)
	before := r.Do("XLEN", "votes")
	// A worker that sees 200 entries and counts the first 100.
	limited := limitTo(b.store, 100)
	stop := b.run(b.worker("w", func(d *Drain) { d.tally, d.cfg.BatchSize = limited, 100 }, r))
	b.eventually(`SELECT added, n FROM drain_stream`, "200|100")
	stop()
	r.CutLog(1000)
	r.Restart()
	var had, has int
	_, _ = fmt.Sscan(before, &had)
	_, _ = fmt.Sscan(r.Do("XLEN", "votes"), &has)
	if had == has {
		t.Fatal("the cut removed nothing")
	}
	cast(t, c, crowd(1000, 20)...) // hides the fall of the counter
	b.run(b.worker("w2", func(d *Drain) { d.cfg.BatchSize = 7 }, r))
	b.eventually(`SELECT added, counted, pending, lost FROM result_ledger`, fmt.Sprintf("220|%d|0|%d", 220-(had-has), had-has))
	b.eventually(`SELECT sum(votes) FROM result_tally`, fmt.Sprint(220-(had-has)))
	b.eventually(`SELECT cause, closed_at IS NULL FROM result_gap`, "cut|t")
}

// TestLogCutBehindTheCursorMissesNoLaterVote: what is lost had been counted, so nothing is lost for the tally.
func TestLogCutBehindTheCursorMissesNoLaterVote(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	c := capture(t, r)
	stop := b.run(b.worker("w", nil, r))
	cast(t, c, crowd(0, 200)...)
	b.settled(200)
	stop()
	r.CutLog(1000)
	r.Restart()
	b.run(b.worker("w2", nil, r))
	b.eventually(`SELECT shift > 0 FROM drain_stream`, "t")
	cast(t, c, crowd(1000, 20)...)
	b.eventually(`SELECT sum(votes), (SELECT lost + pending FROM result_ledger) FROM result_tally`, "220|0")
	// Entries may have come after the last reading and have been cut off too: nobody can know.
	b.eventually(`SELECT cause, closed_at IS NULL FROM result_gap`, "rewound|t")
	if gaps, lost, err := b.store.CloseLosses(t.Context(), r.Node()); gaps != 1 || lost != 0 || err != nil {
		t.Errorf("closing = %d gaps, %d lost, %v; want 1 and 0", gaps, lost, err)
	}
	b.noDrift()
}

// limitedTally refuses to count beyond a number of entries, as if Postgres were out of reach for commits.
type limitedTally struct {
	tally
	most atomic.Int64
}

func limitTo(s tally, most int64) *limitedTally {
	l := &limitedTally{tally: s}
	l.most.Store(most)
	return l
}

func (l *limitedTally) Commit(ctx context.Context, b store.Batch) (store.Effect, error) {
	if b.After.N > l.most.Load() {
		return store.Effect{}, errors.New("out of reach")
	}
	return l.tally.Commit(ctx, b)
}

func TestPausedWorkerCannotCountTwice(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	cast(t, capture(t, r), crowd(0, 100)...)
	gate := &gatedTally{tally: b.store, reached: make(chan struct{}), open: make(chan struct{})}
	paused := b.worker("paused", func(d *Drain) { d.tally = gate }, r)
	b.run(paused)
	<-gate.reached
	b.run(b.worker("w", nil, r))
	b.settled(100)
	close(gate.open)
	cast(t, capture(t, r), crowd(50, 100)...)
	b.settled(200)
	b.eventually(`SELECT sum(votes) FROM result_tally`, "150")
	b.noDrift()
}

func TestLostVolumeIsReportedAndTheNewStreamCounted(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	cast(t, capture(t, r), crowd(0, 100)...)
	limited := limitTo(b.store, 60)
	d := b.worker("w", func(d *Drain) { d.tally, d.cfg.BatchSize = limited, 60 }, r)
	b.run(d)
	b.eventually(`SELECT added, n FROM drain_stream`, "100|60")
	r.Lose()
	r.Restart()
	cast(t, capture(t, r), crowd(500, 10)...)
	b.eventually(`SELECT count(*), sum(votes) > 60 FROM drain_stream, (SELECT sum(votes) AS votes FROM result_tally) x GROUP BY votes`, "2|t")
	b.db.SQL(`UPDATE drain_stream SET seen_at = now() - interval '11 seconds' WHERE id = 1`) // instead of waiting
	b.eventually(`SELECT state, added, counted, pending, lost FROM result_ledger ORDER BY registered_at`, "replaced|100|60|0|40\nactive|10|10|0|0")
	b.eventually(`SELECT node, cause, from_at < to_at, closed_at IS NULL FROM result_gap`, r.Node()+"|replaced|t|t")
}

// TestRolledBackPostgresIsRefilled gives Postgres an older state back, as the promotion of a standby that lags does.
func TestRolledBackPostgresIsRefilled(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	c := capture(t, r)
	b.run(b.worker("w", nil, r))
	cast(t, c, crowd(0, 500)...)
	b.settled(500)
	tables := []string{"vote", "tally", "drain_effect", "drain_stream"}
	save, restore := "BEGIN ISOLATION LEVEL REPEATABLE READ; ", "BEGIN; LOCK TABLE drain_stream; "
	for _, table := range tables {
		save += fmt.Sprintf("CREATE TABLE old_%s AS TABLE %s; ", table, table)
		restore += fmt.Sprintf("DELETE FROM %s; INSERT INTO %s OVERRIDING SYSTEM VALUE TABLE old_%s; ", table, table, table)
	}
	b.db.SQL(save + "COMMIT")
	cast(t, c, crowd(250, 700)...)
	b.settled(1200)
	b.db.SQL(restore + "COMMIT")
	cast(t, c, crowd(950, 50)...)
	b.settled(1250)
	b.eventually(`SELECT sum(votes), (SELECT lost FROM result_ledger) FROM result_tally`, "1000|0")
	b.noDrift()
}

// TestEveryStepMayFail runs two workers over two nodes while any call to Redis or Postgres fails, before or after it
// had its effect. Meanwhile workers are cut off and replaced.
func TestEveryStepMayFail(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			b, nodes := newBench(t), []*harness.RedisServer{harness.Redis(t), harness.Redis(t)}
			rng := rand.New(rand.NewPCG(seed, 7))
			want := map[int]ballot{}
			total := 0
			faults := &faults{rng: rand.New(rand.NewPCG(seed, 8)), percent: 15}
			faulty := func(d *Drain) {
				dial := d.dial
				d.tally = &faultyTally{d.tally, faults}
				d.dial = func(addr string) source { return &faultySource{dial(addr), faults} }
				d.cfg.BatchSize, d.cfg.Retention = 1+rng.IntN(70), 1
			}
			for generation := range 4 {
				var stops []func()
				for w := range 2 {
					stops = append(stops, b.run(b.worker(fmt.Sprintf("w%d.%d", generation, w), faulty, nodes...)))
				}
				for _, r := range nodes {
					some := make([]ballot, 400)
					for i := range some {
						v := ballot{1, rng.IntN(300), 1 + rng.IntN(3), int64(total), 100}
						some[i], total = v, total+1
						want[v.voter] = v
					}
					cast(t, capture(t, r), some...)
				}
				for _, stop := range stops {
					stop()
				}
			}
			b.run(b.worker("last", nil, nodes...))
			b.settled(total)
			rows := ""
			for v := range 300 {
				if w, ok := want[v]; ok {
					rows += fmt.Sprintf("%032x|%d|%d\n", v, w.choice, w.seq)
				}
			}
			if got := b.db.SQL(`SELECT replace(voter::text, '-', ''), choice, seq FROM vote ORDER BY voter`); got+"\n" != rows {
				t.Error("the votes are not the last one of each voter")
			}
			if got := b.db.SQL(`SELECT sum(lost) FROM result_ledger`); got != "0" {
				t.Errorf("lost = %s, want 0", got)
			}
			b.noDrift()
		})
	}
}

// faults is a switch around real things: a call fails before it happens, after it happened, or not at all.
type faults struct {
	// mu guards rng.
	mu      sync.Mutex
	rng     *rand.Rand
	percent int
}

var errFault = errors.New("fault")

func (f *faults) call(do func() error) error {
	f.mu.Lock()
	roll := f.rng.IntN(200)
	f.mu.Unlock()
	if roll < f.percent {
		return errFault
	}
	err := do()
	if roll >= 200-f.percent {
		return errors.Join(errFault, err)
	}
	return err
}

type faultyTally struct {
	tally
	f *faults
}

func (t *faultyTally) Register(ctx context.Context, node, inc string) (st store.Stream, err error) {
	err = t.f.call(func() error { st, err = t.tally.Register(ctx, node, inc); return err })
	return st, err
}

func (t *faultyTally) Read(ctx context.Context, inc string) (st store.Stream, err error) {
	err = t.f.call(func() error { st, err = t.tally.Read(ctx, inc); return err })
	return st, err
}

func (t *faultyTally) Observe(ctx context.Context, before, after store.Stream, cause string) error {
	return t.f.call(func() error { return t.tally.Observe(ctx, before, after, cause) })
}

func (t *faultyTally) Commit(ctx context.Context, b store.Batch) (e store.Effect, err error) {
	err = t.f.call(func() error { e, err = t.tally.Commit(ctx, b); return err })
	return e, err
}

type faultySource struct {
	source
	f *faults
}

func (s *faultySource) identify(ctx context.Context) (inc, node string, err error) {
	err = s.f.call(func() error { inc, node, err = s.source.identify(ctx); return err })
	return inc, node, err
}

func (s *faultySource) read(ctx context.Context, inc, after string, count int) (l reading, err error) {
	err = s.f.call(func() error { l, err = s.source.read(ctx, inc, after, count); return err })
	return l, err
}

func (s *faultySource) trim(ctx context.Context, inc, before string) (n int64, err error) {
	err = s.f.call(func() error { n, err = s.source.trim(ctx, inc, before); return err })
	return n, err
}

// TestALostDatabaseIsReportedAndVotingGoesOn loses Postgres's volume when the genesis entry, which names the node, has
// been trimmed long ago.
func TestALostDatabaseIsReportedAndVotingGoesOn(t *testing.T) {
	t.Parallel()
	former, b, r := newBench(t), newBench(t), harness.Redis(t)
	c := capture(t, r)
	cast(t, c, crowd(0, 1000)...)
	stop := former.run(former.worker("w", func(d *Drain) { d.cfg.Retention, d.cfg.BatchSize = 1, 100 }, r))
	former.eventually(`SELECT n, held < 200 FROM drain_stream`, "1000|t")
	stop()
	held := r.Do("XLEN", "votes")
	cast(t, c, crowd(2000, 50)...)
	b.run(b.worker("w2", nil, r))
	b.eventually(`SELECT added, pending, counted + lost, counted - 50 FROM result_ledger`, "1050|0|1050|"+held)
	b.eventually(`SELECT sum(votes) - 50 FROM result_tally`, held)
}
