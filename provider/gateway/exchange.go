package gateway

import (
	"sync"
	"time"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
	"waggle/provider/gateway/upstream"
)

// Buffer sizes: most heads fit the small one; the medium one is what bodies are relayed with; the large one holds the
// longest head and a body that is kept for a repeat.
const (
	smallBuffer  = 4 << 10
	mediumBuffer = 32 << 10
	largeBuffer  = replayLimit + maxMaxHeader
	maxMaxHeader = 64 << 10
	// replayLimit is the longest body that is read whole before a replica is picked: it can be sent again, and a slow
	// client does not keep a replica waiting.
	replayLimit = 64 << 10
)

var (
	smallBuffers  = bufferPool(smallBuffer)
	mediumBuffers = bufferPool(mediumBuffer)
	largeBuffers  = bufferPool(largeBuffer)
	exchanges     = sync.Pool{New: func() any { return new(exchange) }}
)

func bufferPool(size int) sync.Pool {
	return sync.Pool{New: func() any { return &sock.Buffer{B: make([]byte, size)} }}
}

func poolOf(size int) *sync.Pool {
	switch bufferFor(size) {
	case smallBuffer:
		return &smallBuffers
	case mediumBuffer:
		return &mediumBuffers
	}
	return &largeBuffers
}

// bufferFor is the size of the buffer that holds size bytes.
func bufferFor(size int) int {
	switch {
	case size <= smallBuffer:
		return smallBuffer
	case size <= mediumBuffer:
		return mediumBuffer
	}
	return largeBuffer
}

func putBuffer(b *sock.Buffer) {
	if b != nil {
		poolOf(len(b.B)).Put(b)
	}
}

// exchange is one request and its response. It is borrowed for as long as a connection has a request.
type exchange struct {
	c *conn
	g *Gateway

	in   *sock.Buffer // bytes from the client: [r:head] the head, [head:body] what has come of the body, [body:w] more
	r, w int
	head int
	body int
	// complete is set once the whole body lies in [head:body]; rest is what is still to come otherwise.
	complete bool
	rest     http1.Body
	gathered int64 // what in counts for in the gateway's gathered

	out    *sock.Buffer // the head being written, either way
	up     *sock.Buffer // bytes from the replica: [ur:uw] unread
	ur, uw int

	req  http1.Request
	resp http1.Response

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
	id      identity

	conn     *upstream.Conn
	replica  *upstream.Replica
	tried    [maxTries]*upstream.Replica
	tries    int
	repeats  int
	unsure   bool      // a kept connection broke after the request went out on it: closed before that, or by its replica's end
	deaths   int       // replicas that may have ended by this request
	holdBy   time.Time // how long it may wait for a replica, however often; zero: it has not waited
	before   uint64    // conn.Written before this request
	upload   *upload
	headSent bool   // a final response head has gone to the client, or part of one
	eof      bool   // the replica has ended a body that only the end of its connection ends
	behind   []byte // what the client has sent behind a body that was uploaded: its next request
}

func newExchange(c *conn, in *sock.Buffer, n int) *exchange {
	ex := exchanges.Get().(*exchange)
	ex.c, ex.g, ex.in, ex.r, ex.w = c, c.g, in, 0, n
	return ex
}

// reset makes ex ready for the next request, whose first bytes it already holds.
func (ex *exchange) reset() {
	ex.r = ex.body
	if ex.behind != nil {
		putBuffer(ex.in)
		ex.ungather()
		ex.in = poolOf(len(ex.behind)).Get().(*sock.Buffer)
		ex.r, ex.w = 0, copy(ex.in.B, ex.behind)
		ex.behind = nil
	}
	if ex.r > len(ex.in.B)/2 {
		ex.w = copy(ex.in.B, ex.in.B[ex.r:ex.w])
		ex.r = 0
	}
	ex.clear()
}

func (ex *exchange) clear() {
	ex.dropUp()
	ex.dropOut()
	ex.set, ex.stats, ex.conn, ex.replica, ex.upload = nil, nil, nil, nil, nil
	clear(ex.tried[:])
	ex.tries, ex.repeats, ex.deaths, ex.unsure, ex.holdBy = 0, 0, 0, false, time.Time{}
	ex.control, ex.complete, ex.headSent, ex.slash, ex.eof, ex.begun, ex.counted = false, false, false, false, false, false, false
	ex.head, ex.body = ex.r, ex.r
	ex.rest = http1.Body{}
}

func (ex *exchange) free() {
	putBuffer(ex.in)
	ex.ungather()
	ex.in, ex.behind = nil, nil
	ex.r, ex.w = 0, 0
	ex.clear()
	ex.c, ex.g = nil, nil
	exchanges.Put(ex)
}

// unread is the number of bytes that belong to what follows this request.
func (ex *exchange) unread() int { return ex.w - ex.body + len(ex.behind) }

func (ex *exchange) dropUp() {
	if ex.up != nil {
		ex.g.giveBack(ex.up)
	}
	ex.up, ex.ur, ex.uw = nil, 0, 0
}

func (ex *exchange) dropOut() {
	putBuffer(ex.out)
	ex.out = nil
}

// room makes place for need bytes from ex.r on, moving what is there into a larger buffer if it must.
// The parsed request then has to be parsed again: its slices point into the old place.
func (ex *exchange) room(need int) {
	if ex.r+need <= len(ex.in.B) {
		return
	}
	old := ex.in
	if need > len(old.B) {
		ex.in = poolOf(need).Get().(*sock.Buffer)
	}
	n := copy(ex.in.B, old.B[ex.r:ex.w])
	shift := ex.r
	ex.r, ex.w, ex.head, ex.body = 0, n, ex.head-shift, ex.body-shift
	if ex.in != old {
		putBuffer(old)
	}
}

// readMore reads on behind what is there, up to limit bytes from ex.r on.
func (ex *exchange) readMore(limit int) error {
	if ex.w == len(ex.in.B) {
		ex.room(min(limit, 2*(ex.w-ex.r)) + 1)
	}
	n, err := ex.c.sock.Read(ex.in.B[ex.w:])
	ex.w += n
	return err
}

// function answers a call of a function.
func (ex *exchange) function(address []byte) (keep bool) {
	if status, reason := ex.find(address); status != 0 {
		return ex.refuse(status, reason)
	}
	if ex.preflight() {
		return ex.answerPreflight()
	}
	return ex.invoke()
}

// api passes a call of the API on to the provider.
func (ex *exchange) api(_ []byte) (keep bool) {
	if ex.g.provider == nil {
		return ex.refuse(503, "there is no provider")
	}
	ex.set, ex.path, ex.control = ex.g.provider, ex.req.Target, true
	return ex.invoke()
}

// find finds the function that address names. A status other than 0 says why there is none.
func (ex *exchange) find(address []byte) (status int, reason string) {
	name, path := splitAddress(address)
	ex.path = path
	ex.slash = len(path) == 0 || path[0] == '?'
	ex.set = ex.g.registry.Lookup(name)
	var err error
	if ex.set == nil {
		ex.set, err = ex.search(name)
	}
	switch {
	case err != nil:
		return statusOf(err), err.Error()
	case ex.set != nil:
		ex.stats = ex.set.Stats.(*functionStats)
		return 0, ""
	}
	return 404, "no such function"
}

// splitAddress splits "name[.namespace][/path][?query]" behind the name. The rest reaches the function untouched: it is
// neither decoded nor cleaned.
func splitAddress(address []byte) (name, rest []byte) {
	end := 0
	for end < len(address) && address[end] != '/' && address[end] != '?' {
		end++
	}
	return address[:end], address[end:]
}

// invoke brings the body in as far as it should be, forwards, and counts.
func (ex *exchange) invoke() (keep bool) {
	ex.mark()
	if ex.stats != nil {
		ex.begun = true
		ex.set.Started.Add(1)
		ex.stats.started.Inc()
	}
	var status int
	if status, keep = ex.gather(); status == 0 {
		status, keep = ex.forward()
	}
	ex.count(status)
	return keep && !ex.c.left.Load()
}

func (ex *exchange) count(status int) {
	ex.status = status
	if ex.stats != nil {
		ex.begun, ex.counted = false, true
		ex.set.Completed.Add(1)
		ex.stats.completed(status, time.Since(ex.started))
	}
}
