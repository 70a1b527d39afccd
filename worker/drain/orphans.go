package drain

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"waggle/worker/store"
)

// orphansEvery is the pause between two looks for streams that nobody can drain.
const orphansEvery = 5 * time.Second

// orphans counts, from their copies, the votes of streams that are silent or gone. Each stream has one worker that does it,
// chosen as a stream's owner is.
func (d *Drain) orphans(ctx context.Context) error {
	// After a pause of all workers every stream looks silent: those that answer get the time to be drained.
	if time.Since(time.Unix(0, d.steady.Load())) < d.cfg.RecoverAfter {
		return nil
	}
	if err := d.strangers(ctx); err != nil {
		return d.storeFailed(ctx, "strangers", err)
	}
	streams, err := d.tally.Orphans(ctx, d.cfg.RecoverAfter, d.cfg.Retention)
	if err != nil {
		return d.storeFailed(ctx, "orphans", err)
	}
	for _, st := range streams {
		if ctx.Err() != nil || !owns(d.cfg.Worker, st.Inc, *d.live.Load()) {
			continue
		}
		var failed *storeError
		if err := d.recover(ctx, st); errors.As(err, &failed) {
			if err := d.storeFailed(ctx, failed.doing, failed.err); err != nil {
				return err
			}
		} else if err != nil && !errors.Is(err, store.ErrStale) && ctx.Err() == nil {
			d.log.Warn("reading the copies of a silent stream failed", "node", st.Node, "error", err)
		}
	}
	return nil
}

// strangers registers incarnations that nobody knows and that others have copies of. Such a disk was lost before any
// worker had looked, and what it had is counted like that of any silent stream. Its node is not known.
func (d *Drain) strangers(ctx context.Context) error {
	if !owns(d.cfg.Worker, "strangers", *d.live.Load()) {
		return nil
	}
	found := map[string]bool{}
	for _, addr := range d.addresses() {
		if d.failedLately(addr) {
			continue
		}
		from := d.dial(addr)
		asking, cancel := context.WithTimeout(ctx, peerTimeout)
		origins, err := from.origins(asking)
		cancel()
		_ = from.close() // nothing is left to fail
		if err != nil && ctx.Err() == nil {
			d.log.Info("the origins of copies could not be listed", "address", addr, "error", err)
		}
		for _, origin := range origins {
			found[origin] = true
		}
	}
	unknown, err := d.tally.Unknown(ctx, slices.Sorted(maps.Keys(found)))
	if err != nil {
		return err
	}
	since := map[string]time.Time{}
	for _, inc := range unknown {
		if since[inc] = d.unknown[inc]; since[inc].IsZero() {
			since[inc] = time.Now()
		}
		// A node that has just started is registered under its name when a worker has reached it.
		if time.Since(since[inc]) < d.cfg.RecoverAfter {
			continue
		}
		d.log.Warn("found copies of a stream that no worker has reached", "incarnation", inc)
		if _, err := d.tally.Register(ctx, "", inc); err != nil {
			return err
		}
	}
	d.unknown = since
	return nil
}

// recover counts what the copies have of one stream and the tally has not. Which copies those are is decided by the account as
// read here, and written under its fence: a stream that comes back meanwhile wins.
func (d *Drain) recover(ctx context.Context, st store.Stream) error {
	known, err := d.copied(ctx, st)
	if err != nil {
		return err
	}
	set, err := d.newCopySet(st.Pos, func(at streamID) bool { return known[at] })
	if err != nil {
		return err
	}
	unread, err := d.readCopies(ctx, st.Inc, set)
	if err != nil {
		return err
	}
	if _, err := d.countCopies(ctx, st, set.votes, st.LastID, !st.Closed); err != nil {
		return err
	}
	if set.full() {
		return nil // the rest is counted at the next look
	}
	if len(unread) == 0 && st.ClosedFor > d.cfg.Retention {
		return d.dropCopies(ctx, st)
	}
	if err := d.tally.NoteUnread(ctx, st, unread); err != nil {
		return &storeError{"noting unread copies", err}
	}
	return nil
}

// dropCopies empties the copies of a stream that is closed, once all of them have been counted for the retention window.
func (d *Drain) dropCopies(ctx context.Context, of store.Stream) error {
	_, err := d.eachPeer(ctx, of.Inc, func(_ string, from source) error {
		newest, err := from.lastCopy(ctx, of.Inc)
		if err != nil || newest == "" {
			return err
		}
		return from.trimCopies(ctx, of.Inc, newest)
	})
	return err
}
