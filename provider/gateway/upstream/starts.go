package upstream

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"waggle/provider/feed"
)

const (
	// firstStartWait is used until starts have been seen; leastStartWait and mostStartWait bound what is learned of them.
	firstStartWait = 250 * time.Millisecond
	leastStartWait = 20 * time.Millisecond
	mostStartWait  = time.Second
)

// starts learns how long replicas that start are best left alone before their first probe. A node says that a container
// starts some tenths of a second before the container is on its network. A packet that is sent meanwhile is lost. The
// kernel asks for a hardware address that nobody has yet, and asks again after a second (arp(7), retrans_time_ms). A
// first probe that is late costs no more than it is late by. The methods may be called concurrently.
//
// Two examples. The wait is 250 ms, and a container is on its network after 400. The probe is lost, and the replica takes
// requests after 1.25 s. The next one is left alone for 375 ms, the one after for 562. If they are there after 100 ms,
// each first probe is answered. The wait falls by a twentieth with each, until one is lost.
//
// Replicas that start together take longer, and say nothing of one that starts alone, for which somebody may be waiting.
type starts struct {
	mu      sync.Mutex
	learnt  time.Duration // guarded by mu; 0: nothing yet
	active  int           // guarded by mu; replicas before the end of their first probe
	crowded bool          // guarded by mu; several have since there was none
}

// enter counts a replica that starts, until leave: when its first probe has ended, or is no longer wanted.
func (s *starts) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active++
	s.crowded = s.crowded || s.active > 1
}

func (s *starts) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.crowded = s.crowded && s.active > 0
}

func (s *starts) wait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.learnt == 0 {
		return firstStartWait
	}
	return s.learnt
}

// note learns from the outcome of a first probe.
func (s *starts) note(err error) {
	was := s.wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch lost := errors.Is(err, errNothing) || errors.Is(err, syscall.EHOSTUNREACH); {
	case !lost:
		s.learnt = max(was*19/20, leastStartWait)
	case !s.crowded:
		s.learnt = min(was*3/2, mostStartWait)
	}
}

// letStart leaves a replica alone while it starts. It reports false if its probe is over.
func (g *Registry) letStart(ctx context.Context, r *Replica) bool {
	const look = 20 * time.Millisecond
	for until := time.Now().Add(g.starts.wait()); time.Now().Before(until); {
		if !sleep(ctx, look) {
			return false
		}
		if state, wanted := r.set.wanted(r); !wanted || state != feed.Starting {
			return wanted
		}
	}
	return true
}
