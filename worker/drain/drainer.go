package drain

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"waggle/worker/store"
)

const (
	// busyPause follows a batch that was not full: long enough to gather neighbours, short enough that nobody sees it.
	busyPause = 20 * time.Millisecond
	// observeEvery bounds the age of a stream's line in the ledger while nothing changes.
	observeEvery = 2 * time.Second
	// watchEvery is how often a worker checks that the owner of a stream still drains it.
	watchEvery = time.Second
	// minBackoff and maxBackoff bound the pause after a failure; half of it is random.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
	// forgetAfter is how long an address that DNS does not name any more may be silent before its goroutine ends.
	forgetAfter = time.Minute
	// trimsPerWindow is how often per retention window a stream is trimmed.
	trimsPerWindow = 30
)

// drainer drains whatever answers at one address. It belongs to one goroutine.
type drainer struct {
	*Drain
	addr   string
	log    *slog.Logger
	source source
	// node is the name in the metrics: the address until the node is known.
	node string

	inc           string
	state         store.Stream // as last read or written
	wrote         time.Time    // when the account was last written
	reconnected   bool         // the server may be another process than at the last step
	torn          string       // its last note that its log was cut
	unsure        bool         // entries after Sure may be lost, and have not been compared with their copies
	unsureSince   time.Time
	delivered     map[streamID]bool // counted while unsure: should the stream lose them now, nothing is missing
	compared      string            // up to this id, entries have been compared with their copies on this connection
	vouched       string            // up to this id, entries that are missing now are in Added
	nextCompare   time.Time
	copyKeep      copyKeeper
	nextCopies    time.Time
	backlogUnread bool // the server may have restarted since the backlog was last seen whole
	stealing      bool // draining a stream of a silent owner, until the account moves under us
	keep          retention
	nextTrim      time.Time
	nextClose     time.Time // when to close silent former incarnations again
	ahead         chan readAheadResult
	answered      time.Time
}

type readAheadResult struct {
	after   string
	reading reading
	err     error
}

func newDrainer(d *Drain, addr string) *drainer {
	return &drainer{Drain: d, addr: addr, node: addr, log: d.log.With("address", addr), source: d.dial(addr), answered: time.Now(), delivered: map[streamID]bool{}}
}

// run drains until ctx ends, the address is forgotten or only a human can help. hard outlives ctx by the shutdown timeout.
func (d *drainer) run(ctx, hard context.Context) error {
	defer func() { _ = d.source.close() }() // nothing is left to fail
	defer func() { d.metrics.forget(d.node) }()
	backoff := minBackoff
	for ctx.Err() == nil {
		wrote := d.wrote
		err := d.session(ctx, hard)
		if ctx.Err() != nil {
			return nil
		}
		var failed *storeError
		if err == nil {
			continue
		} else if errors.As(err, &failed) {
			if err := d.storeFailed(ctx, failed.doing, failed.err); err != nil {
				return err
			}
		} else {
			d.metrics.redisErrors.WithLabelValues(d.node).Inc()
			if !d.isClaimed(d.inc) { // the server may have moved to another address
				d.metrics.up.WithLabelValues(d.node).Set(0)
			}
			d.log.Warn("a capture node failed", "node", d.node, "error", err)
		}
		if silent := time.Since(d.answered); silent > forgetAfter && !d.isNamed(d.addr) {
			d.log.Info("dropped an address that DNS no longer names", "node", d.node)
			return nil
		}
		if d.wrote != wrote {
			backoff = minBackoff // it worked for a while
		}
		wait(ctx, backoff/2+rand.N(backoff/2))
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// storeError marks a failure of Postgres, to tell it from one of Redis.
type storeError struct {
	doing string
	err   error
}

func (e *storeError) Error() string { return e.doing + ": " + e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// session learns what answers at the address and drains it until something fails.
func (d *drainer) session(ctx, hard context.Context) error {
	inc, node, err := d.source.identify(ctx)
	if err != nil {
		return err
	}
	d.answered = time.Now()
	if !d.claim(inc, d.addr) {
		wait(ctx, min(watchEvery, d.cfg.StealAfter)) // another address leads to the same server, or did until it moved
		return nil
	}
	defer d.unclaim(inc)
	if d.state, err = d.tally.Register(ctx, node, inc); err != nil {
		return &storeError{"registering a stream", err}
	}
	if d.inc != inc {
		clear(d.delivered)
		d.log.Info("draining a stream", "node", d.state.Node, "incarnation", inc, "position", d.state.Pos)
	}
	d.inc, d.node, d.stealing = inc, d.state.Node, false
	d.keep = retention{window: d.cfg.Retention, entries: d.cfg.RetentionEntries}
	defer d.awaitAhead()
	for ctx.Err() == nil {
		pause, err := d.step(ctx, hard)
		if errors.Is(err, store.ErrStale) {
			d.metrics.stale.Inc()
			d.stealing = false
			d.awaitAhead()
			err = d.reread(ctx)
		}
		if err != nil {
			return err
		}
		if pause > 0 {
			wait(ctx, pause)
		}
	}
	return nil
}

func (d *drainer) reread(ctx context.Context) (err error) {
	if d.state, err = d.tally.Read(ctx, d.inc); err != nil {
		return &storeError{"reading an account", err}
	}
	return nil
}

// step does one step and returns how long to wait before the next.
func (d *drainer) step(ctx, hard context.Context) (time.Duration, error) {
	if !d.stealing && !owns(d.cfg.Worker, d.inc, *d.live.Load()) {
		return d.watchOwner(ctx)
	}
	l, err := d.nextReading(ctx)
	if err != nil {
		return 0, err
	}
	d.answered = time.Now()
	if d.reconnected {
		d.unsure, d.compared, d.vouched, d.nextCompare = true, "", d.state.LastID, time.Time{}
		if d.torn, err = d.source.torn(ctx); err != nil {
			return 0, err
		}
		d.reconnected = false
	}
	if d.backlogUnread && !l.complete {
		return 0, d.readBacklog(ctx, hard)
	}
	d.backlogUnread = false
	if after, back := rewind(d.state.Account, l); back {
		d.log.Error("Redis lost entries that had been counted; reading everything it holds again",
			"node", d.node, "position", d.state.Pos, "last", l.last, "lost", after.Lost-d.state.Lost)
		return 0, d.observe(hard, after, store.Rewound)
	}
	seen, cause := d.reconcile(l)
	if cause != store.NoGap || d.unsure && seen.Lost != d.state.Lost {
		return 0, d.observe(hard, seen, cause) // what is lost has to be written before copies make up for it
	}
	if d.unsure {
		if err := d.compare(ctx, hard); err != nil {
			return 0, err
		}
		seen.Sure = d.state.Sure
	}
	if len(l.entries) > 0 {
		full := !l.complete // there is more, if not a full batch of it
		if full {
			d.readAhead(ctx, l.entries[len(l.entries)-1].id)
		}
		if err := d.count(hard, seen, l.entries); err != nil {
			return 0, err
		}
		d.report()
		if full {
			return 0, d.housekeeping(ctx)
		}
		return busyPause, d.housekeeping(ctx)
	}
	if seen != d.state.Account || time.Since(d.wrote) >= observeEvery {
		if err := d.observe(hard, seen, store.NoGap); err != nil {
			return 0, err
		}
		d.report()
	}
	return d.cfg.PollInterval, d.housekeeping(ctx)
}

// cutNoted reports whether the server has found its log cut since the account was written.
func (d *drainer) cutNoted() bool { return compareIDs(d.torn, d.state.Torn) > 0 }

// reconcile returns the account after a reading, and why there may be losses that it does not show.
func (d *drainer) reconcile(l reading) (seen store.Account, cause string) {
	seen, cut := reconcile(d.state.Account, l)
	if cut || d.cutNoted() {
		cause = store.Cut
		d.log.Error("Redis lost the end of its log", "node", d.node, "position", d.state.Pos, "last", l.last)
	}
	if more := seen.Lost - d.state.Lost; more > 0 {
		d.log.Error("entries were added that can no longer be read", "node", d.node, "entries", more, "position", d.state.Pos)
		if cause == store.NoGap {
			d.vouched = l.last // Redis's counter has them all
		}
		// Nobody has to restart Redis to remove entries.
		d.unsure, d.compared, d.nextCompare = true, "", time.Time{}
	}
	return seen, cause
}

// readBacklog writes what a reading of the whole backlog shows, before any of it is counted.
func (d *drainer) readBacklog(ctx, hard context.Context) error {
	l, err := readBacklog(d.state.Account, func(after string) (reading, error) { return d.source.read(ctx, d.inc, after, d.cfg.BatchSize) })
	if err != nil {
		return err
	}
	d.backlogUnread = false
	if _, back := rewind(d.state.Account, l); back {
		return nil // the next reading deals with it
	}
	seen, cause := d.reconcile(l)
	return d.observe(hard, seen, cause)
}

// watchOwner takes over the stream of another worker that has been silent for too long: it is dead, or can't reach the node.
func (d *drainer) watchOwner(ctx context.Context) (time.Duration, error) {
	d.awaitAhead()
	d.metrics.forget(d.node)
	if err := d.reread(ctx); err != nil {
		return 0, err
	}
	if d.state.Age < d.cfg.StealAfter {
		return min(watchEvery, d.cfg.StealAfter), nil
	}
	d.log.Info("taking over a stream whose worker is silent", "node", d.node)
	d.stealing = true
	return 0, nil
}

// nextReading takes the reading that was sent ahead if it fits, and reads now otherwise.
func (d *drainer) nextReading(ctx context.Context) (reading, error) {
	if r := d.awaitAhead(); r.after == d.state.Pos && r.after != "" {
		return r.reading, r.err
	}
	l, err := d.source.read(ctx, d.inc, d.state.Pos, d.cfg.BatchSize)
	d.reconnected = d.reconnected || l.reconnected
	d.backlogUnread = d.backlogUnread || l.reconnected
	return l, err
}

// readAhead reads the next batch while Postgres commits this one.
func (d *drainer) readAhead(ctx context.Context, after string) {
	ahead := make(chan readAheadResult, 1)
	d.ahead = ahead
	go func() {
		l, err := d.source.read(ctx, d.inc, after, d.cfg.BatchSize)
		ahead <- readAheadResult{after, l, err}
	}()
}

// awaitAhead waits for a reading that was sent ahead, if any, so that no goroutine outlives its stream.
func (d *drainer) awaitAhead() (r readAheadResult) {
	if d.ahead != nil {
		r = <-d.ahead
		d.ahead = nil
		d.reconnected = d.reconnected || r.reading.reconnected
		d.backlogUnread = d.backlogUnread || r.reading.reconnected
	}
	return r
}

// observe writes the account as a reading left it, with a gap since the reading before if there is a cause for one.
func (d *drainer) observe(hard context.Context, seen store.Account, cause string) error {
	after := d.state
	after.Account = seen
	if !d.unsure {
		after.Sure, after.Unread = after.Pos, nil
	}
	if d.cutNoted() {
		after.Torn = d.torn
	}
	return d.write(hard, after, cause)
}

func (d *drainer) write(hard context.Context, after store.Stream, cause string) error {
	if err := d.tally.Observe(hard, d.state, after, cause); err != nil {
		return d.unlessStale("writing an account", err)
	}
	d.wrote = time.Now()
	after.Revision++
	d.state = after
	return nil
}

func (d *drainer) unlessStale(doing string, err error) error {
	if errors.Is(err, store.ErrStale) {
		return err
	}
	return &storeError{doing, err}
}

func (d *drainer) report() {
	d.metrics.up.WithLabelValues(d.node).Set(1)
	d.metrics.lag.WithLabelValues(d.node).Set(float64(d.state.Added - d.state.N - d.state.Lost))
	d.metrics.lost.WithLabelValues(d.node).Set(float64(d.state.Lost))
	d.metrics.held.WithLabelValues(d.node).Set(float64(d.state.Held))
}

// housekeeping trims what was counted long ago, and closes former incarnations of the node that have gone silent since.
func (d *drainer) housekeeping(ctx context.Context) error {
	now := time.Now()
	if now.After(d.nextClose) {
		d.nextClose = now.Add(d.cfg.StealAfter)
		if _, err := d.tally.Register(ctx, d.node, d.inc); err != nil {
			return &storeError{"registering a stream", err}
		}
	}
	if !d.unsure && now.After(d.nextCopies) {
		d.nextCopies = now.Add(d.cfg.Retention / trimsPerWindow)
		if err := d.keepCopies(ctx); err != nil {
			return err
		}
	}
	if d.unsure || now.Before(d.nextTrim) {
		return nil
	}
	d.nextTrim = now.Add(d.cfg.Retention / trimsPerWindow)
	target := d.keep.target(now, d.state.Pos, d.state.N)
	d.keep.note(now, d.state.Pos, d.state.N)
	if target == "" {
		return nil
	}
	removed, err := d.source.trim(ctx, d.inc, target)
	d.metrics.trimmed.Add(float64(removed))
	if err != nil && !errors.Is(err, errMoved) {
		// A full disk refuses trims and still gives its votes away: go on reading.
		d.metrics.redisErrors.WithLabelValues(d.node).Inc()
		d.log.Warn("trimming failed", "node", d.node, "error", err)
		return nil
	}
	return err
}
