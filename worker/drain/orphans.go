package drain

import (
	"context"
	"errors"
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

// recover counts what the copies have of one stream and the tally has not. Which copies those are is decided by the account as
// read here, and written under its fence: a stream that comes back meanwhile wins.
func (d *Drain) recover(ctx context.Context, st store.Stream) error {
	found, unread, err := d.readCopies(ctx, st.Inc, st.Pos)
	if err != nil {
		return err
	}
	known, err := d.tally.Copied(ctx, st)
	if err != nil {
		return &storeError{"reading what was counted from copies", err}
	}
	for _, id := range known {
		if at, err := parseID(id); err == nil {
			delete(found, at)
		}
	}
	if _, err := d.countCopies(ctx, st, found, st.LastID, !st.Closed); err != nil {
		return err
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
