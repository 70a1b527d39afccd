package results

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	// interval is the time between two readings by the replica that reads for all. With the first readings of replicas that
	// start, and of those that step in, it makes at most one a second.
	interval = 1100 * time.Millisecond
	// minPatience and maxPatience bound how long a replica waits for another's reading before it reads itself. Each wait
	// is of another random length, so that one replica steps in and not all at once. They are
	// long enough that a reader which is late by a second, as on a busy machine, has no second one beside it.
	minPatience, maxPatience = 2500 * time.Millisecond, 4 * time.Second
	// firstPatience is the most that a replica listens before its first reading.
	firstPatience = 500 * time.Millisecond
	// readTimeout bounds a reading and a connection attempt, retryPause the time between two attempts.
	readTimeout = 3 * time.Second
	retryPause  = time.Second
)

// link is a session with the Postgres that all replicas share.
type link interface {
	id() uint32
	read(ctx context.Context, now time.Time) (*count, error)
	await(ctx context.Context, until time.Time) (c *count, from uint32, err error)
	close()
}

// watcher keeps the newest count. However many replicas there are, one of them reads Postgres, about once a second, and
// sends the count to all others. A replica that has heard nothing for a while reads. It goes on until it hears that a
// session with a lower number reads. No lock is held, so a replica that hangs or is cut off cannot stop another from
// taking over.
type watcher struct {
	dial func(ctx context.Context) (link, error)
	// fallback is asked while there has never been a count; nil if nobody can be asked.
	fallback func(ctx context.Context) *count
	// publish gets each count, and the last one again, marked stale and at least once a second, while Postgres does not answer.
	publish func(c *count, stale bool)
	logger  *slog.Logger

	last    *count
	failing bool
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if !w.failing {
			w.failing = true
			w.logger.Warn("the count cannot be read", "error", err)
		}
		if w.last == nil && w.fallback != nil {
			w.last = w.fallback(ctx)
		}
		if w.last != nil {
			w.publish(w.last, true)
		}
		pause := time.NewTimer(retryPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// follow reads and listens on one connection until it fails.
func (w *watcher) follow(ctx context.Context) error {
	l, err := w.dial(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	reading := false
	next := time.Now().Add(rand.N(firstPatience))
	for {
		c, from, err := l.await(ctx, next)
		switch {
		case err != nil:
			return err
		case c == nil:
			reading = true
			next = time.Now().Add(interval)
			if c, err = l.read(ctx, time.Now()); err != nil {
				return err
			}
		case !reading || from < l.id():
			reading = false
			next = time.Now().Add(minPatience + rand.N(maxPatience-minPatience))
		}
		if w.failing {
			w.failing = false
			w.logger.Info("the count can be read again")
		}
		w.last = c
		w.publish(c, false)
	}
}
