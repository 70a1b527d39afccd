// Package gateway is the public edge: it takes HTTP/1.1 and HTTP/2 from clients, with and without TLS, and hands each
// request to a replica.
//
// In: client connections, the replica table from provider/feed. Out: requests to replicas (and /system/ to the
// provider), load reports, metrics.
//
// It guarantees that a request is processed at most once, unless its function or its method says that twice is
// harmless. A replica known to be draining gets none. A response that broke off is never passed on as whole. Every
// wait and every buffer has a bound. While the provider is away the gateway works on from the last table.
//
// # Reading order
//
// A request passes the files in this order. Each calls those below it, and none above. The one exception: a request
// or an attempt answers its client through answer.go.
//
//	server.go, tls.go, inner.go         listeners; connections are let in; a sweep enforces every deadline
//	conn.go, http2.go                   a client's connection reads one head after the other
//	request.go, body.go, buffers.go     what has come in, and the memory it may take
//	routes.go, client.go                which path is answered by whom, with what credentials, at what rate
//	  home.go, answer.go, page.go       the gateway's own answers
//	  async.go, intake.go, cancel.go    calls that are stored for later
//	  invoke.go, unknown.go, cors.go    which function is meant
//	attempt.go, forward.go, judge.go    an attempt at a replica, and what follows if it fails
//	rewrite.go                          heads, in both directions
//	relay.go, upload.go, tunnel.go      the response, a body that was not kept, a switched protocol
//
// Around them: gateway.go and config.go; report.go, metrics.go, accesslog.go. Parsing is http1's, streams are http2's,
// picking and probing upstream's, system calls sock's, certificates certs'.
//
// conn, request and attempt are no package of their own. They share the hand-over of deadlines, the buffers and the
// counters. An interface between them and Gateway would have as many names as the package has now: routes, registry,
// budgets, metrics, credentials, queue, feed. What had a small interface is a package below.
//
// # Decisions
//
//   - The engine forwards HTTP/1.1 by itself instead of using net/http and ReverseProxy. It is the hot path of
//     everything; deploy/lab/bench/RESULTS.md has the ratios. It has no header maps, and no goroutine or timer per
//     request: one sweep each 250 ms enforces all deadlines. System calls are tried before the runtime's poller.
//     Buffers are borrowed only once bytes are there. A round trip allocates nothing.
//   - A short body is kept so that its request can be sent again. The buffer grows with the bytes. All bodies together
//     may take 64 MiB beyond the small buffer of each request. One that finds no room is uploaded as it comes.
//   - Bytes that are passed on hold a buffer only while their receiver takes them. Beyond 64 MiB of such buffers they
//     are 4 KiB instead of 32: many clients that read nothing must not take all memory.
//   - X-OpenFaaS-Internal leaves the gateway with the value gateway. A 429 of a replica's own watchdog means that the
//     function never saw the request, which then goes elsewhere. One that a function passes on has crossed a gateway
//     and is the function's answer.
//   - upstream_timeout bounds silence, not the exchange: the wait for a response's head, and each pause within its
//     body. A function that is too late is a 504.
//   - "Never processed" has to be proved before a request is sent again without permission. A reset alone proves
//     nothing, since acknowledgements lag. It counts only if the peer closed in order first and the kernel says that
//     our bytes were not acknowledged. A server may shut down its sending side alone, read another request and then
//     reset. That cannot be told from a close.
//   - A kept connection is checked each time before it is used, at one system call. Bytes that a function sent beyond
//     its answer must not become the next client's.
//   - A client's connection is read to its end before it is closed, for 2 s or 1 MiB at most. Unread bytes would reset
//     it and destroy what of the response is still to be sent.
//   - The plain port refuses what it must not redirect. With tls_redirect, a POST or a call with credentials gets 403,
//     since a redirect would let it go on unencrypted. Callers inside the Swarm then use https as well.
package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"waggle/provider/feed"
	"waggle/provider/gateway/certs"
	"waggle/provider/gateway/http2"
	"waggle/provider/gateway/ratelimit"
	"waggle/provider/gateway/sock"
	"waggle/provider/gateway/upstream"
	"waggle/provider/gateway/usage"
)

// Gateway is one running edge. Make it with New, run it once with Run.
type Gateway struct {
	cfg       Config
	registry  *upstream.Registry
	feed      *feed.Client  // nil if a fixed table is served
	usage     *usage.Reader // nil if what replicas consume is not read
	provider  *upstream.Set
	metrics   *metrics
	limiter   *ratelimit.Limiter // nil: no bound
	trusted   []netip.Prefix
	accessLog sampler
	certs     *certs.Store // nil without TLS
	http2     http2.Config
	reports   reporter
	servedBy  string
	epoch     string
	hostname  string

	// clock is the time since startedAt in nanoseconds, a sweep old at most: exact enough for every deadline. Nobody can set it.
	clock atomic.Int64
	// thawed is when, by clock, the sweep last found that the process had been stopped; 0: never.
	thawed atomic.Int64
	// Bounds of the memory of bodies. They are for asynchronous calls until they are stored, short ones until they
	// are answered, and all being passed on. The fourth budget is http2.Unread.
	asyncBudget, bodyBudget, relayBudget sock.Budget
	// cancels are calls to be cancelled for other gateways' clients; asked bounds what this one's ask of the others.
	cancels chan string
	asked   sampler

	startedAt time.Time
	// tables fires whenever a table has been put to use; tableArrived says that the first one has.
	tables       broadcast
	tableArrived atomic.Bool
	// heldUnlisted counts the requests for functions that no table has; see unknown.go.
	heldUnlisted atomic.Int64
	unknown      unknownNames

	// unready is set when shutdown begins, draining once connections are to be closed after their request, stopping
	// once requests are cut.
	unready, draining, stopping atomic.Bool

	mu      sync.Mutex
	conns   map[*conn]struct{} // guarded by mu
	clients int                // guarded by mu; those of conns that are clients' connections
	streams int                // guarded by mu; those of conns that are streams of HTTP/2
	perIP   map[string]int     // guarded by mu
	open    sync.WaitGroup     // connections being served
}

// New checks cfg; it opens nothing and starts nothing.
func New(cfg Config) (*Gateway, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuring the gateway: %w", err)
	}
	g := &Gateway{cfg: cfg, servedBy: "waggle/" + cfg.Release, epoch: rand.Text(), startedAt: time.Now(),
		conns: make(map[*conn]struct{}), perIP: make(map[string]int), cancels: make(chan string, maxCancels)}
	g.asyncBudget.Most, g.bodyBudget.Most, g.relayBudget.Most = intakeRoom, bodyRoom, relayRoom
	g.asked.most, g.unknown.rate.most = maxCancels, maxAsks
	var err error
	if g.trusted, err = cfg.trustedProxies(); err != nil {
		return nil, fmt.Errorf("configuring the gateway: %w", err)
	}
	if cfg.RateLimit > 0 {
		g.limiter = ratelimit.New(cfg.RateLimit, cfg.RateBurst)
	}
	if g.hostname, err = os.Hostname(); err != nil {
		return nil, fmt.Errorf("configuring the gateway: %w", err)
	}
	g.reports = reporter{gateway: g, said: make(map[*upstream.Set]said)}
	g.accessLog.most = uint64(cfg.AccessLog)
	g.metrics = newMetrics(cfg.Registry, g)
	if c := cfg.certificates(); c.On() {
		if g.certs, err = certs.New(c); err != nil {
			return nil, fmt.Errorf("configuring the gateway: %w", err)
		}
	}
	g.http2 = cfg.http2(g.clock.Load)
	g.registry, err = upstream.New(upstream.Config{
		DefaultNamespace:  cfg.FunctionNamespace,
		Node:              cfg.NodeID,
		MaxWaiting:        cfg.MaxHeld,
		MaxIdlePerReplica: cfg.MaxIdleConnsPerHost,
		UnreachableAfter:  cfg.HoldTimeout,
		Wake:              g.wake,
		Resolve:           cfg.Resolve,
		ProviderGone:      func() bool { return g.providerGone() || g.noTable() },
		NewStats:          g.statsOf,
		Removed:           func(s *upstream.Set) { g.metrics.forget(s.Label) },
		Ejected:           g.ejected,
		Logger:            cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("configuring the gateway: %w", err)
	}
	if address, _ := cfg.providerAddress(); address != "" {
		g.provider = g.registry.Fixed("provider", address)
		g.feed, err = feed.NewClient(feed.ClientConfig{URL: cfg.ProviderURL, User: cfg.Credentials.User, Password: cfg.Credentials.Password,
			Report: g.reports.whole, Urgent: g.reports.urgent, Cancelled: g.cancelled, Logger: cfg.Logger})
		if err != nil {
			return nil, fmt.Errorf("configuring the gateway: %w", err)
		}
	}
	if g.feed != nil && cfg.UsageInterval > 0 {
		g.usage, err = usage.New(usage.Config{Table: func() feed.Table { return g.feed.Newest().Table }, Report: g.feed.ReportUsage,
			Interval: cfg.UsageInterval, Registerer: cfg.Registry, Logger: cfg.Logger})
		if err != nil {
			return nil, fmt.Errorf("configuring the gateway: %w", err)
		}
	}
	if cfg.Table != nil {
		g.apply(*cfg.Table)
	}
	return g, nil
}

// Run serves until ctx is done, then stops in order: unready, no new connections, requests under way finish. The feed
// and the registry, which those need, stop last. It returns an error only if it could not start or a server broke.
func (g *Gateway) Run(ctx context.Context) error {
	listeners, err := g.listenForClients()
	if err != nil {
		return err
	}
	defer closeListeners(listeners)
	metricsListener, err := listen(g.cfg.MetricsListener, g.cfg.MetricsPort)
	if err != nil {
		return fmt.Errorf("listening for metrics: %w", err)
	}
	defer metricsListener.Close()
	g.boundConns()
	for _, l := range listeners {
		g.cfg.Logger.Info("gateway started", "address", l.Addr().String(), "tls", l.config != nil, "metrics", metricsListener.Addr().String())
	}

	// What requests need lives in a second lifetime that ends after the last of them.
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopInner()
	group, inner := errgroup.WithContext(inner)
	outer, stopOuter := context.WithCancel(ctx)
	defer stopOuter()
	context.AfterFunc(inner, stopOuter) // a part that breaks ends the whole
	group.Go(func() error { return g.registry.Run(inner) })
	group.Go(func() error { return g.followTable(inner) })
	group.Go(func() error { return g.sweep(inner) })
	group.Go(func() error { return g.runCancels(inner) })
	group.Go(func() error { return g.serveMetrics(inner, metricsListener) })
	if g.feed != nil {
		group.Go(func() error { return g.feed.Run(inner) })
	}
	if g.usage != nil {
		group.Go(func() error { return g.usage.Run(inner) })
	}
	if g.certs != nil {
		group.Go(func() error { return g.certs.Run(inner) })
	}
	accepting := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { accepting <- g.acceptAll(l) }()
	}

	var acceptErr error
	accepts := len(listeners)
	select {
	case acceptErr = <-accepting:
		accepts--
	case <-outer.Done():
	}
	g.shutdown(listeners)
	for range accepts {
		acceptErr = errors.Join(acceptErr, <-accepting)
	}
	stopInner()
	return errors.Join(acceptErr, group.Wait())
}

func listen(given net.Listener, port int) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	return net.Listen("tcp", fmt.Sprintf(":%d", port))
}

// shutdown ends the connections. First /healthz turns 503 for a while; then idle connections close, the others after
// their request. At the deadline whoever still waits for an answer is told that the gateway stops. What is left then,
// such as streams, is cut.
func (g *Gateway) shutdown(listeners []listener) {
	g.unready.Store(true)
	g.cfg.Logger.Info("gateway unready", "delay", g.cfg.ShutdownDelay.String())
	time.Sleep(g.cfg.ShutdownDelay) //nolint:forbidigo // nothing may shorten it: balancers need this long to see the 503
	g.mu.Lock()
	g.draining.Store(true) // under mu, so that no connection is admitted once open is waited for
	g.mu.Unlock()
	closeListeners(listeners)
	g.eachConn(func(c *conn) { c.unblockIfIdle() })
	finished := make(chan struct{})
	go func() { g.open.Wait(); close(finished) }()
	timeout := time.NewTimer(g.cfg.ShutdownTimeout)
	defer timeout.Stop()
	select {
	case <-finished:
		g.cfg.Logger.Info("gateway drained")
		return
	case <-timeout.C:
	}
	g.stopping.Store(true)
	g.eachConn(func(c *conn) { c.stop() })
	timeout.Reset(tellStopping)
	select {
	case <-finished:
	case <-timeout.C:
		cut := 0
		g.eachConn(func(c *conn) { c.cut(); cut++ })
		g.cfg.Logger.Warn("requests cut at shutdown", "connections", cut)
		<-finished
	}
	g.cfg.Logger.Info("gateway drained")
}

// tellStopping is the time in which those who still wait at the end of shutdown_timeout are answered.
const tellStopping = time.Second

// followTable applies each new table.
func (g *Gateway) followTable(ctx context.Context) error {
	if g.feed == nil {
		return nil
	}
	for {
		snap := g.feed.Newest()
		if snap.Table.Epoch != "" {
			g.apply(snap.Table)
		}
		select {
		case <-snap.Changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// apply puts a table to use. One goroutine at a time calls it.
func (g *Gateway) apply(t feed.Table) {
	g.registry.Apply(t)
	g.unknown.forget()
	g.tableArrived.Store(true)
	g.tables.fire()
}

// serveMetrics serves them to whoever has the API's credentials: functions, which share a network with the gateway and so
// reach the port, have not.
func (g *Gateway) serveMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	metrics := promhttp.HandlerFor(g.cfg.Registry, promhttp.HandlerOpts{})
	mux.HandleFunc("GET "+metricsPath, func(w http.ResponseWriter, r *http.Request) {
		if !g.cfg.Credentials.Accepts(r.Header.Get("Authorization")) {
			w.Header().Set("WWW-Authenticate", `Basic realm="Restricted"`)
			http.Error(w, "invalid credentials", http.StatusUnauthorized)
			return
		}
		metrics.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET "+healthPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK")) })
	server := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 15 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

func (g *Gateway) wake(ctx context.Context, name, namespace string) error {
	if g.feed == nil {
		return errors.New("there is no provider")
	}
	g.cfg.Logger.Info("waking a function", "function", name, "namespace", namespace)
	return g.feed.Wake(ctx, name, namespace)
}

func (g *Gateway) providerGone() bool {
	if g.feed == nil {
		return true
	}
	_, gone := g.feed.GoneSince()
	return gone
}

// statsOf makes the stats of a function; the provider, which has no namespace, is none.
func (g *Gateway) statsOf(s *upstream.Set) any {
	if s.Namespace == "" {
		return nil
	}
	return g.metrics.function(s.Label)
}

func (g *Gateway) ejected(s *upstream.Set, r *upstream.Replica, reason string) {
	g.metrics.happened(g.metrics.ejections, s.Label, reason)
	g.cfg.Logger.Warn("replica out of rotation", "function", s.Name, "namespace", s.Namespace, "replica", r.ID(), "reason", reason)
}
