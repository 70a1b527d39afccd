package vote

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
)

// setupCopies is setup with so many other capture nodes, once they have been found.
func setupCopies(t testing.TB, mode copyMode, others int) (*bundle, []*harness.RedisServer) {
	t.Helper()
	own := harness.Redis(t)
	peers := make([]*harness.RedisServer, others)
	addrs := []string{own.Addr()}
	for i := range peers {
		peers[i] = harness.Redis(t)
		addrs = append(addrs, peers[i].Addr())
	}
	return setupPeers(t, mode, own, addrs), peers
}

// setupLinks is setupCopies with a link to each of the others.
func setupLinks(t testing.TB, mode copyMode, others int) (*bundle, []*harness.RedisServer, []*link) {
	t.Helper()
	own := harness.Redis(t)
	peers, links := make([]*harness.RedisServer, others), make([]*link, others)
	addrs := []string{own.Addr()}
	for i := range peers {
		peers[i] = harness.Redis(t)
		links[i] = newLink(t, peers[i].Addr())
		addrs = append(addrs, links[i].addr)
	}
	return setupPeers(t, mode, own, addrs), peers, links
}

// setupPeers is setup on a Redis, with the addresses of all capture nodes.
func setupPeers(t testing.TB, mode copyMode, own *harness.RedisServer, addrs []string) *bundle {
	t.Helper()
	b := setupWith(t, func(c *config) {
		c.socket, c.copies, c.copyUser, c.copyPassword = own.Socket(), mode, "copy", harness.RedisPassword
		c.peers = func(context.Context) ([]string, error) { return addrs, nil }
	})
	b.redis = own
	b.probe()
	b.inReach(len(addrs) - 1)
	return b
}

// until waits for a condition that has a background goroutine to thank.
func (b *bundle) until(what string, done func() bool) {
	b.t.Helper()
	late := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			b.t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (b *bundle) peerAt(addr string) *peer {
	list := *b.capture.copies.peers.list.Load()
	return list[slices.IndexFunc(list, func(p *peer) bool { return p.addr == addr })]
}

// inReach waits until the replica knows of so many usable peers.
func (b *bundle) inReach(n int) {
	b.t.Helper()
	p := b.capture.copies.peers
	b.until(fmt.Sprintf("%d peers in reach", n), func() bool { return p.count.Load() == int64(n) && len(p.usable()) == n })
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

// link is a way to a server that can be slow or lead nowhere.
type link struct {
	addr   string
	target string
	// delay is what each chunk of bytes takes in either direction, in ns. cut: bytes vanish, connections stay.
	delay atomic.Int64
	cut   atomic.Bool
}

// newLink opens a link to a server, and closes it with the test.
func newLink(t testing.TB, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{addr: listener.Addr().String(), target: target}
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			context.AfterFunc(ctx, func() { client.Close(); server.Close() })
			group.Go(func() { l.pass(ctx, server, client) })
			group.Go(func() { l.pass(ctx, client, server) })
		}
	})
	t.Cleanup(func() {
		cancel()
		listener.Close()
		group.Wait()
	})
	return l
}

func (l *link) pass(ctx context.Context, to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-time.After(time.Duration(l.delay.Load())):
		case <-ctx.Done():
			return
		}
		if l.cut.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// TestASlowPeerIsUsedWhenThereIsNoOther: 500 ms are a little latency and no reason to do without the second copy.
func TestASlowPeerIsUsedWhenThereIsNoOther(t *testing.T) {
	t.Parallel()
	for mode := range map[copyMode]bool{preferTwo: true, requireTwo: true} {
		for name, tc := range map[string]struct {
			others int
			known  bool // the replica has asked the peer since it became slow
		}{
			"the only one, known": {1, true},
			"one of two":          {2, false},
			"one of two, known":   {2, true},
		} {
			t.Run(mode.String()+", "+name, func(t *testing.T) {
				t.Parallel()
				b, peers, links := setupLinks(t, mode, tc.others)
				slow := slices.IndexFunc(links, func(l *link) bool { return l.addr == b.capture.copies.peers.usable()[0].addr })
				links[slow].delay.Store(int64(250 * time.Millisecond))
				if tc.known {
					b.until("the peer is known to be slow", func() bool { return b.peerAt(links[slow].addr).slow.Load() })
				}
				if code := b.press(b.voter()); code != 200 {
					t.Fatalf("vote = %d", code)
				}
				if got := b.marked(); got != 0 {
					t.Errorf("%d entries say that they have one copy, want none", got)
				}
				copied := 0
				for _, peer := range peers {
					copied += len(b.copiesOn(peer))
				}
				if copied == 0 {
					t.Error("there is no copy")
				}
				if tc.others == 2 && tc.known && len(b.copiesOn(peers[slow])) != 0 {
					t.Error("the slow peer was used although there is a quick one")
				}
			})
		}
	}
}

// TestAPartitionedPeer vanishes behind a network that swallows everything.
func TestAPartitionedPeer(t *testing.T) {
	t.Parallel()
	for mode, want := range map[copyMode]struct{ code, marked int }{preferTwo: {200, 2}, requireTwo: {503, 0}} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			b, peers, links := setupLinks(t, mode, 1)
			links[0].cut.Store(true)
			if code := b.press(b.voter()); code != want.code {
				t.Errorf("vote = %d, want %d", code, want.code)
			}
			b.inReach(0)
			j := b.voter()
			if code := b.press(j); code != want.code {
				t.Errorf("vote when it is known = %d, want %d", code, want.code)
			}
			if got := b.marked(); got != want.marked {
				t.Errorf("%d entries say that they have one copy, want %d", got, want.marked)
			}
			links[0].cut.Store(false)
			b.inReach(1)
			if code := b.press(j); code != 200 || len(b.copiesOn(peers[0])) == 0 {
				t.Errorf("vote when the network is back = %d with %d copies", code, len(b.copiesOn(peers[0])))
			}
		})
	}
}

// TestAVoteThatCouldNotBeMarkedIsNotCalledUnstored: the node fills up between the vote and the note that it has one copy.
func TestAVoteThatCouldNotBeMarkedIsNotCalledUnstored(t *testing.T) {
	t.Parallel()
	b, peers := setupCopies(t, preferTwo, 1)
	j := b.voter()
	peers[0].Stop() // for copyTimeout the vote waits for it
	type answer struct {
		code  int
		reply map[string]any
	}
	answered := make(chan answer, 1)
	go func() {
		code, reply := b.json(`{"poll":"pets","choice":"cats"}`, j)
		answered <- answer{code, reply}
	}()
	b.until("the vote is stored", func() bool { return len(b.stored()) == 1 })
	b.redis.Do("CONFIG", "SET", "maxmemory", "1")
	if got := <-answered; got.code != 503 || got.reply["code"] != "unconfirmed" {
		t.Errorf("vote = %d %v, want 503 unconfirmed: it is stored", got.code, got.reply)
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

// BenchmarkCopies compares a captured vote with one and with two copies, from the request in the handler to its
// answer. It reports the CPU of this process and of both servers, per vote, and the median wait. 128 voters at once
// show the CPU, a single one the wait.
func BenchmarkCopies(b *testing.B) {
	for _, voters := range []int{128, 1} {
		for _, mode := range []copyMode{oneCopy, preferTwo} {
			b.Run(fmt.Sprintf("copies=%d/voters=%d", min(2, mode+1), voters), func(b *testing.B) { benchmarkCopies(b, mode, voters) })
		}
	}
}

func benchmarkCopies(b *testing.B, mode copyMode, voters int) {
	var s *bundle
	var peers []*harness.RedisServer
	if mode == oneCopy {
		s = setup(b, nil)
	} else {
		s, peers = setupCopies(b, mode, 1)
	}
	cpu := func() time.Duration {
		total := cpuTime(b) + s.redis.CPU()
		for _, p := range peers {
			total += p.CPU()
		}
		return total
	}
	var left, unanswered atomic.Int64
	left.Store(int64(b.N))
	waits := make([][]time.Duration, voters)
	var group sync.WaitGroup
	began := cpu()
	b.ResetTimer()
	for i := range voters {
		group.Go(func() {
			j := jar{"waggle": s.keys.signToken(newToken(time.Now()))}
			for left.Add(-1) >= 0 {
				sent := time.Now()
				w := s.send("POST", "/", `{"poll":"pets","choice":"cats"}`, j, map[string]string{"Content-Type": "application/json"})
				if waits[i] = append(waits[i], time.Since(sent)); w.Code != 200 {
					unanswered.Add(1) // the disk of a busy machine may stall for seconds
				}
			}
		})
	}
	group.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(waits...)))
	b.ReportMetric(float64((cpu()-began).Microseconds())/float64(b.N), "cpu-µs/vote")
	b.ReportMetric(float64(b.N)/float64(s.stats.batches.Load()), "votes/batch")
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	if n := unanswered.Load(); n > 0 {
		b.Logf("%d of %d votes were not confirmed", n, b.N)
	}
}
