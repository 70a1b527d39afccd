package async

import (
	"context"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"waggle/provider/feed"
	"waggle/provider/queued"
)

const (
	// undoTimeout bounds the attempt to take back what was stored half-way; the client waits for it.
	undoTimeout = time.Second
	// loadPatience bounds the wait of a client for the first poll of Redis.
	loadPatience = 2 * time.Second
	// maxCallback bounds a callback's address.
	maxCallback = 2048
)

// Enqueue stores a call and returns once Redis has it on disk. An error has a method HTTPStatus: 400 for an illegal
// call, 409 for the id of another stored call, 429 for a bound. 503 means that Redis is away, or that another call is
// just being stored under the id. If Redis may have the call all the same, the text says so.
func (q *Queue) Enqueue(ctx context.Context, c queued.Call) error {
	if err := q.check(&c); err != nil {
		return q.refused(err)
	}
	if err := q.awaitLoaded(ctx); err != nil {
		return q.refused(err)
	}
	if q.health.Load().full {
		return q.refused(refuse(429, "the queue is full: its Redis has used %d %% of its memory, maxmemory (make up QUEUE_MAXMEMORY=…)", highWater))
	}
	record, err := encodeCall(&c)
	if err != nil {
		return q.refused(refuse(400, "%s", err))
	}
	e, err := q.index.reserve(c.ID, c.Function)
	if err != nil {
		return q.refused(err)
	}
	st := state{Function: c.Function, Accepted: c.Accepted.UnixMilli(), Phase: invoking, Callback: c.Callback != ""}
	due := q.clock.now().UnixMilli()
	if err := q.store.put(ctx, c.ID, st, record, due); err != nil {
		// The client is told that the call is not accepted, so it should not be made either.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if !notStored(err) && q.store.remove(undo, c.ID) != nil {
			q.cfg.Logger.Warn("a refused call may still be made", "call_id", c.ID, "error", err)
		}
		q.index.drop(e)
		return q.refused(storeRefusal(err))
	}
	q.index.admit(e, st, due)
	q.metrics.submitted.WithLabelValues(queueName, c.Function).Inc()
	return nil
}

func (q *Queue) refused(err error) error {
	q.metrics.refused.Inc()
	return err
}

// check refuses what could not be stored or delivered.
func (q *Queue) check(c *queued.Call) error {
	if !feed.ValidCallID(c.ID) {
		return refuse(400, "X-Call-Id: legal are %s", feed.CallIDRule)
	}
	if c.Callback == "" {
		return nil
	}
	_, err := q.parseCallback(c.Callback)
	return err
}

// parseCallback reads a callback's address.
func (q *Queue) parseCallback(text string) (*url.URL, error) {
	wrong := func(why string) (*url.URL, error) {
		return nil, refuse(400, "X-Callback-Url: %s: legal are absolute http and https addresses of at most %d bytes", why, maxCallback)
	}
	if len(text) > maxCallback {
		return wrong("too long")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || !utf8.ValidString(text):
		return wrong("malformed")
	case u.Scheme != "http" && u.Scheme != "https":
		return wrong("no http or https")
	case u.Hostname() == "" || u.Opaque != "":
		return wrong("no host")
	}
	// What net/http would refuse to send to, or the kernel to connect to.
	if host, err := httpguts.PunycodeHostPort(u.Host); err != nil || !httpguts.ValidHostHeader(host) {
		return wrong("no such host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return wrong("no such port")
		}
	}
	if err := q.guard.literal(u.Hostname()); err != nil {
		return nil, refuse(400, "X-Callback-Url: %s", err)
	}
	return u, nil
}

// awaitLoaded waits until the index is whole.
func (q *Queue) awaitLoaded(ctx context.Context) error {
	select {
	case <-q.loaded:
		return nil
	default:
	}
	patience := time.NewTimer(loadPatience)
	defer patience.Stop()
	select {
	case <-q.loaded:
		return nil
	case <-patience.C:
	case <-ctx.Done():
	}
	return refuse(503, "the queue is not ready: its Redis is away, or has not been read yet")
}

// Cancel removes a call; if an attempt is under way, that is stopped first. A client's callback is not called.
// It returns once the removal is on disk. known is false if there is no such call here. A dead letter is left
// as it is.
func (q *Queue) Cancel(ctx context.Context, id string) (known bool, err error) {
	if err := q.awaitLoaded(ctx); err != nil {
		return false, err
	}
	e, over, known := q.index.cancel(id)
	if e != nil {
		if err := q.store.remove(ctx, id); err != nil {
			q.index.keep(e)
			q.doubt(err)
			return true, storeRefusal(err)
		}
		q.cancelled(e)
		return true, nil
	}
	if over == nil {
		return known, nil
	}
	select {
	case <-over:
	case <-ctx.Done():
		return true, refuse(503, "the call is being cancelled; the queue did not confirm in time")
	}
	if len(q.index.unknown([]string{id})) == 0 {
		return true, refuse(503, "the call could not be cancelled")
	}
	return true, nil
}

func (q *Queue) cancelled(e *entry) {
	q.index.drop(e)
	q.metrics.cancelled.WithLabelValues(e.account.function).Inc()
}
