package http2

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	wire "golang.org/x/net/http2"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
)

// Stream is one request of a client. It is a net.Conn that speaks HTTP/1.1. The request is read from it, followed by
// io.EOF. The response is written to it, each head in one Write. One goroutine may read while another writes. All
// other methods may be called concurrently.
type Stream struct {
	c    *Conn
	id   uint32
	cond sync.Cond // of c.mu; told of everything that Read or a write may wait for

	// The request. head is what Read gives first; then comes the body, in chunks unless its length was given.
	head     []byte
	headBuf  *sock.Buffer
	chunked  bool
	declared int64 // Content-Length, or -1
	received int64
	body     queue
	framing  []byte // bytes that come before the body's next
	sizeLine [24]byte
	inChunk  int    // bytes of the chunk that has begun
	trailers []byte // their lines
	readAll  bool   // Read has given everything

	came time.Time // when the request's head came, if the request may write

	recvWindow, consumed int64 // as the connection's
	window               int64 // for DATA to the client

	toHEAD   bool
	response http1.Body // what is to be written of it
	headDone bool       // the final response's head has been written

	localEnded, remoteEnded bool // END_STREAM went out, came in
	over                    bool // closed on the wire, in whatever way
	failed                  bool // it ended before its time
	deaf                    bool // the user reads no more
	closed                  bool // the user has done
	unblocked               bool // see SetDeadline
}

// errReset is what a stream's user gets once the client, or the connection, has gone.
var errReset = errors.New("stream was reset")

// fail ends the stream before its time, without a word to the client.
func (s *Stream) fail() {
	if s.over {
		return
	}
	s.failed = true
	s.leave()
	s.cond.Broadcast()
}

// leave takes the stream off the wire.
func (s *Stream) leave() {
	s.over = true
	delete(s.c.streams, s.id)
	if s.failed || s.closed {
		s.dropBody()
	}
}

// endRemote notes that the client has sent everything.
func (s *Stream) endRemote() {
	s.remoteEnded = true
	s.endIfBoth()
}

func (s *Stream) endIfBoth() {
	if s.remoteEnded && s.localEnded && !s.over {
		s.leave()
	}
}

// keep takes in what has come of the body, and reports false if there is no room for it.
func (s *Stream) keep(p []byte) bool {
	more := s.body.grows(len(p))
	if !s.c.cfg.Unread.Take(more) {
		return false
	}
	s.body.put(p)
	return true
}

// take moves what has come of the body into p.
func (s *Stream) take(p []byte) (n int) {
	before := s.body.size()
	n = s.body.get(p)
	s.c.cfg.Unread.Add(s.body.size() - before)
	return n
}

// dropBody forgets what nobody will read.
func (s *Stream) dropBody() {
	s.c.cfg.Unread.Add(-s.body.size())
	n := s.body.drop()
	s.c.credit(int64(n))
}

// credit gives n bytes of the stream's window back, some time.
func (s *Stream) credit(n int64) {
	if s.consumed += n; s.consumed >= streamWindow/2 && !s.remoteEnded && !s.over {
		s.c.out.windowUpdate(s.id, s.consumed)
		s.recvWindow += s.consumed
		s.consumed = 0
	}
}

// Read gives the request in HTTP/1.1.
func (s *Stream) Read(p []byte) (n int, err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.unblocked:
			return 0, os.ErrDeadlineExceeded
		case s.failed:
			return 0, errReset
		case s.deaf, s.closed:
			return 0, io.EOF
		}
		if n = s.fill(p); n > 0 || len(p) == 0 {
			c.flushAside() // windows may have been opened
			return n, nil
		}
		if s.readAll {
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

// AwaitRead returns once Read would not wait.
func (s *Stream) AwaitRead() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for !s.unblocked && !s.failed && !s.deaf && !s.closed && !s.readAll && !s.remoteEnded &&
		len(s.head) == 0 && len(s.framing) == 0 && s.body.n == 0 {
		s.cond.Wait()
	}
}

// fill puts as much of the request into p as there is.
func (s *Stream) fill(p []byte) (n int) {
	if len(s.head) > 0 {
		n = copy(p, s.head)
		if s.head = s.head[n:]; len(s.head) == 0 {
			s.dropHead()
		}
	}
	for n < len(p) && !s.readAll {
		switch {
		case len(s.framing) > 0:
			k := copy(p[n:], s.framing)
			s.framing = s.framing[k:]
			n += k
		case s.body.n > 0 && (s.inChunk > 0 || !s.chunked):
			limit := len(p) - n
			if s.chunked {
				limit = min(limit, s.inChunk)
			}
			k := s.take(p[n : n+limit])
			n += k
			s.c.credit(int64(k))
			s.credit(int64(k))
			if s.inChunk -= k; s.chunked && s.inChunk == 0 {
				s.framing = crlf
			}
		case s.body.n > 0:
			s.inChunk = s.body.n
			s.framing = append(strconv.AppendInt(s.sizeLine[:0], int64(s.inChunk), 16), crlf...)
		case !s.remoteEnded:
			return n
		case s.chunked:
			s.chunked = false // so that what follows is the end
			s.framing = append(append(append(s.sizeLine[:0], "0\r\n"...), s.trailers...), crlf...)
		default:
			s.readAll = true
		}
	}
	return n
}

var crlf = []byte("\r\n")

func (s *Stream) dropHead() {
	if s.headBuf != nil {
		heads.Put(s.headBuf)
		s.head, s.headBuf = nil, nil
	}
}

// Close ends the stream. If the response is not whole, the client is told that it was cut off. If the request
// is not whole, the client is told that the rest is not wanted.
func (s *Stream) Close() error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	c.running--
	switch {
	case s.over:
	case s.localEnded && s.received == s.declared:
		s.deaf = true // all has come but the END_STREAM, which ends the stream
	case s.localEnded:
		c.out.reset(s.id, wire.ErrCodeNo)
		s.leave()
	default:
		c.out.reset(s.id, wire.ErrCodeInternal)
		s.leave()
	}
	s.dropHead()
	s.dropBody()
	s.cond.Broadcast()
	c.restIfIdle()
	c.flushAside()
	return nil
}

// CloseWrite says that the response is over, and with it the interest in the rest of the request.
func (s *Stream) CloseWrite() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.deaf = true
	s.dropBody()
	s.cond.Broadcast()
	s.c.flushAside()
	return nil
}

// Gone reports whether the client has given the stream up or left.
func (s *Stream) Gone() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.failed
}

// Quiet reports whether there is nothing to be read, and never will be: a stream has one request.
func (s *Stream) Quiet() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.readAll || s.deaf || s.closed
}

// Lain is how long ago the request's head came; 0 for one that only reads.
func (s *Stream) Lain() time.Duration {
	if s.came.IsZero() {
		return 0
	}
	return time.Since(s.came)
}

// SetDeadline knows two deadlines: one that has passed makes Read and writes fail, the zero one ends that.
func (s *Stream) SetDeadline(t time.Time) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.unblocked = !t.IsZero()
	s.cond.Broadcast()
	return nil
}

// SetReadDeadline is SetDeadline.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.SetDeadline(t) }

// SetWriteDeadline is SetDeadline.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.SetDeadline(t) }

// LocalAddr is the connection's.
func (s *Stream) LocalAddr() net.Addr { return s.c.sock.NetConn().LocalAddr() }

// RemoteAddr is the connection's.
func (s *Stream) RemoteAddr() net.Addr { return s.c.sock.NetConn().RemoteAddr() }
