package http1

// Response is the head of one response. The zero value is ready; Parse overwrites it whole.
type Response struct {
	Fields
	Status int
	// Line is the status line behind the version, e.g. "200 OK", without its end.
	Line []byte
	Body Body
	// KeepAlive is false if the connection ends with this response.
	KeepAlive bool
	// Chunked is set if the body comes in chunks, also where HEAD or the status leave the body out.
	Chunked bool
	// HasLength is set if a Content-Length was given.
	HasLength bool
	// Has tells which of the fields that the gateway adds the function has set itself.
	Has [ForwardedProto + 1]bool
}

var (
	errStatusLine = &Error{502, "malformed status line"}
	errBothFrames = &Error{502, "response with both Content-Length and Transfer-Encoding"}
	errBadLength  = &Error{502, "response with a malformed or repeated Content-Length"}
	errBadCoding  = &Error{502, "response with a Transfer-Encoding other than chunked"}
)

// Parse reads a head from the start of buf, answering a request of the given kind. It returns the head's length, or 0
// without an error while it is incomplete. Its errors have status 502: to a client they are the function's fault.
func (r *Response) Parse(buf []byte, toHEAD bool) (int, *Error) {
	at, minor, err := r.parseLine(buf)
	if err == nil {
		at, err = r.Fields.parse(buf, at)
	}
	if err == errIncomplete {
		return 0, nil
	}
	if err == nil {
		err = r.judge(minor, toHEAD)
	}
	if err != nil {
		return 0, &Error{502, err.Reason}
	}
	return at, nil
}

func (r *Response) parseLine(buf []byte) (at int, minor byte, err *Error) {
	const version = "HTTP/1.x "
	for i := range len(version) {
		if i == len(buf) {
			return 0, 0, errIncomplete
		}
		if c := buf[i]; i == 7 && c != '0' && c != '1' || i != 7 && c != version[i] {
			return 0, 0, errStatusLine
		}
	}
	const code = len(version)
	r.Status = 0
	for i := code; i < code+3; i++ {
		if i == len(buf) {
			return 0, 0, errIncomplete
		}
		if buf[i] < '0' || buf[i] > '9' {
			return 0, 0, errStatusLine
		}
		r.Status = r.Status*10 + int(buf[i]-'0')
	}
	if r.Status < 100 || r.Status > 599 {
		return 0, 0, errStatusLine
	}
	end, err := lineEnd(buf, code+3)
	if err != nil {
		return 0, 0, err
	}
	// Without a reason the space may be missing too; anything else glued to the code is not a code.
	if end > code+3 && buf[code+3] != ' ' {
		return 0, 0, errStatusLine
	}
	r.Line = buf[code:end]
	return end + 2, buf[7], nil
}

func (r *Response) judge(minor byte, toHEAD bool) *Error {
	r.KeepAlive = minor == '1'
	r.Chunked, r.HasLength = false, false
	clear(r.Has[:])
	var length int64
	var codings int
	for i := range r.list[:r.n] {
		h := &r.list[i]
		r.Has[h.Kind] = true
		switch h.Kind {
		case ContentLength:
			n, ok := number(r.Value(h))
			if !ok || r.HasLength {
				return errBadLength
			}
			r.HasLength, length = true, n
			// RFC 9110 §8.6 forbids it on most responses that have no content. On a 304 it is legal, but clients of
			// HTTP/2 exist that then miss the body.
			h.Drop = r.Status < 200 || r.Status == 204 || r.Status == 304
		case TransferEncoding:
			codings++
			h.Drop = true
			if !EqualFold(r.Value(h), "chunked") || codings > 1 || minor == '0' {
				return errBadCoding
			}
			r.Chunked = true
		case Connection:
			r.judgeConnection(h)
		default:
			h.Drop = h.Drop || h.Kind.HopByHop()
		}
	}
	if r.Chunked && r.HasLength {
		return errBothFrames
	}
	switch {
	case toHEAD, r.Status < 200, r.Status == 204, r.Status == 304:
		r.Body = Body{}
	case r.Chunked:
		r.Body = Body{kind: byChunks}
	case r.HasLength:
		r.Body = Body{kind: byLength, left: length}
	default:
		r.Body = Body{kind: untilClose}
		r.KeepAlive = false
	}
	return nil
}

func (r *Response) judgeConnection(h *Field) {
	h.Drop = true
	for list := r.Value(h); len(list) > 0; {
		var token []byte
		token, list = NextToken(list)
		switch {
		case EqualFold(token, "close"):
			r.KeepAlive = false
		case EqualFold(token, "keep-alive"), EqualFold(token, "upgrade"):
		default:
			r.dropNamed(token)
		}
	}
}
