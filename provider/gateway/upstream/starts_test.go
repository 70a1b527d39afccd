package upstream

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// network is one on which a container is some time after it is said to start. What is sent before is lost, and the kernel
// asks for its address again after a second.
type network struct {
	town *town

	mu     sync.Mutex
	joined time.Time // guarded by mu; when the container is on it
	asked  time.Time // guarded by mu; when the kernel asked for it first
}

// start has a container join after so long.
func (n *network) start(takes time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.joined, n.asked = time.Now().Add(takes), time.Time{}
}

// answered is when the kernel asks for an address that is there.
func (n *network) answered(now time.Time) (at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asked.IsZero() {
		n.asked = now
	}
	for at = n.asked; at.Before(n.joined); {
		at = at.Add(time.Second)
	}
	return at
}

func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	now := time.Now()
	if wait := n.answered(now).Sub(now); wait > 0 && !sleep(ctx, wait) {
		return nil, ctx.Err()
	}
	return n.town.dial(ctx, address)
}

// TestAReplicaThatStartsIsProbedWhenItIsOnTheNetwork: not so early that a second is lost, and not much later.
func TestAReplicaThatStartsIsProbedWhenItIsOnTheNetwork(t *testing.T) {
	for _, takes := range []time.Duration{60 * time.Millisecond, 200 * time.Millisecond, 450 * time.Millisecond} {
		t.Run(takes.String(), func(t *testing.T) {
			n := &network{town: &town{}}
			bubble(t, Config{Dial: n.dial}, func(t *testing.T, g *Registry) {
				slow := 0
				for i := range 100 {
					n.start(takes)
					s := apply(g, fn(0, "a starting"))
					began := time.Now()
					for s.Ready() == 0 {
						time.Sleep(5 * time.Millisecond)
					}
					took := time.Since(began)
					if took > takes*8/5+100*time.Millisecond {
						slow++
					}
					if took > 1300*time.Millisecond+takes {
						t.Errorf("start %d took %s", i, took)
					}
					apply(g, fn(0))
					time.Sleep(10 * time.Second)
				}
				if slow > 20 {
					t.Errorf("%d of 100 starts took much longer than %s", slow, takes)
				}
			})
		})
	}
}

// TestWhatAFirstProbeTeaches: the wait has bounds, and replicas that start together teach nothing by being late.
func TestWhatAFirstProbeTeaches(t *testing.T) {
	t.Parallel()
	var s starts
	want := func(when string, want time.Duration) {
		t.Helper()
		if got := s.wait(); got != want {
			t.Errorf("%s it is %s, want %s", when, got, want)
		}
	}
	want("at first", firstStartWait)
	s.enter()
	s.enter()
	s.note(errNothing)
	s.leave()
	s.note(errNothing)
	want("after two that were lost together", firstStartWait)
	s.leave()
	s.enter()
	s.note(syscall.EHOSTUNREACH)
	want("after one that was lost alone", firstStartWait*3/2)
	for range 10 {
		s.note(errNothing)
	}
	want("after many", mostStartWait)
	for range 1000 {
		s.note(syscall.ECONNREFUSED)
	}
	want("after many that were answered", leastStartWait)
}
