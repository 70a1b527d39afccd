package http2

import (
	"bytes"
	"errors"
	"os"
	"sync"

	wire "golang.org/x/net/http2"

	"waggle/provider/gateway/http1"
)

var responses = sync.Pool{New: func() any { return &http1.Response{Fields: http1.Fields{Own: true}} }}

// errNoResponse is a response that is none in HTTP/1.1, or goes on behind its end.
var errNoResponse = errors.New("not a response in HTTP/1.1")

// Write is WriteBoth of one piece.
func (s *Stream) Write(p []byte) (int, error) { return s.WriteBoth(p, nil) }

// WriteBoth takes the next bytes of the response in HTTP/1.1, in two pieces, and sends what they say. A head must lie
// within one piece.
func (s *Stream) WriteBoth(a, b []byte) (int, error) {
	var last []byte // of the payload, held back: it may be what the stream ends with
	done := false
	for _, p := range [2][]byte{a, b} {
		for len(p) > 0 && !s.headDone {
			n, err := s.writeHead(p)
			if err != nil {
				return 0, err
			}
			p = p[n:]
		}
		for len(p) > 0 {
			n, payload, end, err := s.response.Decode(p)
			if err != nil || n == 0 {
				return 0, errNoResponse
			}
			if p = p[n:]; len(payload) > 0 {
				if err := s.send(last, false); err != nil {
					return 0, err
				}
				last = payload
			}
			done = done || end
		}
	}
	return len(a) + len(b), s.finishWrite(last, done)
}

// finishWrite sends the last payload of a write, and the end of the stream if it is there.
func (s *Stream) finishWrite(last []byte, done bool) error {
	c := s.c
	switch {
	case !done:
		if err := s.send(last, false); err != nil {
			return err
		}
	case len(s.response.Trailers()) <= len(crlf):
		if err := s.send(last, true); err != nil {
			return err
		}
	default:
		if err := s.send(last, false); err != nil {
			return err
		}
		if err := s.writeTrailers(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush(c.cfg.WriteTimeout)
	return nil
}

// writeHead sends the head that p begins with and returns its length.
func (s *Stream) writeHead(p []byte) (int, error) {
	r := responses.Get().(*http1.Response)
	defer responses.Put(r)
	n, perr := r.Parse(p, s.toHEAD)
	if perr != nil || n == 0 || r.Status == 101 {
		return 0, errNoResponse
	}
	end := false
	if r.Status >= 200 {
		s.headDone, s.response = true, r.Body
		s.response.KeepTrailers()
		end = r.Body.Empty()
	}
	return n, s.sendFields(end, func(b []byte) []byte {
		b = appendStatus(b, r.Status)
		return appendFields(b, &r.Fields)
	})
}

// writeTrailers sends what the reader of chunks has found to be trailers. They may be more than the fields of a head.
func (s *Stream) writeTrailers() error {
	return s.sendFields(true, func(b []byte) []byte {
		for line, rest, _ := bytes.Cut(s.response.Trailers(), crlf); len(line) > 0; line, rest, _ = bytes.Cut(rest, crlf) {
			name, value, _ := bytes.Cut(line, []byte(":"))
			b = appendField(b, name, bytes.Trim(value, " \t"))
		}
		return b
	})
}

// sendFields sends a header block, which encode appends.
func (s *Stream) sendFields(end bool, encode func([]byte) []byte) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := s.await(0); err != nil {
		return err
	}
	flags := wire.Flags(0)
	if end {
		flags = wire.FlagHeadersEndStream
		s.localEnded = true
	}
	b := c.out.bytes()
	at := len(b)
	b = appendHeader(b, 0, wire.FrameHeaders, flags, s.id)
	if !c.tableShut {
		// The table of this side's encoder is shut once and for all, so that no setting of the client's has to be heeded.
		b = append(b, shutTable)
		c.tableShut = true
	}
	c.out.b = splitBlock(encode(b), at, c.maxWrite, s.id)
	s.endIfBoth()
	c.wakeNext()
	return nil
}

// splitBlock completes the headers of the frames of the header block whose first frame begins at b[at:]. A block that is
// longer than a frame may be goes on in CONTINUATION frames.
func splitBlock(b []byte, at, longest int, id uint32) []byte {
	for {
		rest := len(b) - at - frameHeader
		length := min(rest, longest)
		b[at], b[at+1], b[at+2] = byte(length>>16), byte(length>>8), byte(length)
		if rest == length {
			break
		}
		next := at + frameHeader + length
		b = append(b, make([]byte, frameHeader)...)
		copy(b[next+frameHeader:], b[next:len(b)-frameHeader])
		appendHeader(b[next:next], 0, wire.FrameContinuation, 0, id)
		at = next
	}
	b[at+4] |= byte(wire.FlagHeadersEndHeaders)
	return b
}

// send sends p as DATA frames, waiting for flow control and room.
func (s *Stream) send(p []byte, end bool) error {
	if len(p) == 0 && !end {
		return nil
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		n, err := s.await(len(p))
		if err != nil {
			return err
		}
		flags := wire.Flags(0)
		if end && n == len(p) {
			flags = wire.FlagDataEndStream
			s.localEnded = true
		}
		c.out.b = append(appendHeader(c.out.bytes(), n, wire.FrameData, flags, s.id), p[:n]...)
		p = p[n:]
		s.window -= int64(n)
		c.window -= int64(n)
		c.wakeNext()
		if len(p) == 0 {
			s.endIfBoth()
			return nil
		}
	}
}

// await waits until s may send: some of want bytes of DATA, how many it returns, or a header block if want is 0. Streams
// that wait for the same get their turns in order, a frame each. A header block needs no window, so it is behind no stream
// that waits for one. The caller holds mu.
func (s *Stream) await(want int) (n int, err error) {
	c := s.c
	for {
		switch {
		case s.failed, s.over, s.closed, c.dead:
			err = errReset
		case s.unblocked:
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			c.out.dequeue(s)
			c.wakeNext()
			return 0, err
		}
		open := want == 0 || s.window > 0
		turn := want == 0 || c.window > 0 && (len(c.out.queue) == 0 || c.out.queue[0] == s)
		if open && turn && len(c.out.b) < outputLimit {
			c.out.dequeue(s)
			return int(min(int64(want), int64(c.maxWrite), max(s.window, 0), max(c.window, 0))), nil
		}
		if len(c.out.b) > 0 && !c.out.flushing {
			c.flush(c.cfg.WriteTimeout)
			continue
		}
		if open {
			c.out.enqueue(s, want == 0)
		} else {
			c.out.dequeue(s)
			c.wakeNext()
		}
		s.cond.Wait()
	}
}
