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
	// raiseEvery keeps replicas that start together from counting as many lessons.
	raiseEvery = time.Second
)

// starts learns how long replicas that start are best left alone before their first probe. A node says that a container
// starts some tenths of a second before the container is on its network. A packet that is sent meanwhile is lost. The
// kernel asks for a hardware address that nobody has yet, and asks again after a second (arp(7), retrans_time_ms). A
// first probe that is late costs no more than it is late by. The methods may be called concurrently.
//
// Two examples. The wait is 250 ms, and a container is on its network after 400. The probe is lost, and the replica takes
// requests after 1.25 s. The next one is left alone for 375 ms, the one after for 562. If they are there after 100 ms,
// each first probe is answered. The wait falls by a twentieth with each, until one is lost.
type starts struct {
	mu     sync.Mutex
	learnt time.Duration // guarded by mu; 0: nothing yet
	raised time.Time     // guarded by mu
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
func (s *starts) note(err error, now time.Time) {
	was := s.wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch lost := errors.Is(err, errNothing) || errors.Is(err, syscall.EHOSTUNREACH); {
	case !lost:
		s.learnt = max(was*19/20, leastStartWait)
	case now.Sub(s.raised) > raiseEvery:
		s.learnt, s.raised = min(was*3/2, mostStartWait), now
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
