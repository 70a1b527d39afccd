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
	// peekEvery is how often a worker looks whether the stream of another one is still being drained.
	peekEvery = time.Second
	// minBackoff and maxBackoff bound the pause after a failure; half of it is random.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
	// forgetAfter is how long an address that DNS does not name any more may be silent before its goroutine ends.
	forgetAfter = time.Minute
	// trimsPerWindow is how often per retention window a stream is trimmed.
	trimsPerWindow = 30
)

// stream drains whatever answers at one address. It belongs to one goroutine.
type stream struct {
	*Drain
	addr  string
	log   *slog.Logger
	queue queue
	// node is the name in the metrics: the address until the node is known.
	node string

	inc       string
	state     store.Stream // as last read or written
	wrote     time.Time    // when the account was last written
	unaudited bool         // the server may have restarted since the backlog was last seen whole
	stealing  bool         // draining a stream of a silent owner, until the account moves under us
	keep      retention
	nextTrim  time.Time
	nextClose time.Time // when to close silent former incarnations again
	ahead     chan lookResult
	answered  time.Time
}

type lookResult struct {
	after string
	look  look
	err   error
}

func newStream(d *Drain, addr string) *stream {
	return &stream{Drain: d, addr: addr, node: addr, log: d.log.With("address", addr), queue: d.dial(addr), answered: time.Now()}
}

// run drains until ctx ends, the address is forgotten or only a human can help. hard outlives ctx by the shutdown timeout.
func (s *stream) run(ctx, hard context.Context) error {
	defer func() { _ = s.queue.close() }() // nothing is left to fail
	backoff := minBackoff
	for ctx.Err() == nil {
		wrote := s.wrote
		err := s.session(ctx, hard)
		if ctx.Err() != nil {
			return nil
		}
		var failed *storeError
		if err == nil {
			continue
		} else if errors.As(err, &failed) {
			if err := s.storeFailed(ctx, failed.doing, failed.err); err != nil {
				return err
			}
		} else {
			s.metrics.redisErrors.WithLabelValues(s.node).Inc()
			if !s.isClaimed(s.inc) { // the server may have moved to another address
				s.metrics.up.WithLabelValues(s.node).Set(0)
			}
			s.log.Warn("a capture node failed", "node", s.node, "error", err)
		}
		if silent := time.Since(s.answered); silent > forgetAfter && !s.isNamed(s.addr) {
			s.log.Info("forgot an address that DNS does not name any more", "node", s.node)
			return nil
		}
		if s.wrote != wrote {
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
func (s *stream) session(ctx, hard context.Context) error {
	inc, node, err := s.queue.identify(ctx)
	if err != nil {
		return err
	}
	s.answered = time.Now()
	if !s.claim(inc, s.addr) {
		wait(ctx, min(peekEvery, s.cfg.StealAfter)) // another address leads to the same server, or did until it moved
		return nil
	}
	defer s.unclaim(inc)
	if s.state, err = s.tally.Register(ctx, node, inc); err != nil {
		return &storeError{"registering a stream", err}
	}
	if s.inc != inc {
		s.log.Info("draining a stream", "node", s.state.Node, "incarnation", inc, "position", s.state.Pos)
	}
	s.inc, s.node, s.stealing = inc, s.state.Node, false
	s.keep = retention{window: s.cfg.Retention, entries: s.cfg.RetentionEntries}
	defer s.dropAhead()
	for ctx.Err() == nil {
		pause, err := s.turn(ctx, hard)
		if errors.Is(err, store.ErrStale) {
			s.metrics.stale.Inc()
			s.stealing = false
			s.dropAhead()
			err = s.reread(ctx)
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

func (s *stream) reread(ctx context.Context) (err error) {
	if s.state, err = s.tally.Read(ctx, s.inc); err != nil {
		return &storeError{"reading an account", err}
	}
	return nil
}

// turn does one step and returns how long to wait before the next.
func (s *stream) turn(ctx, hard context.Context) (time.Duration, error) {
	if !s.stealing && !owns(s.cfg.Worker, s.inc, *s.live.Load()) {
		return s.peek(ctx)
	}
	l, err := s.nextLook(ctx)
	if err != nil {
		return 0, err
	}
	s.answered = time.Now()
	if s.unaudited && !l.complete {
		return 0, s.audit(ctx, hard)
	}
	s.unaudited = false
	if after, back := rewind(s.state.Account, l); back {
		s.log.Error("Redis lost entries that had been counted; reading everything it holds again",
			"node", s.node, "position", s.state.Pos, "last", l.last, "lost", after.Lost-s.state.Lost)
		return 0, s.observe(hard, after)
	}
	seen := s.assess(l)
	if len(l.entries) > 0 {
		full := !l.complete // there is more, if not a full batch of it
		if full {
			s.lookAhead(ctx, l.entries[len(l.entries)-1].id)
		}
		if err := s.count(hard, seen, l.entries); err != nil {
			return 0, err
		}
		s.report()
		if full {
			return 0, s.housekeeping(ctx)
		}
		return busyPause, s.housekeeping(ctx)
	}
	if seen != s.state.Account || time.Since(s.wrote) >= observeEvery {
		if err := s.observe(hard, seen); err != nil {
			return 0, err
		}
		s.report()
	}
	return s.cfg.PollInterval, s.housekeeping(ctx)
}

func (s *stream) assess(l look) store.Account {
	seen := assess(s.state.Account, l)
	if more := seen.Lost - s.state.Lost; more > 0 {
		s.log.Error("entries were added that can't be read any more", "node", s.node, "entries", more, "position", s.state.Pos)
	}
	return seen
}

// audit writes what a reading of the whole backlog shows, before any of it is counted.
func (s *stream) audit(ctx, hard context.Context) error {
	l, err := audit(s.state.Account, func(after string) (look, error) { return s.queue.look(ctx, s.inc, after, s.cfg.BatchSize) })
	if err != nil {
		return err
	}
	s.unaudited = false
	if _, back := rewind(s.state.Account, l); back {
		return nil // the next look deals with it
	}
	return s.observe(hard, s.assess(l))
}

// peek takes over the stream of another worker that has been silent for too long: it is dead, or can't reach the node.
func (s *stream) peek(ctx context.Context) (time.Duration, error) {
	s.dropAhead()
	if err := s.reread(ctx); err != nil {
		return 0, err
	}
	if s.state.Age < s.cfg.StealAfter {
		return min(peekEvery, s.cfg.StealAfter), nil
	}
	s.log.Info("taking over a stream whose worker is silent", "node", s.node)
	s.stealing = true
	return 0, nil
}

// nextLook takes the look that was sent ahead if it fits, and looks now otherwise.
func (s *stream) nextLook(ctx context.Context) (look, error) {
	if r := s.dropAhead(); r.after == s.state.Pos && r.after != "" {
		return r.look, r.err
	}
	l, err := s.queue.look(ctx, s.inc, s.state.Pos, s.cfg.BatchSize)
	s.unaudited = s.unaudited || l.fresh
	return l, err
}

// lookAhead reads the next batch while Postgres commits this one.
func (s *stream) lookAhead(ctx context.Context, after string) {
	ahead := make(chan lookResult, 1)
	s.ahead = ahead
	go func() {
		l, err := s.queue.look(ctx, s.inc, after, s.cfg.BatchSize)
		ahead <- lookResult{after, l, err}
	}()
}

// dropAhead waits for a look that was sent ahead, if any, so that no goroutine outlives its stream.
func (s *stream) dropAhead() (r lookResult) {
	if s.ahead != nil {
		r = <-s.ahead
		s.ahead = nil
		s.unaudited = s.unaudited || r.look.fresh
	}
	return r
}

func (s *stream) observe(hard context.Context, seen store.Account) error {
	if err := s.tally.Observe(hard, s.state, seen); err != nil {
		return s.unlessStale("writing an account", err)
	}
	s.wrote = time.Now()
	s.state.Account = seen
	s.state.Revision++
	return nil
}

func (s *stream) unlessStale(doing string, err error) error {
	if errors.Is(err, store.ErrStale) {
		return err
	}
	return &storeError{doing, err}
}

func (s *stream) report() {
	s.metrics.up.WithLabelValues(s.node).Set(1)
	s.metrics.lag.WithLabelValues(s.node).Set(float64(s.state.Added - s.state.N - s.state.Lost))
	s.metrics.lost.WithLabelValues(s.node).Set(float64(s.state.Lost))
	s.metrics.held.WithLabelValues(s.node).Set(float64(s.state.Held))
}

// housekeeping trims what was counted long ago, and closes former incarnations of the node that have gone silent since.
func (s *stream) housekeeping(ctx context.Context) error {
	now := time.Now()
	if now.After(s.nextClose) {
		s.nextClose = now.Add(s.cfg.StealAfter)
		if _, err := s.tally.Register(ctx, s.node, s.inc); err != nil {
			return &storeError{"registering a stream", err}
		}
	}
	if now.Before(s.nextTrim) {
		return nil
	}
	s.nextTrim = now.Add(s.cfg.Retention / trimsPerWindow)
	target := s.keep.target(now, s.state.Pos, s.state.N)
	s.keep.note(now, s.state.Pos, s.state.N)
	if target == "" {
		return nil
	}
	removed, err := s.queue.trim(ctx, s.inc, target)
	s.metrics.trimmed.Add(float64(removed))
	if err != nil && !errors.Is(err, errMoved) {
		// A full disk refuses trims and still gives its votes away: go on reading.
		s.metrics.redisErrors.WithLabelValues(s.node).Inc()
		s.log.Warn("trimming failed", "node", s.node, "error", err)
		return nil
	}
	return err
}
