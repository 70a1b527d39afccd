package http1

// framing is how a body's end is told.
type framing uint8

const (
	noBody framing = iota
	byLength
	byChunks
	untilClose
)

// Body follows a body through the bytes of a connection. The zero value is no body.
type Body struct {
	kind   framing
	left   int64
	chunks chunks
}

// Empty reports whether there is nothing to read: no body, or one of length 0.
func (b *Body) Empty() bool { return b.kind == noBody || b.kind == byLength && b.left == 0 }

// Length is the number of bytes still to come, or -1 if only reading tells.
func (b *Body) Length() int64 {
	switch b.kind {
	case noBody:
		return 0
	case byLength:
		return b.left
	}
	return -1
}

// Unchunked is how many bytes of a chunked body have been consumed, framing aside.
func (b *Body) Unchunked() int64 { return b.chunks.taken }

// Chunked reports whether the body comes in chunks.
func (b *Body) Chunked() bool { return b.kind == byChunks }

// UntilClose reports whether only the end of the connection ends the body.
func (b *Body) UntilClose() bool { return b.kind == untilClose }

// Advance consumes what of p belongs to the body, framing included, and reports whether the body ends there.
// Bytes it consumed may be forwarded as they are.
func (b *Body) Advance(p []byte) (n int, done bool, err error) {
	switch b.kind {
	case noBody:
		return 0, true, nil
	case untilClose:
		return len(p), false, nil
	case byLength:
		n = int(min(b.left, int64(len(p))))
		b.left -= int64(n)
		return n, b.left == 0, nil
	}
	for n < len(p) && !done {
		var used int
		used, _, done, err = b.chunks.next(p[n:])
		if err != nil {
			return n, false, err
		}
		n += used
	}
	return n, done, nil
}

// Decode consumes one step of p and returns the payload within it, without framing.
func (b *Body) Decode(p []byte) (n int, payload []byte, done bool, err error) {
	if b.kind == byChunks {
		return b.chunks.next(p)
	}
	n, done, err = b.Advance(p)
	return n, p[:n], done, err
}

// KeepTrailers makes the trailers of a chunked body available from Trailers; by default they only pass through.
func (b *Body) KeepTrailers() { b.chunks.keep = true }

// Trailers is the trailer section of a chunked body that has ended, with the empty line after it. Without trailers it
// is that line alone.
func (b *Body) Trailers() []byte { return b.chunks.kept }
