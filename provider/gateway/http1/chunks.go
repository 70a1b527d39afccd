package http1

import "fmt"

// chunks is the state of a chunked body between two reads.
type chunks struct {
	state  chunkState
	left   uint64 // of the size while it is read, of the data afterwards
	taken  int64  // bytes of data so far
	digits int    // of the size
	line   int    // bytes of this size line's extension, or of all trailers
	name   [maxTrailerName]byte
	named  int // bytes in name
	keep   bool
	kept   []byte // the trailer section so far, if keep is set
}

type chunkState uint8

const (
	inSize chunkState = iota
	inExtension
	atSizeEnd // LF of a size line
	inData
	atDataCR
	atDataLF
	atTrailerStart
	inTrailerName
	inTrailerValue
	atTrailerLineEnd // LF of a trailer line
	atEnd            // LF of the last, empty line
	ended
)

const (
	maxSizeDigits  = 15 // below 2^60, so no arithmetic on sizes overflows
	maxExtension   = 256
	maxTrailers    = 8 << 10
	maxTrailerName = 24 // longer than every name that must not be a trailer
)

var (
	errChunkSize  = &Error{400, "malformed chunk size"}
	errChunkLong  = &Error{400, "chunk extension is too long"}
	errChunkEnd   = &Error{400, "chunk data does not end with CR LF"}
	errTrailer    = &Error{400, "malformed trailer"}
	errTrailers   = &Error{431, fmt.Sprintf("trailers are too long: legal are %d bytes", maxTrailers)}
	errForbidden  = &Error{400, "field is not allowed as a trailer"}
	errAfterChunk = &Error{400, "read past the last chunk"}
)

// next consumes a prefix of p: framing, or framing followed by one stretch of data, which it also returns.
func (c *chunks) next(p []byte) (n int, data []byte, done bool, err error) {
	for n < len(p) {
		if c.state == inData {
			take := min(c.left, uint64(len(p)-n))
			data = p[n : n+int(take)]
			c.left -= take
			c.taken += int64(take)
			if c.left == 0 {
				c.state = atDataCR
			}
			return n + int(take), data, false, nil
		}
		if e := c.step(p[n]); e != nil {
			return n, nil, false, e
		}
		n++
		if c.state == ended {
			return n, nil, true, nil
		}
	}
	return n, nil, false, nil
}

// step takes one byte of framing.
func (c *chunks) step(b byte) *Error {
	switch c.state {
	case inSize:
		return c.stepSize(b)
	case inExtension:
		return c.stepExtension(b)
	case atSizeEnd:
		if b != '\n' {
			return errLineEnd
		}
		c.state, c.line = inData, 0
		if c.left == 0 {
			c.state = atTrailerStart
		}
		c.digits = 0
	case atDataCR:
		if b != '\r' {
			return errChunkEnd
		}
		c.state = atDataLF
	case atDataLF:
		if b != '\n' {
			return errChunkEnd
		}
		c.state = inSize
	case ended:
		return errAfterChunk
	default:
		return c.stepTrailer(b)
	}
	return nil
}

func (c *chunks) stepSize(b byte) *Error {
	var digit byte
	switch {
	case '0' <= b && b <= '9':
		digit = b - '0'
	case 'a' <= b && b <= 'f':
		digit = b - 'a' + 10
	case 'A' <= b && b <= 'F':
		digit = b - 'A' + 10
	case b == '\r' && c.digits > 0:
		c.state = atSizeEnd
		return nil
	case b == ';' && c.digits > 0:
		c.state = inExtension
		return nil
	default:
		return errChunkSize
	}
	if c.digits++; c.digits > maxSizeDigits {
		return errChunkSize
	}
	c.left = c.left<<4 | uint64(digit)
	return nil
}

func (c *chunks) stepExtension(b byte) *Error {
	switch {
	case b == '\r':
		c.state = atSizeEnd
	case b < ' ' && b != '\t', b == 0x7f:
		return errChunkSize
	default:
		if c.line++; c.line > maxExtension {
			return errChunkLong
		}
	}
	return nil
}

func (c *chunks) stepTrailer(b byte) *Error {
	if c.line++; c.line > maxTrailers {
		return errTrailers
	}
	if c.keep {
		c.kept = append(c.kept, b)
	}
	switch c.state {
	case atTrailerStart:
		if b == '\r' {
			c.state = atEnd
			return nil
		}
		c.state, c.named = inTrailerName, 0
		return c.stepTrailerName(b)
	case inTrailerName:
		return c.stepTrailerName(b)
	case inTrailerValue:
		switch {
		case b == '\r':
			c.state = atTrailerLineEnd
		case b < ' ' && b != '\t', b == 0x7f:
			return errTrailer
		}
	case atTrailerLineEnd:
		if b != '\n' {
			return errLineEnd
		}
		c.state = atTrailerStart
	case atEnd:
		if b != '\n' {
			return errLineEnd
		}
		c.state = ended
	}
	return nil
}

// stepTrailerName refuses the names that would frame, route or authenticate a message (RFC 9110 §6.5.1). A recipient
// that merges trailers into the header must not believe them.
func (c *chunks) stepTrailerName(b byte) *Error {
	if b != ':' {
		if !isToken[b] {
			return errTrailer
		}
		if c.named < len(c.name) {
			c.name[c.named] = b
		}
		c.named++
		return nil
	}
	if c.named == 0 {
		return errTrailer
	}
	if c.named < len(c.name) {
		switch kindOf(c.name[:c.named]) {
		case Other, DurationSeconds, Internal, ServedBy, StartTime, RetryAfter:
		default:
			return errForbidden
		}
	}
	c.state = inTrailerValue
	return nil
}
