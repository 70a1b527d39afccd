// Package async keeps asynchronous calls in the node's own Redis and makes them.
//
// It stands behind the gateway's route /async-function/. In: calls, as the gateway read them. The replica table says
// how many calls of a function may run at once and how its failures are retried. Out: each call goes to its function
// through the gateway itself, and the result to the client's callback.
//
// It guarantees that an accepted call is on disk and is attempted until it succeeds, fails for good or is cancelled,
// whatever is killed meanwhile. So a call is made at least once, not exactly once. Every queue, body, wait and number
// of attempts has a bound. A call that has used up its attempts is kept as a dead letter for an operator.
//
// The way of a call: Enqueue stores it (store.go) and notes it in memory (index.go). The dispatcher
// (dispatch.go) claims what is due, invoke.go calls the function, retry.go judges the answer, and settle.go
// stores the outcome. callback.go delivers it past guard.go. After a restart load.go reads what is in Redis and
// sweep.go removes what was left over. inspect.go is what operators see.
//
// # Decisions
//
//   - The queue is a node's own, without transactions or leases: a call needs only the disk of the node that accepted
//     it.
//   - Writes are ordered so that the process may die between any two of them: state, call, due; the reverse at the
//     end. The state comes first because the sweep finds unacknowledged calls by reading the states, which are small.
//   - Keeping a result and making a dead letter take several steps, of which Redis may refuse one for lack of memory.
//     There each step waits for the one before: in a pipeline the steps after a refused one would still run.
//   - One process owns a Redis: the newest. An owner that has not renewed its claim for 10 s counts as dead, and the
//     next one makes all due calls at once.
//   - A call's callback to /async-function has an id of its own, derived from the call's. The call is still stored
//     while its callback is delivered, and an id in use is refused.
//   - Callbacks are checked by the address that is connected to, after the name was resolved. So a name cannot change
//     its meaning in between. The interfaces' networks are read at each connection.
package async

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"waggle/provider/feed"
)

// Gateway is what calls go through. *gateway.Gateway implements it.
type Gateway interface {
	// Dial connects to the gateway from within its own process.
	Dial(ctx context.Context) (net.Conn, error)
	// Function finds one by name.namespace. That there is none says something only if known is true.
	Function(label string) (fn feed.Function, found, known bool)
}

// Queue is the queue of one gateway. Make it with New and run it once with Run. Enqueue, Cancel, Pending and
// Inspect may be called concurrently, before, while and after it runs, until Close.
type Queue struct {
	cfg     Config
	store   *store
	index   *index
	guard   *guard
	metrics *metrics
	// epoch names this process among those that have used the same Redis.
	epoch string
	// clock says what is due.
	clock clock
	// loaded is closed once the index holds what Redis does; before that nothing can be accepted.
	loaded chan struct{}
	// health is what the last poll of Redis found.
	health atomic.Pointer[health]
	// room is what that poll left for bodies of results, less those stored since; bytes.
	room atomic.Int64

	// What follows is set by Run.
	gateway Gateway
	// inner goes to the gateway, outer to anywhere else. They are used as they are, and not by an http.Client: that would take an
	// answer whose Location is no URL for none.
	inner, outer *http.Transport
	stopping     <-chan struct{} // closed once nothing new is begun
	ended        <-chan struct{} // closed once what was begun must end
	attempts     sync.WaitGroup
	// lapsed: another process has been the owner since the index was loaded. It belongs to watch.
	lapsed bool
	// doubtful: whether something was removed from Redis is not known, so that the index may have what Redis has not.
	doubtful atomic.Bool
}

// New checks cfg; it opens nothing and starts nothing.
func New(cfg Config) (*Queue, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuring the queue: %w", err)
	}
	allowed, err := parseNetworks(cfg.CallbackNetworks)
	if err != nil {
		return nil, fmt.Errorf("configuring the queue: %w", err)
	}
	q := &Queue{
		cfg: cfg, store: newStore(cfg), guard: &guard{allowed: allowed, own: ownNetworks}, epoch: rand.Text(), clock: newClock(), loaded: make(chan struct{}),
		index: newIndex(bounds{queued: cfg.MaxQueued, queuedEach: cfg.MaxQueuedPerFunction, running: [kinds]int{cfg.MaxInflight, cfg.MaxCallbacks}}),
	}
	q.metrics = newMetrics(cfg.Registerer, q)
	q.health.Store(&health{})
	q.room.Store(math.MaxInt64)
	return q, nil
}

// Run makes calls through gateway until ctx is done. It then starts nothing more, and returns once what is
// under way has ended, after StopTimeout at the latest. It waits for a Redis that cannot be reached; the error
// is always nil.
func (q *Queue) Run(ctx context.Context, gateway Gateway) error {
	q.gateway = gateway
	q.inner, q.outer = q.innerTransport(), q.outerTransport()
	defer q.inner.CloseIdleConnections()
	defer q.outer.CloseIdleConnections()
	if !q.takeOver(ctx) {
		return nil
	}
	// Attempts outlive ctx: a function that has begun is given the time to end.
	running, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(errStopping)
	q.stopping, q.ended = ctx.Done(), running.Done()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return q.watch(ctx) })
	group.Go(func() error {
		return q.dispatch(ctx, func(e *entry) { q.attempts.Go(func() { q.attempt(running, e) }) })
	})
	_ = group.Wait() // neither returns an error
	late := time.AfterFunc(q.cfg.StopTimeout, func() { cut(errStopping) })
	defer late.Stop()
	q.attempts.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	_ = q.store.disown(ctx, q.epoch) // else its lease runs out
	return nil
}

// Close ends the connections to Redis; what is called afterwards fails.
func (q *Queue) Close() error { return q.store.close() }

// Pending is the number of waiting calls of a function, name.namespace, retries included. Due is how many of
// them are due now, counted up to 10,000.
func (q *Queue) Pending(function string) (all, due int) {
	return q.index.pending(function, q.clock.now().UnixMilli())
}
