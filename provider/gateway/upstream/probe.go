package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"waggle/provider/feed"
)

// probe decides in the background whether r can be trusted, starting after a delay. One probe per replica runs at a
// time. It requires set.mu, so that no table can slip in between a probe's end and the start of the next.
func (g *Registry) probe(r *Replica, after time.Duration) {
	if r.probing {
		return
	}
	r.probing = true
	path, starts := r.set.healthPath(), r.state == feed.Starting
	g.goRun(func(ctx context.Context) {
		leave := func() {}
		if starts {
			g.starts.enter()
			leave = sync.OnceFunc(g.starts.leave)
			defer leave()
			if !g.letStart(ctx, r) {
				return
			}
		}
		for pause := after; ; pause = min(max(2*pause, g.cfg.ProbeInterval), g.cfg.MaxProbeInterval) {
			if pause > 0 && !sleep(ctx, pause) {
				return
			}
			state, wanted := r.set.wanted(r)
			if !wanted {
				return
			}
			timeout := g.cfg.ProbeTimeout
			if state == feed.Starting {
				pause, timeout = 0, startingTimeout
			}
			err := g.healthy(ctx, r, path, timeout)
			if starts && ctx.Err() == nil {
				g.starts.note(err)
				leave()
				starts = false
			}
			if err == nil {
				r.set.probed(r, true)
				return
			}
			if ctx.Err() == nil && state == feed.Ready {
				r.set.probeFailed(r, fmt.Sprintf("does not answer GET %s on :%s: %v", path, port(r.Address), err))
			}
		}
	})
}

// check probes a replica that is in rotation, once, and takes it out if it is not well.
func (s *Set) check(r *Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.probing || !r.trusted {
		return
	}
	r.probing = true
	path := s.healthPath()
	s.registry.goRun(func(ctx context.Context) {
		well := s.registry.healthy(ctx, r, path, s.registry.cfg.ProbeTimeout) == nil
		if ctx.Err() == nil {
			s.probed(r, well)
		}
	})
}

// probed ends a probe of r with its result.
func (s *Set) probed(r *Replica, well bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.probing = false
	if well && r.doubtful.Swap(false) {
		s.wakeAll()
	}
	switch {
	case s.byID[r.id] != r:
	case well && !r.trusted:
		r.failures.Store(0)
		r.trusted, r.silentSince, r.silence = true, time.Time{}, ""
		s.settle(r)
		s.rebuild(nil)
	case !well && r.trusted:
		s.suspect(r, ejected)
	case !well && serves(r.state):
		// It was suspected while a check ran, which kept the probe that is to bring it back from being started.
		s.registry.probe(r, s.registry.cfg.ProbeInterval)
	}
}

// wanted reports whether r should be in rotation as soon as it can be trusted; if not, its probe is over.
func (s *Set) wanted(r *Replica) (state feed.State, wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted = s.byID[r.id] == r && serves(r.state)
	if !wanted {
		r.probing = false
	}
	return r.state, wanted
}

// serves reports whether a replica in this state takes requests once it answers its probe. A starting one does.
// Swarm calls it running when its HEALTHCHECK has passed, which may be an interval later, and requests may be
// waiting.
func serves(state feed.State) bool { return state == feed.Ready || state == feed.Starting }

// startingTimeout bounds one probe of a starting replica. What is sent before its container is on the network
// is lost and must soon be sent again.
const startingTimeout = 200 * time.Millisecond

func (s *Set) healthPath() string {
	if path := s.view.Load().fn.HealthPath; path != "" {
		return path
	}
	return "/_/health"
}

// probeTurn is how long a probe keeps others waiting. A longer one goes on waiting at no cost: hundreds of
// hanging replicas must not keep healthy ones out of rotation.
const probeTurn = 100 * time.Millisecond

// healthy requests the replica's health path and returns the reason if it is not well. Any answer below 500
// counts. An image without that path (404) has shown that it listens and speaks HTTP, and nothing more can be
// known of it.
func (g *Registry) healthy(ctx context.Context, r *Replica, path string, timeout time.Duration) error {
	select {
	case g.probes <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	begun := sync.OnceFunc(func() { <-g.probes })
	defer begun()
	defer time.AfterFunc(probeTurn, begun).Stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Address+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "waggle-probe")
	resp, err := g.prober.Do(req)
	if err != nil {
		return g.probeError(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= 500 {
		return fmt.Errorf("it answers %d", resp.StatusCode)
	}
	return nil
}

// errNothing is a probe to which nothing came back: no answer, no refusal.
var errNothing = errors.New("nothing comes")

// probeError is err without addresses, which are nobody's business outside.
func (g *Registry) probeError(err error) error {
	var op *net.OpError
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w within %s", errNothing, g.cfg.ProbeTimeout)
	case errors.As(err, &op):
		return op.Err
	}
	return errors.New("what it answers is no HTTP")
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// probeFailed notes why r is not in rotation.
func (s *Set) probeFailed(r *Replica, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if r.silentSince.IsZero() {
		r.silentSince = now
	}
	told := r.silence != ""
	if now.Sub(r.silentSince) < reportAfter {
		return
	}
	if r.silence = reason; !told {
		s.registry.cfg.Logger.Warn("replica runs but cannot be used", "function", s.Name, "namespace", s.Namespace, "replica", r.id, "reason", reason)
	}
}

// reportAfter is how long a replica's probes must have failed before that is reported. One that starts may take
// a moment after Swarm has called it running.
const reportAfter = 5 * time.Second

// Unreachable are the replicas that Swarm calls running and that have not answered a probe for some seconds.
func (g *Registry) Unreachable() (all []feed.Unreachable) {
	for _, s := range g.Sets() {
		s.mu.Lock()
		for _, r := range s.byID {
			if r.state == feed.Ready && !r.trusted && r.silence != "" {
				all = append(all, feed.Unreachable{ID: r.id, Reason: r.silence, Since: r.silentSince})
			}
		}
		s.mu.Unlock()
	}
	return all
}

// UnreachableError says that every replica runs, by Swarm's word, and cannot be used.
type UnreachableError struct{ Replica, Reason string }

func (e *UnreachableError) Error() string { return "replica " + e.Replica + " " + e.Reason }

// unreachable is the reason why no replica can be expected to answer. All run, and none has answered for as
// long as a request would be held; with atLast, for any time.
func (s *Set) unreachable(now time.Time, atLast bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found error
	for _, r := range s.byID {
		switch {
		case r.state == feed.Draining:
		case r.state == feed.Ready && !r.trusted && r.silence != "" && (atLast || now.Sub(r.silentSince) >= s.registry.cfg.UnreachableAfter):
			found = &UnreachableError{Replica: r.id, Reason: r.silence}
		default:
			return nil
		}
	}
	return found
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
