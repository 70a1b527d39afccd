package swarm

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// minFollowWait and maxFollowWait bound the wait between attempts at a stream of task events: polls do without it.
const (
	minFollowWait = time.Second
	maxFollowWait = 30 * time.Second
)

var errSilent = errors.New("a replica changed without an event")

// follower keeps a stream of task events open beside the watcher's sessions, and wakes the watcher. Its states:
//
//	following  doubted  missed  what it means                              polls at rest
//	false      any      zero    no stream, or one that was silent before   every 0.8 s
//	true       false    zero    trusted: each change is told of            every 5 s
//	true       false    set     a poll found a change that nobody told     every 0.8 s, and within it:
//	                            of                                         told of after all: trusted; else cut, doubted
//	false      true     zero    a stream after a cut one is open           every 0.8 s, until it tells of something
type follower struct {
	// events is nil if there are none.
	events TaskEvents
	logger *slog.Logger
	gauge  prometheus.Gauge
	// ours are the ids of functions' services, as last listed: what happens to tasks of others is no reason to poll. A
	// service that is not listed yet has an event of its own, after which tasks are read.
	ours atomic.Pointer[map[string]bool]
	// heard is filled when a task of ours has changed, and when the stream has begun or ended.
	heard chan struct{}
	// following is true while every change of a task should cause an event.
	following atomic.Bool
	// doubted is true after a stream missed a change, until one sends an event.
	doubted atomic.Bool
	// cut ends the newest stream.
	cut atomic.Pointer[context.CancelCauseFunc]

	// told and missed belong to the watcher's loop. told is true if heard was filled since the last poll.
	// missed is when a poll found a change that no event had told; zero means none.
	told   bool
	missed time.Time
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	if f.events == nil {
		return
	}
	wait := minFollowWait
	for first := true; ; first = false {
		started := time.Now()
		begun, err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case begun:
			f.logger.Warn("task events lost, polling tasks more often", "error", err)
		case first:
			f.logger.Info("task events unavailable, polling tasks more often", "error", err)
		default:
			f.logger.Debug("task events still unavailable", "error", err)
		}
		if time.Since(started) > maxFollowWait {
			wait = minFollowWait
		}
		if pause(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, maxFollowWait)
	}
}

// follow takes one stream to its end and says whether it had begun. One that comes after a silent one is followed,
// but trusted only once it has sent an event: it may be of another Swarm.
func (f *follower) follow(ctx context.Context) (begun bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.cut.Store(&cancel)
	err = f.events.FollowTasks(ctx, func() {
		begun = true
		f.logger.Info("following task events")
		f.set(!f.doubted.Load())
	}, func(service string) {
		if ours := f.ours.Load(); ours != nil && (*ours)[service] {
			f.doubted.Store(false)
			f.set(true)
		}
	})
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if begun {
		f.set(false)
	}
	return begun, err
}

// set notes whether events come. Either way a poll is due: for what happened before the stream, or at its end.
func (f *follower) set(following bool) {
	f.following.Store(following)
	if following {
		f.gauge.Set(1)
	} else {
		f.gauge.Set(0)
	}
	f.wake()
}

func (f *follower) wake() {
	select {
	case f.heard <- struct{}{}:
	default:
	}
}

// hear notes, in the watcher's loop, that heard was filled: the stream is not silent.
func (f *follower) hear() { f.told, f.missed = true, time.Time{} }

// excuse is called in place of judge after a poll that read, or had reason to read, more than tasks.
func (f *follower) excuse() { f.told, f.missed = false, time.Time{} }

// judge is called after each poll of tasks alone, with whether it found a change. A stream that sent no event of it,
// before or soon after, has stalled or is of another Swarm: it is cut.
func (f *follower) judge(now time.Time, found bool) {
	told := f.told
	f.told = false
	switch {
	case told || len(f.heard) > 0 || !f.following.Load():
		f.missed = time.Time{}
	case !f.missed.IsZero() && now.Sub(f.missed) >= pollCalm:
		f.missed = time.Time{}
		f.doubted.Store(true)
		(*f.cut.Load())(errSilent)
	case found && f.missed.IsZero():
		f.missed = now
	}
}

// trusted is true while an event can be waited for instead of polling.
func (f *follower) trusted() bool { return f.following.Load() && f.missed.IsZero() }
