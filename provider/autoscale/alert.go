package autoscale

import (
	"context"
	"time"

	"waggle/provider/feed"
)

// fallEvery lies between two steps down: Alertmanager says once that an alert is resolved.
const fallEvery = 30 * time.Second

// Alert scales by an alert of Alertmanager, as OpenFaaS CE does, but by steps both ways. A firing one adds
// com.openfaas.scale.factor per cent of the maximum, up to that. A resolved one takes as many away, down to the
// minimum. Where nothing else scales the function, it takes another step each 30 s. The new number is kept for the
// down window, as one set by hand is. A function that does not exist is feed.ErrUnknownFunction. The end of an alert
// wakes no sleeping function.
func (s *Scaler) Alert(ctx context.Context, namespace, name string, firing bool) error {
	k := s.key(namespace, name)
	from, to, known := s.alerted(k, firing)
	switch {
	case !known:
		return feed.ErrUnknownFunction
	case from == to:
		return nil
	}
	err := s.cfg.Cluster.ScaleFrom(ctx, k.namespace, k.name, uint64(from), uint64(to))
	s.called(k, from, to, Alert, err)
	return err
}

func (s *Scaler) alerted(k key, firing bool) (from, to int, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.functions[k]
	if f == nil {
		return 0, 0, false
	}
	now := s.now()
	f.settle(now)
	p := f.tracker.Policy()
	from = f.tracker.Replicas().Desired
	f.fallAt = time.Time{}
	if firing {
		to = max(from, min(from+p.step(), int(p.Max)))
	} else {
		to = p.lower(from)
		if p.Off && to > p.least() {
			f.fallAt = now.Add(fallEvery)
		}
	}
	if to != from {
		f.take(Input{At: now, Kind: SetByOthers, Number: float64(to)})
		f.ask(to)
	}
	return from, to, true
}

// step is what one alert adds.
func (p Policy) step() int { return ceil(float64(p.Max) * float64(p.Factor) / 100) }

// lower is a step less than n.
func (p Policy) lower(n int) int {
	if n <= p.least() {
		return n
	}
	return max(n-p.step(), p.least())
}

// fall is the number of replicas after the next step of a resolved alert, if that is due now; else the present one.
func (f *function) fall(now time.Time) int {
	n, p := f.tracker.Replicas().Desired, f.tracker.Policy()
	if f.fallAt.IsZero() || now.Before(f.fallAt) || !p.Off {
		return n
	}
	to := p.lower(n)
	f.fallAt = now.Add(fallEvery)
	if to <= p.least() {
		f.fallAt = time.Time{}
	}
	return to
}
