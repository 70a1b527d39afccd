// Package watchdog is the HTTP server around a function's handler: what OpenFaaS expects of a function's container.
//
// In: requests from a gateway on port 8080, probes of /_/health and /_/ready, SIGTERM as the end of Run's context.
// Out: the handler's replies, 429 and 504 of its own (marked X-OpenFaaS-Internal), metrics on port 8081.
//
// It guarantees that an accepted request is finished or answered 504 within exec_timeout, and that never more than
// max_inflight run at once. At a stop, first gateways notice, then running requests end, then the handler flushes.
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// internalHeader marks replies that are not the function's own; gateways and queue workers look for it.
	internalHeader = "X-Openfaas-Internal"
	internalValue  = "go-http"

	// maxHeaderBytes is far above what gateways let pass, and bounds memory per connection.
	maxHeaderBytes = 64 << 10
	// idleTimeout outlasts the idle connections that gateways keep, so that gateways close them. A connection closed
	// from this side while a request is on its way would fail that request.
	idleTimeout = 10 * time.Minute
	// flushTimeout and metricsTimeout are for small local work.
	flushTimeout   = 5 * time.Second
	metricsTimeout = 2 * time.Second
)

// readier and flusher are what a function's handler may implement besides http.Handler.
type readier interface{ Ready() error }
type flusher interface {
	Shutdown(ctx context.Context) error
}

// Server serves one function. Build it with New; Run it once.
type Server struct {
	config   Config
	handler  http.Handler
	ready    func() error
	metrics  *metrics
	draining atomic.Bool
	public   net.Listener
	private  net.Listener
}

// New opens both ports, so that a port in use is an error here; it starts nothing.
func New(config Config) (*Server, error) {
	if config.Handler == nil {
		return nil, errors.New("the function's New returned neither a handler nor an error")
	}
	s := &Server{config: config, handler: config.Handler, metrics: newMetrics(), ready: func() error { return nil }}
	if r, ok := config.Handler.(readier); ok {
		s.ready = r.Ready
	}
	var err error
	if s.public, err = net.Listen("tcp", ":"+strconv.Itoa(config.Port)); err != nil {
		return nil, fmt.Errorf("listening for requests (port=%d): %w", config.Port, err)
	}
	if s.private, err = net.Listen("tcp", ":"+strconv.Itoa(config.MetricsPort)); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for metrics (metrics_port=%d): %w", config.MetricsPort, err), s.public.Close())
	}
	return s, nil
}

// Addr is where the function answers.
func (s *Server) Addr() net.Addr { return s.public.Addr() }

// MetricsAddr is where /metrics answers.
func (s *Server) MetricsAddr() net.Addr { return s.private.Addr() }

// Run serves until ctx ends, then drains: unready at once, DrainWait as usual, up to WriteTimeout for the requests
// still running, then the handler's Shutdown. It returns nil after a complete drain.
func (s *Server) Run(ctx context.Context) error {
	public := &http.Server{
		Handler:           s,
		ReadTimeout:       s.config.ReadTimeout,
		ReadHeaderTimeout: s.config.ReadTimeout,
		WriteTimeout:      s.config.WriteTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	private := &http.Server{Handler: s.metricsHandler(), ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout}
	failed := make(chan error, 2)
	go func() { failed <- public.Serve(s.public) }()
	go func() { failed <- private.Serve(s.private) }()

	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	if err == nil {
		s.config.Logger.Info("function draining", "inflight", s.metrics.inflight.Load())
		time.Sleep(s.config.DrainWait) //nolint:forbidigo // nothing may shorten it: gateways need this long to see "draining"
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.WriteTimeout)
	defer cancel()
	if stopErr := public.Shutdown(drain); stopErr != nil {
		err = errors.Join(err, fmt.Errorf("waiting write_timeout (%s) for %d running requests: %w",
			s.config.WriteTimeout, s.metrics.inflight.Load(), stopErr), public.Close())
	}
	err = errors.Join(err, Flush(context.WithoutCancel(ctx), s.handler), private.Close())
	s.config.Logger.Info("function drained")
	return err
}

// Flush calls the handler's Shutdown, if it has one, with a bound of its own.
func Flush(ctx context.Context, handler http.Handler) error {
	f, ok := handler.(flusher)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := f.Shutdown(ctx); err != nil {
		return fmt.Errorf("shutting the function down: %w", err)
	}
	return nil
}

// probe answers /_/health and /_/ready. Health is about this process alone: an engine restarts a container whose
// check fails, and a restart cures nothing that lies outside it. Ready is about whether to send requests here.
func (s *Server) probe(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/_/health" && r.URL.Path != "/_/ready" {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if s.draining.Load() {
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path == "/_/ready" {
		if limit := s.config.MaxInflight; limit > 0 && s.metrics.inflight.Load() >= int64(limit) {
			s.refuse(w)
			return
		}
		if err := s.ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("OK"))
}

func (s *Server) refuse(w http.ResponseWriter) {
	w.Header().Set(internalHeader, internalValue)
	w.Header().Set("Retry-After", "1")
	http.Error(w, fmt.Sprintf("max_inflight of %d requests reached", s.config.MaxInflight), http.StatusTooManyRequests)
}
