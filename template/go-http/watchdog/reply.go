package watchdog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// reply is the ResponseWriter a handler gets. Its own header map keeps the handler's goroutine and the timer's apart:
// whoever first takes the lock decides between the handler's reply and the 504.
type reply struct {
	start    time.Time
	draining bool
	header   http.Header
	// ctx is the request's, with the time limit; nil: there is none. A handler that returns because it has ended must
	// not win over the 504. So it is checked whenever a reply begins.
	ctx   context.Context //nolint:containedctx // it lives as long as the reply
	limit time.Duration
	by    string // whose limit it is

	// mu guards what follows, and every call on w.
	mu       sync.Mutex
	w        http.ResponseWriter
	status   int
	expired  bool
	hijacked bool
}

// newReply makes one reply per request. They are not pooled: a handler that keeps its writer too long would then
// write into a stranger's reply.
func newReply(w http.ResponseWriter, start time.Time, draining bool) *reply {
	return &reply{w: w, start: start, draining: draining, header: make(http.Header, 8)}
}

// Header is the handler's own map; it is copied when the reply begins.
func (r *reply) Header() http.Header { return r.header }

// WriteHeader begins the reply; 1xx codes are passed on and begin nothing.
func (r *reply) WriteHeader(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin(status)
}

// Write begins the reply if need be. After the time limit it fails with http.ErrHandlerTimeout.
func (r *reply) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin(http.StatusOK)
	if r.expired {
		return 0, http.ErrHandlerTimeout
	}
	return r.w.Write(p)
}

// begin needs the lock.
func (r *reply) begin(status int) {
	if r.status != 0 || r.expired || r.hijacked {
		return
	}
	if r.late() {
		r.timeOut()
		return
	}
	header := r.w.Header()
	for name, values := range r.header {
		header[name] = values
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		r.w.WriteHeader(status)
		return
	}
	header["X-Duration-Seconds"] = []string{seconds(time.Since(r.start))}
	if r.draining {
		header["Connection"] = []string{"close"}
	}
	r.status = status
	r.w.WriteHeader(status)
}

func seconds(d time.Duration) string {
	var digits [24]byte
	return string(strconv.AppendFloat(digits[:0], d.Seconds(), 'f', 6, 64))
}

// late reports whether the time limit has passed. A caller that has gone is something else.
func (r *reply) late() bool {
	return r.ctx != nil && errors.Is(r.ctx.Err(), context.DeadlineExceeded)
}

// expire runs when the context has ended, and answers 504 unless the reply has begun.
func (r *reply) expire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.late() && r.status == 0 && !r.hijacked && !r.expired {
		r.timeOut()
	}
}

// timeOut needs the lock. The handler may still be reading the body: the read deadline ends that, and full duplex
// keeps net/http from waiting for it before it writes.
func (r *reply) timeOut() {
	r.expired = true
	body := fmt.Sprintf("the function did not answer within %s, %s\n", r.limit, r.by)
	header := r.w.Header()
	header["Content-Type"] = []string{"text/plain; charset=utf-8"}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	header["Connection"] = []string{"close"}
	header[internalHeader] = []string{internalValue}
	header["X-Duration-Seconds"] = []string{seconds(time.Since(r.start))}
	r.status = http.StatusGatewayTimeout
	control := http.NewResponseController(r.w)
	_ = control.EnableFullDuplex()
	_ = control.SetWriteDeadline(time.Now().Add(time.Second))
	r.w.WriteHeader(http.StatusGatewayTimeout)
	_, _ = r.w.Write([]byte(body))
	_ = control.Flush()
	_ = control.SetReadDeadline(time.Now())
}

// internalError answers 500 if the reply has not begun, and reports whether the caller has been told.
func (r *reply) internalError() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status != 0 || r.hijacked {
		return r.expired
	}
	if r.late() {
		r.begin(http.StatusOK) // which is the 504
		return true
	}
	clear(r.header)
	r.header[internalHeader] = []string{internalValue}
	r.header["Content-Type"] = []string{"text/plain; charset=utf-8"}
	r.begin(http.StatusInternalServerError)
	_, _ = r.w.Write([]byte("the function failed\n"))
	return true
}

// finish completes a reply that the handler left empty, hands its trailers over, and returns the status.
func (r *reply) finish() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hijacked {
		return http.StatusSwitchingProtocols
	}
	r.begin(http.StatusOK)
	if r.expired {
		return r.status
	}
	declared := r.header["Trailer"]
	header := r.w.Header()
	for name, values := range r.header {
		if strings.HasPrefix(name, http.TrailerPrefix) || (len(declared) > 0 && header[name] == nil) {
			header[name] = values
		}
	}
	return r.status
}

// Flush sends what was written so far; with FlushError, Hijack and the deadlines it is what http.ResponseController
// looks for. There is no Unwrap on purpose: it would hand out a writer that the lock does not guard.
func (r *reply) Flush() { _ = r.FlushError() }

// FlushError is Flush with its error.
func (r *reply) FlushError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin(http.StatusOK)
	if r.expired {
		return http.ErrHandlerTimeout
	}
	return http.NewResponseController(r.w).Flush()
}

// Hijack gives the connection to the handler and lifts the time limit, as a WebSocket needs.
func (r *reply) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.expired {
		return nil, nil, http.ErrHandlerTimeout
	}
	conn, buffer, err := http.NewResponseController(r.w).Hijack()
	r.hijacked = err == nil
	return conn, buffer, err
}

// SetReadDeadline, SetWriteDeadline and EnableFullDuplex act on the connection, until the time limit.
func (r *reply) SetReadDeadline(t time.Time) error {
	return r.controlled(func(c *http.ResponseController) error { return c.SetReadDeadline(t) })
}

// SetWriteDeadline: see SetReadDeadline.
func (r *reply) SetWriteDeadline(t time.Time) error {
	return r.controlled(func(c *http.ResponseController) error { return c.SetWriteDeadline(t) })
}

// EnableFullDuplex: see SetReadDeadline.
func (r *reply) EnableFullDuplex() error {
	return r.controlled((*http.ResponseController).EnableFullDuplex)
}

func (r *reply) controlled(do func(*http.ResponseController) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.expired {
		return http.ErrHandlerTimeout
	}
	return do(http.NewResponseController(r.w))
}
