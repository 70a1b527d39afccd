package upstream

import (
	"cmp"
	"context"
	"errors"
	"time"

	"waggle/provider/feed"
)

// Why a request did not get a replica.
var (
	// ErrNotReady: the deadline passed without a ready replica.
	ErrNotReady = errors.New("no replica became ready")
	// ErrAsleep: the function has no replicas and the provider, which could start one, cannot be reached.
	ErrAsleep = errors.New("function has no replicas and the provider cannot be reached to start one")
	// ErrBusy: the deadline passed with every replica at its max_inflight.
	ErrBusy = errors.New("all replicas are busy")
	// ErrQueueFull: too many requests are waiting for the function already.
	ErrQueueFull = errors.New("too many requests are waiting for the function")
	// ErrNoSpare: the request may have ended its replica, and the function has no other one that is free.
	ErrNoSpare = errors.New("the function's replica broke the connection, and no other replica is free")
	// ErrLeft: the client gave up.
	ErrLeft = errors.New("client left")
	// ErrRemoved: the function was removed while the request waited for it.
	ErrRemoved = errors.New("function was removed")
	// ErrStale: DNS's answer for the function is stale; a new look-up finds it.
	ErrStale = errors.New("the function's set of replicas is no longer in use; find it again")
	// ErrTooManyLookups: too many DNS look-ups of functions are under way already.
	ErrTooManyLookups = errors.New("the provider cannot list the functions, and too many DNS look-ups are under way")
)

// waiter is one request that waits for a replica. Its channel is signalled at most once per wake and never blocks.
type waiter struct{ signal chan struct{} }

// Wait reserves a replica like Pick, and waits if necessary. It waits for a scaled-to-zero function to wake, a new
// replica to be trusted, or a busy one to have room. It waits until deadline or until left is closed.
func (s *Set) Wait(tried []*Replica, deadline time.Time, left <-chan struct{}) (*Replica, error) {
	if r := s.Pick(tried); r != nil {
		return r, nil
	}
	// A replica that refused a moment ago is better than none, once it is trusted again.
	return s.wait(func() *Replica { return s.Pick(nil) }, deadline, left)
}

// WaitSpare reserves a replica that is not among tried while the function could do without it: for a request of which
// replicas may have died. It waits like Wait. ErrNoSpare: there never is one, since the function has one replica.
func (s *Set) WaitSpare(tried []*Replica, deadline time.Time, left <-chan struct{}) (*Replica, error) {
	pick := func() *Replica {
		if s.spare() {
			return s.Pick(tried)
		}
		return nil
	}
	if r := pick(); r != nil {
		return r, nil
	}
	if v := s.view.Load(); v.fn.Desired < 2 && v.expected < 2 {
		return nil, ErrNoSpare
	}
	return s.wait(pick, deadline, left)
}

// spare reports whether two replicas are in rotation of which nobody doubts that they are alive.
func (s *Set) spare() bool {
	n := 0
	for _, r := range s.view.Load().replicas {
		if !r.out.Load() && !r.doubtful.Load() {
			n++
		}
	}
	return n >= 2
}

// wait calls pick until it has a replica.
func (s *Set) wait(pick func() *Replica, deadline time.Time, left <-chan struct{}) (*Replica, error) {
	w := &waiter{signal: make(chan struct{}, 1)}
	if !s.enqueue(w) {
		return nil, ErrQueueFull
	}
	defer s.dequeue(w)
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	again := time.NewTicker(wakeAgain)
	defer again.Stop()
	for {
		// Look after having subscribed: a signal between the first look and the subscription would be lost otherwise.
		if r := pick(); r != nil {
			return r, nil
		}
		if s.removed() {
			if s.fromDNS {
				return nil, ErrStale
			}
			return nil, ErrRemoved
		}
		if err := cmp.Or(s.wakeIfAsleep(), s.unreachable(time.Now(), false)); err != nil {
			return nil, err
		}
		select {
		case <-w.signal:
		case <-again.C:
		case <-left:
			return nil, ErrLeft
		case <-timeout.C:
			if s.Ready() > 0 {
				return nil, ErrBusy
			}
			return nil, cmp.Or(s.unreachable(time.Now(), true), ErrNotReady)
		}
	}
}

func (s *Set) enqueue(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiters) >= s.registry.cfg.MaxWaiting {
		return false
	}
	s.waiters = append(s.waiters, w)
	s.waiting.Store(int32(len(s.waiters)))
	return true
}

// dequeue takes w out. A signal that w did not use goes to the next: it stood for a free place.
func (s *Set) dequeue(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.waiters {
		if other == w {
			s.waiters = append(s.waiters[:i], s.waiters[i+1:]...)
			break
		}
	}
	s.waiting.Store(int32(len(s.waiters)))
	select {
	case <-w.signal:
		s.signalNext()
	default:
	}
}

// wakeOne signals the waiter that has waited longest among those without a signal.
func (s *Set) wakeOne() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signalNext()
}

// signalNext requires mu.
func (s *Set) signalNext() {
	for _, w := range s.waiters {
		select {
		case w.signal <- struct{}{}:
			return
		default:
		}
	}
}

// wakeAll requires mu.
func (s *Set) wakeAll() {
	for _, w := range s.waiters {
		select {
		case w.signal <- struct{}{}:
		default:
		}
	}
}

// wakeAgain is the time between two wakes of a function that stays asleep: a wake can be undone by a scale-down that
// was under way.
const wakeAgain = 2 * time.Second

// wakeIfAsleep asks the provider for a replica if the function has been scaled to zero, once for all waiters.
func (s *Set) wakeIfAsleep() error {
	v := s.view.Load()
	if v.fn.Desired > 0 || v.expected > 0 {
		return nil
	}
	if s.registry.cfg.ProviderGone() {
		return ErrAsleep
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waking || now.Sub(s.lastWake) < wakeAgain {
		return nil
	}
	s.waking, s.lastWake = true, now
	s.registry.goRun(func(ctx context.Context) {
		err := s.registry.cfg.Wake(ctx, s.Name, s.Namespace)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waking = false
		if err != nil && ctx.Err() == nil && !errors.Is(err, feed.ErrUnknownFunction) {
			s.registry.cfg.Logger.Warn("waking a function failed", "function", s.Name, "namespace", s.Namespace, "error", err)
		}
		s.wakeAll()
	})
	return nil
}
