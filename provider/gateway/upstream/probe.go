package upstream

import (
	"context"
	"net/http"
	"sync"
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
	path := r.set.healthPath()
	g.goRun(func(ctx context.Context) {
		for pause := after; ; pause = min(max(2*pause, g.cfg.ProbeInterval), g.cfg.MaxProbeInterval) {
			if pause > 0 && !sleep(ctx, pause) {
				return
			}
			if !r.set.wanted(r) {
				return
			}
			if g.healthy(ctx, r, path) {
				r.set.probed(r, true)
				return
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
		well := s.registry.healthy(ctx, r, path)
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
	switch {
	case s.byID[r.id] != r:
	case well && !r.trusted:
		r.failures.Store(0)
		r.trusted = true
		s.settle(r)
		s.rebuild(nil)
	case !well && r.trusted:
		s.suspect(r, ejected)
	case !well && r.state == feed.Ready:
		// It was suspected while a check ran, which kept the probe that is to bring it back from being started.
		s.registry.probe(r, s.registry.cfg.ProbeInterval)
	}
}

// wanted reports whether r should be in rotation as soon as it can be trusted; if not, its probe is over.
func (s *Set) wanted(r *Replica) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := s.byID[r.id] == r && r.state == feed.Ready
	if !wanted {
		r.probing = false
	}
	return wanted
}

func (s *Set) healthPath() string {
	if path := s.view.Load().fn.HealthPath; path != "" {
		return path
	}
	return "/_/health"
}

// probeTurn is how long others wait for a probe's turn to be over. One that takes longer only waits, at no cost: hundreds of
// replicas that hang must not keep those that are well out of rotation.
const probeTurn = 100 * time.Millisecond

// healthy asks the replica's health path. Any answer below 500 counts: an image without that path (404) still showed
// that it listens and speaks HTTP, which is all that can be known of it.
func (g *Registry) healthy(ctx context.Context, r *Replica, path string) bool {
	select {
	case g.probes <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	begun := sync.OnceFunc(func() { <-g.probes })
	defer begun()
	defer time.AfterFunc(probeTurn, begun).Stop()
	ctx, cancel := context.WithTimeout(ctx, g.cfg.ProbeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Address+path, nil)
	if err != nil {
		return false
	}
	req.Header.Set("User-Agent", "waggle-probe")
	resp, err := g.prober.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode < 500
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
