package gateway

import (
	"io"
	"strconv"

	"waggle/provider/gateway/http1"
)

// relay sends the response on. What the replica sends is passed to the client as it comes, so that streams stay
// streams; a short response goes out in one write.
func (a *attempt) relay() (status int, keep bool) {
	resp := &a.resp
	if a.control && string(a.req.Method) != "GET" {
		a.g.unknown.forget() // before the client knows: perhaps a function was deployed
	}
	if resp.Status == 101 {
		return a.tunnel()
	}
	old := a.req.Minor == 0
	// RFC 9112 §6.1: where there cannot be a body, there is no Transfer-Encoding either.
	chunked := !old && (resp.Chunked || resp.Body.UntilClose()) && resp.Status != 204 && resp.Status != 304
	keep = a.req.KeepAlive && !a.g.draining.Load() && !(old && (resp.Body.Chunked() || resp.Body.UntilClose()))
	mode := raw
	switch {
	case resp.Body.UntilClose() && chunked:
		mode = enchunk
	case resp.Body.Chunked() && old:
		mode = dechunk
	case resp.Body.Chunked() && a.c.inner:
		mode = rechunk
	}
	keep, err := a.relayBody(mode, chunked, keep)
	byClient := err != nil && a.clientFault(err)
	up := a.stopUpload()
	if err != nil || up != nil && !up.done {
		return a.relayBroke(err, byClient)
	}
	return resp.Status, keep
}

// mode is how a response's body is turned into what the client understands.
type mode uint8

const (
	raw mode = iota
	enchunk
	dechunk
	rechunk // without trailers, which no inner client wants, and which the one of net/http takes for an error where they are odd
)

// relayBody writes the head and the body, and returns keep unless the head had to say that the connection ends. It
// releases the replica as soon as the last byte has come from it. How long the client takes to read does not concern
// the replica.
func (a *attempt) relayBody(m mode, chunked, keep bool) (bool, error) {
	var head []byte
	for {
		piece, done, err := a.piece(m)
		if err != nil {
			return false, err
		}
		if !a.headSent {
			keep = keep && !(done && a.answeredEarly())
			head = a.responseHead(keep, chunked)
		}
		if done && a.upload == nil {
			a.finish(true)
		} else {
			a.c.limit(a.g.cfg.WriteTimeout)
		}
		switch {
		case m == raw:
			err = a.c.sock.Write(head, piece)
		default:
			err = a.writeConverted(head, piece, m, done)
		}
		a.headSent = true
		head = nil
		if err != nil {
			a.c.left.Store(true)
			return false, err
		}
		if done {
			if a.upload != nil {
				a.finish(a.waitUpload(uploadGrace))
			}
			return keep, nil
		}
		a.limitStream()
		err = a.readUp()
		if err == io.EOF && a.resp.Body.UntilClose() {
			a.eof, err = true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// errBadChunks is a response whose chunks cannot be told apart.
var errBadChunks = &http1.Error{Status: 502, Reason: "malformed chunk in the response"}

// piece is the next part of the body among what has been read, framing included if m is raw.
func (a *attempt) piece(m mode) (p []byte, done bool, err error) {
	if a.eof {
		return nil, true, nil
	}
	var unread []byte
	if a.up != nil {
		unread = a.up.B[a.ur:a.uw]
	}
	if m == dechunk || m == rechunk {
		return a.decoded(unread)
	}
	n, done, err := a.resp.Body.Advance(unread)
	if err != nil {
		return nil, false, errBadChunks
	}
	a.ur += n
	return unread[:n], done, nil
}

// decoded strips the framing from unread, in place.
func (a *attempt) decoded(unread []byte) (p []byte, done bool, err error) {
	p = unread[:0]
	for len(unread) > 0 && !done {
		var n int
		var data []byte
		n, data, done, err = a.resp.Body.Decode(unread)
		if err != nil {
			return nil, false, errBadChunks
		}
		p = append(p, data...)
		unread = unread[n:]
		a.ur += n
	}
	return p, done, nil
}

// writeConverted writes a piece whose framing is not the replica's.
func (a *attempt) writeConverted(head, piece []byte, m mode, done bool) error {
	if m == dechunk {
		return a.c.sock.Write(head, piece)
	}
	var size [20]byte
	if len(piece) > 0 {
		s := append(strconv.AppendInt(size[:0], int64(len(piece)), 16), "\r\n"...)
		if err := a.c.sock.Write(head, s); err != nil {
			return err
		}
		if err := a.c.sock.Write(piece, crlf); err != nil {
			return err
		}
		head = nil
	}
	if done {
		return a.c.sock.Write(head, lastChunk)
	}
	return a.c.sock.Write(head, nil)
}

// limitStream bounds the silence within a response. The log stream of the API has none: a quiet function is no error.
func (a *attempt) limitStream() {
	if a.control {
		a.c.limit(0)
		return
	}
	a.limitUpstream()
}

// finish hands the connection and the replica back after a response that came whole; sent says that the request did too.
func (a *attempt) finish(sent bool) {
	conn, replica := a.conn, a.replica
	a.conn, a.replica = nil, nil
	replica.Answered()
	a.c.detach(conn, a.g.cfg.WriteTimeout)
	if sent && a.resp.KeepAlive && a.ur == a.uw {
		replica.Keep(conn)
	} else {
		_ = conn.Close()
	}
	replica.Release()
}

// relayBroke ends an exchange whose response or request broke off. A client must not take part of a response for the
// whole, so its connection is reset. byClient says that the fault lies in its request's body.
func (a *attempt) relayBroke(err error, byClient bool) (status int, keep bool) {
	status = a.resp.Status
	switch {
	case a.c.left.Load():
		status = 499
	case err != nil && !a.headSent:
		if !byClient {
			a.replica.Failed()
		}
		return a.fail(err)
	case byClient:
		status = a.upload.status
	}
	if a.conn != nil {
		a.discard()
	}
	if a.replica != nil {
		if err != nil && !byClient && status != 499 {
			a.replica.Failed()
		} else {
			a.replica.Answered()
		}
		a.replica.Release()
		a.replica = nil
	}
	if err == nil {
		// The response is whole, only the client never finished its request.
		a.c.lingers = true
		return status, false
	}
	a.c.sock.Abort()
	return status, false
}

// lastChunk ends a chunked body.
var lastChunk = []byte("0\r\n\r\n")

var crlf = []byte("\r\n")
