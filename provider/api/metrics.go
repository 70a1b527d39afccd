package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carries the names that dashboards for OpenFaaS providers ask for.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(registerer prometheus.Registerer) metrics {
	labels := []string{"code", "method", "path"}
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provider_http_requests_total",
			Help: "Requests to the provider."}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "provider_http_request_duration_seconds",
			Help: "Time until a request was answered."}, labels),
	}
	registerer.MustRegister(m.requests, m.duration)
	return m
}

// observe counts by route, never by path: paths hold names, of which there is no end.
func (m metrics) observe(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		mux.ServeHTTP(recorder, r)
		labels := prometheus.Labels{"code": strconv.Itoa(recorder.status), "method": method(r.Method), "path": path(r.Pattern)}
		m.requests.With(labels).Inc()
		m.duration.With(labels).Observe(time.Since(started).Seconds())
	})
}

// path is the route without its method; a request that no route fits is counted under one name.
func path(pattern string) string {
	for i := range pattern {
		if pattern[i] == '/' {
			return pattern[i:]
		}
	}
	return "other"
}

func method(name string) string {
	switch name {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete:
		return name
	}
	return "other"
}

// statusRecorder remembers the status. Unwrap lets streams flush and set deadlines through it.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
