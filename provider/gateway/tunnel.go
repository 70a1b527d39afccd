package gateway

import (
	"io"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
)

// errUnasked is a switch of protocols that the client has not asked for.
var errUnasked = &http1.Error{Status: 502, Reason: "the function switched protocols unasked"}

// tunnel passes bytes both ways after a switch of protocols, until both sides have ended or one broke.
func (a *attempt) tunnel() (status int, keep bool) {
	if !a.req.WebSocket {
		return a.fail(errUnasked)
	}
	a.replica.Answered()
	a.conn.Patient() // a function may leave messages unread for as long as it likes
	a.c.tunnel.Store(true)
	head := a.switchingHead()
	unread := a.up.B[a.ur:a.uw]
	a.c.limit(a.g.cfg.TunnelTimeout)
	client, replica := a.c.sock, a.conn.Conn
	up := make(chan struct{})
	early := a.in.B[a.body:a.w]
	a.body = a.w
	go func() {
		defer close(up)
		defer a.c.guard()
		if len(early) == 0 || replica.Write(early, nil) == nil {
			a.pipe(replica, client)
		}
	}()
	err := client.Write(head, unread)
	a.dropOut()
	a.dropUp()
	if err == nil {
		a.pipe(client, replica)
	} else {
		client.Unblock()
		replica.Unblock()
	}
	<-up
	a.c.detach(a.conn, a.g.cfg.WriteTimeout)
	_ = a.conn.Close()
	a.conn = nil
	a.replica.Release()
	a.replica = nil
	return 101, false
}

// pipe copies from one side to the other until the end, which it passes on. If a side broke, both are unblocked: half a
// tunnel is of no use.
func (a *attempt) pipe(to, from *sock.Conn) {
	for {
		b, n, err := a.g.borrow(from)
		if err != nil {
			to.CloseWrite()
			if err != io.EOF {
				to.Unblock()
				from.Unblock()
			}
			a.c.half.Store(true)
			a.limitTunnel()
			return
		}
		a.limitTunnel()
		err = to.Write(b.B[:n], nil)
		a.g.giveBack(b)
		if err != nil {
			to.Unblock()
			from.Unblock()
			return
		}
	}
}

// limitTunnel bounds the silence from now on. A client that has ended its side has often left, which only bytes sent
// to it would show. So the function must then send its rest soon.
func (a *attempt) limitTunnel() {
	limit := a.g.cfg.TunnelTimeout
	if a.c.half.Load() {
		limit = min(limit, a.g.cfg.UpstreamTimeout)
	}
	a.c.limit(limit)
}

// switchingHead is the 101 response as the client gets it.
func (a *attempt) switchingHead() []byte {
	a.takeOut(a.resp.Size() + len(a.resp.Line) + len(a.id.callID) + len(a.g.servedBy) + 256)
	b := append(a.out.B[:0], "HTTP/1.1 "...)
	b = append(b, a.resp.Line...)
	b = append(b, "\r\n"...)
	b = a.resp.AppendKept(b)
	b = a.appendOwn(b, &a.resp)
	return append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
}
