package drain

import (
	"context"
	"time"

	"waggle/worker/store"
)

// count commits entries that follow the account; seen is the account after their reading, short of the entries themselves.
// A batch that Postgres refuses for its data is halved until the entry at fault stands alone, and is rejected.
func (d *drainer) count(hard context.Context, seen store.Account, entries []entry) error {
	err := d.commit(hard, seen, entries, "")
	if err == nil || store.Classify(err) != store.Data {
		return err
	}
	d.metrics.storeErrors.WithLabelValues(store.Data.String()).Inc()
	if len(entries) == 1 {
		return d.commit(hard, seen, entries, store.Reason(err))
	}
	half := len(entries) / 2
	if err := d.count(hard, seen, entries[:half]); err != nil {
		return err
	}
	return d.count(hard, seen, entries[half:])
}

// commit counts entries in one statement, or rejects them all for the given reason.
func (d *drainer) commit(hard context.Context, seen store.Account, entries []entry, reason string) error {
	batch := fold(d.state.ID, d.cfg.Polls, entries, reason)
	after := seen
	after.Revision = d.state.Revision
	after.N = d.state.N + int64(len(entries))
	after.Pos = entries[len(entries)-1].id
	if !d.unsure {
		after.Sure = after.Pos
	}
	if d.state.Recovered > 0 {
		for _, e := range entries {
			batch.Delivered = append(batch.Delivered, e.id)
		}
	}
	batch.Before, batch.After = d.state, after
	began := time.Now()
	effect, err := d.tally.Commit(hard, batch)
	if err != nil {
		return d.unlessStale("counting a batch", err)
	}
	d.wrote = time.Now()
	d.state.Account = after
	d.state.Revision++
	if d.unsure {
		for _, e := range entries {
			d.delivered[e.at] = true
		}
	}
	d.metrics.commit.Observe(d.wrote.Sub(began).Seconds())
	d.metrics.batch.Observe(float64(len(entries)))
	for name, n := range map[string]int64{"inserted": effect.Inserted, "changed": effect.Changed, "stale": effect.Stale,
		"superseded": batch.Superseded, "rejected": int64(len(batch.Rejects))} {
		d.metrics.entries.WithLabelValues(name).Add(float64(n))
	}
	if n := len(batch.Rejects); n > 0 {
		d.log.Error("entries are no votes", "node", d.node, "entries", n, "first", batch.Rejects[0].ID, "reason", batch.Rejects[0].Reason)
	}
	return nil
}

// fold turns entries into what they amount to. With a reason it rejects them all.
func fold(id int32, polls *Polls, entries []entry, reason string) store.Batch {
	b := store.Batch{FirstPolls: polls.firsts, Entries: map[int32]int64{}}
	votes := make([]store.Vote, 0, len(entries))
	for _, e := range entries {
		vote, single := e.unmarked()
		v, why := decode(vote, id, polls)
		if reason != "" {
			why = reason
		}
		if why != "" {
			b.Rejects = append(b.Rejects, store.Reject{ID: e.id, Raw: e.raw(), Reason: why})
			continue
		}
		votes = append(votes, v)
		b.Entries[v.Poll]++
		if single {
			b.Single++
		}
	}
	b.Votes = store.Fold(votes, polls.firsts)
	b.Superseded = int64(len(votes) - len(b.Votes))
	return b
}
