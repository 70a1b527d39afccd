package watchdog

import (
	"context"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
)

// ServeHTTP is one request's way: probe or function, place among max_inflight, handler, metrics.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_/") {
		s.probe(w, r)
		return
	}
	start := time.Now()
	running := s.metrics.inflight.Add(1)
	defer s.metrics.inflight.Add(-1)
	if limit := s.config.MaxInflight; limit > 0 && running > int64(limit) {
		s.refuse(w)
		s.metrics.observe(http.StatusTooManyRequests, r.Method, time.Since(start))
		return
	}
	status := s.invoke(w, r, start)
	took := time.Since(start)
	s.metrics.observe(status, r.Method, took)
	if s.config.LogRequests {
		s.config.Logger.Info("request", "method", r.Method, "path", r.URL.Path, "status", status,
			"seconds", took.Seconds(), "call_id", r.Header.Get("X-Call-Id"))
	}
}

// invoke runs the handler on the connection's own goroutine. At the time limit its context ends, and 504 is answered
// in its place. Nothing is buffered, and no goroutine is started for the normal case.
func (s *Server) invoke(w http.ResponseWriter, r *http.Request, start time.Time) (status int) {
	reply := newReply(w, start, s.draining.Load())
	if limit, by := s.limit(r); limit > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		reply.limit, reply.by, reply.ctx, r = limit, by, ctx, r.WithContext(ctx)
		defer context.AfterFunc(ctx, reply.expire)()
	}
	defer func() {
		if p := recover(); p != nil {
			s.recovered(reply, r, p)
		}
		status = reply.finish()
	}()
	s.handler.ServeHTTP(reply, r)
	return 0
}

// recovered turns a panic into a 500 and a log entry. http.ErrAbortHandler goes on to net/http, and so does a panic
// after the reply has begun. Cutting the connection is then the only way to tell the caller.
func (s *Server) recovered(reply *reply, r *http.Request, p any) {
	if p == http.ErrAbortHandler { //nolint:errorlint // a panic's value, which net/http compares in the same way
		panic(p)
	}
	s.config.Logger.Error("handler panicked", "panic", p, "method", r.Method, "path", r.URL.Path,
		"call_id", r.Header.Get("X-Call-Id"), "stack", string(debug.Stack()))
	if !reply.internalError() {
		panic(http.ErrAbortHandler)
	}
}

// limit is exec_timeout, or what the caller asks for with X-Timeout if that is less, and says which.
func (s *Server) limit(r *http.Request) (limit time.Duration, by string) {
	limit, by = s.config.ExecTimeout, "its exec_timeout"
	values := r.Header["X-Timeout"]
	if len(values) == 0 {
		return limit, by
	}
	asked, err := time.ParseDuration(values[0])
	if err != nil || asked <= 0 || (limit > 0 && asked > limit) {
		return limit, by
	}
	return asked, "the caller's X-Timeout"
}
