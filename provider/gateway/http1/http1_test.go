package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
)

// parse reads a head that arrives whole.
func parse(raw string) (*Request, int, *Error) {
	var r Request
	n, err := r.Parse([]byte(raw), 8192)
	return &r, n, err
}

func TestRequestParts(t *testing.T) {
	t.Parallel()
	const raw = "POST /a?b HTTP/1.1\r\nHost: h:1\r\nX-Odd:  v v \t\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\nContent-Length: 12\r\n\r\nrest"
	r, n, err := parse(raw)
	if err != nil || raw[n:] != "rest" {
		t.Fatalf("consumed %d, error %v", n, err)
	}
	if string(r.Method) != "POST" || string(r.Target) != "/a?b" || string(r.Host) != "h:1" || r.Minor != 1 || r.KeepAlive ||
		r.Body.Length() != 12 || r.Expect || r.WebSocket {
		t.Errorf("got %q %q %q", r.Method, r.Target, r.Host)
	}
	if got := string(r.AppendKept(nil)); got != "Host: h:1\r\nX-Odd:  v v \t\r\nContent-Length: 12\r\n" {
		t.Errorf("kept %q", got)
	}
	if v := r.Value(&r.All()[1]); string(v) != "v v" {
		t.Errorf("value is %q", v)
	}
}

func TestEveryKnownFieldIsRecognised(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Kind{
		"Authorization": Authorization, "X-Call-Id": CallID, "Connection": Connection, "Content-Length": ContentLength,
		"X-Duration-Seconds": DurationSeconds, "Expect": Expect, "Host": Host, "X-OpenFaaS-Internal": Internal,
		"Keep-Alive": KeepAlive, "Proxy-Authenticate": ProxyAuthenticate, "Proxy-Authorization": ProxyAuthorization,
		"Proxy-Connection": ProxyConnection, "Retry-After": RetryAfter, "X-Served-By": ServedBy, "X-Start-Time": StartTime,
		"TE": TE, "Trailer": Trailer, "Transfer-Encoding": TransferEncoding, "Upgrade": Upgrade,
		"X-Forwarded-For": ForwardedFor, "X-Forwarded-Host": ForwardedHost, "X-Forwarded-Proto": ForwardedProto,
		"X-Forwarded-Foo": Other, "Cookie": Other,
	} {
		for _, spelt := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if got := kindOf([]byte(spelt)); got != want {
				t.Errorf("%s is of kind %d, want %d", spelt, got, want)
			}
		}
	}
}

func TestHeadMayArriveInAnyPieces(t *testing.T) {
	t.Parallel()
	const raw = "GET / HTTP/1.1\r\nHost: h\r\nA: a value that is longer than eight bytes\r\n\r\n"
	for i := range len(raw) {
		if _, n, err := parse(raw[:i]); n != 0 || err != nil {
			t.Fatalf("%d of %d bytes: consumed %d, error %v", i, len(raw), n, err)
		}
	}
	if _, n, err := parse(raw); n != len(raw) || err != nil {
		t.Errorf("whole: consumed %d, error %v", n, err)
	}
}

func TestGarbageIsRefusedBeforeItsEnd(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"\x16\x03", "GET /\x00", "GET / HTTQ", "GET / HTTP/1.1\r\nA b", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nA: \x01"} {
		if _, _, err := parse(raw); err == nil {
			t.Errorf("%q waits for more", raw)
		}
	}
}

func TestEveryControlCharacterIsRefusedAnywhere(t *testing.T) {
	t.Parallel()
	// Values are scanned eight bytes at a time; every character at every place of such a group must be seen.
	for c := range 256 {
		legal := c >= ' ' && c != 0x7f || c == '\t'
		for at := range 24 {
			value := []byte(strings.Repeat("v", 24))
			value[at] = byte(c)
			_, _, err := parse("GET / HTTP/1.1\r\nHost: h\r\nA: x" + string(value) + "x\r\n\r\n")
			if (err == nil) != legal {
				t.Fatalf("character %#x at %d: error %v", c, at, err)
			}
		}
	}
}

func TestChunksMayArriveInAnyPieces(t *testing.T) {
	t.Parallel()
	const raw = "4;ext=1\r\nabcd\r\n10\r\n0123456789abcdef\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"
	for size := 1; size <= len(raw); size++ {
		b := Body{kind: byChunks}
		d := Body{kind: byChunks}
		var payload []byte
		used, done := 0, false
		for p := []byte(raw + "next"); !done; {
			piece := p[used:min(used+size, len(p))]
			n, end, err := b.Advance(piece)
			if err != nil {
				t.Fatalf("pieces of %d: %v", size, err)
			}
			for rest := piece[:n]; len(rest) > 0; {
				m, data, _, err := d.Decode(rest)
				if err != nil {
					t.Fatalf("pieces of %d: %v", size, err)
				}
				payload = append(payload, data...)
				rest = rest[m:]
			}
			used, done = used+n, end
		}
		if used != len(raw) || string(payload) != "abcd0123456789abcdef" {
			t.Fatalf("pieces of %d: consumed %d of %d, payload %q", size, used, len(raw), payload)
		}
	}
}

func TestBodyLengths(t *testing.T) {
	t.Parallel()
	b := Body{kind: byLength, left: 5}
	if n, done, err := b.Advance([]byte("abc")); n != 3 || done || err != nil || b.Length() != 2 {
		t.Errorf("first: %d %t %v", n, done, err)
	}
	if n, done, err := b.Advance([]byte("defg")); n != 2 || !done || err != nil {
		t.Errorf("second: %d %t %v", n, done, err)
	}
	if n, done, _ := new(Body).Advance([]byte("x")); n != 0 || !done {
		t.Error("no body took something")
	}
}

// FuzzRequest compares with net/http: what both accept, both must understand alike. The parser may refuse more, and does.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
		"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"GET http://a/b HTTP/1.0\r\nConnection: keep-alive, x\r\nX: y\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"\r\nGET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
		"GET / HTTP/1.0\r\nA:\r\nTransfer-Encoding0:\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r Request
		n, perr := r.Parse(raw, 8192)
		if perr != nil || n == 0 {
			return
		}
		in := bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(raw, []byte("\r\n"))))
		std, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		want := int64(0)
		if len(std.TransferEncoding) > 0 {
			want = -1
		} else {
			want = std.ContentLength
		}
		if got := r.Body.Length(); got != want {
			t.Fatalf("body length %d, net/http says %d", got, want)
		}
		if string(r.Method) != std.Method || r.Body.Chunked() != (len(std.TransferEncoding) > 0) {
			t.Fatalf("method %q, net/http says %q", r.Method, std.Method)
		}
		if string(r.Host) != std.Host {
			t.Fatalf("host %q, net/http says %q", r.Host, std.Host)
		}
		body, done, berr := r.Body.Advance(raw[n:])
		got, err := io.ReadAll(std.Body)
		if berr == nil && done && err == nil && !r.Body.Chunked() && string(raw[n:n+body]) != string(got) {
			t.Fatalf("body %q, net/http says %q", raw[n:n+body], got)
		}
		kept := r.AppendKept([]byte("\n"))
		if bytes.Contains(bytes.ToLower(kept), []byte("\ntransfer-encoding:")) || bytes.Contains(kept, []byte("\n\r\n")) {
			t.Fatalf("kept %q", kept)
		}
	})
}

// FuzzChunks checks against net/http's reader and that pieces make no difference.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\n"), 2)
	f.Add([]byte("a;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\n"), 1)
	f.Add([]byte("ffffffffffffffff\r\n"), 3)
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		whole := Body{kind: byChunks}
		n, done, err := whole.Advance(raw)
		if n > len(raw) {
			t.Fatalf("consumed %d of %d", n, len(raw))
		}
		if size > 0 {
			pieces := Body{kind: byChunks}
			used, end := 0, false
			var perr error
			for used < len(raw) && !end && perr == nil {
				var m int
				m, end, perr = pieces.Advance(raw[used:min(used+size, len(raw))])
				used += m
			}
			if end != done || (perr == nil) != (err == nil) || done && used != n {
				t.Fatalf("whole: %d %t %v; pieces of %d: %d %t %v", n, done, err, size, used, end, perr)
			}
		}
		if !done || err != nil {
			return
		}
		var payload []byte
		decoder := Body{kind: byChunks}
		for rest := raw; ; {
			m, data, end, err := decoder.Decode(rest)
			if err != nil {
				t.Fatalf("decoding what was accepted: %v", err)
			}
			payload = append(payload, data...)
			rest = rest[m:]
			if end {
				break
			}
		}
		std, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
		if err == nil && !bytes.Equal(std, payload) {
			t.Fatalf("payload %q, net/http says %q", payload, std)
		}
	})
}

// FuzzResponse checks that nothing panics and that a head consumed is within the input. What both this parser and
// net/http accept must have one body length.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), false)
	f.Add([]byte("HTTP/1.1 204 No Content\r\n\r\n"), true)
	f.Add([]byte("HTTP/1.0 200\r\nConnection: x\r\nX: y\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), false)
	f.Fuzz(func(t *testing.T, raw []byte, toHEAD bool) {
		var r Response
		n, perr := r.Parse(raw, toHEAD)
		if perr != nil && perr.Status != 502 {
			t.Fatalf("status %d for a function's fault", perr.Status)
		}
		if perr != nil || n == 0 {
			return
		}
		if n > len(raw) || r.Status < 100 || r.Status > 599 {
			t.Fatalf("consumed %d of %d, status %d", n, len(raw), r.Status)
		}
		method := "GET"
		if toHEAD {
			method = "HEAD"
		}
		std, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: method})
		if err != nil || toHEAD {
			return
		}
		if std.StatusCode != r.Status {
			t.Fatalf("status %d, net/http says %d", r.Status, std.StatusCode)
		}
		if got := r.Body.Length(); r.Status >= 200 && r.Status != 304 && got != std.ContentLength {
			t.Fatalf("body length %d, net/http says %d", got, std.ContentLength)
		}
	})
}

func BenchmarkParseRequest(b *testing.B) {
	raw := []byte("POST /function/vote/x?y=z HTTP/1.1\r\nHost: votes.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 11\r\nOrigin: https://votes.example.org\r\nConnection: keep-alive\r\n" +
		"Cookie: __Host-voter=v1.abcdefghijklmnopqrstuvwxyz0123456789.ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\nX-Forwarded-For: 10.1.2.3\r\n\r\nchoice=cats")
	var r Request
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if n, err := r.Parse(raw, 8192); n == 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	raw := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nDate: Sun, 22 Nov 2026 15:00:00 GMT\r\nContent-Length: 12\r\n\r\nHello World\n")
	var r Response
	b.ReportAllocs()
	for b.Loop() {
		if n, err := r.Parse(raw, false); n == 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}
