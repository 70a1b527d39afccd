package gateway

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/http2"
	"waggle/provider/gateway/sock"
	"waggle/provider/gateway/upstream"
)

// conn is one client connection, served by one goroutine. Between requests it holds no buffer.
//
// Deadlines cost no timer. The goroutine stores when its step must be over; the sweep, each 250 ms, unblocks the sockets
// of whoever is late. The field deadline hands over between the two:
//
//	value      meaning                          written by
//	0          the step has no bound            the goroutine (limit)
//	t > 0      the step must be over at t       the goroutine (limit, detach)
//	expired    the sockets have been unblocked  the sweep (unblock), in place of t, before it touches a socket
//
// A goroutine that goes on to its next step swaps the value. If it finds expired, its step ended well just as it was
// found late, and it rearms the sockets (recover). Example: a head must be there within 10 s. It began at 100.0 s, so
// deadline is 110.0 s. The sweep at 110.1 s writes expired and unblocks: the read fails, and the client is told 408. Had the
// head come at 110.05 s, the next limit would find expired and undo the unblocking.
type conn struct {
	g    *Gateway
	sock *sock.Conn
	ip   string // without port, for X-Forwarded-For and the bound per address
	addr netip.Addr
	// proxy is set if the peer is trusted to say for whom its requests are.
	proxy bool
	tls   bool
	// inner connections come from this process, see [Gateway.Dial].
	inner bool
	// stream is set on streams of HTTP/2, see serveHTTP2: connections that have one request.
	stream bool
	// preface is set once a client has turned out to speak HTTP/2 without having been asked.
	preface bool
	// lingers is set once the last response is out whose client may still be sending.
	lingers bool

	deadline atomic.Int64                  // by the gateway's clock; 0: none
	upstream atomic.Pointer[upstream.Conn] // what the request under way waits for
	idle     atomic.Bool                   // between requests
	tunnel   atomic.Bool                   // switched to another protocol: either side may end before the other
	half     atomic.Bool                   // one side of the tunnel has ended
	left     atomic.Bool                   // the client went away while its request was under way
	requests atomic.Uint32                 // heads read so far
	http2    atomic.Pointer[http2.Conn]    // what runs on it instead of requests in HTTP/1.1

	mu     sync.Mutex    // held by the sweep while it unblocks
	leftCh chan struct{} // guarded by mu; closed when left is set; nil unless a request waits for a replica
	seen   uint32        // of requests, at the last sweep; belongs to the sweep
}

// expired in place of a deadline says that the sweep has unblocked the sockets.
const expired = -1

func (g *Gateway) newConn(nc net.Conn) *conn {
	c := &conn{g: g, sock: sock.New(nc)}
	c.from(nc.RemoteAddr().String())
	return c
}

// from notes where the connection comes from.
func (c *conn) from(address string) {
	c.ip = "unknown"
	if peer, err := netip.ParseAddrPort(address); err == nil {
		c.addr = peer.Addr().Unmap()
		c.ip = c.addr.String()
	}
	c.proxy = c.g.trusts(c.addr)
}

// serve answers requests until the connection ends. Requests that were pipelined are taken one after the other.
func (c *conn) serve() {
	var rq *request
	defer func() {
		if p := recover(); p != nil {
			c.crashed(rq, p)
		}
	}()
	if c.tls && !c.stream && !c.handshake() {
		_ = c.sock.Close()
		return
	}
	for {
		var ok bool
		if rq, ok = c.next(rq); !ok {
			break
		}
		keep := rq.serve()
		rq.log()
		if rq.unread() == 0 {
			rq.free()
			rq = nil
		}
		if !keep || c.stream {
			c.lingers = c.lingers || !c.stream && !c.inner
			break
		}
	}
	var early []byte
	if rq != nil {
		if c.preface {
			early = bytes.Clone(rq.in.B[rq.r:rq.w])
		}
		rq.free()
		rq = nil
	}
	if c.preface {
		c.serveHTTP2(early)
	}
	if c.lingers && !c.left.Load() {
		c.linger()
	}
	_ = c.sock.Close()
}

// guard ends the connection if a goroutine that works for it beside serve runs into a mistake of ours. It is to be deferred.
func (c *conn) guard() {
	if p := recover(); p != nil {
		c.logCrash(p)
		c.cut()
	}
}

func (c *conn) logCrash(p any) {
	c.g.cfg.Logger.Error("request crashed", "panic", p, "stack", string(debug.Stack()))
}

// crashed ends a connection whose request ran into a mistake of ours: the others must not pay for it. The request is not
// used again, for who knows what state it is in.
func (c *conn) crashed(rq *request, p any) {
	c.logCrash(p)
	c.sock.Abort()
	if rq == nil {
		return
	}
	rq.releaseBody()
	if rq.begun {
		rq.set.Completed.Add(1)
	}
}

// next waits for a request and reads its head. rq is the request before if bytes are left over from it, else nil.
// It answers and reports false if there is no proper head, and reports false in silence if the client is done.
func (c *conn) next(rq *request) (*request, bool) {
	if rq == nil {
		c.idle.Store(true)
		c.limit(c.g.cfg.IdleTimeout)
		b, n, err := c.borrow()
		c.idle.Store(false)
		if err != nil {
			return nil, false
		}
		rq = newRequest(c, b, n)
	} else {
		rq.reset()
	}
	c.requests.Add(1)
	for first := true; ; first = false {
		n, perr := rq.req.Parse(rq.in.B[rq.r:rq.w], c.g.cfg.MaxURI)
		switch {
		case perr != nil && c.speaksHTTP2(rq):
			return rq, false
		case perr != nil:
			rq.refuseHead(perr.Status, c.g.cfg.malformed(perr))
			return rq, false
		case n > c.g.cfg.MaxHeader || n == 0 && rq.w-rq.r >= c.g.cfg.MaxHeader:
			rq.refuseHead(431, c.g.cfg.headTooLong())
			return rq, false
		case n > 0:
			rq.head = rq.r + n
			return rq, true
		}
		if first {
			c.limit(c.g.cfg.HeaderTimeout)
		}
		if err := rq.readMore(c.g.cfg.MaxHeader); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && !http1.Blank(rq.in.B[rq.r:rq.w]) {
				c.sock.Rearm()
				rq.refuseHead(408, c.g.cfg.headTooLate())
			}
			return rq, false
		}
	}
}

// borrow waits for the first bytes of a request. While the gateway drains, a connection without any is closed; one whose
// request has arrived already is still served.
func (c *conn) borrow() (*sock.Buffer, int, error) {
	for {
		if c.g.draining.Load() && c.sock.Quiet() {
			return nil, 0, os.ErrDeadlineExceeded
		}
		b, n, err := c.sock.Borrow(&smallBuffers)
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.sock.Quiet() && !c.sock.Gone() {
			c.limit(c.g.cfg.IdleTimeout)
			c.sock.Rearm()
			continue
		}
		return b, n, err
	}
}

// limit gives the step that begins now the time d; no bound if d is 0.
func (c *conn) limit(d time.Duration) {
	at := int64(0)
	if d != 0 {
		at = c.g.clock.Load() + int64(d)
	}
	if c.deadline.Swap(at) == expired {
		c.recover()
	}
}

// detach ends the connection's interest in up, and gives the step that begins now the time d.
func (c *conn) detach(up *upstream.Conn, d time.Duration) {
	c.upstream.Store(nil)
	if c.deadline.Swap(c.g.clock.Load()+int64(d)) == expired {
		c.recover()
		up.Rearm()
	}
}

// recover undoes an expiry that came just as its step had ended well.
func (c *conn) recover() {
	c.mu.Lock() // the sweep has done unblocking once it lets go
	defer c.mu.Unlock()
	c.sock.Rearm()
	if up := c.upstream.Load(); up != nil {
		up.Rearm()
	}
}

// expire unblocks the sockets if the step under way is late at now. The sweep alone calls it.
func (c *conn) expire(now int64) {
	if h := c.http2.Load(); h != nil {
		h.Expire(now)
		return
	}
	at := c.deadline.Load()
	if at > 0 && at < now {
		c.unblock(at)
	}
}

// unblock makes the step with deadline at fail, unless it has ended meanwhile.
func (c *conn) unblock(at int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deadline.CompareAndSwap(at, expired) {
		return
	}
	if up := c.upstream.Load(); up != nil {
		up.Unblock()
	}
	c.sock.Unblock()
}

// unblockIfIdle wakes a connection that waits for a request, so that it can see that the gateway drains.
func (c *conn) unblockIfIdle() {
	if h := c.http2.Load(); h != nil {
		h.Drain(c.g.clock.Load())
		return
	}
	if at := c.deadline.Load(); c.idle.Load() && at != expired {
		c.unblock(at)
	}
}

// checkLeft ends a request whose client has gone. The sweep alone calls it; requests younger than a sweep are spared.
func (c *conn) checkLeft() {
	n := c.requests.Load()
	old := c.seen
	c.seen = n
	if c.idle.Load() || c.tunnel.Load() || old != n || c.http2.Load() != nil {
		return
	}
	if !c.left.Load() {
		if !c.sock.Gone() {
			return
		}
		c.left.Store(true)
		c.mu.Lock()
		if c.leftCh != nil {
			close(c.leftCh)
			c.leftCh = nil
		}
		c.mu.Unlock()
	}
	// Again and again: when it was noticed first, the request may have had no replica to wait for yet.
	if at := c.deadline.Load(); at != expired && c.upstream.Load() != nil {
		c.unblock(at)
	}
}

// stop ends the wait of a request for its answer; see [request.orStopping].
func (c *conn) stop() {
	if c.http2.Load() != nil || c.tunnel.Load() {
		return
	}
	c.mu.Lock()
	if c.leftCh != nil {
		close(c.leftCh)
		c.leftCh = nil
	}
	c.mu.Unlock()
	if at := c.deadline.Load(); at != expired {
		c.unblock(at)
	}
}

// leaving is a channel that is closed once the client is known to have gone.
func (c *conn) leaving() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leftCh == nil {
		c.leftCh = make(chan struct{})
		if c.left.Load() {
			ch := c.leftCh
			c.leftCh = nil
			close(ch)
			return ch
		}
	}
	return c.leftCh
}

// cut ends the connection whatever it is doing.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leftCh != nil {
		close(c.leftCh)
		c.leftCh = nil
	}
	c.left.Store(true)
	if up := c.upstream.Load(); up != nil {
		_ = up.Close()
	}
	c.sock.Abort()
}

// linger precedes the close of a connection whose client may still be sending. Data that arrives at a closed socket,
// or is unread in it, resets it, and the reset can overtake the answer. So the client is told that nothing more
// comes. What it still sends is discarded, until it ends, for a bounded time and up to a bound.
func (c *conn) linger() {
	c.sock.CloseWrite()
	c.limit(lingerFor)
	for total := 0; total < lingerBytes; {
		b, n, err := c.sock.Borrow(&mediumBuffers)
		if err != nil {
			return
		}
		mediumBuffers.Put(b)
		total += n
	}
}

const (
	lingerFor   = 2 * time.Second
	lingerBytes = 1 << 20
)
