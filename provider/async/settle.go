package async

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/provider/queued"
)

const (
	// again is the pause before another attempt at a call that could not be attempted.
	again = time.Second
	// crowded is the longest pause where Redis lacks memory. A call waits to be made because its result could
	// not be kept, or is made again because its outcome was not.
	crowded = 5 * time.Second
	// maxPause bounds the pauses between attempts to store an outcome while Redis is away.
	maxPause = 2 * time.Second
)

// random is a random duration below n.
func random(n time.Duration) time.Duration { return rand.N(n) }

// attempt does what is due for a call: its function, or its callback. It returns once the outcome is stored.
func (q *Queue) attempt(ctx context.Context, e *entry) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	q.index.attempted(e, stop)
	if e.kind == callback {
		q.attemptCallback(ctx, e)
	} else {
		q.attemptCall(ctx, e)
	}
}

func (q *Queue) attemptCall(ctx context.Context, e *entry) {
	if e.state.Callback && q.room.Load() <= 0 {
		q.later(ctx, e, again+random(crowded-again))
		return
	}
	fn, found, known := q.gateway.Function(e.account.function)
	call, err := q.store.call(ctx, e.id)
	if err != nil {
		q.unreadable(ctx, e, err)
		return
	}
	policy := q.cfg.policyOf(fn.Retry)
	if !found && known {
		if q.index.missing(e, q.clock.now()) < removedGrace {
			q.later(ctx, e, again)
		} else {
			q.fail(ctx, e, &call, &answer{err: errRemoved}, policy, errRemoved.Error())
		}
		return
	}
	a := q.invoke(ctx, &call)
	v := policy.judge(a, e.state.Tries, time.Now(), random)
	switch {
	case q.cut(ctx, a):
		q.interrupted(ctx, e)
	case a.status == http.StatusNotFound && a.internal() && (!known || !q.exists(e.account.function)):
		q.later(ctx, e, again) // it has just been removed, or nobody can say yet whether there is such a function
	case v.again:
		q.metrics.retries.WithLabelValues(e.account.function).Inc()
		q.postpone(ctx, e, v.wait)
	case v.failed != "":
		q.fail(ctx, e, &call, a, policy, v.failed)
	case call.Callback == "":
		q.finish(ctx, e)
	default:
		q.owe(ctx, e, &call, a, policy, "")
	}
}

// exists reports whether there certainly is such a function.
func (q *Queue) exists(function string) bool {
	_, found, known := q.gateway.Function(function)
	return found && known
}

// unreadable is the end of an attempt that could not begin.
func (q *Queue) unreadable(ctx context.Context, e *entry, err error) {
	switch {
	case errors.Is(err, errGone):
		// Another process has finished it, or Redis has lost it.
		st, dead, err := q.store.letter(ctx, e.id)
		if err != nil {
			q.later(ctx, e, again)
			return
		}
		if dead {
			if !q.index.bury(e, st) {
				q.interrupted(ctx, e)
			}
			return
		}
		if e.doomed {
			q.cancelled(e)
			return
		}
		q.metrics.lost.Inc()
		q.cfg.Logger.Warn("a call is not in Redis any more", "call_id", e.id, "function", e.account.function)
		q.end(ctx, e)
	case errors.Is(err, errUnreadable):
		q.bury(ctx, e, state{Reason: err.Error()})
	default:
		q.later(ctx, e, again)
	}
}

// fail ends a call whose function has failed for good: a dead letter, once the client's callback has been told.
func (q *Queue) fail(ctx context.Context, e *entry, call *queued.Call, a *answer, p policy, reason string) {
	if call.Callback == "" {
		q.bury(ctx, e, state{Reason: reason})
		return
	}
	q.owe(ctx, e, call, a, p, reason)
}

// owe stores an answer that is to be delivered, without its body if that would take the memory that outcomes need.
func (q *Queue) owe(ctx context.Context, e *entry, call *queued.Call, a *answer, p policy, reason string) {
	r := resultOf(call, a, e.state.Tries, p.attempts)
	// Twice: the connection over which Redis got a long value keeps a buffer of its size for a while.
	if q.room.Add(-2*int64(len(r.body))) < 0 && len(r.body) > 0 {
		r.body, r.NoRoom = nil, true
	}
	record, err := r.encode()
	if err != nil {
		q.bury(ctx, e, state{Reason: "result: " + err.Error()})
		return
	}
	st := e.state
	st.Phase, st.Tries, st.Reason = delivering, 0, reason
	now := q.clock.now().UnixMilli()
	q.settle(ctx, e, func(ctx context.Context) error {
		err := q.store.keep(ctx, e.id, st, record, now)
		if redis.IsOOMError(err) && len(r.body) > 0 {
			r.body, r.NoRoom = nil, true
			if shorter, encodeErr := r.encode(); encodeErr == nil {
				record = shorter // for the next attempt
			}
		}
		return err
	}, func() bool { return q.index.requeue(e, st, now) })
}

// postpone sets the next attempt; this one counts as failed. If that cannot be stored, it counts in this
// process alone. Otherwise a failing call would be repeated without pause or end while Redis lacks memory.
func (q *Queue) postpone(ctx context.Context, e *entry, wait time.Duration) {
	st := e.state
	st.Tries++
	due := q.clock.now().Add(wait).UnixMilli()
	q.persist(ctx, e, 0, func(ctx context.Context) error { return q.store.postpone(ctx, e.id, st, due) })
	if !q.index.requeue(e, st, due) {
		q.interrupted(ctx, e)
	}
}

// finish ends a call that is done with.
func (q *Queue) finish(ctx context.Context, e *entry) {
	if q.end(ctx, e) {
		q.metrics.processed.WithLabelValues(queueName, e.account.function).Inc()
	}
}

// end removes a call and all that belongs to it.
func (q *Queue) end(ctx context.Context, e *entry) bool {
	ended := false
	q.settle(ctx, e, func(ctx context.Context) error { return q.store.remove(ctx, e.id) }, func() bool {
		q.index.drop(e)
		ended = true
		return true
	})
	return ended
}

// bury makes a call a dead letter, for the reason in st.
func (q *Queue) bury(ctx context.Context, e *entry, st state) {
	st.Function, st.Accepted, st.Callback, st.Tries, st.Phase = e.state.Function, e.state.Accepted, e.state.Callback, e.state.Tries, buried
	now := time.Now().UnixMilli()
	q.settle(ctx, e, func(ctx context.Context) error { return q.store.bury(ctx, e.id, st, now) }, func() bool {
		if !q.index.bury(e, st) {
			return false
		}
		q.metrics.processed.WithLabelValues(queueName, e.account.function).Inc()
		q.metrics.deadLetters.WithLabelValues(e.account.function).Inc()
		q.cfg.Logger.Warn("a call is a dead letter", "call_id", e.id, "function", e.account.function, "reason", st.Reason)
		return true
	})
}

// cut reports whether an attempt was ended from outside, so that its answer says nothing about the function.
func (q *Queue) cut(ctx context.Context, a *answer) bool {
	if context.Cause(ctx) != nil {
		return true
	}
	select {
	case <-q.stopping:
		return a.err != nil // the gateway takes no more connections, and cuts those that last too long
	default:
		return false
	}
}

// later has a call attempted again after pause, as if it had not been now. Redis need not know: it calls it due already.
func (q *Queue) later(ctx context.Context, e *entry, pause time.Duration) {
	if !q.index.requeue(e, e.state, q.clock.now().Add(pause).UnixMilli()) {
		q.interrupted(ctx, e)
	}
}

// interrupted ends an attempt that was cut: the call was cancelled, or the process stops and the next one takes it up.
func (q *Queue) interrupted(ctx context.Context, e *entry) {
	if !q.index.isCancelled(e) {
		q.later(ctx, e, again)
		return
	}
	if q.persist(ctx, e, 0, func(ctx context.Context) error { return q.store.remove(ctx, e.id) }) {
		q.cancelled(e)
	} else {
		q.index.keep(e)
	}
}

// settle stores an outcome and, once Redis has it, notes it in the index. An outcome that cannot be stored for want of
// memory is forgotten in the end: the call is attempted again. So is one that the end of the process overtakes.
func (q *Queue) settle(ctx context.Context, e *entry, write func(context.Context) error, note func() bool) {
	if !q.persist(ctx, e, crowded, write) {
		q.later(ctx, e, again+random(crowded-again))
		return
	}
	if !note() {
		q.interrupted(ctx, e)
	}
}

// persist repeats a write until Redis has it on disk. It gives up only if Redis lacks memory for longer than patience, or
// the process must end.
func (q *Queue) persist(ctx context.Context, e *entry, patience time.Duration, write func(context.Context) error) bool {
	var lacking time.Time // since when Redis has lacked memory
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, maxPause) {
		// What has happened is to be stored even if the call was cancelled meanwhile.
		once, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
		err := write(once)
		cancel()
		if err == nil {
			return true
		}
		q.cfg.Logger.Warn("storing an outcome failed", "call_id", e.id, "function", e.account.function, "error", err)
		if !redis.IsOOMError(err) {
			lacking = time.Time{}
		} else if lacking.IsZero() {
			lacking = time.Now()
		}
		if !lacking.IsZero() && time.Since(lacking) >= patience {
			return false
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-q.ended:
			timer.Stop()
			return false
		}
	}
}
