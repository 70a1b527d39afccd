package watchdog

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// metricsWriter is what a handler may implement to add lines of its own to /metrics, in Prometheus' text format.
type metricsWriter interface{ WriteMetrics(w io.Writer) }

// methods are the only values of the label method, so that a caller cannot make series; the last stands for the rest.
var methods = [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "other"}

// buckets are the bounds every Prometheus client uses by default, in seconds.
var buckets = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

const firstCode, lastCode = 100, 599

// metrics is a table with a place for every method and code, so that counting needs neither lock nor map. It takes 40
// KiB of pointers, and a series of 104 bytes for each pair that has occurred.
type metrics struct {
	inflight atomic.Int64
	table    [len(methods)][lastCode - firstCode + 1]atomic.Pointer[series]
}

// series holds one pair's observations; bucket i counts those at most buckets[i] and above the bound before.
type series struct {
	nanoseconds atomic.Int64
	counts      [len(buckets) + 1]atomic.Uint64
}

func newMetrics() *metrics { return &metrics{} }

func (m *metrics) observe(status int, method string, took time.Duration) {
	place := &m.table[methodIndex(method)][min(max(status, firstCode), lastCode)-firstCode]
	s := place.Load()
	for s == nil {
		place.CompareAndSwap(nil, new(series))
		s = place.Load()
	}
	bucket, value := 0, took.Seconds()
	for bucket < len(buckets) && value > buckets[bucket] {
		bucket++
	}
	s.counts[bucket].Add(1)
	s.nanoseconds.Add(int64(took))
}

func methodIndex(method string) int {
	for i, name := range methods {
		if name == method {
			return i
		}
	}
	return len(methods) - 1
}

func (s *Server) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		out := bufio.NewWriter(w)
		s.metrics.write(out)
		containerGroup.write(out)
		if own, ok := s.handler.(metricsWriter); ok {
			own.WriteMetrics(out)
		}
		_ = out.Flush()
	})
	return mux
}

// write prints the three metrics in Prometheus' text format, version 0.0.4.
func (m *metrics) write(w io.Writer) {
	fmt.Fprintf(w, "# HELP http_requests_in_flight Requests being served now.\n# TYPE http_requests_in_flight gauge\n")
	fmt.Fprintf(w, "http_requests_in_flight %d\n", m.inflight.Load())
	fmt.Fprintf(w, "# HELP http_requests_total Requests served.\n# TYPE http_requests_total counter\n")
	m.each(func(labels string, s *series) {
		var total uint64
		for i := range s.counts {
			total += s.counts[i].Load()
		}
		fmt.Fprintf(w, "http_requests_total{%s} %d\n", labels, total)
	})
	fmt.Fprintf(w, "# HELP http_request_duration_seconds Time to serve a request.\n# TYPE http_request_duration_seconds histogram\n")
	m.each(func(labels string, s *series) {
		var total uint64
		for i, bound := range buckets {
			total += s.counts[i].Load()
			fmt.Fprintf(w, "http_request_duration_seconds_bucket{%s,le=\"%g\"} %d\n", labels, bound, total)
		}
		total += s.counts[len(buckets)].Load()
		fmt.Fprintf(w, "http_request_duration_seconds_bucket{%s,le=\"+Inf\"} %d\n", labels, total)
		fmt.Fprintf(w, "http_request_duration_seconds_sum{%s} %g\n", labels, time.Duration(s.nanoseconds.Load()).Seconds())
		fmt.Fprintf(w, "http_request_duration_seconds_count{%s} %d\n", labels, total)
	})
}

func (m *metrics) each(visit func(labels string, s *series)) {
	for i := range m.table {
		for j := range m.table[i] {
			if s := m.table[i][j].Load(); s != nil {
				visit(fmt.Sprintf("code=\"%d\",method=\"%s\"", firstCode+j, methods[i]), s)
			}
		}
	}
}
