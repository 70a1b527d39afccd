package async

import (
	"context"
	"time"

	"waggle/provider/feed"
)

const (
	// removedGrace is how long a function may be missing before its calls fail: a client that replaces one deletes it first.
	removedGrace = time.Minute
	// idle is how long the dispatcher sleeps when nothing is due; it is woken by whatever changes that.
	idle = time.Hour
)

// dispatch claims what is due, and starts it, until ctx is done.
func (q *Queue) dispatch(ctx context.Context, start func(*entry)) error {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		wait := idle
		for ctx.Err() == nil && q.health.Load().usable() {
			now := q.clock.now()
			e, next := q.index.claim(now.UnixMilli(), func(a *account, k kind) int { return q.limit(a, k, now) })
			if e == nil {
				if next > 0 {
					wait = time.UnixMilli(next).Sub(now)
				}
				break
			}
			start(e)
		}
		timer.Reset(max(wait, time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-q.index.wake:
		case <-timer.C:
		}
	}
}

// clock goes on from the time at which a process began. The machine's may be put right meanwhile, which should neither
// lengthen a pause nor end it.
type clock struct {
	wall  time.Time // when it began, by the machine's clock
	begun time.Time // the same, with what tells how much time has passed since
}

func newClock() clock {
	now := time.Now()
	return clock{wall: now.Round(0), begun: now}
}

func (c clock) now() time.Time { return c.wall.Add(time.Since(c.begun)) }

// limit is how many attempts of one function may run at once.
func (q *Queue) limit(a *account, k kind, now time.Time) int {
	if k == callback {
		return max(q.cfg.MaxCallbacks/2, 1)
	}
	fn := q.find(a, now)
	switch {
	case a.missing.IsZero():
		return q.cfg.limitOf(fn)
	case now.Sub(a.missing) < removedGrace:
		return 0
	}
	return q.cfg.MaxInflightPerFunction
}

// find is the function of a, and notes since when there has been none. It requires the index's mu.
func (q *Queue) find(a *account, now time.Time) feed.Function {
	fn, found, known := q.gateway.Function(a.function)
	if found || !known {
		a.missing = time.Time{}
	} else if a.missing.IsZero() {
		a.missing = now
	}
	return fn
}

// observe finds all functions: limit sees only those with a due call. A function that comes back and goes again
// in between gets its whole grace again.
func (q *Queue) observe(now time.Time) {
	q.index.eachAccount(func(a *account) { q.find(a, now) })
}

// limitOf is the bound for a function that exists: what its ready replicas accept, if it says that. One without a
// replica gets as much as one has, which is what wakes it.
func (c *Config) limitOf(fn feed.Function) int {
	if fn.MaxInflight <= 0 {
		return c.MaxInflightPerFunction
	}
	ready := 0
	for _, r := range fn.Replicas {
		if r.State == feed.Ready {
			ready++
		}
	}
	each := min(fn.MaxInflight, c.MaxInflightPerFunction) // so that the product stays a number
	return min(max(ready, 1)*each, c.MaxInflightPerFunction)
}
