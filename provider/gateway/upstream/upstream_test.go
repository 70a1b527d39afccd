package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"waggle/provider/feed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// town answers probes for every address; status 0 refuses the connection, hangs never answers.
type town struct {
	mu     sync.Mutex
	status map[string]int // guarded by mu; 200 where nothing is set
	probes int            // guarded by mu
}

const hangs = -1

func (w *town) set(address string, status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == nil {
		w.status = make(map[string]int)
	}
	w.status[address] = status
}

func (w *town) dial(_ context.Context, address string) (net.Conn, error) {
	w.mu.Lock()
	status, known := w.status[address]
	w.probes++
	w.mu.Unlock()
	if !known {
		status = 200
	}
	if status == 0 {
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		switch _, err := http.ReadRequest(bufio.NewReader(there)); {
		case err == nil && status == hangs:
			_, _ = there.Read(make([]byte, 1)) // until the prober gives up
		case err == nil:
			_, _ = fmt.Fprintf(there, "HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status)
		}
	}()
	return here, nil
}

// run starts a registry that lives until stop is called.
func run(t testing.TB, cfg Config) (g *Registry, stop func()) {
	t.Helper()
	cfg.DefaultNamespace = "fn"
	if cfg.Wake == nil {
		cfg.Wake = func(context.Context, string, string) error { return nil }
	}
	if cfg.ProviderGone == nil {
		cfg.ProviderGone = func() bool { return false }
	}
	if cfg.Dial == nil {
		cfg.Dial = new(town).dial
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Run(ctx) }()
	return g, func() { cancel(); <-done }
}

// fn is function f with replicas given as "id state" or "id state node".
func fn(max int, replicas ...string) feed.Function {
	f := feed.Function{Name: "f", Namespace: "fn", Desired: uint64(len(replicas)), Scale: feed.Scale{Min: 1}, MaxInflight: max}
	for _, r := range replicas {
		p := append(strings.Fields(r), "")
		f.Replicas = append(f.Replicas, feed.Replica{ID: p[0], Address: p[0] + ":8080", State: feed.State(p[1]), Node: p[2]})
	}
	return f
}

func apply(g *Registry, fns ...feed.Function) *Set {
	g.Apply(feed.Table{Epoch: "e", Functions: fns})
	return g.Lookup([]byte("f"))
}

// trusted applies fns and waits until every ready replica is in rotation.
func trusted(t testing.TB, g *Registry, f feed.Function) *Set {
	t.Helper()
	s := apply(g, f)
	want := 0
	for _, r := range f.Replicas {
		if serves(r.State) {
			want++
		}
	}
	for s.Ready() != want {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // fake time inside a bubble
	}
	return s
}

// bubble runs a test of a registry in fake time.
func bubble(t *testing.T, cfg Config, test func(t *testing.T, g *Registry)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, stop := run(t, cfg)
		test(t, g)
		stop()
	})
}

func TestAddresses(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, g *Registry) {
		other := fn(0)
		other.Namespace = "dev"
		apply(g, fn(0), other, feed.Function{Name: "bare"})
		for address, want := range map[string]string{
			"f": "f.fn", "f.fn": "f.fn", "f.dev": "f.dev", "bare": "bare.fn", "bare.fn": "bare.fn",
			"bare.dev": "", "f.fn.fn": "", ".fn": "", "": "", "fn": "", "F": "",
		} {
			got := ""
			if s := g.Lookup([]byte(address)); s != nil {
				got = s.Label
			}
			if got != want {
				t.Errorf("address %q finds %q, want %q", address, got, want)
			}
		}
	})
}

func TestFreshReplicaIsProbedBeforeItIsPicked(t *testing.T) {
	w := &town{}
	w.set("a:8080", 503)
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		s := apply(g, fn(0, "a ready"))
		synctest.Wait()
		if r := s.Pick(nil); r != nil {
			t.Fatal("a replica was picked whose probe had failed")
		}
		got := make(chan error, 1)
		go func() {
			r, err := s.Wait(nil, time.Now().Add(10*time.Second), nil)
			if err == nil {
				r.Release()
			}
			got <- err
		}()
		time.Sleep(3 * time.Second)
		w.set("a:8080", 404) // listens, but has no such path: that is all a plain web server can show
		if err := <-got; err != nil {
			t.Errorf("waiting for a replica that became well: %v", err)
		}
	})
}

func TestReplicaBecomesReadyWhileItsProbeEnds(t *testing.T) {
	// A replica whose probing was given up because a table called it draining must be probed again when it returns.
	w := &town{}
	w.set("a:8080", 0)
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		for _, state := range []string{"ready", "draining", "ready", "starting", "ready"} {
			apply(g, fn(0, "a "+state))
			time.Sleep(5 * time.Second)
		}
		w.set("a:8080", 200)
		trusted(t, g, fn(0, "a ready"))
	})
}

func TestOneWakeForAllWaiters(t *testing.T) {
	var wakes atomic.Int32
	cfg := Config{Wake: func(_ context.Context, name, namespace string) error {
		if name != "f" || namespace != "fn" {
			return fmt.Errorf("woke %s.%s", name, namespace)
		}
		wakes.Add(1)
		time.Sleep(time.Second)
		return nil
	}}
	bubble(t, cfg, func(t *testing.T, g *Registry) {
		s := apply(g, fn(0))
		errs := make(chan error, 500)
		for range 500 {
			go func() {
				r, err := s.Wait(nil, time.Now().Add(10*time.Second), nil)
				if err == nil {
					defer r.Release()
				}
				errs <- err
			}()
		}
		synctest.Wait()
		if s.Queued() != 500 {
			t.Errorf("%d wait, want 500", s.Queued())
		}
		time.Sleep(1500 * time.Millisecond)
		apply(g, fn(0, "a starting"))
		time.Sleep(5 * time.Second) // starting is on its way: no second wake
		apply(g, fn(0, "a ready"))
		for range 500 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if wakes.Load() != 1 || s.Queued() != 0 {
			t.Errorf("%d wakes, %d still queued; want 1 and 0", wakes.Load(), s.Queued())
		}
	})
}

func TestWakeIsRepeatedWhileNothingHappens(t *testing.T) {
	var wakes atomic.Int32
	cfg := Config{Wake: func(context.Context, string, string) error { wakes.Add(1); return errors.New("swarm is busy") }}
	bubble(t, cfg, func(t *testing.T, g *Registry) {
		s := apply(g, fn(0))
		if _, err := s.Wait(nil, time.Now().Add(9*time.Second), nil); !errors.Is(err, ErrNotReady) {
			t.Errorf("got %v", err)
		}
		if n := wakes.Load(); n < 3 || n > 6 {
			t.Errorf("%d wakes in 9 s, want one per 2 s", n)
		}
	})
}

func TestWaitsThatFail(t *testing.T) {
	t.Parallel()
	full := fn(1, "a ready")
	for name, tc := range map[string]struct {
		cfg  Config
		fn   feed.Function
		busy bool
		act  func(g *Registry, left chan struct{})
		want error
	}{
		"nothing ready": {fn: fn(0, "a preparing"), want: ErrNotReady},
		"all busy":      {fn: full, busy: true, want: ErrBusy},
		"queue full": {cfg: Config{MaxWaiting: 1}, fn: fn(0, "a preparing"), want: ErrQueueFull, act: func(g *Registry, _ chan struct{}) {
			g.Lookup([]byte("f")).enqueue(&waiter{signal: make(chan struct{}, 1)})
		}},
		"asleep, no provider": {cfg: Config{ProviderGone: func() bool { return true }}, fn: fn(0), want: ErrAsleep},
		"client leaves":       {fn: fn(0, "a preparing"), want: ErrLeft, act: func(_ *Registry, left chan struct{}) { close(left) }},
		"function removed":    {fn: full, busy: true, want: ErrRemoved, act: func(g *Registry, _ chan struct{}) { go func() { time.Sleep(time.Second); apply(g) }() }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, tc.cfg, func(t *testing.T, g *Registry) {
				s := trusted(t, g, tc.fn)
				if tc.busy {
					defer s.Pick(nil).Release()
				}
				left := make(chan struct{})
				if tc.act != nil {
					tc.act(g, left)
				}
				if _, err := s.Wait(nil, time.Now().Add(5*time.Second), left); !errors.Is(err, tc.want) {
					t.Errorf("got %v, want %v", err, tc.want)
				}
			})
		})
	}
}

func TestFreePlacesGoToThoseWhoWait(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, g *Registry) {
		s := trusted(t, g, fn(2, "a ready", "b ready"))
		var most, now atomic.Int64
		errs := make(chan error, 100)
		for range 100 {
			go func() {
				r, err := s.Wait(nil, time.Now().Add(time.Minute), nil)
				if err == nil {
					most.Store(max(most.Load(), now.Add(1)))
					time.Sleep(10 * time.Millisecond)
					now.Add(-1)
					r.Release()
				}
				errs <- err
			}()
		}
		begin := time.Now()
		for range 100 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if most.Load() > 4 {
			t.Errorf("%d at once on two replicas of 2", most.Load())
		}
		// 100 requests, 4 at once, 10 ms each: no place stays empty while somebody waits.
		if took := time.Since(begin); took > 260*time.Millisecond {
			t.Errorf("took %s, want 250 ms", took)
		}
	})
}

func TestSameNodeIsPreferredUpToAMargin(t *testing.T) {
	bubble(t, Config{Node: "here"}, func(t *testing.T, g *Registry) {
		s := trusted(t, g, fn(0, "far1 ready there", "near ready here", "far2 ready there"))
		counts := map[string]int{}
		for range 3*nodeMargin + 6 {
			counts[s.Pick(nil).ID()]++
		}
		if near := counts["near"]; near < counts["far1"]+nodeMargin || near > counts["far1"]+nodeMargin+2 {
			t.Errorf("picked %v", counts)
		}
	})
}

func TestLoadIsSpread(t *testing.T) {
	for name, n := range map[string]int{"few": 3, "many": 40} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Config{}, func(t *testing.T, g *Registry) {
				var list []string
				for i := range n {
					list = append(list, fmt.Sprintf("r%02d ready", i))
				}
				s := trusted(t, g, fn(0, list...))
				for range 10 * n {
					s.Pick(nil)
				}
				for _, r := range s.replicas() {
					if got := r.Inflight(); got < 4 || got > 16 {
						t.Errorf("%s has %d of 10 on average", r.ID(), got)
					}
				}
			})
		})
	}
}

func TestRefusingReplicaLeavesAndReturns(t *testing.T) {
	w := &town{}
	var why atomic.Value
	cfg := Config{Dial: w.dial, Ejected: func(_ *Set, r *Replica, reason string) { why.Store(r.ID() + " " + reason) }}
	bubble(t, cfg, func(t *testing.T, g *Registry) {
		s := trusted(t, g, fn(0, "a ready", "b ready"))
		var a *Replica
		for _, r := range s.replicas() {
			if r.ID() == "a" {
				a = r
			}
		}
		w.set("a:8080", 0)
		a.Refused(&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)})
		if s.Ready() != 2 {
			t.Fatal("a replica left because this side had no file descriptors")
		}
		a.Refused(syscall.ECONNREFUSED)
		for range 20 {
			if s.Pick(nil) == a {
				t.Fatal("a refusing replica was picked")
			}
		}
		if why.Load() != "a refused" {
			t.Errorf("reported %v", why.Load())
		}
		w.set("a:8080", 200)
		time.Sleep(5 * time.Second)
		if s.Ready() != 2 {
			t.Error("the replica did not return after it was well again")
		}
	})
}

func TestFailingReplicaIsEjectedUnlessItIsTheLast(t *testing.T) {
	w := &town{}
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		s := trusted(t, g, fn(0, "a ready", "b ready"))
		w.set("a:8080", 500)
		w.set("b:8080", 500)
		for _, r := range s.replicas() {
			r.Failed()
			r.Failed()
			r.Answered()
			r.Failed()
			r.Failed()
		}
		if s.Ready() != 2 {
			t.Fatal("ejected without three failures in a row")
		}
		for _, r := range s.replicas() {
			r.Failed()
		}
		if s.Ready() != 1 {
			t.Errorf("%d in rotation, want the last one kept", s.Ready())
		}
	})
}

// TestPicksFollowTheTable drives a registry with random tables, failures, picks and releases, and checks every pick
// against what the table says.
func TestPicksFollowTheTable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := &town{}
		g, stop := run(t, Config{Dial: w.dial})
		defer stop()
		ids := []string{"a", "b", "c", "d"}
		limit := rapid.IntRange(0, 2).Draw(rt, "max_inflight")
		state := map[string]string{}
		held := map[*Replica]int{}
		var s *Set
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"table", "pick", "pick", "pick", "release", "refuse"}).Draw(rt, "step") {
			case "table":
				clear(state)
				var list []string
				for _, id := range ids {
					if st := rapid.SampledFrom([]string{"ready", "ready", "draining", "starting", "absent"}).Draw(rt, id); st != "absent" {
						state[id] = st
						list = append(list, id+" "+st)
					}
				}
				s = apply(g, fn(limit, list...))
			case "pick":
				if s == nil {
					continue
				}
				r := s.Pick(nil)
				if r == nil {
					continue
				}
				// One that starts may have answered its probe.
				if held[r]++; state[r.ID()] != "ready" && state[r.ID()] != "starting" {
					rt.Fatalf("picked %s, which is %q", r.ID(), state[r.ID()])
				}
				if limit > 0 && held[r] > limit {
					rt.Fatalf("%s has %d in flight, at most %d allowed", r.ID(), held[r], limit)
				}
			case "release":
				for r, n := range held {
					if n > 0 {
						held[r]--
						r.Release()
						break
					}
				}
			case "refuse":
				if s != nil {
					if r := s.Pick(nil); r != nil {
						r.Refused(syscall.ECONNREFUSED)
						r.Release()
						if again := s.Pick([]*Replica{r}); again == r {
							rt.Fatalf("picked %s, which was tried", r.ID())
						} else if again != nil {
							again.Release()
						}
					}
				}
			}
		}
		for r, n := range held {
			if got := int(r.Inflight()); got != n {
				rt.Fatalf("%s counts %d in flight, %d are", r.ID(), got, n)
			}
		}
	})
}

// TestDrainingReplicaIsNeverPicked races picks against tables: a pick that began after the table which drains a replica
// was applied must not return it.
func TestDrainingReplicaIsNeverPicked(t *testing.T) {
	t.Parallel()
	g, stop := run(t, Config{})
	defer stop()
	s := trusted(t, g, fn(0, "a ready", "b ready"))
	var phase [2]atomic.Int64 // odd while the replica is draining for sure
	var over atomic.Bool
	var wrong, picks atomic.Int64
	var pickers sync.WaitGroup
	for range 2 {
		pickers.Go(func() {
			for !over.Load() {
				before := [2]int64{phase[0].Load(), phase[1].Load()}
				if r := s.Pick(nil); r != nil {
					picks.Add(1)
					n := r.ID()[0] - 'a'
					if before[n]%2 == 1 && phase[n].Load() == before[n] {
						wrong.Add(1)
					}
					r.Release()
				}
				runtime.Gosched() // or else every turn of the other side waits for a time slice to end
			}
		})
	}
	for i := range 1000 {
		n := i % 2
		drained := []string{"a ready", "b ready"}
		drained[n] = strings.Replace(drained[n], "ready", "draining", 1)
		apply(g, fn(0, drained...))
		phase[n].Add(1)
		for target := picks.Load() + 4; picks.Load() < target; {
			runtime.Gosched()
		}
		phase[n].Add(1)
		apply(g, fn(0, "a ready", "b ready"))
	}
	over.Store(true)
	pickers.Wait()
	if wrong.Load() > 0 || picks.Load() == 0 {
		t.Errorf("%d of %d picks went to a draining replica", wrong.Load(), picks.Load())
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 3, 16, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g, stop := run(b, Config{Node: "n1"})
			defer stop()
			var list []string
			for i := range n {
				list = append(list, fmt.Sprintf("r%03d ready n%d", i, i%3))
			}
			s := trusted(b, g, fn(0, list...))
			name := []byte("f.fn")
			b.ReportAllocs()
			for b.Loop() {
				g.Lookup(name).Pick(nil).Release()
			}
			_ = s
		})
	}
}

func TestTurnedAwayKeepsToWhatItHas(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, g *Registry) {
		s := trusted(t, g, fn(0, "a ready"))
		var taken []*Replica
		for range 5 {
			taken = append(taken, s.Pick(nil))
		}
		for _, r := range taken[3:] {
			r.TurnedAway()
			r.Release()
		}
		if s.Pick(nil) != nil {
			t.Error("a fourth request may go to a replica that took three")
		}
		taken[0].Release()
		if taken[0] = s.Pick(nil); taken[0] == nil {
			t.Fatal("the place of a request that ended stays empty")
		}
		// Two wait: the first growth lets them in, as nobody else does.
		var waiters sync.WaitGroup
		begun := time.Now()
		for range 2 {
			waiters.Go(func() {
				r, err := s.Wait(nil, begun.Add(time.Minute), nil)
				if err != nil || time.Since(begun) != growEvery {
					t.Errorf("got %v, %v after %s, want the replica after %s", r, err, time.Since(begun), growEvery)
					return
				}
				r.Release()
			})
		}
		waiters.Wait()
		time.Sleep(2 * growEvery) // nobody waits any more
		for range 20 {
			if s.Pick(nil) == nil {
				t.Fatal("room stays bounded although nobody waits")
			}
		}
	})
}
