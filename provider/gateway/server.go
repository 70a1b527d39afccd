package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"waggle/provider/gateway/sock"
)

// sweepEvery is how exact deadlines are. Four looks a second at each connection cost nothing that can be measured.
const sweepEvery = 250 * time.Millisecond

const (
	// frozenAfter is how late the sweep may be: beyond it, the process or its machine was stopped meanwhile.
	frozenAfter = time.Second
	// thawing is how long requests that had come before the stop may still turn up.
	thawing = 10 * time.Second
	// endDelay is how long a client's end may take to be read behind its request.
	endDelay = 50 * time.Millisecond
)

// stale reports whether a request may have lain here while this process was stopped, and its client has given up meanwhile. Such
// a request is not passed on: the client may have made another one elsewhere, and this one would seem to be the later.
func (rq *request) stale() bool {
	g := rq.g
	at, thawed := int64(rq.started.Sub(g.startedAt)), g.thawed.Load()
	if at-g.clock.Load() < int64(frozenAfter) && (thawed == 0 || at-thawed > int64(thawing)) {
		return false
	}
	time.Sleep(endDelay) //nolint:forbidigo // nothing tells of an end that has not been read yet
	return rq.c.sock.Gone()
}

// boundConns lowers the bound on connections to three quarters of the limit on open files. The rest is for
// connections to replicas: without files for those, every client would be admitted and none served.
func (g *Gateway) boundConns() {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return
	}
	if room := files.Cur / 4 * 3; uint64(g.cfg.MaxConns) > room {
		g.cfg.Logger.Warn("max_connections lowered to fit the limit on open files",
			"max_connections", g.cfg.MaxConns, "lowered_to", room, "open_files", files.Cur)
		g.cfg.MaxConns = int(room)
	}
}

// acceptAll takes connections until the listener closes; that, in turn, is an error only if nobody asked for it.
func (g *Gateway) acceptAll(l listener) error {
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			g.accept(nc, l.config)
		case g.draining.Load() || errors.Is(err, net.ErrClosed):
			if g.draining.Load() {
				return nil
			}
			return fmt.Errorf("accepting connections: %w", err)
		default:
			// Out of file descriptors or memory: others will finish and free some.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			g.cfg.Logger.Warn("accepting a connection failed", "error", err, "pause", pause.String())
			time.Sleep(pause) //nolint:forbidigo // cut short at shutdown, the loop would spin until the listener closes
		}
	}
}

// refusal is the answer to a connection, before anything was read from it.
func refusal(why string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: %d\r\nRetry-After: %s\r\n%s\r\n%s\n",
		len(why)+1, retryAfter, internalHeaders, why)
}

// accept serves a client's connection, or refuses it where the bounds leave no room for it.
func (g *Gateway) accept(nc net.Conn, config *tls.Config) {
	c := g.newConn(nc)
	if config != nil {
		c.sock, c.tls = sock.NewTLS(nc, config), true
	}
	if why := g.admit(c); why != "" {
		g.metrics.connsRefused.Inc()
		if !c.tls { // nobody would understand it before a handshake
			_ = c.sock.Write(refusal(why), nil) // fits into an empty socket buffer, so it cannot block
		}
		_ = nc.Close()
	}
}

// admit serves c if the bounds leave room for it, and says otherwise why not. Those on clients do not concern inner
// connections, whose number is bounded by what dials them.
func (g *Gateway) admit(c *conn) (why string) {
	g.mu.Lock()
	why = g.full(c)
	if why == "" {
		g.conns[c] = struct{}{}
		switch {
		case c.stream:
			g.streams++
		case !c.inner:
			g.clients++
			g.perIP[c.ip]++
			g.metrics.connections.Inc()
		}
		g.open.Add(1)
	}
	g.mu.Unlock()
	if why == "" {
		go func() {
			defer g.remove(c)
			c.serve()
		}()
	}
	return why
}

// full says why c may not be served; empty: it may. Streams are bounded as connections are, since each costs as much.
// They go on while the gateway drains: their client knows, and their connection still counts as open. The caller
// holds mu.
func (g *Gateway) full(c *conn) string {
	// A trusted proxy brings everybody's requests from one address.
	bounded := g.cfg.MaxConnsPerIP > 0 && !c.proxy
	switch {
	case c.stream && g.streams < g.cfg.MaxConns:
		return ""
	case !c.stream && g.draining.Load():
		return "this gateway stops"
	case c.inner:
		return ""
	case c.stream, g.clients >= g.cfg.MaxConns:
		return g.cfg.tooManyConns()
	case bounded && g.perIP[c.ip] >= g.cfg.MaxConnsPerIP:
		return g.cfg.tooManyConnsPerIP()
	}
	return ""
}

func (g *Gateway) remove(c *conn) {
	g.mu.Lock()
	delete(g.conns, c)
	switch {
	case c.stream:
		g.streams--
	case !c.inner:
		g.clients--
		if g.perIP[c.ip]--; g.perIP[c.ip] == 0 {
			delete(g.perIP, c.ip)
		}
		g.metrics.connections.Dec()
	}
	g.mu.Unlock()
	g.open.Done()
}

// eachConn calls f for every open connection; f must not block.
func (g *Gateway) eachConn(f func(*conn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		f(c)
	}
}

// sweep keeps the clock and enforces every deadline.
func (g *Gateway) sweep(ctx context.Context) error {
	g.clock.Store(int64(time.Since(g.startedAt))) // what came before was no stop
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case now := <-tick.C:
			at := int64(now.Sub(g.startedAt))
			if at-g.clock.Swap(at) > int64(frozenAfter) {
				g.thawed.Store(at)
			}
			g.eachConn(func(c *conn) {
				c.expire(at)
				if n%4 == 0 {
					c.checkLeft()
				}
				if g.draining.Load() {
					c.unblockIfIdle()
				}
			})
		case <-ctx.Done():
			return nil
		}
	}
}
