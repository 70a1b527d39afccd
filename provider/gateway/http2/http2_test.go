package http2

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"waggle/provider/gateway/sock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a client that speaks frames, and the connection it speaks to.
type peer struct {
	*wire.Framer
	t      *testing.T
	conn   *Conn
	nc     *net.TCPConn
	clock  *atomic.Int64
	out    bytes.Buffer
	fields *hpack.Encoder
	nextID uint32
	full   atomic.Bool       // no stream is taken
	ended  chan wire.ErrCode // what Serve returned
}

// serve connects a peer to a connection whose streams handle serves, and does what comes before the first request.
// It fails the test rather than hang it.
func serve(t *testing.T, handle func(*Stream), settings ...wire.Setting) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	p := &peer{t: t, nc: client.(*net.TCPConn), clock: new(atomic.Int64), nextID: 1, ended: make(chan wire.ErrCode, 1)}
	p.clock.Store(1)
	cfg := &Config{Unread: &sock.Budget{Most: MaxUnread}, MaxStreams: 5, MaxHeader: 4 << 10, HeaderTimeout: 10 * time.Second, ReadTimeout: 60 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 75 * time.Second, Now: p.clock.Load}
	var open atomic.Int32
	p.conn = New(cfg, sock.New(server), func(s *Stream) bool {
		if p.full.Load() {
			return false
		}
		open.Add(1)
		go func() {
			handle(s)
			_ = s.Close()
			open.Add(-1)
		}()
		return true
	})
	go func() {
		code := p.conn.Serve(nil)
		_ = server.Close()
		p.ended <- code
		close(p.ended)
	}()
	p.Framer = wire.NewFramer(client, client)
	p.ReadMetaHeaders = hpack.NewDecoder(4<<10, nil)
	p.fields = hpack.NewEncoder(&p.out)
	t.Cleanup(func() {
		_ = client.Close()
		<-p.ended
		for open.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
	})
	_, _ = client.Write(Preface)
	p.must(p.WriteSettings(settings...))
	for {
		if f, ok := p.read().(*wire.SettingsFrame); ok && f.IsAck() {
			return p
		}
	}
}

func (p *peer) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// read is the next frame, whatever it is.
func (p *peer) read() wire.Frame {
	p.t.Helper()
	f, err := p.ReadFrame()
	p.must(err)
	return f
}

// skip is the next frame that is no WINDOW_UPDATE.
func (p *peer) skip() wire.Frame {
	p.t.Helper()
	for {
		if f := p.read(); f.Header().Type != wire.FrameWindowUpdate {
			return f
		}
	}
}

// encode makes a header block of names and values.
func (p *peer) encode(fields ...string) []byte {
	p.out.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.must(p.fields.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(p.out.Bytes())
}

// begin opens a stream with a head and returns its id.
func (p *peer) begin(end bool, fields ...string) uint32 {
	p.t.Helper()
	id := p.nextID
	p.nextID += 2
	p.must(p.WriteHeaders(wire.HeadersFrameParam{StreamID: id, BlockFragment: p.encode(fields...), EndHeaders: true, EndStream: end}))
	return id
}

// get is a whole head.
func get(more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":authority", "h", ":path", "/"}, more...)
}

func post(more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/"}, more...)
}

// wantReset reads on until id is reset, and checks the code.
func (p *peer) wantReset(id uint32, code wire.ErrCode) {
	p.t.Helper()
	for {
		switch f := p.read().(type) {
		case *wire.RSTStreamFrame:
			if f.StreamID != id || f.ErrCode != code {
				p.t.Fatalf("stream %d is reset with %s, want stream %d with %s", f.StreamID, f.ErrCode, id, code)
			}
			return
		case *wire.GoAwayFrame:
			p.t.Fatalf("the connection ends with %s, want stream %d to be reset with %s", f.ErrCode, id, code)
		}
	}
}

// wantGoAway reads on until the connection is ended, and checks why.
func (p *peer) wantGoAway(code wire.ErrCode) {
	p.t.Helper()
	for {
		if f, ok := p.read().(*wire.GoAwayFrame); ok {
			if f.ErrCode != code {
				p.t.Fatalf("the connection ends with %s %q, want %s", f.ErrCode, f.DebugData(), code)
			}
			break
		}
	}
	_ = p.nc.CloseWrite()
	if got := <-p.ended; got != code {
		p.t.Errorf("Serve returned %s, want %s", got, code)
	}
}

// response reads frames of one stream up to its end. It gives the fields of each head, interim ones first and trailers
// last, and the body.
func (p *peer) response(id uint32) (heads [][]hpack.HeaderField, body string) {
	p.t.Helper()
	for {
		f := p.skip()
		if f.Header().StreamID != id {
			p.t.Fatalf("got %v, want frames of stream %d", f, id)
		}
		switch f := f.(type) {
		case *wire.MetaHeadersFrame:
			heads = append(heads, f.Fields)
			if f.StreamEnded() {
				return heads, body
			}
		case *wire.DataFrame:
			body += string(f.Data())
			if f.StreamEnded() {
				return heads, body
			}
		default:
			p.t.Fatalf("got %v, want the response of stream %d", f, id)
		}
	}
}

// echo answers with what it was sent, as it reads it.
func echo(s *Stream) {
	head, body, err := readRequest(s)
	if err != nil {
		return
	}
	text := head + "|" + body
	_, _ = s.WriteBoth(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(text)), []byte(text))
}

// readRequest reads a request's head, and its body with the framing that HTTP/1.1 gives it.
func readRequest(s *Stream) (head, body string, err error) {
	all, err := io.ReadAll(s)
	head, body, _ = strings.Cut(string(all), "\r\n\r\n")
	return head, body, err
}

func TestRequestsInHTTP11(t *testing.T) {
	t.Parallel()
	const line = "GET / HTTP/1.1\r\nhost: h"
	for name, tc := range map[string]struct {
		fields   []string
		data     []string
		trailers []string
		want     string
	}{
		"plain":                    {get(), nil, nil, line + "|"},
		"fields in order":          {get("b", "1", "a", "2", "b", ""), nil, nil, line + "\r\nb: 1\r\na: 2\r\nb: |"},
		"path as it is":            {[]string{":path", "//a%2F%zz/../ü?x=;", ":method", "GET", ":scheme", "https"}, nil, nil, "GET //a%2F%zz/../ü?x=; HTTP/1.1|"},
		"host instead":             {[]string{":method", "GET", ":path", "/", ":scheme", "http", "host", "other"}, nil, nil, "GET / HTTP/1.1\r\nhost: other|"},
		"host as well":             {get("host", "h", "a", "b"), nil, nil, line + "\r\na: b|"},
		"cookie crumbs":            {get("cookie", "a=1", "x", "y", "cookie", "b=2", "cookie", "c=3"), nil, nil, line + "\r\nx: y\r\ncookie: a=1; b=2; c=3|"},
		"te stays behind":          {get("te", "trailers"), nil, nil, line + "|"},
		"star":                     {[]string{":method", "OPTIONS", ":path", "*", ":scheme", "http", ":authority", "h"}, nil, nil, "OPTIONS * HTTP/1.1\r\nhost: h|"},
		"CONNECT":                  {[]string{":method", "CONNECT", ":authority", "h:443"}, nil, nil, "CONNECT h:443 HTTP/1.1\r\nhost: h:443|"},
		"no body but a length":     {post("content-length", "0"), nil, nil, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0|"},
		"expectation is passed on": {post("expect", "100-continue", "content-length", "2"), []string{"ab"}, nil, "POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2|ab"},
		"length":                   {post("content-length", "5"), []string{"ab", "", "cde"}, nil, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5|abcde"},
		"no length":                {post(), []string{"abcdefghijkl"}, nil, "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked|c\r\nabcdefghijkl\r\n0\r\n\r\n"},
		"empty body":               {post(), []string{""}, nil, "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked|0\r\n\r\n"},
		"trailers":                 {post(), []string{"a"}, []string{"x-sum", "1", "y", "2"}, "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked|1\r\na\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n"},
		"trailers and a length":    {post("trailer", "x", "content-length", "1"), []string{"a"}, []string{"x", "1"}, "POST / HTTP/1.1\r\nhost: h\r\ntrailer: x\r\ntransfer-encoding: chunked|1\r\na\r\n0\r\nx: 1\r\n\r\n"},
		"trailers unannounced":     {post("content-length", "1"), []string{"a"}, []string{"x", "1"}, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1|a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, echo)
			id := p.begin(tc.data == nil, tc.fields...)
			for i, d := range tc.data {
				p.must(p.WriteData(id, i == len(tc.data)-1 && tc.trailers == nil, []byte(d)))
			}
			if tc.trailers != nil {
				p.must(p.WriteHeaders(wire.HeadersFrameParam{StreamID: id, BlockFragment: p.encode(tc.trailers...), EndHeaders: true, EndStream: true}))
			}
			// A body that comes in pieces may become any number of chunks; the table has those of one piece only.
			if _, body := p.response(id); body != tc.want {
				t.Errorf("got %q\nwant %q", body, tc.want)
			}
		})
	}
}

func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string][]string{
		"no method":               {":scheme", "http", ":path", "/"},
		"no path":                 {":method", "GET", ":scheme", "http"},
		"no scheme":               {":method", "GET", ":path", "/"},
		"other scheme":            {":method", "GET", ":scheme", "ftp", ":path", "/"},
		"empty path":              {":method", "GET", ":scheme", "http", ":path", ""},
		"absolute path":           {":method", "GET", ":scheme", "http", ":path", "http://h/"},
		"two methods":             get(":method", "GET"),
		"two paths":               {":method", "GET", ":scheme", "http", ":path", "/", ":path", "/a"},
		"pseudo behind others":    {":method", "GET", ":scheme", "http", "a", "b", ":path", "/"},
		"unknown pseudo":          {":method", "GET", ":scheme", "http", ":path", "/", ":protocol", "websocket"},
		"status":                  get(":status", "200"),
		"space in the method":     {":method", "GET /x HTTP/1.1", ":scheme", "http", ":path", "/"},
		"space in the path":       {":method", "GET", ":scheme", "http", ":path", "/ HTTP/1.1"},
		"line end in the path":    {":method", "GET", ":scheme", "http", ":path", "/\r\nx: y"},
		"line end in a value":     get("a", "b\r\nc: d"),
		"bare LF in a value":      get("a", "b\nc"),
		"NUL in a value":          get("a", "b\x00c"),
		"space before a value":    get("a", " b"),
		"space behind a value":    get("a", "b\t"),
		"capital in a name":       get("A", "b"),
		"space in a name":         get("a b", "c"),
		"colon in a name":         get("a:b", "c"),
		"empty name":              get("", "c"),
		"connection":              get("connection", "close"),
		"keep-alive":              get("keep-alive", "1"),
		"proxy-connection":        get("proxy-connection", "close"),
		"transfer-encoding":       get("transfer-encoding", "chunked"),
		"upgrade":                 get("upgrade", "websocket"),
		"te":                      get("te", "gzip"),
		"host that differs":       get("host", "other"),
		"two hosts":               {":method", "GET", ":scheme", "http", ":path", "/", "host", "a", "host", "a"},
		"two lengths":             get("content-length", "0", "content-length", "0"),
		"length without a body":   get("content-length", "3"),
		"signed length":           get("content-length", "+0"),
		"hexadecimal length":      get("content-length", "0x0"),
		"huge length":             get("content-length", "99999999999999999999"),
		"empty length":            get("content-length", ""),
		"CONNECT with a path":     {":method", "CONNECT", ":authority", "h", ":path", "/"},
		"CONNECT to nobody":       {":method", "CONNECT"},
		"star for a relative one": {":method", "GET", ":scheme", "http", ":path", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, func(*Stream) { t.Error("it was passed on") })
			p.wantReset(p.begin(true, fields...), wire.ErrCodeProtocol)
		})
	}
}

func TestHeadsThatAreTooLong(t *testing.T) {
	t.Parallel()
	// It is passed on without its end, so that whoever reads it can tell the client.
	p := serve(t, func(s *Stream) {
		got := make([]byte, 4<<10+1)
		if _, err := io.ReadFull(s, got); err != nil || bytes.Contains(got, []byte("\r\n\r\n")) {
			t.Errorf("got %.90q, error %v", got, err)
		}
		_, _ = s.Write([]byte("HTTP/1.1 431 X\r\nContent-Length: 0\r\n\r\n"))
	})
	long := get()
	for i := range 6 {
		long = append(long, fmt.Sprint("field-", i), strings.Repeat("x", 1000))
	}
	if heads, _ := p.response(p.begin(true, long...)); heads[0][0].Value != "431" {
		t.Errorf("got %v", heads)
	}
	// HPACK's table is in order after that: what follows was encoded with it.
	if heads, _ := p.response(p.begin(true, long...)); heads[0][0].Value != "431" {
		t.Errorf("got %v", heads)
	}
}

func TestResponses(t *testing.T) {
	t.Parallel()
	type write struct{ a, b string }
	const hello = "HTTP/1.1 200 OK\r\n"
	for name, tc := range map[string]struct {
		method string
		writes []write
		want   string // heads in brackets, then the body
		reset  bool   // the response is not whole
	}{
		"length":             {"GET", []write{{hello + "Content-Length: 2\r\n\r\n", "hi"}}, "[:status=200 content-length=2]hi", false},
		"length in pieces":   {"GET", []write{{hello + "Content-Length: 4\r\n\r\n", "h"}, {"", "el"}, {"l", ""}}, "[:status=200 content-length=4]hell", false},
		"in one piece":       {"GET", []write{{hello + "Content-Length: 2\r\n\r\nhi", ""}}, "[:status=200 content-length=2]hi", false},
		"no body":            {"GET", []write{{hello + "Content-Length: 0\r\n\r\n", ""}}, "[:status=200 content-length=0]", false},
		"to HEAD":            {"HEAD", []write{{hello + "Content-Length: 7\r\n\r\n", ""}}, "[:status=200 content-length=7]", false},
		"chunks to HEAD":     {"HEAD", []write{{hello + "Transfer-Encoding: chunked\r\n\r\n", ""}}, "[:status=200]", false},
		"no content":         {"GET", []write{{"HTTP/1.1 204 No\r\nA: b\r\n\r\n", ""}}, "[:status=204 a=b]", false},
		"not modified":       {"GET", []write{{"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\n", ""}}, "[:status=304]", false},
		"odd status":         {"GET", []write{{"HTTP/1.1 418 Tea\r\nContent-Length: 0\r\n\r\n", ""}}, "[:status=418 content-length=0]", false},
		"chunks":             {"GET", []write{{hello + "Transfer-Encoding: chunked\r\n\r\n", "2\r\nhi\r\n"}, {"3;x=y\r\nyou\r\n0\r\n\r\n", ""}}, "[:status=200]hiyou", false},
		"chunks cut up":      {"GET", []write{{hello + "Transfer-Encoding: chunked\r\n\r\n", "2\r"}, {"\nh", "i\r\n0"}, {"\r\n\r", "\n"}}, "[:status=200]hi", false},
		"empty chunks":       {"GET", []write{{hello + "Transfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"}}, "[:status=200]", false},
		"trailers":           {"GET", []write{{hello + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n", "1\r\na\r\n0\r\nX: 1\r\nY-Z: 2\r\n\r\n"}}, "[:status=200 trailer=X]a[x=1 y-z=2]", false},
		"trailers alone":     {"GET", []write{{hello + "Transfer-Encoding: chunked\r\n\r\n", "0\r\nX: 1\r\n\r\n"}}, "[:status=200][x=1]", false},
		"interim responses":  {"GET", []write{{"HTTP/1.1 100 Continue\r\n\r\n", ""}, {"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n", ""}, {hello + "Content-Length: 0\r\n\r\n", ""}}, "[:status=100][:status=103 link=</x>][:status=200 content-length=0]", false},
		"connection's own":   {"GET", []write{{hello + "Connection: x-mine, close\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n", ""}}, "[:status=200 content-length=0]", false},
		"several cookies":    {"GET", []write{{hello + "Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n", ""}}, "[:status=200 set-cookie=a=1; Path=/ set-cookie=b=2 content-length=0]", false},
		"long head":          {"GET", []write{{hello + "A: " + strings.Repeat("a", 30000) + "\r\nContent-Length: 0\r\n\r\n", ""}}, "[:status=200 a=" + strings.Repeat("a", 30000) + " content-length=0]", false},
		"closed too early":   {"GET", []write{{hello + "Content-Length: 5\r\n\r\n", "hi"}}, "[:status=200 content-length=5]hi", true},
		"chunks without end": {"GET", []write{{hello + "Transfer-Encoding: chunked\r\n\r\n", "2\r\nhi\r\n"}}, "[:status=200]hi", true},
		"no response":        {"GET", nil, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, func(s *Stream) {
				for _, w := range tc.writes {
					if n, err := s.WriteBoth([]byte(w.a), []byte(w.b)); n != len(w.a)+len(w.b) || err != nil {
						t.Errorf("writing %.40q: %d, %v", w.a, n, err)
					}
				}
			})
			id := p.begin(true, ":method", tc.method, ":scheme", "http", ":path", "/")
			var got strings.Builder
			for end := false; !end; {
				switch f := p.skip().(type) {
				case *wire.MetaHeadersFrame:
					got.WriteString(bracket(f.Fields))
					end = f.StreamEnded()
				case *wire.DataFrame:
					got.Write(f.Data())
					end = f.StreamEnded()
				case *wire.RSTStreamFrame:
					if !tc.reset || f.ErrCode != wire.ErrCodeInternal || f.StreamID != id {
						t.Fatalf("stream %d is reset with %s", f.StreamID, f.ErrCode)
					}
					tc.reset, end = false, true
				}
			}
			if got.String() != tc.want || tc.reset {
				t.Errorf("got %.200q, want %.200q; reset is missing: %t", got.String(), tc.want, tc.reset)
			}
		})
	}
}

func bracket(fields []hpack.HeaderField) string {
	var words []string
	for _, f := range fields {
		words = append(words, f.Name+"="+f.Value)
	}
	return "[" + strings.Join(words, " ") + "]"
}

func TestStandardParserReadsStreams(t *testing.T) {
	t.Parallel()
	p := serve(t, func(s *Stream) {
		r, err := http.ReadRequest(bufio.NewReader(s))
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) != 100_000 || r.Trailer.Get("X-Sum") != "7" {
			t.Errorf("%d bytes, trailer %v, error %v", len(body), r.Trailer, err)
		}
		_, _ = s.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
	})
	id := p.begin(false, post("trailer", "x-sum")...)
	for range 10 {
		p.must(p.WriteData(id, false, make([]byte, 10_000)))
	}
	p.must(p.WriteHeaders(wire.HeadersFrameParam{StreamID: id, BlockFragment: p.encode("x-sum", "7"), EndHeaders: true, EndStream: true}))
	p.response(id)
}

var errTimeout = errors.New("it did not happen")

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 10_000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal(what, errTimeout)
}
