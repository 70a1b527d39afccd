package gateway

import (
	"io"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
)

// errUnasked is a switch of protocols that the client has not asked for.
var errUnasked = &http1.Error{Status: 502, Reason: "the function switched protocols unasked"}

// tunnel passes bytes both ways after a switch of protocols, until both sides have ended or one broke.
func (ex *exchange) tunnel() (status int, keep bool) {
	if !ex.req.WebSocket {
		return ex.fail(errUnasked)
	}
	ex.replica.Answered()
	ex.conn.Patient() // a function may leave messages unread for as long as it likes
	ex.c.tunnel.Store(true)
	head := ex.switchingHead()
	unread := ex.up.B[ex.ur:ex.uw]
	ex.c.limit(ex.g.cfg.TunnelTimeout)
	client, replica := ex.c.sock, ex.conn.Conn
	up := make(chan struct{})
	early := ex.in.B[ex.body:ex.w]
	ex.body = ex.w
	go func() {
		defer close(up)
		defer ex.c.guard()
		if len(early) == 0 || replica.Write(early, nil) == nil {
			ex.pipe(replica, client)
		}
	}()
	err := client.Write(head, unread)
	ex.dropOut()
	ex.dropUp()
	if err == nil {
		ex.pipe(client, replica)
	} else {
		client.Unblock()
		replica.Unblock()
	}
	<-up
	ex.c.detach(ex.conn, ex.g.cfg.WriteTimeout)
	_ = ex.conn.Close()
	ex.conn = nil
	ex.replica.Release()
	ex.replica = nil
	return 101, false
}

// pipe copies from one side to the other until the end, which it passes on. If a side broke, both are unblocked: half a
// tunnel is of no use.
func (ex *exchange) pipe(to, from *sock.Conn) {
	for {
		b, n, err := ex.g.borrow(from)
		if err != nil {
			to.CloseWrite()
			if err != io.EOF {
				to.Unblock()
				from.Unblock()
			}
			ex.c.half.Store(true)
			ex.limitTunnel()
			return
		}
		ex.limitTunnel()
		err = to.Write(b.B[:n], nil)
		ex.g.giveBack(b)
		if err != nil {
			to.Unblock()
			from.Unblock()
			return
		}
	}
}

// limitTunnel bounds the silence from now on. A client that has ended has often left, which only bytes sent to it would
// show: what the function still has to say to it may not be long in coming.
func (ex *exchange) limitTunnel() {
	limit := ex.g.cfg.TunnelTimeout
	if ex.c.half.Load() {
		limit = min(limit, ex.g.cfg.UpstreamTimeout)
	}
	ex.c.limit(limit)
}

// switchingHead is the 101 response as the client gets it.
func (ex *exchange) switchingHead() []byte {
	ex.takeOut(ex.resp.Size() + len(ex.resp.Line) + len(ex.id.callID) + len(ex.g.servedBy) + 256)
	b := append(ex.out.B[:0], "HTTP/1.1 "...)
	b = append(b, ex.resp.Line...)
	b = append(b, "\r\n"...)
	b = ex.resp.AppendKept(b)
	b = ex.appendOwn(b, &ex.resp)
	return append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
}
