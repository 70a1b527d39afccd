package http2

import (
	"math"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"waggle/provider/gateway/http1"
)

// block is a header block as it comes, in one frame or several. The reader alone uses it. Every block is decoded, also
// one that is refused, because HPACK's table is common to all.
type block struct {
	c       *Conn
	decoder *hpack.Decoder

	active bool // frames of it are still to come
	id     uint32
	end    bool // END_STREAM
	frames int
	size   int // bytes, as they are encoded

	// trailers are lines of HTTP/1.1, if the block belongs to a stream that is open already.
	trailing bool
	trailers []byte
	request  request

	malformed bool // RFC 9113 §8.1.1
	long      bool // beyond what is passed on
}

const (
	// maxBlockFactor bounds a header block, as it is encoded, in multiples of the longest head. Heads that are too long
	// for the gateway get an answer that says so; beyond this bound the connection ends.
	maxBlockFactor = 4
	// maxBlockFrames bounds its frames, which may be empty.
	maxBlockFrames = 32
	// maxTrailers is what the reader of chunks takes in all.
	maxTrailers = 8 << 10
)

func (b *block) maxSize() int { return max(maxBlockFactor*b.c.cfg.MaxHeader, 2*maxFrame) }

// headers begins a block.
func (b *block) headers(f *wire.HeadersFrame) error {
	if f.StreamID%2 == 0 {
		return wire.ConnectionError(wire.ErrCodeProtocol)
	}
	b.id, b.end, b.frames, b.size = f.StreamID, f.StreamEnded(), 0, 0
	b.malformed, b.long = f.HasPriority() && f.Priority.StreamDep == f.StreamID, false
	b.c.mu.Lock()
	b.trailing = b.c.streams[b.id] != nil
	b.c.mu.Unlock()
	b.trailers = b.trailers[:0]
	b.request.reset()
	b.decoder.SetEmitEnabled(true)
	return b.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

func (b *block) continuation(f *wire.ContinuationFrame) error {
	return b.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

func (b *block) fragment(p []byte, last bool) error {
	b.active = !last
	b.frames++
	if b.size += len(p); b.size > b.maxSize() || b.frames > maxBlockFrames {
		return wire.ConnectionError(wire.ErrCodeEnhanceYourCalm)
	}
	if _, err := b.decoder.Write(p); err != nil {
		return wire.ConnectionError(wire.ErrCodeCompression)
	}
	if !last {
		return nil
	}
	if err := b.decoder.Close(); err != nil {
		return wire.ConnectionError(wire.ErrCodeCompression)
	}
	defer b.request.drop()
	return b.finish()
}

// emit takes a field from the decoder.
func (b *block) emit(f hpack.HeaderField) {
	pseudo := len(f.Name) > 0 && f.Name[0] == ':'
	switch {
	case b.malformed:
	case !validValue(f.Value), !pseudo && !validName(f.Name):
		b.malformed = true
	case b.trailing && pseudo:
		b.malformed = true
	case b.trailing && len(b.trailers)+len(f.Name)+len(f.Value)+4 > maxTrailers:
		b.long = true
	case b.trailing:
		b.trailers = append(append(append(append(b.trailers, f.Name...), ": "...), f.Value...), crlf...)
	case pseudo:
		b.malformed = !b.request.pseudo(f)
	default:
		b.malformed = !b.request.field(f)
		b.long = b.request.size() > b.c.cfg.MaxHeader
	}
	if b.malformed || b.long {
		b.decoder.SetEmitEnabled(false) // nothing more is wanted of it
	}
}

// finish does what a complete block asks for.
func (b *block) finish() error {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[b.id]
	switch {
	case s != nil && !b.trailing, s == nil && b.trailing:
		return nil // the stream has ended between the frames of the block
	case s != nil:
		return b.endRequest(s)
	case b.id <= c.lastID:
		if b.request.method == "" && !b.malformed { // trailers of a stream that this side has ended
			return wire.StreamError{StreamID: b.id, Code: wire.ErrCodeStreamClosed}
		}
		return wire.ConnectionError(wire.ErrCodeProtocol)
	case c.drain == draining:
		return nil // the client knows that it is too late
	}
	c.lastID = b.id
	if b.malformed || !b.request.complete(b.end, b.long) {
		return wire.StreamError{StreamID: b.id, Code: wire.ErrCodeProtocol}
	}
	if len(c.streams) >= c.cfg.MaxStreams || c.running >= 2*c.cfg.MaxStreams {
		return wire.StreamError{StreamID: b.id, Code: wire.ErrCodeRefusedStream}
	}
	c.open(b)
	return nil
}

// endRequest ends a request with trailers.
func (b *block) endRequest(s *Stream) error {
	switch {
	case s.remoteEnded:
		return wire.StreamError{StreamID: b.id, Code: wire.ErrCodeStreamClosed}
	case b.malformed, b.long, !b.end, s.declared >= 0 && s.received < s.declared:
		return wire.StreamError{StreamID: b.id, Code: wire.ErrCodeProtocol}
	}
	if s.chunked && len(b.trailers) > 0 {
		s.trailers = append([]byte(nil), b.trailers...)
	}
	s.endRemote()
	s.cond.Broadcast()
	return nil
}

// open makes a stream of a request's head.
func (c *Conn) open(b *block) {
	r := &b.request
	s := &Stream{c: c, id: b.id, head: r.head, headBuf: r.buf, chunked: r.chunked, declared: r.declared, toHEAD: r.method == "HEAD",
		window: c.initial, recvWindow: streamWindow, remoteEnded: b.end}
	r.head, r.buf = nil, nil
	if r.method != "GET" && r.method != "HEAD" {
		s.came = time.Now().Add(-c.sock.Lain())
	}
	s.cond.L = &c.mu
	c.streams[s.id] = s
	c.running++
	c.idleBy.Store(0)
	c.opened = append(c.opened, s)
}

// validName reports whether s is a name as HTTP/2 has it: a token in lower case.
func validName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !http1.IsToken(c) || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return len(s) > 0
}

// validValue reports whether s has no control characters and no white space around it (RFC 9113 §8.2.1).
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	blank := func(c byte) bool { return c == ' ' || c == '\t' }
	return len(s) == 0 || !blank(s[0]) && !blank(s[len(s)-1])
}

// noLength is a body's length that only its end tells.
const noLength = -1

// parseLength reads a Content-Length.
func parseLength(s string) (n int64, ok bool) {
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' || n > (math.MaxInt64-9)/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(s) > 0
}
