package vote

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// The two ways a vote can fail. Only the first lets the voter be told that nothing was stored.
var (
	errNotStored = errors.New("the vote was not stored")
	errUnknown   = errors.New("whether the vote was stored is not known")
)

const (
	// maxQueue bounds what waits for Redis: at 2,000 votes/s two seconds' worth.
	maxQueue = 4096
	// maxBatch is where a larger pipeline saves no further CPU: the fsync is shared by 256 votes already.
	maxBatch = 256
	// writers is how many pipelines may be in flight: while one waits for its fsync the other gathers and is parsed.
	writers = 2
	// maxQueueWait is how old a vote may be when its turn comes; the voter of an older one is asked to press again.
	maxQueueWait = 3 * time.Second
)

// entry is one vote on its way to the stream.
type entry struct {
	poll   *pollArgs
	choice any
	voter  string
	seq    int64
	at     int64 // when the gateway received the request, Unix ms

	queued time.Time       // when it began to wait here
	client context.Context // ends when the client leaves
	single bool            // marked as having one copy

	place  place
	stored time.Time // when Redis answered
	err    error
	done   chan struct{}
}

// place is where a vote is stored: the incarnation of a stream, and the id of an entry.
type place struct{ incarnation, id string }

// pollArgs is a poll's id as the argument of a command, made once.
type pollArgs struct{ id any }

var entries = sync.Pool{New: func() any { return &entry{done: make(chan struct{}, 1)} }}

// capture gathers votes that arrive together into one pipeline, so that they share a system call and an fsync.
// No vote waits for a batch to fill: a writer takes the votes that are there, and the next batch has those that follow.
type capture struct {
	appender *appender
	gate     *gate
	stats    *stats
	queue    chan *entry
	copies   *copier // nil: one copy
	writing  sync.WaitGroup
	group    sync.WaitGroup

	// mu guards closed: an entry is queued under the read lock, so that none is queued after the writers left.
	mu     sync.RWMutex
	closed bool
}

func newCapture(a *appender, g *gate, st *stats) *capture {
	return &capture{appender: a, gate: g, stats: st, queue: make(chan *entry, maxQueue)}
}

// start runs the writers and, until ctx ends, the probe.
func (c *capture) start(ctx context.Context) {
	for range writers {
		c.writing.Go(c.write)
	}
	if c.copies != nil {
		c.copies.start(&c.writing, &c.group)
	}
	c.group.Go(func() { c.gate.watch(ctx, c.appender.probe) })
}

// ready is nil while this replica takes votes.
func (c *capture) ready() error {
	if err := c.gate.err(); err != nil {
		return err
	}
	if c.copies != nil {
		return c.copies.ready()
	}
	return nil
}

// add stores one vote and returns its place in the stream, after Redis answered for this very vote. The error
// is errNotStored or errUnknown with its cause. A vote whose client leaves while it waits is not stored: it would be one that
// the voter has no answer to.
func (c *capture) add(client context.Context, poll *pollArgs, choice any, voter string, seq int64, at time.Time) (place, error) {
	if err := c.ready(); err != nil {
		return place{}, errors.Join(errNotStored, err)
	}
	e := entries.Get().(*entry)
	e.poll, e.choice, e.voter, e.seq, e.at, e.single = poll, choice, voter, seq, at.UnixMilli(), false
	e.queued, e.client = time.Now(), client
	if err := c.enqueue(e); err != nil {
		entries.Put(e)
		return place{}, errors.Join(errNotStored, err)
	}
	// No other way out: a writer answers every entry, within the timeouts of the connection.
	<-e.done
	stored, err := e.place, e.err
	e.place, e.err, e.voter = place{}, nil, ""
	entries.Put(e)
	return stored, err
}

var (
	errQueueFull  = errors.New("too many votes are waiting")
	errStopping   = errors.New("the replica is stopping")
	errTooLate    = errors.New("the vote waited too long")
	errClientLeft = errors.New("the client has left")
)

func (c *capture) enqueue(e *entry) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return errStopping
	}
	select {
	case c.queue <- e:
		return nil
	default:
		return errQueueFull
	}
}

func (c *capture) write() {
	batch := make([]*entry, 0, maxBatch)
	w := c.appender.newWriter()
	for first := range c.queue {
		batch = c.collect(append(batch[:0], first))
		if len(batch) == 0 {
			continue
		}
		if c.copies != nil && c.copies.mode == preferTwo && !c.copies.peers.any() {
			for _, e := range batch {
				e.single = true
			}
		}
		w.append(batch)
		c.gate.observe(batch)
		c.stats.batches.Add(1)
		if c.copies == nil {
			answer(batch)
		} else {
			c.copies.queue <- slices.Clone(batch)
		}
	}
}

// answer lets the voters of a batch know.
func answer(batch []*entry) {
	for _, e := range batch {
		e.done <- struct{}{}
	}
}

// collect adds what is already waiting, and answers at once what nobody waits for any more.
func (c *capture) collect(batch []*entry) []*entry {
	now := time.Now()
	if reason := batch[0].stale(now); reason != nil {
		batch[0].refuse(reason)
		batch = batch[:0]
	}
	for len(batch) < maxBatch {
		select {
		case e, ok := <-c.queue:
			if !ok {
				return batch
			}
			if reason := e.stale(now); reason != nil {
				e.refuse(reason)
				continue
			}
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// stale is why a vote must not be stored any more. The wait is measured by the clock that does not jump, and goes on while the
// process is stopped.
func (e *entry) stale(now time.Time) error {
	switch {
	case now.Sub(e.queued) > maxQueueWait:
		return errTooLate
	case e.client.Err() != nil:
		return errClientLeft
	}
	return nil
}

func (e *entry) refuse(reason error) {
	e.err = errors.Join(errNotStored, reason)
	e.done <- struct{}{}
}

// close refuses new votes, lets the writers finish the queued ones, and closes the connections.
func (c *capture) close(ctx context.Context) error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.queue)
	}
	c.mu.Unlock()
	finished := make(chan struct{})
	go func() {
		c.writing.Wait()
		c.group.Wait()
		close(finished)
	}()
	select {
	case <-finished:
		return c.appender.close()
	case <-ctx.Done():
		return errors.Join(ctx.Err(), c.appender.close())
	}
}
