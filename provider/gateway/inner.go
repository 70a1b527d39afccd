package gateway

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
)

// ErrStopping is what [Gateway.Dial] returns once the gateway takes no more connections.
var ErrStopping = errors.New("gateway is stopping")

// Dial connects to this gateway from within its own process, as an http.Transport does. What goes over the connection
// takes the way of every request: routing, picking, holding, retries, metrics. The caller speaks for its client:
// X-Forwarded-For and X-Forwarded-Proto pass as it sends them, and the bounds on clients do not count it.
// It is for concurrent use and never blocks; its error is [ErrStopping] alone.
func (g *Gateway) Dial(context.Context) (net.Conn, error) {
	ours, theirs := innerPipe()
	c := g.newConn(ours)
	c.inner = true
	if g.admit(c) != "" {
		_ = ours.Close()
		return nil, ErrStopping
	}
	return theirs, nil
}

// pipeEnd is one end of a connection that has no socket. It knows when the other end was closed, as a socket does.
type pipeEnd struct {
	net.Conn
	closed, otherClosed *atomic.Bool
}

func innerPipe() (ours, theirs pipeEnd) {
	a, b := net.Pipe()
	aClosed, bClosed := new(atomic.Bool), new(atomic.Bool)
	return pipeEnd{a, aClosed, bClosed}, pipeEnd{b, bClosed, aClosed}
}

func (e pipeEnd) Close() error {
	e.closed.Store(true)
	return e.Conn.Close()
}

// Gone is what package sock asks connections without a socket.
func (e pipeEnd) Gone() bool { return e.otherClosed.Load() }
