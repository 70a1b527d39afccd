package http1

// Request is the head of one request. The zero value is ready; Parse overwrites it whole. Slices point into the
// parsed buffer.
type Request struct {
	Fields
	Method []byte
	// Target is the path and query as sent; an absolute-form target has lost its scheme and authority.
	Target []byte
	// Host is the Host field or, if the target was absolute, its authority.
	Host []byte
	// Minor is the minor version: HTTP/1.0 or HTTP/1.1.
	Minor uint8
	// Body says how the body is framed and keeps count while it is read.
	Body Body
	// KeepAlive is false if the client wants the connection closed after the response.
	KeepAlive bool
	closing   bool // "close" has been seen
	// Expect is set if the client waits for 100 Continue before it sends the body.
	Expect bool
	// WebSocket is set if the client asks to switch to the WebSocket protocol.
	WebSocket bool
	// Authorization is the value of the one field of that name, or empty.
	Authorization []byte
}

var (
	errMethod        = &Error{400, "malformed method"}
	errTarget        = &Error{400, "malformed request target"}
	errVersion       = &Error{400, "malformed HTTP version"}
	errOtherVersion  = &Error{505, "HTTP version is not 1.0 or 1.1"}
	errNoHost        = &Error{400, "HTTP/1.1 request without Host"}
	errHosts         = &Error{400, "more than one Host"}
	errHost          = &Error{400, "malformed Host"}
	errLengths       = &Error{400, "more than one Content-Length"}
	errLength        = &Error{400, "malformed Content-Length"}
	errLengthCoding  = &Error{400, "both Content-Length and Transfer-Encoding"}
	errCodings       = &Error{400, "more than one Transfer-Encoding"}
	errCoding        = &Error{501, "Transfer-Encoding other than chunked"}
	errCodingVersion = &Error{400, "Transfer-Encoding in HTTP/1.0"}
	errExpect        = &Error{417, "Expect other than 100-continue"}
	errAuthorization = &Error{400, "more than one Authorization"}
	errLongTarget    = &Error{414, "request target is too long"}
)

// maxMethod is longer than any registered method (UPDATEREDIRECTREF, 17).
const maxMethod = 24

// Parse reads a head from the start of buf, with targets of at most maxTarget bytes. It returns the head's length, or
// 0 without an error while the head is incomplete. A head is judged as far as it has arrived, so garbage is refused
// without waiting for its end.
func (r *Request) Parse(buf []byte, maxTarget int) (int, *Error) {
	at := 0
	// RFC 9112 §2.2: an empty line left over from a previous body is skipped, once.
	if Blank(buf) {
		return 0, nil
	}
	if buf[0] == '\r' && buf[1] == '\n' {
		at = 2
	}
	at, err := r.parseLine(buf, at, maxTarget)
	if err == nil {
		at, err = r.Fields.parse(buf, at)
	}
	if err == errIncomplete {
		return 0, nil
	}
	if err == nil {
		err = r.judge()
	}
	if err != nil {
		return 0, err
	}
	return at, nil
}

// Blank reports whether there is nothing of a head in buf but the empty line that may come before it, or part of that.
func Blank(buf []byte) bool {
	return len(buf) == 0 || buf[0] == '\r' && (len(buf) == 1 || len(buf) == 2 && buf[1] == '\n')
}

func (r *Request) parseLine(buf []byte, at, maxTarget int) (int, *Error) {
	i := at
	for i < len(buf) && isToken[buf[i]] {
		i++
	}
	switch {
	case i-at > maxMethod:
		return 0, errMethod
	case i == len(buf):
		return 0, errIncomplete
	case i == at || buf[i] != ' ':
		return 0, errMethod
	}
	r.Method = buf[at:i]
	i++
	start := i
	// 0x80 and above pass: browsers and curl send raw UTF-8, and functions accept it.
	for i < len(buf) && buf[i] > ' ' && buf[i] != 0x7f {
		i++
	}
	switch {
	case i-start > maxTarget:
		return 0, errLongTarget
	case i == len(buf):
		return 0, errIncomplete
	case i == start || buf[i] != ' ':
		return 0, errTarget
	}
	r.Target = buf[start:i]
	i++
	const version = "HTTP/1.1\r\n"
	for j := range len(version) {
		if i+j == len(buf) {
			return 0, errIncomplete
		}
		c := buf[i+j]
		switch {
		case c == version[j]:
		case j == 7 && c == '0':
		case (j == 5 || j == 7) && '0' <= c && c <= '9':
			return 0, errOtherVersion
		case j >= 8:
			return 0, errLineEnd
		default:
			return 0, errVersion
		}
	}
	r.Minor = buf[i+7] - '0'
	return i + len(version), nil
}

// judge gives the fields their meaning and refuses every combination that has more than one.
func (r *Request) judge() *Error {
	r.Host, r.Authorization = nil, nil
	r.KeepAlive, r.closing = r.Minor == 1, false
	r.Expect, r.WebSocket = false, false
	r.Body = Body{}
	var hosts, lengths, codings, upgrade int
	var websocket bool
	for i := range r.list[:r.n] {
		h := &r.list[i]
		switch h.Kind {
		case Host:
			hosts++
			r.Host = r.Value(h)
		case ContentLength:
			lengths++
			n, ok := number(r.Value(h))
			if !ok {
				return errLength
			}
			r.Body = Body{kind: byLength, left: n}
		case TransferEncoding:
			codings++
			h.Drop = true
			if !EqualFold(r.Value(h), "chunked") {
				return errCoding
			}
		case Expect:
			if !EqualFold(r.Value(h), "100-continue") {
				return errExpect
			}
			r.Expect = r.Minor == 1
		case Authorization:
			if r.Authorization != nil {
				return errAuthorization
			}
			r.Authorization = r.Value(h)
		case Upgrade:
			h.Drop = true
			for list := r.Value(h); len(list) > 0; {
				var protocol []byte
				protocol, list = NextToken(list)
				websocket = websocket || EqualFold(protocol, "websocket")
			}
		case Connection:
			upgrade += r.judgeConnection(h)
		default:
			h.Drop = h.Drop || h.Kind.HopByHop()
		}
	}
	switch {
	case hosts > 1:
		return errHosts
	case hosts == 0 && r.Minor == 1:
		return errNoHost
	case !validHost(r.Host):
		return errHost
	case lengths > 1:
		return errLengths
	case codings > 1:
		return errCodings
	case codings == 1 && r.Minor == 0:
		return errCodingVersion
	case codings == 1 && lengths == 1:
		return errLengthCoding
	case codings == 1:
		r.Body = Body{kind: byChunks}
	}
	r.WebSocket = websocket && upgrade > 0 && r.Minor == 1 && r.Body.Empty()
	return r.judgeTarget()
}

// judgeConnection applies one Connection field and says how often it names "upgrade".
func (r *Request) judgeConnection(h *Field) (upgrade int) {
	h.Drop = true
	for list := r.Value(h); len(list) > 0; {
		var token []byte
		token, list = NextToken(list)
		switch {
		case EqualFold(token, "close"):
			r.KeepAlive, r.closing = false, true
		case EqualFold(token, "keep-alive"):
			r.KeepAlive = !r.closing // RFC 9112 §9.3: of both, close wins
		case EqualFold(token, "upgrade"):
			upgrade++
		default:
			r.dropNamed(token)
		}
	}
	return upgrade
}

// judgeTarget accepts origin-form, absolute-form with http or https, and "*" for OPTIONS. The authority-form is
// CONNECT's, which the caller refuses by its method.
func (r *Request) judgeTarget() *Error {
	t := r.Target
	switch {
	case t[0] == '/':
		return nil
	case len(t) == 1 && t[0] == '*' && string(r.Method) == "OPTIONS":
		return nil
	case string(r.Method) == "CONNECT":
		return nil
	}
	var authority int
	switch {
	case len(t) > 7 && EqualFold(t[:7], "http://"):
		authority = 7
	case len(t) > 8 && EqualFold(t[:8], "https://"):
		authority = 8
	default:
		return errTarget
	}
	end := authority
	for end < len(t) && t[end] != '/' && t[end] != '?' {
		end++
	}
	// RFC 9112 §3.2.2: the authority of an absolute target replaces the Host field.
	r.Host = t[authority:end]
	if len(r.Host) == 0 || !validHost(r.Host) {
		return errTarget
	}
	if end == len(t) || t[end] == '?' {
		return errNoPath
	}
	r.Target = t[end:]
	return nil
}

// errNoPath refuses the absolute-form without a path: nobody sends it, and repairing it would mean a copy.
var errNoPath = &Error{400, "absolute request target without a path"}

// validHost reports whether b can be a host and port: no user, path, white space or list in it.
func validHost(b []byte) bool {
	for _, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '-', c == ':', c == '_', c == '[', c == ']', c == '~', c == '%':
		default:
			return false
		}
	}
	return true
}
