package http2

import (
	"io"
	"strings"
	"testing"

	wire "golang.org/x/net/http2"
)

// TestEndOfABodyMayComeLate: many clients send END_STREAM in a frame of its own, behind all that they have announced. By
// then the answer may be out; that is no reason to reset the stream, nor to count against the client what comes.
func TestEndOfABodyMayComeLate(t *testing.T) {
	t.Parallel()
	p := serve(t, func(s *Stream) {
		_, _ = io.ReadFull(s, make([]byte, len("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc")))
		_ = answer(s, 0)
	})
	for range maxNoise + 10 {
		id := p.begin(false, post("content-length", "3")...)
		p.must(p.WriteData(id, false, []byte("abc")))
		p.response(id)
		p.must(p.WriteData(id, true, nil))
	}
	// What comes instead is a fault as ever.
	id := p.begin(false, post("content-length", "3")...)
	p.must(p.WriteData(id, false, []byte("abc")))
	p.response(id)
	p.must(p.WriteData(id, true, []byte("d")))
	p.wantReset(id, wire.ErrCodeProtocol)
}

// TestBodyThatIsOnItsWayIsNoNoise: a client whose upload was answered early goes on until it hears of that.
func TestBodyThatIsOnItsWayIsNoNoise(t *testing.T) {
	t.Parallel()
	p := serve(t, func(s *Stream) { _ = answer(s, 0) })
	id := p.begin(false, post()...)
	p.response(id)
	p.wantReset(id, wire.ErrCodeNo)
	for range 2 * maxNoise {
		p.must(p.WriteData(id, false, []byte("x")))
		p.wantReset(id, wire.ErrCodeStreamClosed)
	}
	p.response(p.begin(true, get()...))
}

// TestLongTrailersAreNotKept: what a connection holds between requests must not grow with what a client once sent.
func TestLongTrailersAreNotKept(t *testing.T) {
	t.Parallel()
	p := serve(t, func(s *Stream) { s.await1() })
	id := p.begin(false, post()...)
	block := p.encode("x", strings.Repeat("~", maxFrame/2)) // which Huffman's code makes longer, so it is sent as it is
	p.must(p.WriteHeaders(wire.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true}))
	p.wantReset(id, wire.ErrCodeProtocol)
	_ = p.nc.Close()
	<-p.ended
	if n := cap(p.conn.block.trailers); n > maxTrailers {
		t.Errorf("%d bytes are kept", n)
	}
}
