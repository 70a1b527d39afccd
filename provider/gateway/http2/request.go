package http2

import (
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"

	"waggle/provider/gateway/sock"
)

// headBuffer holds most heads.
const headBuffer = 4 << 10

var heads = sync.Pool{New: func() any { return &sock.Buffer{B: make([]byte, headBuffer)} }}

// request is a request's head while it is translated. It refuses what two readers could understand differently,
// as far as HTTP/2 adds such cases. The gateway's own parser reads the result and refuses the rest.
type request struct {
	method, scheme, authority, path string

	buf     *sock.Buffer
	head    []byte // the head in HTTP/1.1; begins in buf, and leaves it if it grows beyond that
	cookies []byte // the crumbs of RFC 9113 §8.2.3, joined
	length  string // Content-Length
	begun   bool   // the request line has been written
	hasHost bool
	trails  bool // trailers were announced

	// How the body is sent.
	chunked  bool
	declared int64
}

func (r *request) reset() { *r = request{cookies: r.cookies[:0]} }

// drop gives the buffer back, unless a stream has taken it.
func (r *request) drop() {
	if r.buf != nil {
		heads.Put(r.buf)
		r.buf, r.head = nil, nil
	}
	if cap(r.cookies) > headBuffer {
		r.cookies = nil
	}
}

func (r *request) size() int { return len(r.head) + len(r.cookies) }

// pseudo takes a pseudo-header field, which must come once, and before all others.
func (r *request) pseudo(f hpack.HeaderField) bool {
	var into *string
	switch f.Name {
	case ":method":
		into = &r.method
	case ":scheme":
		into = &r.scheme
	case ":authority":
		into = &r.authority
	case ":path":
		into = &r.path
	default:
		return false
	}
	if r.begun || *into != "" || f.Value == "" || strings.ContainsAny(f.Value, " \t") {
		return false
	}
	*into = f.Value
	return true
}

// begin writes the request line and, as the Host, the authority.
func (r *request) begin() {
	r.begun = true
	r.buf = heads.Get().(*sock.Buffer)
	target := r.path
	if r.method == "CONNECT" {
		target = r.authority
	}
	r.head = append(r.buf.B[:0], r.method...)
	r.head = append(append(append(r.head, ' '), target...), " HTTP/1.1\r\n"...)
	if r.authority != "" {
		r.line("host", r.authority)
	}
}

func (r *request) line(name, value string) {
	r.head = append(append(append(append(r.head, name...), ": "...), value...), crlf...)
}

// field takes any other field.
func (r *request) field(f hpack.HeaderField) bool {
	if !r.begun {
		r.begin()
	}
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false // RFC 9113 §8.2.2
	case "te":
		return f.Value == "trailers"
	case "host":
		if r.authority != "" {
			return f.Value == r.authority // RFC 9113 §8.3.1
		}
		if r.hasHost {
			return false
		}
		r.hasHost = true
	case "content-length":
		if r.length != "" {
			return false
		}
		r.length = f.Value
		return f.Value != ""
	case "cookie":
		if len(r.cookies) > 0 {
			r.cookies = append(r.cookies, "; "...)
		}
		r.cookies = append(r.cookies, f.Value...)
		return true
	case "trailer":
		r.trails = true
	}
	r.line(f.Name, f.Value)
	return true
}

// complete ends the head and reports whether it is valid. end means that there is no body, long that fields
// were left out. A long head stays without its end.
func (r *request) complete(end, long bool) bool {
	switch {
	case r.method == "CONNECT":
		if r.scheme != "" || r.path != "" || r.authority == "" {
			return false
		}
	case r.method == "", r.scheme != "http" && r.scheme != "https":
		return false
	case !strings.HasPrefix(r.path, "/") && r.path != "*":
		return false
	}
	if !r.begun {
		r.begin()
	}
	r.declared = noLength
	if r.length != "" {
		n, ok := parseLength(r.length)
		if !ok || end && n > 0 {
			return false
		}
		r.declared = n
	}
	if len(r.cookies) > 0 {
		r.head = append(append(append(r.head, "cookie: "...), r.cookies...), crlf...)
	}
	switch {
	case long:
		return true
	case r.length != "" && (end || !r.trails):
		r.line("content-length", r.length)
	case !end:
		// HTTP/1.1 has trailers behind chunks only.
		r.chunked = true
		r.line("transfer-encoding", "chunked")
	}
	r.head = append(r.head, crlf...)
	return true
}
