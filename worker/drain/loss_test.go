package drain

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/deploy/lab/harness"
)

// load is voters who press without a pause on one node, each once, and whose votes are copied to another as function vote does. It
// survives what happens to the node.
type load struct {
	peer *redis.Client // nil: one copy
	next atomic.Int64

	mu sync.Mutex
	// acked are the voters who were told that their vote is recorded, by incarnation and entry.
	acked map[string]map[string]int
}

// press starts a load; stop ends it and waits for its last answers.
func (b *bench) press(origin, peer *harness.RedisServer) (l *load, stop func()) {
	b.t.Helper()
	l = &load{acked: map[string]map[string]int{}}
	own := capture(b.t, origin)
	if peer != nil {
		l.peer = copier(b.t, peer)
	}
	over := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if l.one(own) != nil {
					time.Sleep(5 * time.Millisecond) // as a voter who presses again; the node is away
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(over)
		group.Wait()
	})
	b.t.Cleanup(stop)
	return l, stop
}

// one casts one vote. An error means that its voter was told nothing.
func (l *load) one(own *redis.Client) error {
	ctx := context.Background()
	v := ballot{1, int(l.next.Add(1)), 1, 0, time.Now().UnixMilli()}
	pipe := own.Pipeline()
	inc := pipe.Get(ctx, incarnationKey)
	stored := pipe.XAdd(ctx, &redis.XAddArgs{Stream: streamKey, NoMkStream: true, Values: v.fields()})
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	if l.peer != nil {
		line := fmt.Sprintf("%s %d %s %d %d %d\n", stored.Val(), v.poll, voter(v.voter), v.choice, v.seq, v.at)
		if err := l.peer.Do(ctx, "XADD", copiesKey+inc.Val(), "*", "n", 1, "v", line).Err(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked[inc.Val()] == nil {
		l.acked[inc.Val()] = map[string]int{}
	}
	l.acked[inc.Val()][stored.Val()] = v.voter
	return nil
}

// voters are all who were told that their vote is recorded.
func (l *load) voters() map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[int]int{}
	for _, entries := range l.acked {
		for _, v := range entries {
			all[v] = 1
		}
	}
	return all
}

// more waits until so many more votes have been acknowledged.
func (b *bench) more(l *load, n int) {
	b.t.Helper()
	had := len(l.voters())
	b.until(fmt.Sprintf("%d more votes", n), func() bool { return len(l.voters()) >= had+n })
}

// absent is how many of the voters have no vote.
func (b *bench) absent(voters map[int]int) (n int) {
	b.t.Helper()
	counted := map[string]bool{}
	for id := range strings.Lines(b.db.SQL(`SELECT replace(voter::text, '-', '') FROM vote`)) {
		counted[strings.TrimSpace(id)] = true
	}
	for v := range voters {
		if !counted[fmt.Sprintf("%032x", v)] {
			n++
		}
	}
	return n
}

// entriesOf lists the ids of a server's stream.
func entriesOf(r *harness.RedisServer) map[string]bool {
	ids := map[string]bool{}
	for line := range strings.Lines(r.Do("XRANGE", "votes", "-", "+")) {
		if _, err := parseID(strings.TrimSpace(line)); err == nil {
			ids[strings.TrimSpace(line)] = true
		}
	}
	return ids
}

// cutTorn cuts bytes off the log, and then one after the other until it ends within a command.
func cutTorn(r *harness.RedisServer, bytes int64) {
	for r.CutLog(bytes); !r.Torn(); {
		r.CutLog(1)
	}
}

// loss is one way in which the disk of a node forgets votes, and what workers do meanwhile.
type loss struct {
	spoil func(*harness.RedisServer)
	when  string
}

const (
	underLoad    = "under load"
	stopped      = "workers stopped"
	postgresAway = "Postgres away"
)

// losses are those that a single copy passed over in silence, and one that it did not.
func losses() map[string]loss {
	cut := func(bytes int64) func(*harness.RedisServer) {
		return func(r *harness.RedisServer) { cutTorn(r, bytes); r.Restart() }
	}
	wipe := func(r *harness.RedisServer) { r.Lose(); r.Restart() }
	trim := func(r *harness.RedisServer) { r.Do("XTRIM", "votes", "MAXLEN", "=", "25") }
	all := map[string]loss{}
	for _, l := range []struct {
		what string
		loss
	}{
		{"trimmed by hand", loss{trim, stopped}},
		{"log cut by 10000", loss{cut(10_000), stopped}},
		{"log cut by 10000", loss{cut(10_000), postgresAway}},
		{"log cut by 1000", loss{cut(1000), underLoad}},
		{"log cut by 20000", loss{cut(20_000), underLoad}},
		{"volume wiped", loss{wipe, underLoad}},
		{"volume wiped", loss{wipe, stopped}},
		{"volume wiped", loss{wipe, postgresAway}},
	} {
		all[l.what+", "+l.when] = l.loss
	}
	return all
}

// suffer has a node capture votes, lose some of them, and go on. It returns the votes, the incarnation that suffered, and
// when. If workers were stopped, position is how far they had counted.
func (b *bench) suffer(l loss, origin, peer *harness.RedisServer) (votes *load, inc, position string, began, ended time.Time) {
	b.t.Helper()
	servers := []*harness.RedisServer{origin}
	if peer != nil {
		servers = append(servers, peer)
	}
	work := func(name string) func() { return b.run(b.worker(name, nil, servers...)) }
	rest := work("w")
	inc = origin.Incarnation()
	votes, stop := b.press(origin, peer)
	b.more(votes, 200)
	b.eventually(`SELECT sum(n) > 0 FROM drain_stream`, "t")
	switch l.when {
	case stopped:
		rest()
		position = b.db.SQL(`SELECT pos FROM drain_stream WHERE inc = '` + inc + `'`)
	case postgresAway:
		b.db.Kill()
	}
	began = time.Now()
	b.more(votes, 300)
	l.spoil(origin)
	ended = time.Now()
	b.more(votes, 50)
	switch l.when {
	case stopped:
		work("w2")
	case postgresAway:
		b.db.Restart()
	}
	b.more(votes, 50)
	stop()
	if origin.Incarnation() != inc {
		// In production the old incarnation is closed when it has been silent for 10 s.
		b.eventually(`SELECT count(*) FROM drain_stream WHERE inc = '`+origin.Incarnation()+`'`, "1")
		b.db.SQL(`UPDATE drain_stream SET seen_at = least(seen_at, now() - interval '11 seconds') WHERE inc = '` + inc + `'`)
	}
	return votes, inc, position, began, ended
}

// TestEveryLossOfOneDiskIsMadeGoodFromCopies: nothing that was acknowledged is lost, and recovered is what the origin lost, exactly.
func TestEveryLossOfOneDiskIsMadeGoodFromCopies(t *testing.T) {
	t.Parallel()
	for name, l := range losses() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, origin, peer := benchOn(t, databaseFor(t, l)), harness.Redis(t), harness.Redis(t)
			votes, inc, position, _, _ := b.suffer(l, origin, peer)
			acked := votes.voters()
			b.until("every acknowledged vote is counted", func() bool { return b.absent(acked) == 0 })
			b.eventually(`SELECT sum(lost), sum(pending), sum(added - counted - pending - rejected - lost) FROM result_ledger`, "0|0|0")

			held := entriesOf(origin)
			if origin.Incarnation() != inc {
				held = nil
			}
			recovered := strings.Fields(b.db.SQL(`SELECT id FROM drain_copy`))
			for _, id := range recovered {
				if held[id] {
					t.Errorf("entry %s was counted from its copy although its node has it", id)
				}
				if _, copied := votes.acked[inc][id]; !copied {
					t.Errorf("entry %s was counted from its copy, and there is none", id)
				}
			}
			if got := b.db.SQL(`SELECT sum(recovered) FROM result_ledger`); got != fmt.Sprint(len(recovered)) {
				t.Errorf("the ledger says that %s votes were recovered, and counted are %d copies", got, len(recovered))
			}
			if l.when == stopped {
				maps.DeleteFunc(votes.acked[inc], func(id string, _ int) bool { return held[id] || compareIDs(id, position) <= 0 })
				if want := len(votes.acked[inc]); len(recovered) != want {
					t.Errorf("%d votes were recovered, and their node lost %d before a worker saw them", len(recovered), want)
				}
			}
			closeAll(b, origin)
			b.noDrift()
		})
	}
}

// databaseFor gives a loss the database that it may harm.
func databaseFor(t *testing.T, l loss) *harness.Database {
	if l.when == postgresAway {
		return harness.PostgresAlone(t)
	}
	return harness.Postgres(t)
}

// TestNoLossOfAnOnlyCopyIsPassedOver: what is lost is a number, or captured in a gap that is open.
func TestNoLossOfAnOnlyCopyIsPassedOver(t *testing.T) {
	t.Parallel()
	for name, l := range losses() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, origin := benchOn(t, databaseFor(t, l)), harness.Redis(t)
			votes, _, _, began, ended := b.suffer(l, origin, nil)
			acked := votes.voters()
			b.eventually(`SELECT sum(pending), sum(added - counted - pending - rejected - lost) FROM result_ledger`, "0|0")
			if strings.HasPrefix(name, "trimmed") {
				b.until("every loss is a number", func() bool { return b.db.SQL(`SELECT sum(lost) FROM result_ledger`) == fmt.Sprint(b.absent(acked)) })
				return
			}
			at := func(t time.Time) string { return t.UTC().Format("'2006-01-02 15:04:05.999999Z'::timestamptz") }
			// A worker that looks all the time has looked after the fault began.
			from := at(ended)
			if l.when != underLoad {
				from = at(began.Add(time.Second))
			}
			b.eventually(`SELECT count(*) > 0 FROM result_gap WHERE closed_at IS NULL AND from_at < `+from+` AND to_at > `+at(began), "t")
			closeAll(b, origin)
			b.noDrift()
		})
	}
}

// TestBothDisksOfAPairAreLost: what workers had seen is lost by number, and votes that nobody had seen were captured in a gap.
func TestBothDisksOfAPairAreLost(t *testing.T) {
	t.Parallel()
	b, origin, peer := newBench(t), harness.Redis(t), harness.Redis(t)
	limited := limitTo(b.store, 100)
	castCopied(t, origin, peer, crowd(0, 140)...)
	castCopied(t, peer, origin, crowd(1000, 30)...)
	stop := b.run(b.worker("w", func(d *Drain) { d.tally, d.cfg.BatchSize = limited, 100 }, origin, peer))
	b.eventually(`SELECT max(added), max(n), sum(added) FROM drain_stream`, "140|100|170")
	b.eventually(`SELECT n FROM drain_stream WHERE node = '`+peer.Node()+`'`, "30")
	stop()
	looked := b.db.SQL(`SELECT now()`)
	castCopied(t, origin, peer, crowd(2000, 60)...)
	castCopied(t, peer, origin, crowd(3000, 60)...)
	both := []*harness.RedisServer{origin, peer}
	for _, r := range both {
		r.Lose()
	}
	lost := b.db.SQL(`SELECT now()`)
	for _, r := range both {
		r.Restart()
	}
	b.db.SQL(`UPDATE drain_stream SET seen_at = seen_at - interval '11 seconds'`)
	b.run(b.worker("w2", func(d *Drain) { d.cfg.RecoverAfter = 100 * time.Millisecond }, both...))
	b.eventually(`SELECT count(*) FROM result_ledger WHERE state = 'replaced'`, "2")
	b.eventually(`SELECT lost, recovered FROM result_ledger WHERE state = 'replaced' AND node = '`+origin.Node()+`'`, "40|0")
	b.eventually(`SELECT lost, recovered FROM result_ledger WHERE state = 'replaced' AND node = '`+peer.Node()+`'`, "0|0")
	b.eventually(fmt.Sprintf(`SELECT count(*), count(DISTINCT node) FROM result_gap WHERE closed_at IS NULL AND cause = 'replaced' AND from_at < '%s' AND to_at > '%s'`, looked, lost), "2|2")
	b.eventually(`SELECT sum(votes), (SELECT sum(added - counted - pending - rejected - lost) FROM result_ledger) FROM result_tally`, "130|0")
	closeAll(b, origin)
	closeAll(b, peer)
	b.noDrift()
}

// TestVotesWithOneCopyAreANumber in the ledger of their node.
func TestVotesWithOneCopyAreANumber(t *testing.T) {
	t.Parallel()
	b, r := newBench(t), harness.Redis(t)
	c := capture(t, r)
	b.run(b.worker("w", nil, r))
	cast(t, c, crowd(0, 40)...)
	marked := append(ballot{1, 100, 1, 0, 100}.fields(), "k", "1")
	for range 7 {
		if err := c.XAdd(t.Context(), &redis.XAddArgs{Stream: streamKey, NoMkStream: true, Values: marked}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	b.eventually(`SELECT counted, single FROM result_ledger`, "47|7")
	b.noDrift()
}

// TestADiskThatIsLostBeforeAnyWorkerLooked is known from its copies alone.
func TestADiskThatIsLostBeforeAnyWorkerLooked(t *testing.T) {
	t.Parallel()
	b, origin, peer := newBench(t), harness.Redis(t), harness.Redis(t)
	castCopied(t, origin, peer, crowd(0, 70)...)
	inc := origin.Incarnation()
	origin.Lose()
	origin.Restart()
	b.run(b.worker("w", func(d *Drain) { d.cfg.RecoverAfter = 300 * time.Millisecond }, origin, peer))
	b.eventually(`SELECT sum(votes) FROM result_tally`, "70")
	b.eventually(`SELECT node, counted, recovered, lost FROM result_ledger WHERE incarnation = '`+inc+`'`, "unknown-"+inc[:8]+"|70|70|0")
	b.noDrift()
}

// TestATrimBesideAWorkerIsMadeGoodFromCopies: the worker keeps its connection, and has not counted what is trimmed.
func TestATrimBesideAWorkerIsMadeGoodFromCopies(t *testing.T) {
	t.Parallel()
	b, origin, peer := newBench(t), harness.Redis(t), harness.Redis(t)
	limited := limitTo(b.store, 50)
	b.run(b.worker("w", func(d *Drain) { d.tally, d.cfg.BatchSize = limited, 50 }, origin, peer))
	castCopied(t, origin, peer, crowd(0, 150)...)
	b.eventually(`SELECT max(added), max(n) FROM drain_stream`, "150|50")
	origin.Do("XTRIM", "votes", "MAXLEN", "=", "30")
	limited.most.Store(1000)
	b.eventually(`SELECT sum(votes) FROM result_tally`, "150")
	// The worker may hold its next 50 entries already, and counts those as its own.
	b.eventually(`SELECT sum(added), sum(counted), sum(recovered) IN (20, 70), sum(lost), sum(pending) FROM result_ledger`, "150|150|t|0|0")
	b.noDrift()
}
