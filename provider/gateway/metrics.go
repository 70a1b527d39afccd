package gateway

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"waggle/provider/gateway/upstream"
)

// metrics are the gateway's own; the names and labels of the first group are OpenFaaS's, byte for byte.
type metrics struct {
	invocations *prometheus.CounterVec   // function_name, code
	seconds     *prometheus.HistogramVec // function_name, code
	started     *prometheus.CounterVec   // function_name

	requests     *prometheus.CounterVec   // method, path, status: the API
	requestTime  *prometheus.HistogramVec // method, path, status
	retries      *prometheus.CounterVec   // function_name, reason
	ejections    *prometheus.CounterVec   // function_name, reason
	held         *prometheus.CounterVec   // function_name
	refused      *prometheus.CounterVec   // status: requests refused before they had a function
	connections  prometheus.Gauge
	connsRefused prometheus.Counter
	handshakes   prometheus.Counter     // TLS handshakes that failed
	http2Errors  *prometheus.CounterVec // code: connections ended for a fault of the client's

	mu        sync.Mutex
	functions map[string]bool // guarded by mu; by label: those that may have series
}

func newMetrics(reg prometheus.Registerer, g *Gateway) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		functions:   make(map[string]bool),
		invocations: counter("gateway_function_invocation_total", "Function invocations completed.", "function_name", "code"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gateway_functions_seconds",
			Help: "Time from a request's head to the end of its response."}, []string{"function_name", "code"}),
		started:  counter("gateway_function_invocation_started", "Function invocations started.", "function_name"),
		requests: counter("http_requests_total", "API requests completed.", "method", "path", "status"),
		requestTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "http_request_duration_seconds",
			Help: "Time to answer an API request."}, []string{"method", "path", "status"}),
		retries:      counter("gateway_retries_total", "Requests sent again, to another replica or connection.", "function_name", "reason"),
		ejections:    counter("gateway_replica_ejections_total", "Replicas taken out of rotation until a probe succeeds.", "function_name", "reason"),
		held:         counter("gateway_held_total", "Requests that had to wait for a replica.", "function_name"),
		refused:      counter("gateway_refused_requests_total", "Requests refused before they reached a function or the API.", "status"),
		connections:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "gateway_client_connections", Help: "Open client connections."}),
		connsRefused: prometheus.NewCounter(prometheus.CounterOpts{Name: "gateway_client_connections_refused_total", Help: "Client connections refused by a bound."}),
		handshakes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "gateway_tls_handshake_errors_total", Help: "TLS handshakes that failed."}),
		http2Errors:  counter("gateway_http2_connection_errors_total", "HTTP/2 connections ended for a fault of the client's.", "code"),
	}
	reg.MustRegister(m.invocations, m.seconds, m.started, m.requests, m.requestTime, m.retries, m.ejections, m.held,
		m.refused, m.connections, m.connsRefused, m.handshakes, m.http2Errors, newGauges(g),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// functionStats are one function's handles, resolved once so that an invocation neither hashes labels nor allocates.
type functionStats struct {
	m       *metrics
	label   string
	started prometheus.Counter
	byCode  [600]atomic.Pointer[codeStats]
}

type codeStats struct {
	total   prometheus.Counter
	seconds prometheus.Observer
}

// function begins the life of label's series, which forget ends.
func (m *metrics) function(label string) *functionStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.functions[label] = true
	return &functionStats{m: m, label: label, started: m.started.WithLabelValues(label)}
}

// ifKnown calls f unless the function has been forgotten. A request may outlive its function and must not bring its
// series back.
func (m *metrics) ifKnown(label string, f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.functions[label] {
		f()
	}
}

// happened counts one of what v counts of a function.
func (m *metrics) happened(v *prometheus.CounterVec, label string, rest ...string) {
	m.ifKnown(label, func() { v.WithLabelValues(append([]string{label}, rest...)...).Inc() })
}

// What requests count on whose function has been forgotten; no scrape shows it.
var (
	unseenCounter  = prometheus.NewCounter(prometheus.CounterOpts{Name: "unseen"})
	unseenObserver = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "unseen"})
)

func (f *functionStats) completed(code int, took time.Duration) {
	if code < 0 || code >= len(f.byCode) {
		code = 0
	}
	s := f.byCode[code].Load()
	if s == nil {
		text := strconv.Itoa(code)
		s = &codeStats{total: unseenCounter, seconds: unseenObserver}
		f.m.ifKnown(f.label, func() {
			s.total, s.seconds = f.m.invocations.WithLabelValues(f.label, text), f.m.seconds.WithLabelValues(f.label, text)
		})
		f.byCode[code].Store(s)
	}
	s.total.Inc()
	s.seconds.Observe(took.Seconds())
}

// forget removes every series of a function that no longer exists.
func (m *metrics) forget(label string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.functions, label)
	match := prometheus.Labels{"function_name": label}
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.invocations, m.seconds, m.started, m.retries, m.ejections, m.held} {
		v.DeletePartialMatch(match)
	}
}

// gauges reads what the replica table and the registry say at the moment of a scrape.
type gauges struct {
	g *Gateway

	desired, ready, minimum, target, inflight, queued *prometheus.Desc // of each function
	connected, buffered, unread                       *prometheus.Desc
}

func newGauges(g *Gateway) *gauges {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &gauges{
		g:         g,
		desired:   desc("gateway_service_count", "Replicas wanted.", "function_name"),
		ready:     desc("gateway_service_ready_count", "Replicas in rotation.", "function_name"),
		minimum:   desc("gateway_service_min", "Lower bound of replicas.", "function_name"),
		target:    desc("gateway_service_target_load", "Load per replica that the autoscaler aims at.", "function_name", "scaling_type"),
		inflight:  desc("gateway_function_invocation_inflight", "Invocations being forwarded.", "function_name"),
		queued:    desc("gateway_queue_depth", "Requests waiting for a replica.", "function_name"),
		connected: desc("gateway_provider_connected", "1 while the provider can be heard."),
		buffered:  desc("gateway_buffered_bytes", "Memory taken by short bodies that are kept until they are answered."),
		unread:    desc("gateway_http2_unread_bytes", "Memory taken by bodies over HTTP/2 that nobody has read yet; at its bound, requests are reset."),
	}
}

// Describe implements prometheus.Collector.
func (c *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.desired, c.ready, c.minimum, c.target, c.inflight, c.queued, c.connected, c.buffered, c.unread} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	connected := 1.0
	if c.g.providerGone() {
		connected = 0
	}
	gauge(c.connected, connected)
	gauge(c.buffered, float64(c.g.bodyBudget.Used()))
	gauge(c.unread, float64(c.g.http2.Unread.Used()))
	for _, s := range c.g.registry.Sets() {
		c.collect(s, gauge)
	}
}

func (c *gauges) collect(s *upstream.Set, gauge func(*prometheus.Desc, float64, ...string)) {
	fn := s.Function()
	gauge(c.desired, float64(fn.Desired), s.Label)
	gauge(c.ready, float64(s.Ready()), s.Label)
	gauge(c.minimum, float64(fn.Scale.Min), s.Label)
	gauge(c.inflight, float64(s.Inflight()), s.Label)
	gauge(c.queued, float64(s.Queued()), s.Label)
	if fn.Scale.Type != "" {
		gauge(c.target, fn.Scale.Target, s.Label, string(fn.Scale.Type))
	}
}
