package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// ErrUnknownFunction is what a [Waker] returns for a function that is not deployed; a gateway answers 404.
var ErrUnknownFunction = errors.New("unknown function")

// Waker brings a function back from zero replicas. The provider implements it.
type Waker interface {
	// Wake asks for max(min, 1) replicas if the function has none and returns once Swarm has accepted that, not once
	// they run. A function that already has replicas is left alone. The hub never calls it twice at once for one function.
	Wake(ctx context.Context, name, namespace string) error
}

// HubConfig says what a [Hub] needs. The zero value of every field but Waker is usable.
type HubConfig struct {
	// Waker is required.
	Waker Waker
	// Deployed reports whether a function exists in Swarm at this moment; nil: nobody can say.
	Deployed func(ctx context.Context, name, namespace string) (bool, error)
	// Usages takes what gateways read of replicas; default: a book of the hub's own.
	Usages *UsageBook
	// Logger takes what changed; default: discard.
	Logger *slog.Logger
	// Heartbeat is the longest silence on a table stream; default 2 s, at most 5 s because clients give up at twice that.
	Heartbeat time.Duration
	// ReportTTL is how long a gateway's gauges (in-flight, queued) count after its last report; default 5 s.
	ReportTTL time.Duration
	// WakeTimeout bounds one call of Waker; default 30 s.
	WakeTimeout time.Duration
	// CancelWait is how long a cancellation waits for the gateways to say who has the call; default 2 s.
	CancelWait time.Duration
}

func (c HubConfig) withDefaults() HubConfig {
	if c.Usages == nil {
		c.Usages = &UsageBook{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 2 * time.Second
	}
	if c.ReportTTL == 0 {
		c.ReportTTL = 5 * time.Second
	}
	if c.WakeTimeout == 0 {
		c.WakeTimeout = 30 * time.Second
	}
	if c.CancelWait == 0 {
		c.CancelWait = 2 * time.Second
	}
	return c
}

func (c HubConfig) validate() error {
	var errs []error
	if c.Waker == nil {
		errs = append(errs, errors.New("field Waker is nil: it is required"))
	}
	if c.Heartbeat < 0 || c.Heartbeat > maxHeartbeat {
		errs = append(errs, fmt.Errorf("field Heartbeat is %s: legal is more than 0 and at most %s", c.Heartbeat, maxHeartbeat))
	}
	if c.ReportTTL < 0 {
		errs = append(errs, fmt.Errorf("field ReportTTL is %s: legal is more than 0", c.ReportTTL))
	}
	if c.WakeTimeout < 0 {
		errs = append(errs, fmt.Errorf("field WakeTimeout is %s: legal is more than 0", c.WakeTimeout))
	}
	return errors.Join(errs...)
}

// maxHeartbeat is the longest silence the protocol allows on a table stream.
const maxHeartbeat = 5 * time.Second

// Hub is the provider's end: it hands the newest table to every gateway and adds up what they report.
// All methods are safe for concurrent use. A Hub owns no goroutine; streams live in the HTTP server's.
type Hub struct {
	cfg    HubConfig
	newest atomic.Pointer[encoded]
	wakes  wakeGroup
	loads  loadBook

	streams atomic.Int64 // gateways that listen for tables
	cancels cancels
}

// encoded is one published table as it goes over the wire, and the signal that a newer one exists.
type encoded struct {
	line []byte
	next chan struct{}
}

// NewHub checks cfg and returns a hub without a table: gateways that connect hear heartbeats until the first Publish,
// and go on with the last table they had from an earlier provider.
func NewHub(cfg HubConfig) (*Hub, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the feed hub: %w", err)
	}
	h := &Hub{cfg: cfg}
	h.newest.Store(&encoded{next: make(chan struct{})})
	h.loads.init(cfg.ReportTTL)
	h.cancels.init()
	return h, nil
}

// Publish makes t the table that every gateway gets next. Publish only tables made from a complete listing: a gateway
// answers 404 for what a table leaves out. The caller must not change t afterwards.
func (h *Hub) Publish(t Table) {
	line, err := json.Marshal(t)
	if err != nil {
		// Table holds strings, integers and finite floats only; a NaN target is the one thing that could get here.
		h.cfg.Logger.Error("encoding the replica table failed", "error", err)
		return
	}
	h.loads.known(t)
	old := h.newest.Swap(&encoded{line: append(line, '\n'), next: make(chan struct{})})
	close(old.next)
}

// Invocations is the number of completed invocations of a function that any gateway has reported since this process
// started, plus what gateways still running had completed before. It never decreases.
func (h *Hub) Invocations(name, namespace string) float64 {
	return float64(h.loads.one(key{name, namespace}, time.Now()).Completed)
}

// Loads is the load of every function over all gateways, sorted by namespace, then name. Started and Completed never
// decrease; Inflight and Queued count gateways that reported within ReportTTL.
func (h *Hub) Loads() []Load { return h.loads.all(time.Now()) }

// Unreachable gives for each replica that a gateway has reported as not answering within ReportTTL, by its id, what the
// newest such report says.
func (h *Hub) Unreachable() map[string]Unreachable { return h.loads.unreachable(time.Now()) }

// Forget drops the counters of a function that no longer exists.
func (h *Hub) Forget(name, namespace string) { h.loads.forget(key{name, namespace}, time.Now()) }

// wakeGroup lets concurrent wakes of one function share one call.
type wakeGroup struct {
	mu    sync.Mutex
	calls map[key]*wakeCall // guarded by mu
}

type wakeCall struct {
	done chan struct{}
	err  error // written before done is closed
}

// do runs fn unless a call for k is under way, and returns that call's result. fn outlives a caller that leaves,
// because others may wait for it.
func (g *wakeGroup) do(ctx context.Context, k key, fn func() error) error {
	g.mu.Lock()
	if g.calls == nil {
		g.calls = make(map[key]*wakeCall)
	}
	call, shared := g.calls[k]
	if !shared {
		call = &wakeCall{done: make(chan struct{})}
		g.calls[k] = call
	}
	g.mu.Unlock()
	if shared {
		select {
		case <-call.done:
			return call.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	call.err = fn()
	g.mu.Lock()
	delete(g.calls, k)
	g.mu.Unlock()
	close(call.done)
	return call.err
}
