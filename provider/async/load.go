package async

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// watchEvery is how often Redis is polled.
	watchEvery = time.Second
	// pruneEvery, sweepEvery, reloadEvery and renewEvery are counted in polls.
	pruneEvery, sweepEvery, reloadEvery, renewEvery = 10, 600, 3, 3
	// Of 256 MB (QUEUE_MAXMEMORY): from 230 MB on no call is accepted, and up to 243 MB results are kept. The
	// last 13 MB are for outcomes, of which each takes some hundred bytes.
	//
	// highWater is the percentage of Redis's memory from which no call is accepted: calls under way need the
	// rest for their outcomes.
	highWater = 90
	// resultWater is the percentage up to which bodies of results are kept, and calls with a callback are made.
	// The rest serves outcomes, which are small. Else a receiver that is down would fill Redis until no call
	// could end.
	resultWater = 95
)

// room is the memory in bytes that bodies of results may still take.
func (l reading) room() int64 {
	if l.most <= 0 {
		return math.MaxInt64
	}
	return l.most/100*resultWater - l.used
}

// health is what a poll of Redis has found.
type health struct {
	connected bool
	// owner: this process is the one that makes the calls.
	owner bool
	// full: no further call is accepted.
	full bool
}

func (h *health) usable() bool { return h.connected && h.owner }

// takeOver makes this process the owner and reads what is there, however long Redis may be away. It reports false if ctx
// ended first.
func (q *Queue) takeOver(ctx context.Context) bool {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, maxPause) {
		err := q.own(ctx)
		if err == nil {
			err = q.load(ctx)
		}
		if err == nil {
			close(q.loaded)
			q.health.Store(&health{connected: true, owner: true})
			q.cfg.Logger.Info("queue taken over", "queued", q.index.size(), "dead_letters", q.index.deadLetters())
			return true
		}
		if ctx.Err() == nil {
			q.cfg.Logger.Warn("the queue's Redis cannot be used yet", "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// own makes this process the owner. A Redis without memory refuses that, and must be emptied all the same: then it is
// enough that nobody else is.
func (q *Queue) own(ctx context.Context) error {
	err := q.store.own(ctx, q.epoch)
	if !redis.IsOOMError(err) {
		return err
	}
	if l, readErr := q.store.read(ctx); readErr != nil || l.owner != "" {
		return err
	}
	return nil
}

// load adds to the index what Redis holds, and finishes what was interrupted between the two sets.
func (q *Queue) load(ctx context.Context) error {
	for _, set := range []string{q.store.keys.due, q.store.keys.dead} {
		err := q.store.members(ctx, set, func(ids []string, scores []int64) error {
			score := make(map[string]int64, len(ids))
			for i, id := range ids {
				score[id] = scores[i]
			}
			unknown := q.index.unknown(ids)
			texts, err := q.store.states(ctx, unknown)
			if err != nil {
				return err
			}
			for i, id := range unknown {
				if err := q.adopt(ctx, set, id, texts[i], score[id]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading %s: %w", set, err)
		}
	}
	return nil
}

// adopt adds one call that was found in a set. The state decides where the set does not agree with it.
func (q *Queue) adopt(ctx context.Context, set, id, text string, score int64) error {
	st, err := decodeState(text)
	if err != nil {
		if queued, qerr := q.store.queued(ctx, []string{id}); qerr != nil || !queued[0] {
			return qerr // another process has finished it meanwhile
		}
		// No order of writes leads here: somebody else has written. Without a state there is no call.
		q.metrics.lost.Inc()
		q.cfg.Logger.Error("a call without a valid state was removed", "call_id", id, "error", err)
		return q.store.remove(ctx, id)
	}
	inDead := set == q.store.keys.dead
	switch {
	case st.Phase == buried && !inDead:
		err = q.store.bury(ctx, id, st, time.Now().UnixMilli())
	case st.Phase != buried && inDead:
		err = q.store.revive(ctx, id, st, score)
	}
	if err != nil && !redis.IsOOMError(err) { // what lacks memory is made up for by the next process
		return err
	}
	q.index.found(id, st, min(score, q.latest(st)))
	return nil
}

// latest is when a call that is read must be due at the latest. One that has not failed yet has no pause before
// it, and no pause is longer than a day. An earlier process may have had a clock that was ahead.
func (q *Queue) latest(st state) int64 {
	now := q.clock.now()
	if st.Tries > 0 {
		now = now.Add(maxWait)
	}
	return now.UnixMilli()
}

// watch polls Redis each second, and does the periodic work, until ctx is done.
func (q *Queue) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var suspects map[string]string
	for n := 1; ; n++ {
		if n%sweepEvery == 1 {
			var err error
			suspects, err = q.sweep(ctx, suspects)
			q.logged(ctx, "sweeping", err)
		}
		if l, ok := q.poll(ctx, n); ok && (n%pruneEvery == 0 || q.health.Load().full) {
			q.logged(ctx, "dropping dead letters", q.prune(ctx, l))
			q.metrics.forgetRemoved(q)
		}
		q.observe(q.clock.now())
		q.index.signal() // a function may have got replicas, or have been missing long enough
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (q *Queue) logged(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		q.cfg.Logger.Warn(what+" failed", "error", err)
	}
}

// poll finds out whether Redis can be used, whether this process owns it, and whether it has more than the index.
func (q *Queue) poll(ctx context.Context, n int) (l reading, ok bool) {
	left := q.index.everLeft()
	l, err := q.hold(ctx, n)
	now := &health{}
	if err == nil {
		now = &health{connected: true, owner: l.owner == q.epoch, full: l.most > 0 && l.used*100 >= l.most*highWater}
		q.lapsed = q.lapsed || !now.owner || q.doubtful.Swap(false)
		q.room.Store(l.room())
	}
	if now.owner && q.lapsed {
		err = q.regain(ctx)
		q.lapsed = err != nil
		now.owner = err == nil
	}
	was := q.health.Swap(now)
	if *was != *now && ctx.Err() == nil {
		q.cfg.Logger.Warn("the queue's Redis", "connected", now.connected, "owner", now.owner, "full", now.full, "error", err)
	}
	if !now.usable() {
		return l, false
	}
	// Whatever has left the index since then may still have been counted.
	if most := int64(q.index.size()) + int64(q.index.everLeft()-left); l.due > most && n%reloadEvery == 0 {
		q.cfg.Logger.Info("reading calls that another process has left", "calls", l.due-most)
		q.logged(ctx, "reading the queue", q.load(ctx))
	}
	return l, true
}

// doubt has the index read again if what failed with err may have been done.
func (q *Queue) doubt(err error) {
	if doubtful(err) {
		q.doubtful.Store(true)
	}
}

// hold polls Redis. It renews this process's claim, and takes a Redis that has no owner: it was emptied, or its
// owner is dead.
func (q *Queue) hold(ctx context.Context, n int) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	l, err := q.store.read(ctx)
	switch {
	case err != nil:
	case l.owner == q.epoch && n%renewEvery == 0:
		err = q.store.renew(ctx)
	case l.owner == "":
		var claimed bool
		// As in own, a Redis without memory has to do without an owner's name.
		if claimed, err = q.store.claim(ctx, q.epoch); claimed || redis.IsOOMError(err) {
			l.owner, err = q.epoch, nil
		}
	}
	return l, err
}

// regain brings the index up to date with what another process has done while that was the owner.
func (q *Queue) regain(ctx context.Context) error {
	q.index.outdate()
	if err := q.load(ctx); err != nil {
		return err
	}
	q.index.forgetOutdated()
	return nil
}
