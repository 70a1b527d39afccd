package gateway

import (
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/upstream"
)

// statusOf is the one table from what went wrong to what the client is told. Statuses below 400 are never its answer;
// 499 is not sent, it stands in metrics for a client that left.
func statusOf(err error) int {
	var malformed *http1.Error
	var unreachable *upstream.UnreachableError
	var refusal interface{ HTTPStatus() int }
	switch {
	case errors.As(err, &malformed):
		return malformed.Status
	case errors.As(err, &refusal): // of the queue
		return refusal.HTTPStatus()
	case errors.Is(err, upstream.ErrRemoved):
		return 404
	case errors.Is(err, upstream.ErrLeft):
		return 499
	case errors.As(err, &unreachable):
		return 503
	case errors.Is(err, upstream.ErrNotReady), errors.Is(err, upstream.ErrAsleep), errors.Is(err, upstream.ErrBusy),
		errors.Is(err, upstream.ErrQueueFull), errors.Is(err, upstream.ErrStale), errors.Is(err, upstream.ErrTooManyLookups),
		errors.Is(err, errNoTable), errors.Is(err, errNotListed), errors.Is(err, errUnsure), errors.Is(err, errManySearches):
		return 503
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 504
	}
	return 502
}

// clientError is the status for a failed read from, or write to, the client.
func (rq *request) clientError(err error) int {
	if errors.Is(err, os.ErrDeadlineExceeded) && !rq.c.left.Load() {
		rq.c.sock.Rearm()
		return 408
	}
	rq.c.left.Store(true)
	return 499
}

// refuseHead answers a request whose head could not be read; its end is unknown, so the connection ends with it.
func (rq *request) refuseHead(status int, reason string) {
	rq.started = time.Now()
	rq.req = http1.Request{Method: rq.req.Method[:0], Minor: 1}
	rq.body = rq.w
	rq.g.metrics.refused.WithLabelValues(strconv.Itoa(status)).Inc()
	defer rq.log()
	rq.respond(status, []byte(reason+"\n"), internalHeaders)
	rq.c.lingers = true
}

const (
	ownHeaders      = "X-Content-Type-Options: nosniff\r\nX-OpenFaaS-Internal: gateway\r\n"
	internalHeaders = "Content-Type: text/plain; charset=utf-8\r\n" + ownHeaders

	// retryAfter is in seconds: what refuses for want of a place or a replica may have one soon.
	retryAfter = "1"
)

// refuse answers with an error of the gateway's own.
func (rq *request) refuse(status int, reason string) (keep bool) {
	return rq.refuseSaying(status, reason, "")
}

// refuseSaying is refuse with the sentence that people get on a page; "" is that of the status.
func (rq *request) refuseSaying(status int, reason, sentence string) (keep bool) {
	status, reason = rq.orStopping(status, reason)
	if rq.status = status; status == 499 {
		return false
	}
	var again string
	extra, body := "", []byte(reason+"\n")
	switch status {
	case 401:
		extra += "WWW-Authenticate: Basic realm=\"Restricted\"\r\n"
	case 429, 503:
		again = retryAfter
		extra += "Retry-After: " + retryAfter + "\r\n"
	}
	if rq.isBrowser() {
		extra, body = pageHeaders+ownHeaders+extra, refusalAsPage(status, reason, sentence, again)
	} else {
		extra = internalHeaders + extra
	}
	if rq.set == nil {
		rq.g.metrics.refused.WithLabelValues(strconv.Itoa(status)).Inc()
	}
	return rq.respond(status, body, extra)
}

// orStopping puts the true reason in the place of one that is only how the end of a wait looks, when the gateway stops.
func (rq *request) orStopping(status int, reason string) (int, string) {
	if rq.g.stopping.Load() && !rq.c.left.Load() && (status == 408 || status == 499 || status == 504) {
		return 503, rq.g.cfg.stopped()
	}
	return status, reason
}

// respond sends a whole response made here. It does not wait for the rest of the request's body: then the connection
// ends.
func (rq *request) respond(status int, body []byte, extra string) (keep bool) {
	rq.status = status
	if !rq.complete {
		// Perhaps all of it is there already.
		rest := rq.req.Body
		n, done, err := rest.Advance(rq.in.B[min(rq.head, rq.w):rq.w])
		rq.complete = err == nil && done && rq.head > rq.r
		if rq.complete {
			rq.body = rq.head + n
		}
	}
	keep = rq.complete && rq.req.KeepAlive && !rq.g.draining.Load() && status != 408
	head := append([]byte("HTTP/1.1 "), strconv.Itoa(status)...)
	head = append(head, ' ')
	head = append(head, http.StatusText(status)...)
	head = append(head, "\r\nDate: "...)
	head = rq.started.UTC().AppendFormat(head, http.TimeFormat)
	head = append(head, "\r\n"...)
	head = append(head, extra...)
	if status != 204 {
		head = append(head, "Content-Length: "...)
		head = strconv.AppendInt(head, int64(len(body)), 10)
		head = append(head, "\r\n"...)
	}
	head = rq.appendOwn(head, nil)
	head = appendPersistence(head, rq.req.Minor, keep)
	head = append(head, "\r\n"...)
	if string(rq.req.Method) == "HEAD" {
		body = nil
	}
	rq.c.limit(rq.g.cfg.WriteTimeout)
	if rq.c.sock.Write(head, body) != nil {
		rq.c.left.Store(true)
		return false
	}
	if !keep && !rq.complete && rq.head > rq.r {
		rq.c.lingers = true
	}
	return keep
}

// appendPersistence says what happens to the connection, where it is not what the client's version implies.
func appendPersistence(head []byte, minor uint8, keep bool) []byte {
	switch {
	case !keep:
		return append(head, "Connection: close\r\n"...)
	case minor == 0:
		return append(head, "Connection: keep-alive\r\n"...)
	}
	return head
}

// api counts a call of the API under its documented path. Methods are folded to the standard ones, so that a stranger
// cannot make series.
func (m *metrics) api(method []byte, path string, status int, took time.Duration) {
	verb := "other"
	for _, known := range [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if string(method) == known {
			verb = known
		}
	}
	code := strconv.Itoa(status)
	m.requests.WithLabelValues(verb, path, code).Inc()
	m.requestTime.WithLabelValues(verb, path, code).Observe(took.Seconds())
}
