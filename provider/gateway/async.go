package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"time"

	"waggle/provider/feed"
	"waggle/provider/gateway/http1"
	"waggle/provider/queued"
)

// Queue keeps asynchronous calls and makes them. An error that has a method HTTPStatus says with it what a client is
// told; its text goes to the client too. All methods are for concurrent use, and none blocks longer than a few seconds.
type Queue interface {
	// Enqueue returns once the call would survive this process. It does not keep Header and Body.
	Enqueue(ctx context.Context, call queued.Call) error
	// Cancel sees to it that a call is not made (again) and has no result. known is false if there is no such call here.
	Cancel(ctx context.Context, id string) (known bool, err error)
	// Pending is the number of calls of a function, name.namespace, that wait, and how many of them are to be made now.
	Pending(function string) (all, due int)
	// Inspect answers operators, under /system/queue: target is what follows that, a body is JSON or an error's text.
	Inspect(ctx context.Context, method, target string) (status int, body []byte)
}

const (
	// queueTimeout bounds one call of Queue.
	queueTimeout = 5 * time.Second
	// maxCancels bounds the cancellations that wait, and those per second that are passed to other gateways.
	maxCancels = 200
	// queueFields and queueHead are room for what the queue adds to the head of a call: the request line, Host,
	// User-Agent and Content-Length.
	queueFields, queueHead = 3, 128

	notConfigured = "asynchronous invocation is not configured: async_redis_socket is not set"
)

// async answers for asynchronous calls: a POST is one, a DELETE cancels one, OPTIONS asks what pages may do.
func (rq *request) async(address []byte) (keep bool) {
	if rq.g.cfg.Queue == nil {
		return rq.refuse(404, notConfigured)
	}
	switch string(rq.req.Method) {
	case "POST":
		return rq.enqueue(address)
	case "DELETE":
		return rq.cancelCall(address)
	case "OPTIONS":
		return rq.function(address) // its own answer, where annotations give none
	}
	return rq.refuse(405, "legal methods: POST for a call, DELETE to cancel one, OPTIONS")
}

// enqueue takes one call.
func (rq *request) enqueue(address []byte) (keep bool) {
	name, _ := splitAddress(address)
	if status, reason := rq.find(address); status != 0 {
		return rq.refuse(status, reason)
	}
	if status, reason := rq.markAsync(); status != 0 {
		return rq.refuse(status, reason)
	}
	// What is parsed lies in a buffer that reading on may move.
	call := queued.Call{ID: string(rq.id.callID), Address: string(name), Function: rq.set.Label, Target: string(rq.path), Accepted: rq.started}
	if rq.slash {
		call.Target = "/" + call.Target
	}
	var several bool
	if call.Callback, several = rq.callback(); several {
		return rq.refuse(400, "more than one X-Callback-Url")
	}
	call.Header = rq.appendOrigin(rq.req.AppendKept(make([]byte, 0, rq.req.Size()+512)))
	if status, reason := rq.makeable(&call); status != 0 {
		return rq.refuse(status, reason)
	}
	in := intake{room: &rq.g.asyncBudget, cfg: &rq.g.cfg, most: rq.g.cfg.mostAsync()}
	defer in.release()
	if status, reason := rq.receive(&in); status != 0 {
		in.release() // the client may go on sending for a while
		return rq.refuse(status, reason)
	}
	call.Body = in.body
	if err := rq.withQueue(func(ctx context.Context) error { return rq.g.cfg.Queue.Enqueue(ctx, call) }); err != nil {
		return rq.refuse(statusOf(err), err.Error())
	}
	return rq.respond(202, nil, "")
}

// makeable refuses a call that this gateway would refuse when the queue makes it. It would become a dead letter, and
// the client could not be told.
func (rq *request) makeable(call *queued.Call) (status int, reason string) {
	fields := bytes.Count(call.Header, []byte("\r\n"))
	head := len(call.Address) + len(call.Target) + len(call.Header) + fields // each may get a space behind its colon
	switch {
	case rq.req.WebSocket:
		return 400, "an asynchronous call cannot change its protocol"
	case fields+queueFields > http1.MaxFields || head+queueHead > rq.g.cfg.MaxHeader:
		return 431, rq.g.cfg.asyncHeadTooLong()
	}
	return 0, ""
}

// withQueue calls the queue, which keeps to its own deadline; the client's connection has none meanwhile.
func (rq *request) withQueue(do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), queueTimeout)
	defer cancel()
	rq.c.limit(0)
	return do(ctx)
}

// markAsync gives the call its id and decides which of its fields are kept. The id stands for the right to cancel, so
// one that is made here cannot be guessed.
func (rq *request) markAsync() (status int, reason string) {
	rq.mark()
	id := &rq.id
	if id.ownCallID {
		var raw [16]byte
		_, _ = rand.Read(raw[:]) // never fails
		id.callID = formatCallID(&id.made, raw)
	}
	if !feed.ValidCallID(string(id.callID)) {
		rq.set, rq.stats = nil, nil // a call without an id is none
		return 400, "X-Call-Id: legal are " + feed.CallIDRule
	}
	// The connection's buffer may move under the id.
	id.callID = append([]byte(nil), id.callID...)
	fields := rq.req.All()
	for i := range fields {
		switch fields[i].Kind {
		case http1.ContentLength, http1.Expect, http1.Trailer:
			fields[i].Drop = true
		}
	}
	return 0, ""
}

// callback is the value of X-Callback-Url.
func (rq *request) callback() (url string, several bool) {
	fields := rq.req.All()
	for i := range fields {
		if f := &fields[i]; f.Kind == http1.Other && http1.EqualFold(rq.req.Name(f), "x-callback-url") {
			several = several || url != ""
			url = string(rq.req.Value(f))
		}
	}
	return url, several
}

// pending is the number of asynchronous calls of a function that wait here, and how many of them are to be made now.
func (g *Gateway) pending(function string) (all, due int) {
	if g.cfg.Queue == nil {
		return 0, 0
	}
	return g.cfg.Queue.Pending(function)
}

// Function finds a function, name.namespace, in the newest table. That there is none says something only if known is
// true: no table may have come yet, or the provider may be gone.
func (g *Gateway) Function(label string) (fn feed.Function, found, known bool) {
	known = g.feed == nil || !g.providerGone() && g.feed.Newest().Table.Epoch != ""
	if s := g.registry.Lookup([]byte(label)); s != nil {
		return *s.Function(), true, known
	}
	return feed.Function{}, false, known
}

// inspectQueue lets an operator look into the queue of this gateway, and at its dead letters.
func (rq *request) inspectQueue(target string) (keep bool) {
	if rq.g.cfg.Queue == nil {
		return rq.refuse(404, notConfigured)
	}
	var status int
	var body []byte
	_ = rq.withQueue(func(ctx context.Context) error {
		status, body = rq.g.cfg.Queue.Inspect(ctx, string(rq.req.Method), target)
		return nil
	})
	if status >= 400 {
		return rq.refuse(status, string(body))
	}
	return rq.respond(status, body, "Content-Type: application/json\r\nCache-Control: no-store\r\n")
}
