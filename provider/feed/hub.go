package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// HubConfig says what a [Hub] needs. The zero value of every field but Waker is usable.
type HubConfig struct {
	// Waker is required.
	Waker Waker
	// Deployed reports whether a function exists in Swarm at this moment; nil: nobody can say.
	Deployed func(ctx context.Context, name, namespace string) (bool, error)
	// Usages takes what gateways read of replicas; default: a book of the hub's own.
	Usages *UsageBook
	// Reported is called for each report after its loads were stored, and says whether it came out of turn; nil
	// ignores them.
	Reported func(load GatewayLoad, urgent bool)
	// Logger takes what changed; default: discard.
	Logger *slog.Logger
	// Heartbeat is the longest silence on a table stream; default 2 s, at most 5 s because clients give up at twice that.
	Heartbeat time.Duration
	// WakeTimeout bounds one call of Waker; default 30 s.
	WakeTimeout time.Duration
	// CancelWait is how long a cancellation waits for the gateways to say who has the call; default 2 s.
	CancelWait time.Duration
}

func (c HubConfig) withDefaults() HubConfig {
	if c.Usages == nil {
		c.Usages = &UsageBook{}
	}
	if c.Reported == nil {
		c.Reported = func(GatewayLoad, bool) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 2 * time.Second
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
	if c.WakeTimeout < 0 {
		errs = append(errs, fmt.Errorf("field WakeTimeout is %s: legal is more than 0", c.WakeTimeout))
	}
	return errors.Join(errs...)
}

// maxNameLen is Swarm's own limit on the names that travel here.
const maxNameLen = 256

// maxHeartbeat is the longest silence the protocol allows on a table stream.
const maxHeartbeat = 5 * time.Second

// Hub is the provider's end: it hands the newest table to every gateway and remembers what they report.
// All methods are safe for concurrent use. A Hub owns no goroutine; streams live in the HTTP server's.
type Hub struct {
	cfg    HubConfig
	newest atomic.Pointer[encoded]
	wakes  wakeGroup
	loads  loadBook
	since  time.Time // when it began to count invocations

	streams atomic.Int64 // gateways that listen for tables
	cancels cancels
}

// encoded is one published table with its line on the wire.
type encoded struct {
	Snapshot
	line []byte
}

// NewHub checks cfg and returns a hub without a table. Until the first Publish, gateways that connect get
// heartbeats and go on with the last table of an earlier provider.
func NewHub(cfg HubConfig) (*Hub, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the feed hub: %w", err)
	}
	h := &Hub{cfg: cfg, since: time.Now()}
	h.newest.Store(&encoded{Snapshot: Snapshot{Changed: make(chan struct{})}})
	h.loads.init()
	h.cancels.init()
	return h, nil
}

// Handler serves the hub's routes. It does no authentication: the provider wraps it like its other routes.
//
//	GET  /feed/table   ndjson: the newest table at once and whenever it changes; empty lines are heartbeats;
//	                   {"cancel":<call id>} is an asynchronous call that whoever has it is to cancel
//	POST /feed/load    one Report
//	POST /feed/usage   one UsageReport
//	POST /feed/wake    {"name":…,"namespace":…}; 202 once replicas have been asked for, 404 for an unknown function
//	GET  /feed/deployed?name=…&namespace=…  204 if the function exists in Swarm now, 404 if not
//	POST /feed/cancel  {"cancel":<call id>}; 202 once every gateway that listens, or comes back soon, will be told;
//	                   404 if all that do and did lately have said that they have no such call
//	POST /feed/cancelled  {"cancel":<call id>,"gateway":…,"epoch":…,"known":…}: a gateway's answer to the former
func (h *Hub) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /feed/table", h.serveTable)
	mux.HandleFunc("POST /feed/load", h.serveLoad)
	mux.HandleFunc("POST /feed/usage", h.serveUsage)
	mux.HandleFunc("POST /feed/wake", h.serveWake)
	mux.HandleFunc("GET /feed/deployed", h.serveDeployed)
	mux.HandleFunc("POST /feed/cancel", h.serveCancel)
	mux.HandleFunc("POST /feed/cancelled", h.serveCancelled)
	return mux
}

// decode reads one JSON value of at most limit bytes, or answers 400 or 413 and reports false.
func decode(w http.ResponseWriter, r *http.Request, limit int64, into any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit)).Decode(into)
	if err == nil {
		return true
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("body is larger than %d bytes", limit), http.StatusRequestEntityTooLarge)
	} else {
		http.Error(w, "decoding the body: "+err.Error(), http.StatusBadRequest)
	}
	return false
}
