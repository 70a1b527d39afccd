package vote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// breakAfter is how many batches in a row may end without an answer before the gate shuts.
	breakAfter = 3
	// probeEvery is how long a shut gate stays shut at least. A worker can read a struggling Redis undisturbed for
	// that long, and few voters notice. It is also how soon an idle replica notices.
	probeEvery = 2 * time.Second
	// probeTimeout leaves a stalled disk some time.
	probeTimeout = time.Second
)

var errStarting = errors.New("not yet connected to Redis")

// gate is the replica's view of its Redis: open, or shut with a reason. Shut means that votes are refused without
// asking Redis and that the replica is unready, so that gateways use another node's. It begins shut.
type gate struct {
	logger *slog.Logger
	reason atomic.Pointer[error]

	// mu guards failures, and the changes of reason.
	mu       sync.Mutex
	failures int
}

func newGate(logger *slog.Logger) *gate {
	g := &gate{logger: logger}
	g.reason.Store(&errStarting)
	return g
}

// err is nil while the gate is open.
func (g *gate) err() error {
	if reason := g.reason.Load(); reason != nil {
		return *reason
	}
	return nil
}

// observe learns from a batch: a refusal shuts the gate at once, a lost connection at the third in a row.
func (g *gate) observe(batch []*entry) {
	var refused, unknown error
	for _, e := range batch {
		switch {
		case e.err == nil:
		case errors.Is(e.err, errNotStored):
			refused = e.err
		default:
			unknown = e.err
		}
	}
	g.learn(refused, unknown)
}

func (g *gate) learn(refused, unknown error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case refused != nil:
		g.shut(refused)
	case unknown != nil:
		if g.failures++; g.failures >= breakAfter {
			g.shut(unknown)
		}
	default:
		g.failures = 0
	}
}

// shut needs the lock.
func (g *gate) shut(reason error) {
	if g.reason.Swap(&reason) == nil {
		g.logger.Info("replica unready", "error", reason)
	}
}

// open lets votes through again; the first failure of any kind shuts it again.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failures = breakAfter - 1
	g.reason.Store(nil)
	g.logger.Info("replica ready")
}

// watch probes at once and then regularly, until ctx ends.
func (g *gate) watch(ctx context.Context, probe func(context.Context) error) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		g.try(ctx, probe)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *gate) try(ctx context.Context, probe func(context.Context) error) {
	probing, cancel := context.WithTimeout(ctx, probeTimeout)
	err := probe(probing)
	cancel()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		if g.err() != nil {
			g.open()
		}
	case errors.Is(err, errNotStored):
		g.learn(fmt.Errorf("probing: %w", err), nil)
	default:
		g.learn(nil, fmt.Errorf("probing: %w", err))
	}
}
