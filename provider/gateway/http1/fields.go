// Package http1 reads the framing of HTTP/1.1 messages: heads, chunks and lengths.
//
// It stands between a socket's bytes and the gateway's decisions. In: a buffer as it was read. Out: where in that
// buffer the parts lie, so that they can be forwarded without being copied or rebuilt. It allocates nothing. What it
// accepts has one meaning only: it refuses anything that two implementations of RFC 9112 might frame differently.
// Such a message can smuggle a second one past the first reader.
package http1

import (
	"encoding/binary"
	"fmt"
)

// Error is why a message was refused and the status that says so to a client.
type Error struct {
	Status int
	Reason string
}

func (e *Error) Error() string { return e.Reason }

// MaxFields bounds the header fields of one message; nginx and Go servers accept more, no honest client needs them.
const MaxFields = 100

// MaxOwn is how many fields the gateway adds to a response at most: X-Call-Id, X-Start-Time, X-Duration-Seconds,
// X-Served-By, Transfer-Encoding, Connection.
const MaxOwn = 6

// Kind is a field name that the gateway has to know.
type Kind uint8

// The field names with a meaning for a gateway; everything else is Other and passes through.
const (
	Other Kind = iota
	Authorization
	CallID
	Connection
	ContentLength
	DurationSeconds
	Expect
	Host
	Internal
	KeepAlive
	ProxyAuthenticate
	ProxyAuthorization
	ProxyConnection
	RetryAfter
	ServedBy
	StartTime
	TE
	Trailer
	TransferEncoding
	Upgrade
	ForwardedFor
	ForwardedHost
	ForwardedProto
)

// HopByHop reports whether a field of this kind concerns one connection only (RFC 9110 §7.6.1).
func (k Kind) HopByHop() bool {
	switch k {
	case Connection, KeepAlive, ProxyAuthenticate, ProxyAuthorization, ProxyConnection, TE, TransferEncoding, Upgrade:
		return true
	}
	return false
}

// kindOf names the kind of a field. name holds token characters only.
func kindOf(name []byte) Kind {
	switch len(name) {
	case 2:
		return pick(name, "te", TE)
	case 4:
		return pick(name, "host", Host)
	case 6:
		return pick(name, "expect", Expect)
	case 7:
		if k := pick(name, "upgrade", Upgrade); k != Other {
			return k
		}
		return pick(name, "trailer", Trailer)
	case 9:
		return pick(name, "x-call-id", CallID)
	case 10:
		if k := pick(name, "connection", Connection); k != Other {
			return k
		}
		return pick(name, "keep-alive", KeepAlive)
	case 11:
		if k := pick(name, "retry-after", RetryAfter); k != Other {
			return k
		}
		return pick(name, "x-served-by", ServedBy)
	case 12:
		return pick(name, "x-start-time", StartTime)
	case 13:
		return pick(name, "authorization", Authorization)
	case 14:
		return pick(name, "content-length", ContentLength)
	case 15:
		return pick(name, "x-forwarded-for", ForwardedFor)
	case 16:
		if k := pick(name, "x-forwarded-host", ForwardedHost); k != Other {
			return k
		}
		return pick(name, "proxy-connection", ProxyConnection)
	case 17:
		if k := pick(name, "transfer-encoding", TransferEncoding); k != Other {
			return k
		}
		return pick(name, "x-forwarded-proto", ForwardedProto)
	case 18:
		if k := pick(name, "proxy-authenticate", ProxyAuthenticate); k != Other {
			return k
		}
		return pick(name, "x-duration-seconds", DurationSeconds)
	case 19:
		if k := pick(name, "proxy-authorization", ProxyAuthorization); k != Other {
			return k
		}
		return pick(name, "x-openfaas-internal", Internal)
	}
	return Other
}

func pick(name []byte, lower string, k Kind) Kind {
	if EqualFold(name, lower) {
		return k
	}
	return Other
}

// EqualFold reports whether a equals lower, which is in lower case, ignoring the case of ASCII letters.
func EqualFold(a []byte, lower string) bool {
	if len(a) != len(lower) {
		return false
	}
	for i := range a {
		c := a[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Field is one header line; offsets are into the head's buffer.
type Field struct {
	start, nameEnd, valueStart, valueEnd, end int32
	Kind                                      Kind
	// Drop is set on fields that must not be forwarded: hop-by-hop ones and those that Connection names.
	Drop bool
}

// Fields are the header lines of one message.
type Fields struct {
	// Own says that the gateway's own fields are among them: MaxOwn more than MaxFields are accepted.
	Own  bool
	buf  []byte
	list [MaxFields + MaxOwn]Field
	n    int
}

// All is every field in order. It is valid until the next parse.
func (f *Fields) All() []Field { return f.list[:f.n] }

// Value is a field's value without the white space around it.
func (f *Fields) Value(h *Field) []byte { return f.buf[h.valueStart:h.valueEnd] }

// Name is a field's name as it was sent.
func (f *Fields) Name(h *Field) []byte { return f.buf[h.start:h.nameEnd] }

// Size is the length of all lines together.
func (f *Fields) Size() int {
	if f.n == 0 {
		return 0
	}
	return int(f.list[f.n-1].end - f.list[0].start)
}

// AppendKept appends every line that is not dropped, as it was sent. Neighbouring lines go in one copy.
func (f *Fields) AppendKept(dst []byte) []byte {
	if f.n == 0 {
		return dst
	}
	from := f.list[0].start
	for i := range f.list[:f.n] {
		if h := &f.list[i]; h.Drop {
			dst = append(dst, f.buf[from:h.start]...)
			from = h.end
		}
	}
	return append(dst, f.buf[from:f.list[f.n-1].end]...)
}

var (
	errName       = &Error{400, "malformed header name"}
	errValue      = &Error{400, "malformed header value"}
	errLineEnd    = &Error{400, "line does not end with CR LF"}
	errFields     = &Error{431, fmt.Sprintf("too many header fields: legal are %d", MaxFields)}
	errIncomplete = &Error{0, "incomplete"}
)

// parse reads lines from buf[at:] up to and including the empty one and returns the offset behind it.
func (f *Fields) parse(buf []byte, at int) (int, *Error) {
	f.buf, f.n = buf, 0
	most := MaxFields
	if f.Own {
		most += MaxOwn
	}
	for {
		if at >= len(buf) {
			return 0, errIncomplete
		}
		if buf[at] == '\r' {
			if at+1 >= len(buf) {
				return 0, errIncomplete
			}
			if buf[at+1] != '\n' {
				return 0, errLineEnd
			}
			return at + 2, nil
		}
		if f.n == most {
			return 0, errFields
		}
		h := &f.list[f.n]
		next, err := h.parse(buf, at)
		if err != nil {
			return 0, err
		}
		f.n++
		at = next
	}
}

// parse reads one line. A line that begins with white space (obs-fold) has no name and is refused for that.
func (h *Field) parse(buf []byte, at int) (int, *Error) {
	i := at
	for i < len(buf) && isToken[buf[i]] {
		i++
	}
	if i == len(buf) {
		return 0, errIncomplete
	}
	if buf[i] != ':' || i == at {
		return 0, errName
	}
	h.start, h.nameEnd = int32(at), int32(i)
	h.Kind, h.Drop = kindOf(buf[at:i]), false
	for i++; i < len(buf) && (buf[i] == ' ' || buf[i] == '\t'); i++ {
	}
	h.valueStart = int32(i)
	i, err := lineEnd(buf, i)
	if err != nil {
		return 0, err
	}
	end := i
	for end > int(h.valueStart) && (buf[end-1] == ' ' || buf[end-1] == '\t') {
		end--
	}
	h.valueEnd, h.end = int32(end), int32(i+2)
	return i + 2, nil
}

// lineEnd finds the CR LF that ends the text at buf[i:]; any other control character but HTAB is refused.
func lineEnd(buf []byte, i int) (int, *Error) {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for {
		// Eight bytes at a time while none is a control character: the classic "has a byte less than n" test.
		for i+8 <= len(buf) {
			x := binary.LittleEndian.Uint64(buf[i:])
			del := x ^ ones*0x7f
			if ((x-ones*0x20)&^x|(del-ones)&^del)&tops != 0 {
				break
			}
			i += 8
		}
		for stop := min(i+8, len(buf)); i < stop; i++ {
			switch c := buf[i]; {
			case c == '\r':
				if i+1 == len(buf) {
					return 0, errIncomplete
				}
				if buf[i+1] != '\n' {
					return 0, errLineEnd
				}
				return i, nil
			case c == '\n':
				return 0, errLineEnd
			case c < ' ' && c != '\t', c == 0x7f:
				return 0, errValue
			}
		}
		if i == len(buf) {
			return 0, errIncomplete
		}
	}
}

// IsToken reports whether c may stand in a field name (RFC 9110 §5.6.2).
func IsToken(c byte) bool { return isToken[c] }

// isToken marks the characters of RFC 9110 §5.6.2.
var isToken = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-0x20] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// dropNamed marks the fields that a Connection value names. Fields that frame, route or identify the message stay,
// whatever it says: "Connection: content-length" must not change what a body is.
func (f *Fields) dropNamed(name []byte) {
	for i := range f.list[:f.n] {
		h := &f.list[i]
		if h.Kind != Other || int(h.nameEnd-h.start) != len(name) {
			continue
		}
		if equalNames(f.Name(h), name) {
			h.Drop = true
		}
	}
}

func equalNames(a, b []byte) bool {
	for i := range a {
		x, y := a[i], b[i]
		if 'A' <= x && x <= 'Z' {
			x |= 0x20
		}
		if 'A' <= y && y <= 'Z' {
			y |= 0x20
		}
		if x != y {
			return false
		}
	}
	return true
}

// NextToken splits the first element off a comma-separated list.
func NextToken(list []byte) (token, rest []byte) {
	for i, c := range list {
		if c == ',' {
			return trim(list[:i]), list[i+1:]
		}
	}
	return trim(list), nil
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// number reads a Content-Length: digits only, and a value that an int64 holds.
func number(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
