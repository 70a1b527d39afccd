package drain

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

// castCopied casts ballots on origin, and copies each batch to a peer as function vote does.
func castCopied(t testing.TB, origin, peer *harness.RedisServer, ballots ...ballot) {
	t.Helper()
	own := capture(t, origin)
	copying := copier(t, peer)
	key := copiesKey + origin.Incarnation()
	for len(ballots) > 0 {
		some := ballots[:min(len(ballots), 50)]
		ballots = ballots[len(some):]
		pipe := own.Pipeline()
		for _, v := range some {
			pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: streamKey, NoMkStream: true, Values: v.fields()})
		}
		stored, err := pipe.Exec(t.Context())
		if err != nil {
			t.Fatalf("casting: %v", err)
		}
		var lines strings.Builder
		for i, v := range some {
			fmt.Fprintf(&lines, "%s %d %s %d %d %d\n", stored[i].(*redis.StringCmd).Val(), v.poll, voter(v.voter), v.choice, v.seq, v.at)
		}
		if err := copying.Do(t.Context(), "XADD", key, "*", "n", len(some), "v", lines.String()).Err(); err != nil {
			t.Fatalf("copying: %v", err)
		}
	}
}

// copier is a client with the rights of function vote on another node than its own, but patient.
func copier(t testing.TB, r *harness.RedisServer) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: r.Addr(), Username: "copy", Password: harness.RedisPassword,
		Protocol: 2, DisableIdentity: true, MaxRetries: -1, ReadTimeout: patience})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func held(r *harness.RedisServer) (n int) {
	_, _ = fmt.Sscan(r.Do("XLEN", "votes"), &n)
	return n
}

// TestWhatADiskForgetsItsCopiesGiveBack is each fault of one disk, while workers are stopped: nothing is lost, and what is
// recovered is what the disk forgot.
func TestWhatADiskForgetsItsCopiesGiveBack(t *testing.T) {
	t.Parallel()
	const uncounted = 100
	cut := func(bytes int64) func(*harness.RedisServer) int {
		return func(r *harness.RedisServer) int {
			before := held(r)
			r.CutLog(bytes)
			r.Restart()
			return before - held(r)
		}
	}
	for name, spoil := range map[string]func(*harness.RedisServer) (lost int){
		"trimmed by hand": func(r *harness.RedisServer) int { r.Do("XTRIM", "votes", "MAXLEN", "=", "25"); return uncounted - 25 },
		"log cut by 1000": cut(1000),
		"log cut by 9000": cut(9000),
		"volume wiped":    func(r *harness.RedisServer) int { r.Lose(); r.Restart(); return uncounted },
	} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, seen by a worker %v", name, known), func(t *testing.T) {
				t.Parallel()
				b, origin, peer, other := newBench(t), harness.Redis(t), harness.Redis(t), harness.Redis(t)
				limited := limitTo(b.store, 100)
				castCopied(t, origin, peer, crowd(0, 100)...)
				if known {
					castCopied(t, origin, other, crowd(100, uncounted)...)
				}
				stop := b.run(b.worker("w", func(d *Drain) { d.tally, d.cfg.BatchSize = limited, 100 }, origin, peer, other))
				b.eventually(`SELECT sum(n) FROM drain_stream`, "100")
				stop()
				if !known {
					castCopied(t, origin, other, crowd(100, 40)...)
					castCopied(t, origin, peer, crowd(140, uncounted-40)...)
				}
				lost := spoil(origin)
				// In production the new incarnation is registered first and the old one closed after 10 s of silence.
				b.db.SQL(`UPDATE drain_stream SET seen_at = now() - interval '11 seconds'`)
				b.run(b.worker("w2", func(d *Drain) { d.cfg.BatchSize, d.cfg.RecoverAfter = 30, 100*time.Millisecond }, origin, peer, other))
				b.eventually(`SELECT sum(votes) FROM result_tally`, "200")
				b.eventually(`SELECT sum(lost), sum(pending), sum(recovered) FROM result_ledger`, fmt.Sprintf("0|0|%d", lost))
				b.eventually(`SELECT sum(added - counted - pending - rejected - lost) FROM result_ledger`, "0")
				closeAll(b, origin)
				b.noDrift()
			})
		}
	}
}

// closeAll closes what stays open until an operator closes it, so that any other drift shows.
func closeAll(b *bench, r *harness.RedisServer) {
	b.t.Helper()
	if _, _, err := b.store.CloseLosses(b.t.Context(), r.Node()); err != nil {
		b.t.Fatalf("closing: %v", err)
	}
}

// TestOneCopyIsReportedAsWhatCannotBeKnown: the same faults where no other node has copies.
func TestOneCopyIsReportedAsWhatCannotBeKnown(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*harness.RedisServer){
		"log cut by 1000": func(r *harness.RedisServer) { r.CutLog(1000); r.Restart() },
		"volume wiped":    func(r *harness.RedisServer) { r.Lose(); r.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, r := newBench(t), harness.Redis(t)
			stop := b.run(b.worker("w", nil, r))
			cast(t, capture(t, r), crowd(0, 100)...)
			b.settled(100)
			stop()
			cast(t, capture(t, r), crowd(100, 59)...) // what no worker has seen
			spoil(r)
			b.db.SQL(`UPDATE drain_stream SET seen_at = now() - interval '11 seconds'`)
			b.run(b.worker("w2", nil, r))
			b.eventually(`SELECT count(*), bool_and(to_at - from_at > interval '11 seconds') FROM result_gap WHERE closed_at IS NULL`, "1|t")
			closeAll(b, r)
			b.noDrift()
		})
	}
}

// TestAVanishedNodeIsRecoveredAndRetired loses a node for good.
func TestAVanishedNodeIsRecoveredAndRetired(t *testing.T) {
	t.Parallel()
	b, origin, peer := newBench(t), harness.Redis(t), harness.Redis(t)
	b.run(b.worker("w", func(d *Drain) { d.cfg.RecoverAfter = 300 * time.Millisecond }, origin, peer))
	castCopied(t, origin, peer, crowd(0, 100)...)
	b.settled(100)
	origin.Stop() // its last votes are seen by no worker
	origin.Cont()
	castCopied(t, origin, peer, crowd(100, 500)...)
	origin.Lose()
	b.eventually(`SELECT sum(votes) FROM result_tally`, "600")
	b.db.SQL(fmt.Sprintf(`UPDATE drain_stream SET seen_at = now() - interval '2 minutes' WHERE node = '%s'`, origin.Node()))
	if n, err := b.store.Retire(t.Context(), origin.Node(), false); n != 1 || err != nil {
		t.Fatalf("retiring = %d, %v; want 1", n, err)
	}
	b.eventually(`SELECT state, pending, lost, added - counted FROM result_ledger WHERE node = '`+origin.Node()+`'`, "retired|0|0|0")
	b.noDrift()
}

// TestASilentNodeThatComesBackDeliversItsOwnVotes: what was counted early is counted once, and nothing is recovered in the end.
func TestASilentNodeThatComesBackDeliversItsOwnVotes(t *testing.T) {
	t.Parallel()
	b, origin, peer := newBench(t), harness.Redis(t), harness.Redis(t)
	castCopied(t, origin, peer, crowd(0, 100)...)
	limited := limitTo(b.store, 50)
	stop := b.run(b.worker("w", func(d *Drain) { d.tally, d.cfg.BatchSize = limited, 50 }, origin, peer))
	b.eventually(`SELECT max(added), max(n) FROM drain_stream`, "100|50")
	stop()
	castCopied(t, origin, peer, crowd(100, 100)...)
	cast(t, capture(t, origin), crowd(200, 10)...) // no copies of these
	origin.Kill()
	b.run(b.worker("w2", func(d *Drain) { d.cfg.RecoverAfter = 100 * time.Millisecond }, origin, peer))
	b.eventually(`SELECT sum(votes) FROM result_tally`, "200")
	b.eventually(`SELECT sum(recovered), sum(pending), sum(lost) FROM result_ledger`, "150|0|0")
	origin.Restart()
	b.eventually(`SELECT sum(votes) FROM result_tally`, "210")
	b.eventually(`SELECT sum(recovered), sum(added), sum(counted), sum(pending), sum(lost) FROM result_ledger`, "0|210|210|0|0")
	b.noDrift()
}

// knownPair are two capture nodes that a worker has seen, which has stopped.
func knownPair(t *testing.T) (b *bench, origin, peer *harness.RedisServer) {
	t.Helper()
	b, origin, peer = newBench(t), harness.Redis(t), harness.Redis(t)
	stop := b.run(b.worker("w", nil, origin, peer))
	b.eventually(`SELECT count(*) FROM drain_stream`, "2")
	stop()
	return b, origin, peer
}

// TestCopiesThatComeLateAreCompared: the node with the copies is away when the log is found to be cut.
func TestCopiesThatComeLateAreCompared(t *testing.T) {
	t.Parallel()
	b, origin, peer := knownPair(t)
	castCopied(t, origin, peer, crowd(0, 200)...)
	peer.Kill()
	had := held(origin)
	origin.CutLog(3000)
	origin.Restart()
	lost := had - held(origin)
	b.run(b.worker("w2", nil, origin, peer))
	b.eventually(`SELECT sum(votes), (SELECT unread FROM result_ledger WHERE node = '`+origin.Node()+`') FROM result_tally`,
		fmt.Sprintf("%d|{%s}", 200-lost, peer.Node()))
	castCopied(t, origin, origin, crowd(200, 20)...) // the stream goes on meanwhile
	peer.Restart()
	b.eventually(`SELECT sum(votes) FROM result_tally`, "220")
	b.eventually(`SELECT sum(recovered), sum(lost), max(unread) FROM result_ledger`, fmt.Sprintf("%d|0|{}", lost))
	closeAll(b, origin)
	b.noDrift()
}

// staleTally refuses to note, once, that all copies have been compared, as if another worker had been faster.
type staleTally struct {
	tally
	refused atomic.Bool
}

func (s *staleTally) Observe(ctx context.Context, before, after store.Stream, cause string) error {
	if len(before.Unread) > 0 && len(after.Unread) == 0 && s.refused.CompareAndSwap(false, true) {
		return store.ErrStale
	}
	return s.tally.Observe(ctx, before, after, cause)
}

// TestThatCopiesWereComparedIsNotedInTheEnd: else the ledger would name a node for ever that has long been retired.
func TestThatCopiesWereComparedIsNotedInTheEnd(t *testing.T) {
	t.Parallel()
	b, origin, peer := knownPair(t)
	peer.Kill()
	late := &staleTally{tally: b.store}
	b.run(b.worker("w2", func(d *Drain) { d.tally = late }, origin, peer))
	unread := `SELECT unread FROM result_ledger WHERE node = '` + origin.Node() + `'`
	b.eventually(unread, "{"+peer.Node()+"}")
	peer.Restart()
	b.until("another worker is faster", late.refused.Load)
	b.eventually(unread, "{}")
}

// TestCopiesAreTrimmedAfterTheirOriginWasCounted and no sooner.
func TestCopiesAreTrimmedAfterTheirOriginWasCounted(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var k copyKeeper
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	tick := func(s int, last, sure, lastID string) map[string]string {
		account := (&model{}).account
		account.Sure, account.LastID = sure, lastID
		return k.tick(at(s), map[string]string{"p": last}, account, 10*time.Second)
	}
	if got := tick(0, "7-0", "1-0", "5-0"); got != nil {
		t.Errorf("trims %v at once", got)
	}
	// What the batch 7-0 stands for is at the origin up to 6-0, by a reading that was made later.
	if got := tick(5, "8-0", "5-0", "6-0"); got != nil {
		t.Errorf("trims %v before it is counted", got)
	}
	if got := tick(20, "8-0", "5-0", "6-0"); got != nil {
		t.Errorf("trims %v before it is counted", got)
	}
	if got := tick(30, "8-0", "6-0", "6-0"); got != nil {
		t.Errorf("trims %v before the window is over", got)
	}
	if got := tick(41, "9-0", "6-0", "6-0"); got["p"] != "8-0" && got["p"] != "7-0" {
		t.Errorf("trims %v, want what was counted a window ago", got)
	}
}
