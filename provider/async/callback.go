package async

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// outerTransport makes requests to wherever clients say, except where the guard forbids it. It knows no proxy: one would
// connect in its place.
func (q *Queue) outerTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: q.cfg.CallbackTimeout, Control: q.guard.control}
	return &http.Transport{
		DialContext: dialer.DialContext, MaxIdleConns: q.cfg.MaxCallbacks, IdleConnTimeout: 15 * time.Second,
		MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
	}
}

// attemptCallback delivers a result once, and decides what follows.
func (q *Queue) attemptCallback(ctx context.Context, e *entry) {
	r, err := q.store.result(ctx, e.id)
	if err != nil {
		q.unreadable(ctx, e, err)
		return
	}
	a := q.deliver(ctx, e, r)
	if q.cut(ctx, a) {
		q.interrupted(ctx, e)
		return
	}
	function, failed := e.account.function, e.state.Reason
	count := func(outcome string) { q.metrics.callbacks.WithLabelValues(function, outcome).Inc() }
	_, _, known := q.gateway.Function(function)
	switch {
	case a.status == http.StatusNotFound && a.internal() && !known:
		q.later(ctx, e, again) // the gateway that has just started does not know any function yet
		return
	case a.err == nil && a.status/100 == 2:
		count("delivered")
		if failed == "" {
			q.finish(ctx, e)
		} else {
			q.bury(ctx, e, state{Reason: failed})
		}
		return
	case errors.Is(a.err, errForbidden):
		count("refused")
	case e.state.Tries < q.cfg.MaxRetryAttempts:
		count("retried")
		q.postpone(ctx, e, q.cfg.policyOf(nil).backoff(e.state.Tries+1, random))
		return
	default:
		count("failed")
	}
	reason := "callback: " + a.outcome()
	if failed == "" {
		q.bury(ctx, e, state{Reason: reason, Owed: true})
	} else {
		q.bury(ctx, e, state{Reason: failed + "; " + reason})
	}
}

// deliver posts a result to its callback once.
func (q *Queue) deliver(ctx context.Context, e *entry, r *result) *answer {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.CallbackTimeout)
	defer cancel()
	u, err := q.parseCallback(r.Callback)
	if err != nil {
		return &answer{err: fmt.Errorf("%w: %w", errForbidden, err)}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return &answer{err: err}
	}
	request.Header = parseHeader(r.header)
	for name, value := range map[string]string{
		"X-Duration-Seconds": r.Seconds, "X-Function-Status": strconv.Itoa(r.Status), "X-Function-Name": r.Address, "X-Call-Id": e.id,
		"X-Retry": strconv.Itoa(r.Retries), "X-Retry-Max": strconv.Itoa(r.Most),
	} {
		request.Header.Set(name, value)
	}
	if r.Omitted {
		request.Header.Set("X-Result-Omitted", fmt.Sprintf("longer than %d bytes, async_max_result_bytes", q.cfg.MaxResult))
	} else if r.NoRoom {
		request.Header.Set("X-Result-Omitted", "the queue had no memory for it (QUEUE_MAXMEMORY)")
	}
	if password, _ := u.User.Password(); u.User != nil && request.Header["Authorization"] == nil {
		request.SetBasicAuth(u.User.Username(), password)
	}
	transport := q.outer
	if isGateway(u) {
		transport = q.inner
	}
	chained := transport == q.inner && strings.HasPrefix(u.Path, "/async-function/")
	if chained {
		request.Header.Set("X-Call-Id", childID(e.id, e.state.Accepted))
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return &answer{err: fmt.Errorf("no answer: %w", err)}
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // lets the connection be used again
	if chained && response.StatusCode == http.StatusConflict {
		return &answer{status: http.StatusAccepted} // an earlier attempt has queued it
	}
	a := &answer{status: response.StatusCode}
	if transport == q.inner {
		a.header = response.Header // others cannot speak for a part of the system
	}
	return a
}

// isGateway reports whether an address is the gateway's own within the system.
func isGateway(u *url.URL) bool {
	return u.Scheme == "http" && (u.Hostname() == "gateway" || u.Hostname() == "gateway.openfaas")
}

// childID names the call that a callback to another asynchronous function makes. The id of the call itself is
// still in use then. It is the same for each repetition, so that a repeated callback is recognised. accepted
// (Unix ms) tells the call from an earlier one of the same id, whose child may still be stored.
func childID(id string, accepted int64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "callback of %s accepted at %d", id, accepted))
	return hex.EncodeToString(sum[:16])
}
