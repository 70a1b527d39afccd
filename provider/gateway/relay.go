package gateway

import (
	"io"
	"strconv"

	"waggle/provider/gateway/http1"
)

// relay sends the response on. What the replica sends is passed to the client as it comes, so that streams stay
// streams; a short response goes out in one write.
func (ex *exchange) relay() (status int, keep bool) {
	resp := &ex.resp
	if ex.control && string(ex.req.Method) != "GET" {
		ex.g.unknown.forget() // before the client knows: perhaps a function was deployed
	}
	if resp.Status == 101 {
		return ex.tunnel()
	}
	old := ex.req.Minor == 0
	// RFC 9112 §6.1: where there cannot be a body, there is no Transfer-Encoding either.
	chunked := !old && (resp.Chunked || resp.Body.UntilClose()) && resp.Status != 204 && resp.Status != 304
	keep = ex.req.KeepAlive && !ex.g.draining.Load() && !(old && (resp.Body.Chunked() || resp.Body.UntilClose()))
	mode := raw
	switch {
	case resp.Body.UntilClose() && chunked:
		mode = enchunk
	case resp.Body.Chunked() && old:
		mode = dechunk
	case resp.Body.Chunked() && ex.c.inner:
		mode = rechunk
	}
	keep, err := ex.relayBody(mode, chunked, keep)
	byClient := err != nil && ex.clientFault(err)
	up := ex.stopUpload()
	if err != nil || up != nil && !up.done {
		return ex.relayBroke(err, byClient)
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

// relayBody writes the head and the body, and returns keep unless the head had to say that the connection ends. It hands
// the replica back as soon as the last byte has come from it: how long the client takes to read that is not the replica's
// business.
func (ex *exchange) relayBody(m mode, chunked, keep bool) (bool, error) {
	var head []byte
	for {
		piece, done, err := ex.piece(m)
		if err != nil {
			return false, err
		}
		if !ex.headSent {
			keep = keep && !(done && ex.answeredEarly())
			head = ex.responseHead(keep, chunked)
		}
		if done && ex.upload == nil {
			ex.finish(true)
		} else {
			ex.c.limit(ex.g.cfg.WriteTimeout)
		}
		switch {
		case m == raw:
			err = ex.c.sock.Write(head, piece)
		default:
			err = ex.writeConverted(head, piece, m, done)
		}
		ex.headSent = true
		head = nil
		if err != nil {
			ex.c.left.Store(true)
			return false, err
		}
		if done {
			if ex.upload != nil {
				ex.finish(ex.waitUpload(uploadGrace))
			}
			return keep, nil
		}
		ex.limitStream()
		err = ex.readUp()
		if err == io.EOF && ex.resp.Body.UntilClose() {
			ex.eof, err = true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// errBadChunks is a response whose chunks cannot be told apart.
var errBadChunks = &http1.Error{Status: 502, Reason: "malformed chunk in the response"}

// piece is the next part of the body among what has been read, framing included if m is raw.
func (ex *exchange) piece(m mode) (p []byte, done bool, err error) {
	if ex.eof {
		return nil, true, nil
	}
	var unread []byte
	if ex.up != nil {
		unread = ex.up.B[ex.ur:ex.uw]
	}
	if m == dechunk || m == rechunk {
		return ex.decoded(unread)
	}
	n, done, err := ex.resp.Body.Advance(unread)
	if err != nil {
		return nil, false, errBadChunks
	}
	ex.ur += n
	return unread[:n], done, nil
}

// decoded strips the framing from unread, in place.
func (ex *exchange) decoded(unread []byte) (p []byte, done bool, err error) {
	p = unread[:0]
	for len(unread) > 0 && !done {
		var n int
		var data []byte
		n, data, done, err = ex.resp.Body.Decode(unread)
		if err != nil {
			return nil, false, errBadChunks
		}
		p = append(p, data...)
		unread = unread[n:]
		ex.ur += n
	}
	return p, done, nil
}

// writeConverted writes a piece whose framing is not the replica's.
func (ex *exchange) writeConverted(head, piece []byte, m mode, done bool) error {
	if m == dechunk {
		return ex.c.sock.Write(head, piece)
	}
	var size [20]byte
	if len(piece) > 0 {
		s := append(strconv.AppendInt(size[:0], int64(len(piece)), 16), "\r\n"...)
		if err := ex.c.sock.Write(head, s); err != nil {
			return err
		}
		if err := ex.c.sock.Write(piece, crlf); err != nil {
			return err
		}
		head = nil
	}
	if done {
		return ex.c.sock.Write(head, lastChunk)
	}
	return ex.c.sock.Write(head, nil)
}

// limitStream bounds the silence within a response. The log stream of the API has none: a quiet function is no error.
func (ex *exchange) limitStream() {
	if ex.control {
		ex.c.limit(0)
		return
	}
	ex.limitUpstream()
}

// finish hands the connection and the replica back after a response that came whole; sent says that the request did too.
func (ex *exchange) finish(sent bool) {
	conn, replica := ex.conn, ex.replica
	ex.conn, ex.replica = nil, nil
	replica.Answered()
	ex.c.detach(conn, ex.g.cfg.WriteTimeout)
	if sent && ex.resp.KeepAlive && ex.ur == ex.uw {
		replica.Keep(conn)
	} else {
		_ = conn.Close()
	}
	replica.Release()
}

// relayBroke ends an exchange whose response broke off, or whose request did. A client must not take what it has of a
// response for the whole, so its connection is reset. byClient says that the fault lies in its request's body.
func (ex *exchange) relayBroke(err error, byClient bool) (status int, keep bool) {
	status = ex.resp.Status
	switch {
	case ex.c.left.Load():
		status = 499
	case err != nil && !ex.headSent:
		if !byClient {
			ex.replica.Failed()
		}
		return ex.fail(err)
	case byClient:
		status = ex.upload.status
	}
	if ex.conn != nil {
		ex.discard()
	}
	if ex.replica != nil {
		if err != nil && !byClient && status != 499 {
			ex.replica.Failed()
		} else {
			ex.replica.Answered()
		}
		ex.replica.Release()
		ex.replica = nil
	}
	if err == nil {
		// The response is whole, only the client never finished its request.
		ex.c.lingers = true
		return status, false
	}
	ex.c.sock.Abort()
	return status, false
}
