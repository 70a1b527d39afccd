package gateway

import (
	"sync"
	"time"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
	"waggle/provider/gateway/upstream"
)

// request is what has come in from a client: one request's head, the kept part of its body, and what was learned
// about it. Of replicas it knows only which function is meant. A connection borrows it while it has a request.
type request struct {
	c *conn
	g *Gateway

	in   *sock.Buffer // bytes from the client: [r:head] the head, [head:body] what has come of the body, [body:w] more
	r, w int
	head int
	body int
	// complete is set once the whole body lies in [head:body]; rest is what is still to come otherwise.
	complete bool
	rest     http1.Body
	kept     int64 // what in counts for in the gateway's bodyBudget
	// pipelined is what the client has sent behind a body that was not kept: its next request.
	pipelined []byte

	req http1.Request

	// path is what the upstream is asked for; slash is set if a "/" has to be put before it.
	path    []byte
	slash   bool
	control bool // a call of the API, forwarded to the provider
	set     *upstream.Set
	stats   *functionStats
	begun   bool // counted as started, but not yet as completed
	counted bool // counted as completed

	started time.Time
	status  int // sent to the client, or 499
	tries   int // how often it was sent to a replica, or tried to
	id      identity
}

var requests = sync.Pool{New: func() any { return new(request) }}

func newRequest(c *conn, in *sock.Buffer, n int) *request {
	rq := requests.Get().(*request)
	rq.c, rq.g, rq.in, rq.r, rq.w = c, c.g, in, 0, n
	return rq
}

// reset makes rq ready for the next request, whose first bytes it already holds.
func (rq *request) reset() {
	rq.r = rq.body
	if rq.pipelined != nil {
		putBuffer(rq.in)
		rq.releaseBody()
		rq.in = poolOf(len(rq.pipelined)).Get().(*sock.Buffer)
		rq.r, rq.w = 0, copy(rq.in.B, rq.pipelined)
		rq.pipelined = nil
	}
	if rq.r > len(rq.in.B)/2 {
		rq.w = copy(rq.in.B, rq.in.B[rq.r:rq.w])
		rq.r = 0
	}
	rq.clear()
}

func (rq *request) clear() {
	rq.set, rq.stats = nil, nil
	rq.control, rq.complete, rq.slash, rq.begun, rq.counted = false, false, false, false, false
	rq.tries = 0
	rq.head, rq.body = rq.r, rq.r
	rq.rest = http1.Body{}
}

func (rq *request) free() {
	putBuffer(rq.in)
	rq.releaseBody()
	rq.in, rq.pipelined = nil, nil
	rq.r, rq.w = 0, 0
	rq.clear()
	rq.c, rq.g = nil, nil
	requests.Put(rq)
}

// unread is the number of bytes that belong to what follows this request.
func (rq *request) unread() int { return rq.w - rq.body + len(rq.pipelined) }

// room makes place for need bytes from rq.r on, moving what is there into a larger buffer if it must.
// The parsed request then has to be parsed again: its slices point into the old place.
func (rq *request) room(need int) {
	if rq.r+need <= len(rq.in.B) {
		return
	}
	old := rq.in
	if need > len(old.B) {
		rq.in = poolOf(need).Get().(*sock.Buffer)
	}
	n := copy(rq.in.B, old.B[rq.r:rq.w])
	shift := rq.r
	rq.r, rq.w, rq.head, rq.body = 0, n, rq.head-shift, rq.body-shift
	if rq.in != old {
		putBuffer(old)
	}
}

// readMore reads on behind what is there, up to limit bytes from rq.r on.
func (rq *request) readMore(limit int) error {
	if rq.w == len(rq.in.B) {
		rq.room(min(limit, 2*(rq.w-rq.r)) + 1)
	}
	n, err := rq.c.sock.Read(rq.in.B[rq.w:])
	rq.w += n
	return err
}
