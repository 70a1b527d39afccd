package drain

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

func TestVotesReachTheTally(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	c := capture(t, r)
	b.run(b.worker("w", nil, r))
	cast(t, c,
		ballot{1, 1, 1, 0, 100}, ballot{1, 2, 2, 0, 100}, ballot{1, 3, 2, 0, 100},
		ballot{2, 1, 1, 0, 100}, ballot{2, 2, 1, 0, 100})
	b.eventually(`SELECT * FROM result_tally ORDER BY 1, 2`, "1|1|1\n1|2|2\n2|1|2")
	cast(t, c, ballot{1, 1, 2, 1, 50}, // a change of mind, by a clock that is behind
		ballot{1, 1, 3, 0, 200}, // a late retry of an older ballot
		ballot{2, 1, 2, 1, 300}) // a second vote where the first counts
	b.eventually(`SELECT * FROM result_tally WHERE votes <> 0 ORDER BY 1, 2`, "1|2|3\n2|1|2")
	b.settled(8)
	b.eventually(`SELECT node, state, added, counted, pending, rejected, lost FROM result_ledger`, r.Node()+"|active|8|8|0|0|0")
	b.eventually(`SELECT held FROM drain_stream`, "8")
	b.noDrift()
}

func TestPoisonIsRejectedAndTheStreamFlows(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	b.run(b.worker("w", nil, r))
	v := voter(1)
	poison := [][]string{
		{"x", "y"},
		{"p", "1", "v", v, "c", "1", "s", "0"},
		{"p", "1", "v", v, "c", "1", "s", "0", "t", "5", "u", "6"},
		{"p", "1", "v", v, "c", "1", "s", "0", "u", "5"},
		{"p", "1", "v", v, "c", "1", "p", "1", "t", "5"},
		{"p", "9", "v", v, "c", "1", "s", "0", "t", "5"},
		{"p", "1", "v", v, "c", "9", "s", "0", "t", "5"},
		{"p", "99999999999999999999", "v", v, "c", "1", "s", "0", "t", "5"},
		{"p", "1", "v", "short", "c", "1", "s", "0", "t", "5"},
		{"p", "1", "v", v, "c", "1", "s", "-1", "t", "5"},
		{"kind", "genesis", "inc", "00000000-0000-4000-8000-000000000000", "node", "evil"},
	}
	for _, fields := range poison {
		r.Do(append([]string{"XADD", "votes", "*"}, fields...)...)
	}
	c := capture(t, r)
	if err := c.Do(t.Context(), "XADD", "votes", "*", "p\x00", "\xff\xfe'; DROP TABLE vote; --\x00").Err(); err != nil {
		t.Fatalf("adding bytes: %v", err)
	}
	cast(t, c, ballot{1, 1, 1, 0, 100})
	b.eventually(`SELECT * FROM result_tally`, "1|1|1")
	b.settled(len(poison) + 2)
	b.eventually(`SELECT counted, rejected, (SELECT count(*) FROM vote_reject) FROM result_ledger`,
		fmt.Sprintf("1|%d|%d", len(poison)+1, len(poison)+1))
	if got := b.db.SQL(`SELECT convert_from(raw, 'UTF8') FROM vote_reject WHERE id = (SELECT min(id) FROM vote_reject)`); got != `"x" "y" ` && got != `"x" "y"` {
		t.Errorf("raw of the first reject = %s, want the entry as it was", got)
	}
	b.noDrift()
}

// TestDataThatPostgresRefusesIsRejectedAlone has a constraint that the decoder does not know.
func TestDataThatPostgresRefusesIsRejectedAlone(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	b.db.SQL(`ALTER TABLE vote ADD CHECK (ts <> 1700000000037)`)
	cast(t, capture(t, r), crowd(0, 300)...)
	b.run(b.worker("w", nil, r))
	b.settled(300)
	b.eventually(`SELECT counted, rejected FROM result_ledger`, "299|1")
	b.eventually(`SELECT reason FROM vote_reject`, "refused by Postgres with SQLSTATE 23514")
	b.noDrift()
}

func TestOneFrozenNodeDelaysNoOther(t *testing.T) {
	t.Parallel()
	b, frozen, alive := newBench(t), harness.Redis(t), harness.Redis(t)
	b.run(b.worker("w", nil, frozen, alive))
	b.eventually(`SELECT count(*) FROM result_ledger`, "2")
	frozen.Stop()
	cast(t, capture(t, alive), crowd(0, 10)...)
	b.eventually(`SELECT sum(votes) FROM result_tally`, "10")
	frozen.Cont()
	cast(t, capture(t, frozen), crowd(10, 10)...)
	b.eventually(`SELECT sum(votes) FROM result_tally`, "20")
	b.settled(20)
	b.noDrift()
}

func TestOneServerBehindTwoAddressesIsDrainedOnce(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	d := b.worker("w", func(d *Drain) {
		both := []string{r.Addr(), strings.Replace(r.Addr(), "127.0.0.1", "localhost", 1)}
		d.cfg.Resolve = func(context.Context) ([]string, error) { return both, nil }
		d.cfg.BatchSize = 10
	})
	b.run(d)
	cast(t, capture(t, r), crowd(0, 1000)...)
	b.settled(1000)
	if n := testutil.ToFloat64(d.metrics.stale); n != 0 {
		t.Errorf("%v writes found the account moved: the addresses compete", n)
	}
	b.noDrift()
}

func TestCountedEntriesAreTrimmedLateAndOthersNever(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	cast(t, capture(t, r), crowd(0, 5000)...)
	d := b.worker("w", func(d *Drain) { d.cfg.Retention, d.cfg.BatchSize = 1, 100 }, r)
	b.run(d)
	b.settled(5000)
	// A node of the stream holds 100 entries, and the last, half-filled one stays.
	b.eventually(`SELECT held < 200, lost FROM drain_stream`, "t|0")
	b.eventually(`SELECT sum(votes) FROM result_tally`, "5000")
	b.noDrift()
}

func TestStrangersAreNeitherDrainedNorTrimmed(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string][]string{
		"no incarnation":            {"DEL", "votes:inc"},
		"incarnation of another":    {"SET", "votes:inc", "11111111-1111-4111-8111-111111111111"},
		"incarnation is no UUID":    {"SET", "votes:inc", "x"},
		"genesis is something else": {"DEL", "votes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, stranger, ours := newBench(t), harness.Redis(t), harness.Redis(t)
			cast(t, capture(t, stranger), crowd(0, 5)...)
			stranger.Do(spoil...)
			before := stranger.Do("EXISTS", "votes") + stranger.Do("XLEN", "votes")
			b.run(b.worker("w", func(d *Drain) { d.cfg.Retention = 1 }, stranger, ours))
			cast(t, capture(t, ours), crowd(10, 5)...)
			b.settled(5)
			if got := b.db.SQL(`SELECT sum(votes) FROM result_tally`); got != "5" {
				t.Errorf("votes = %s, want only our own 5", got)
			}
			if after := stranger.Do("EXISTS", "votes") + stranger.Do("XLEN", "votes"); after != before {
				t.Errorf("the stranger's stream changed from %s to %s", before, after)
			}
		})
	}
}

func TestStreamsMoveToAWorkerThatJoins(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var servers []*harness.RedisServer
	for range 3 {
		servers = append(servers, harness.Redis(t))
	}
	patient := func(d *Drain) { d.cfg.StealAfter = 10 * time.Second } // longer than an idle stream goes without a write
	w1, w2 := b.worker("w1", patient, servers...), b.worker("w2", patient, servers...)
	stop := b.run(w1)
	b.until("w1 reports all nodes", func() bool { return testutil.CollectAndCount(w1.metrics.up) == 3 })
	b.run(w2)
	// Two workers that both report a node would add up to twice its backlog.
	b.until("w2 has taken its share over", func() bool { return testutil.CollectAndCount(w2.metrics.up) > 0 })
	b.until("each node is reported once", func() bool {
		return testutil.CollectAndCount(w1.metrics.lag)+testutil.CollectAndCount(w2.metrics.lag) == 3
	})
	for i, r := range servers {
		cast(t, capture(t, r), crowd(1000*i, 1000)...)
	}
	b.settled(3000)
	stop()
	for i, r := range servers {
		cast(t, capture(t, r), crowd(1000*i+500, 1000)...)
	}
	b.settled(6000)
	b.eventually(`SELECT sum(votes) FROM result_tally`, "3500")
	b.noDrift()
}

func TestSoftStopFinishesTheBatchInHand(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	cast(t, capture(t, r), crowd(0, 100)...)
	gate := &gatedTally{tally: b.store, reached: make(chan struct{}), open: make(chan struct{})}
	stop := b.run(b.worker("w", func(d *Drain) { d.tally = gate }, r))
	<-gate.reached
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	close(gate.open)
	<-stopped
	if got := b.db.SQL(`SELECT n FROM drain_stream`); got != "100" {
		t.Errorf("counted %s entries, want the whole batch", got)
	}
	if got := b.db.SQL(`SELECT count(*) FROM drain_worker`); got != "0" {
		t.Errorf("%s workers are still listed, want none", got)
	}
}

// gatedTally holds its first commit until open is closed.
type gatedTally struct {
	tally
	reached, open chan struct{}
	passed        bool
}

func (g *gatedTally) Commit(ctx context.Context, b store.Batch) (store.Effect, error) {
	if !g.passed {
		g.passed = true
		close(g.reached)
		<-g.open
	}
	return g.tally.Commit(ctx, b)
}

func TestMissingSchemaEndsTheWorkerLoudly(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	b.db.SQL(`DROP TABLE drain_worker CASCADE`)
	if err := b.worker("w", nil, r).Run(t.Context()); err == nil || store.Classify(err) != store.Deploy {
		t.Errorf("Run = %v, want an error of class deploy", err)
	}
}
