package vote

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
)

// setupCopies is setup with so many other capture nodes, once they have been found.
func setupCopies(t testing.TB, mode copyMode, others int) (*bundle, []*harness.RedisServer) {
	t.Helper()
	own := harness.Redis(t)
	nodes := []*harness.RedisServer{own}
	for range others {
		nodes = append(nodes, harness.Redis(t))
	}
	b := setupWith(t, func(c *config) {
		c.socket, c.copies, c.copyUser, c.copyPassword = own.Socket(), mode, "copy", harness.RedisPassword
		c.peers = func(context.Context) (addrs []string, err error) {
			for _, n := range nodes {
				addrs = append(addrs, n.Addr())
			}
			return addrs, nil
		}
	})
	b.redis = own
	b.probe()
	b.inReach(others)
	return b, nodes[1:]
}

// inReach waits until the replica knows of so many usable peers.
func (b *bundle) inReach(n int) {
	b.t.Helper()
	late := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for b.capture.copies.peers.count.Load() != int64(n) || len(b.capture.copies.peers.usable()) != n {
		select {
		case <-tick.C:
		case <-late:
			b.t.Fatalf("%d peers in reach, want %d", b.capture.copies.peers.count.Load(), n)
		}
	}
}

// copiesOn lists the lines of this node's copies on another.
func (b *bundle) copiesOn(r *harness.RedisServer) []string {
	b.t.Helper()
	var lines []string
	for _, line := range strings.Split(r.Do("XRANGE", copiesKey+b.redis.Incarnation(), "-", "+"), "\n") {
		if strings.Count(line, " ") == 5 {
			lines = append(lines, line)
		}
	}
	return lines
}

func (b *bundle) press(j jar) int {
	b.t.Helper()
	code, _ := b.json(`{"poll":"pets","choice":"cats"}`, j)
	return code
}

func TestAVoteIsOnTwoNodesWhenItIsAcknowledged(t *testing.T) {
	t.Parallel()
	b, peers := setupCopies(t, preferTwo, 2)
	var want []string
	for range 3 {
		if code := b.press(b.voter()); code != 200 {
			t.Fatalf("vote = %d", code)
		}
		last := b.stored()[len(b.stored())-1]
		want = append(want, strings.Join(last, " "))
	}
	got := append(b.copiesOn(peers[0]), b.copiesOn(peers[1])...)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("copies are\n%q\nwant, on one of the nodes,\n%q", got, want)
	}
	if n := b.redis.Do("EXISTS", copiesKey+b.redis.Incarnation()); n != "0" {
		t.Error("the node copied to itself")
	}
}

// marked counts the entries of the own stream that say they have one copy.
func (b *bundle) marked() int {
	b.t.Helper()
	return strings.Count(b.redis.Do("XRANGE", stream, "-", "+")+"\n", "\nk\n1\n")
}

func TestAPeerThatFailsIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*harness.RedisServer){
		"dead":   func(r *harness.RedisServer) { r.Kill() },
		"frozen": func(r *harness.RedisServer) { r.Stop() },
		"full":   func(r *harness.RedisServer) { r.Do("CONFIG", "SET", "maxmemory", "1") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, peers := setupCopies(t, requireTwo, 2)
			first, second := peers[0], peers[1]
			if b.capture.copies.peers.usable()[0].addr != first.Addr() {
				first, second = second, first
			}
			spoil(first)
			if code := b.press(b.voter()); code != 200 {
				t.Fatalf("vote = %d", code)
			}
			if got := b.copiesOn(second); len(got) != 1 {
				t.Errorf("copies on the other node: %q, want one", got)
			}
			b.inReach(1)
		})
	}
}

func TestWithoutAPeerTheSettingDecides(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		mode   copyMode
		known  bool // the replica knows before the press
		code   int
		marked int
	}{
		"prefer, known":   {preferTwo, true, 200, 1},
		"prefer, unknown": {preferTwo, false, 200, 1},
		"require, known":  {requireTwo, true, 503, 0},
		"require":         {requireTwo, false, 503, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, peers := setupCopies(t, tc.mode, 1)
			j := b.voter()
			peers[0].Kill()
			if tc.known {
				b.inReach(0)
			}
			if got := b.press(j); got != tc.code {
				t.Errorf("vote = %d, want %d", got, tc.code)
			}
			if got := b.marked(); got != tc.marked {
				t.Errorf("%d entries say that they have one copy, want %d", got, tc.marked)
			}
			if ready := b.Ready() == nil; tc.known && ready != (tc.mode == preferTwo) {
				t.Errorf("ready = %v: %v", ready, b.Ready())
			}
			peers[0].Restart()
			b.inReach(1)
			if got := b.press(j); got != 200 || len(b.copiesOn(peers[0])) != 1 {
				t.Errorf("vote when the node is back = %d with %d copies", got, len(b.copiesOn(peers[0])))
			}
		})
	}
}

// BenchmarkCopies compares a captured vote with one and with two copies, from the request in the handler to its answer: CPU of
// this process and of both servers, per vote.
func BenchmarkCopies(b *testing.B) {
	for name, mode := range map[string]copyMode{"one": oneCopy, "two": preferTwo} {
		b.Run(name, func(b *testing.B) {
			var s *bundle
			var peers []*harness.RedisServer
			if mode == oneCopy {
				s = setup(b, nil)
			} else {
				s, peers = setupCopies(b, mode, 1)
			}
			cpu := func() time.Duration {
				var own syscall.Rusage
				if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
					b.Fatal(err)
				}
				total := time.Duration(own.Utime.Nano()+own.Stime.Nano()) + s.redis.CPU()
				for _, p := range peers {
					total += p.CPU()
				}
				return total
			}
			began := cpu()
			b.SetParallelism(64)
			b.RunParallel(func(pb *testing.PB) {
				j := jar{"waggle": s.keys.signToken(newToken(time.Now()))}
				for pb.Next() {
					w := s.send("POST", "/", `{"poll":"pets","choice":"cats"}`, j, map[string]string{"Content-Type": "application/json"})
					if w.Code != 200 {
						b.Errorf("vote = %d %s", w.Code, w.Body)
					}
				}
			})
			b.ReportMetric(float64((cpu()-began).Microseconds())/float64(b.N), "cpu-µs/vote")
			b.ReportMetric(float64(b.N)/float64(s.stats.batches.Load()), "votes/batch")
		})
	}
}
