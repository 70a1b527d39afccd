package vote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// How many disks a vote is on before it is acknowledged: the setting copies.
type copyMode int

const (
	// oneCopy: this node's disk alone.
	oneCopy copyMode = iota
	// preferTwo: two nodes', or one while no other is in reach. The entry then says so, and the ledger counts it.
	preferTwo
	// requireTwo: two nodes', or the voter is asked to press again.
	requireTwo
)

// copyModes are the legal values; "2" is "2 prefer".
var copyModes = map[string]copyMode{"1": oneCopy, "2": preferTwo, "2 prefer": preferTwo, "2 require": requireTwo}

func (m copyMode) String() string { return [...]string{"1", "2 prefer", "2 require"}[m] }

const (
	// copiers is how many batches may be on their way to other nodes: while one waits for a disk, the other is gathered.
	copiers = 2
	// maxCopyAge is how long after it was stored a vote may be confirmed by its copy. Workers rely on it. A copy that
	// comes later, from a replica that was frozen, belongs to a vote that nobody was told is recorded.
	maxCopyAge = 15 * time.Second
)

var errNoPeer = errors.New("no other capture node is in reach")

// copier sends what this node's Redis has stored to another node's Redis, and then answers the voters.
//
// It is the second stage and not a second branch, so that a copy carries the id which the entry has at its origin. By
// that id a worker knows exactly which copies the origin has lost, and a vote that the origin refused is nowhere. The price
// is one more round trip and fsync in a voter's wait; batches overlap, so throughput does not pay it.
type copier struct {
	mode     copyMode
	appender *appender
	peers    *peers
	stats    *stats
	queue    chan []*entry
}

func newCopier(mode copyMode, a *appender, p *peers, st *stats) *copier {
	return &copier{mode: mode, appender: a, peers: p, stats: st, queue: make(chan []*entry, copiers)}
}

// start runs the copiers until the writers are done, and the watch over the peers until the copiers are.
func (c *copier) start(writing, group *sync.WaitGroup) {
	watching, stop := context.WithCancel(context.Background())
	var copying sync.WaitGroup
	for range copiers {
		copying.Go(c.run)
	}
	group.Go(func() { c.peers.watch(watching) })
	group.Go(func() {
		defer stop()
		writing.Wait()
		close(c.queue)
		copying.Wait()
	})
}

// ready is nil while votes can be copied as the mode demands.
func (c *copier) ready() error {
	switch {
	case !c.peers.looked():
		return errStarting
	case c.mode == requireTwo && !c.peers.any():
		return errNoPeer
	}
	return nil
}

// run copies and answers batches until the queue is closed. Batches that wait become one.
func (c *copier) run() {
	again := c.appender.newWriter()
	for batch := range c.queue {
		batch = c.collect(batch)
		c.copy(batch, again)
		answer(batch)
	}
}

func (c *copier) collect(batch []*entry) []*entry {
	for len(batch) < maxBatch {
		select {
		case more, ok := <-c.queue:
			if !ok {
				return batch
			}
			batch = append(batch, more...)
		default:
			return batch
		}
	}
	return batch
}

// copy has the stored votes of a batch copied. The mode decides what happens to those that no peer takes.
func (c *copier) copy(batch []*entry, again *writer) {
	stored := slices.DeleteFunc(slices.Clone(batch), func(e *entry) bool { return e.err != nil })
	if len(stored) == 0 {
		return
	}
	// A merged batch of two incarnations is rare, and then two copies.
	origin := stored[0].place.incarnation
	if split := slices.IndexFunc(stored, func(e *entry) bool { return e.place.incarnation != origin }); split > 0 {
		c.copy(stored[:split], again)
		c.copy(stored[split:], again)
		return
	}
	err := c.peers.store(origin, copyCommand(origin, stored))
	switch {
	case err == nil && time.Since(stored[0].stored) > maxCopyAge:
		err = errTooLate
	case err == nil:
		c.stats.copied.Add(uint64(len(stored)))
		return
	}
	if c.mode == requireTwo {
		for _, e := range stored {
			e.err = fmt.Errorf("%w: %w", errUnknown, err)
		}
		return
	}
	c.stats.single.Add(uint64(len(stored)))
	unmarked := slices.DeleteFunc(stored, func(e *entry) bool { return e.single })
	again.appendMarked(unmarked)
}

// copyCommand makes one stream entry of a batch: the number of votes, and a line for each. A line has the entry's id
// at its origin, then poll, voter, choice, sequence and time. The key names the origin's incarnation.
func copyCommand(origin string, batch []*entry) []any {
	lines := make([]byte, 0, 96*len(batch))
	for _, e := range batch {
		lines = append(lines, e.place.id...)
		lines = strconv.AppendInt(append(lines, ' '), e.poll.id.(int64), 10)
		lines = append(append(lines, ' '), e.voter...)
		for _, number := range [...]int64{e.choice.(int64), e.seq, e.at} {
			lines = strconv.AppendInt(append(lines, ' '), number, 10)
		}
		lines = append(lines, '\n')
	}
	// A string: an attempt at a slow peer may still read it when the next batch is made.
	return []any{"XADD", copiesKey + origin, "*", "n", len(batch), "v", string(lines)}
}

// copiesKey and an incarnation are the key of that incarnation's copies.
const copiesKey = "copies:"
