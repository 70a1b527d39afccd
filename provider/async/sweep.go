package async

import (
	"context"
	"time"
)

// maxSuspects bounds what one sweep remembers for the next; what is left out is a suspect later.
const maxSuspects = 10_000

// sweep removes what interrupted writes have left: states in neither set, with what belongs to them. Another
// process may be storing such a call at this moment. So only those are removed that the sweep before saw
// unchanged: suspects are its states by id, and those of this sweep are returned. This does not depend on
// clocks.
func (q *Queue) sweep(ctx context.Context, suspects map[string]string) (map[string]string, error) {
	next := make(map[string]string)
	swept := int64(0)
	err := q.store.eachState(ctx, func(ids, texts []string) error {
		text := make(map[string]string, len(ids))
		for i, id := range ids {
			text[id] = texts[i]
		}
		unknown := q.index.unknown(ids)
		queued, err := q.store.queued(ctx, unknown)
		if err != nil {
			return err
		}
		var orphans []any
		for i, id := range unknown {
			before, suspected := suspects[id]
			switch {
			case queued[i]:
			case suspected && before == text[id]:
				orphans = append(orphans, id, before)
			case len(next) < maxSuspects:
				next[id] = text[id]
			}
		}
		n, err := q.store.removeOrphans(ctx, orphans)
		swept += n
		return err
	})
	if swept > 0 {
		q.cfg.Logger.Info("sweep removed what interrupted writes had left", "calls", swept)
	}
	return next, err
}

// prune drops dead letters that are too old or too many. They also make room for calls when memory is short.
func (q *Queue) prune(ctx context.Context, l reading) error {
	excess := l.dead - int64(q.cfg.MaxDead)
	if q.health.Load().full {
		excess = max(excess, min(l.dead, 100))
	}
	ids, err := q.store.oldestDead(ctx, time.Now().Add(-q.cfg.DeadRetention).UnixMilli(), excess)
	if err != nil || len(ids) == 0 {
		return err
	}
	var taken []*entry
	for _, id := range ids {
		if e := q.index.exhume(id); e != nil {
			taken = append(taken, e)
		}
	}
	return q.dropDead(ctx, taken)
}

// dropDead removes dead letters that were taken out of the index.
func (q *Queue) dropDead(ctx context.Context, taken []*entry) error {
	if len(taken) == 0 {
		return nil
	}
	ids := make([]string, len(taken))
	for i, e := range taken {
		ids[i] = e.id
	}
	if err := q.store.remove(ctx, ids...); err != nil {
		for _, e := range taken {
			q.index.relapse(e)
		}
		q.doubt(err)
		return err
	}
	for _, e := range taken {
		q.index.drop(e)
	}
	q.metrics.deadDropped.Add(float64(len(ids)))
	q.cfg.Logger.Warn("dead letters were dropped", "calls", len(ids))
	return nil
}
