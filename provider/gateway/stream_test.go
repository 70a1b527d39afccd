package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waggle/provider/feed"
)

// rawReplica is a replica that says whatever handle writes. handle gets each connection once its first request's head
// has been read; head is that head. Health probes are answered before it sees them.
func rawReplica(t *testing.T, handle func(c net.Conn, in *bufio.Reader, head string)) feed.Replica {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				head, err := readHead(in)
				switch {
				case err != nil:
				case strings.Contains(head, "/_/health"):
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				default:
					handle(c, in, head)
				}
			}()
		}
	}()
	return replicaAt(l.Addr().String())
}

func readHead(in *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := in.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String(), err
		}
	}
}

// answers makes a handle that answers every request on a connection with the same bytes.
func answers(raw string) func(net.Conn, *bufio.Reader, string) {
	return func(c net.Conn, in *bufio.Reader, _ string) {
		for {
			if _, err := io.WriteString(c, raw); err != nil {
				return
			}
			if _, err := readHead(in); err != nil {
				return
			}
		}
	}
}

func TestWebSocketEcho(t *testing.T) {
	t.Parallel()
	r := rawReplica(t, func(c net.Conn, in *bufio.Reader, head string) {
		if !strings.Contains(head, "Upgrade: websocket\r\n") || !strings.Contains(head, "Sec-WebSocket-Key: k\r\n") {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\nhello ")
		_, _ = io.Copy(c, in)
	})
	e := start(t, nil, function("ws", r))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "GET /function/ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\nearly ")
	head, err := readHead(in)
	if err != nil || !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "Upgrade: websocket\r\n") ||
		!strings.Contains(head, "Connection: Upgrade\r\n") || !strings.Contains(head, "Sec-WebSocket-Accept: a\r\n") {
		t.Fatalf("head %q, error %v", head, err)
	}
	for _, s := range []string{"hello early ", "one", strings.Repeat("long", 50000)} {
		if !strings.HasPrefix(s, "hello") {
			go func() { _, _ = io.WriteString(c, s) }()
		}
		got := make([]byte, len(s))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != s {
			t.Fatalf("got %.20q, error %v", got, err)
		}
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		t.Errorf("at the end came %q, error %v", rest, err)
	}
}

func TestSwitchThatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", rawReplica(t, answers("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"))))
	if resp, body := e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 502 {
		t.Errorf("got %s %q", resp.Status, body)
	}
}

func TestEventsArriveAsTheyAreSent(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for event := range next {
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
		}
	})
	e := start(t, nil, function("sse", r))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "GET /function/sse HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
	next <- "data: 0\n\n" // the function has no more to say before the client has read this
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		want := fmt.Sprintf("data: %d\n\n", i)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("event %d: %q, error %v", i, got, err)
		}
		next <- fmt.Sprintf("data: %d\n\n", i+1)
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "data: 5\n\n" {
		t.Errorf("the end is %q, error %v", rest, err)
	}
}

func TestBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		out := http.NewResponseController(w)
		_ = out.EnableFullDuplex()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				_, _ = w.Write(buf[:n])
				_ = out.Flush()
			}
			if err != nil {
				w.Header().Set(http.TrailerPrefix+"X-End", fmt.Sprint(err))
				return
			}
		}
	})
	e := start(t, nil, function("duplex", r))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "POST /function/duplex HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
	var resp *http.Response
	for i := range 5 {
		_, _ = fmt.Fprintf(c, "3\r\n%03d\r\n", i)
		if resp == nil {
			var err error
			if resp, err = http.ReadResponse(in, nil); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, 3)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != fmt.Sprintf("%03d", i) {
			t.Fatalf("piece %d: %q, error %v", i, got, err)
		}
	}
	// The next request comes right behind the body, in the same packet.
	_, _ = io.WriteString(c, "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 || resp.Trailer.Get("X-End") != "EOF" {
		t.Errorf("the end is %q, trailer %v, error %v", rest, resp.Trailer, err)
	}
	if resp, body := readResponse(t, in, "GET"); resp.StatusCode != 200 || !strings.Contains(body, "functions") {
		t.Errorf("the request behind the body got %s %q", resp.Status, body)
	}
}

func TestContinueIsTheFunctionsToGive(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	e := start(t, nil, function("f", r))
	const request = "POST /function/f%s HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
	c, in := e.dial(t)
	_, _ = fmt.Fprintf(c, request, "")
	if head, err := readHead(in); err != nil || !strings.HasPrefix(head, "HTTP/1.1 100 ") {
		t.Fatalf("head %q, error %v", head, err)
	}
	_, _ = io.WriteString(c, "12345")
	if resp, body := readResponse(t, in, "POST"); resp.StatusCode != 200 || body != "12345" {
		t.Errorf("got %s %q", resp.Status, body)
	}
	c, in = e.dial(t)
	_, _ = fmt.Fprintf(c, request, "/refuse")
	if resp, _ := readResponse(t, in, "POST"); resp.StatusCode != 403 {
		t.Errorf("got %s", resp.Status)
	}
}

// TestLongStreams is not parallel: it looks at the whole process's allocations.
func TestLongStreams(t *testing.T) {
	const size = 1 << 30
	r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 64<<10))
		w.Header().Set("X-Got", fmt.Sprint(n))
		piece := make([]byte, 64<<10)
		for range size / len(piece) {
			_, _ = w.Write(piece)
		}
	})
	e := start(t, nil, function("f", r))
	c, in := e.dial(t)
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute)) // two gibibytes take their time on a busy machine
	most := watchHeap(t)
	_, _ = fmt.Fprintf(c, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", size)
	piece := make([]byte, 64<<10)
	for range size / len(piece) {
		if _, err := c.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, piece)
	if err != nil || n != size || resp.Header.Get("X-Got") != fmt.Sprint(size) {
		t.Errorf("%d bytes came back, error %v; the function got %s", n, err, resp.Header.Get("X-Got"))
	}
	if used := most(); used > 64<<20 {
		t.Errorf("the heap grew by %d bytes while 1 GiB went each way", used)
	}
}

// watchHeap polls the heap until its largest growth is requested.
func watchHeap(t *testing.T) (most func() int64) {
	t.Helper()
	inUse := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	before, highest := inUse(), int64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			highest = max(highest, inUse()-before)
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-stopped
		return highest
	}
}

// A body whose length is not announced is refused once it is too long, not once it has ended.
func TestLongChunkedBodyIsNotReadWhole(t *testing.T) {
	t.Parallel()
	reached := make(chan error, 1)
	r := newReplica(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		reached <- err
	})
	e := start(t, func(c *Config) { c.MaxBody = 1 << 20 }, function("f", r))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "POST /function/f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
	const chunks, size = 1024, 64 << 10
	sent := make(chan int, 1)
	go func() {
		chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", size, strings.Repeat("x", size))
		n := 0
		for ; n < chunks; n++ {
			if _, err := c.Write(chunk); err != nil {
				break
			}
		}
		sent <- n
	}()
	resp, body := readResponse(t, in, "POST")
	if resp.StatusCode != 413 || !resp.Close {
		t.Errorf("got %s %q", resp.Status, body)
	}
	// What was taken is the limit, what lingering reads, and what the sockets' buffers hold.
	if n := <-sent; n == chunks {
		t.Errorf("all of the %d MiB were read", chunks*size>>20)
	}
	if err := <-reached; err == nil {
		t.Error("the function took a part of the body for the whole")
	}
}

// TestFraming checks how each framing of a response reaches clients old and new.
func TestFraming(t *testing.T) {
	t.Parallel()
	const hello = "HTTP/1.1 200 OK\r\n"
	for name, tc := range map[string]struct {
		answer, method, version string
		status                  int
		body                    string
		length                  int64 // -1: not given
		chunked, closed         bool
	}{
		"length":                     {hello + "Content-Length: 2\r\n\r\nhi", "GET", "1.1", 200, "hi", 2, false, false},
		"chunks":                     {hello + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "GET", "1.1", 200, "hi", -1, true, false},
		"until close":                {hello + "\r\nhi", "GET", "1.1", 200, "hi", -1, true, false},
		"HTTP/1.0 answer":            {"HTTP/1.0 200 OK\r\n\r\nhi", "GET", "1.1", 200, "hi", -1, true, false},
		"no content":                 {"HTTP/1.1 204 No Content\r\n\r\n", "GET", "1.1", 204, "", 0, false, false},
		"not modified with a length": {"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n", "GET", "1.1", 304, "", 0, false, false},
		"head with a length":         {hello + "Content-Length: 77\r\n\r\n", "HEAD", "1.1", 200, "", 77, false, false},
		"head of chunks":             {hello + "Transfer-Encoding: chunked\r\n\r\n", "HEAD", "1.1", 200, "", -1, true, false},
		"no reason":                  {"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", "GET", "1.1", 200, "hi", 2, false, false},
		"closing function":           {hello + "Connection: close\r\nContent-Length: 2\r\n\r\nhi", "GET", "1.1", 200, "hi", 2, false, false},
		"early hints first":          {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + hello + "Content-Length: 2\r\n\r\nhi", "GET", "1.0", 200, "hi", 2, false, true},
		"old client, length":         {hello + "Content-Length: 2\r\n\r\nhi", "GET", "1.0", 200, "hi", 2, false, true},
		"old client, chunks":         {hello + "Transfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x\r\ni\r\n0\r\nA: b\r\n\r\n", "GET", "1.0", 200, "hi", -1, false, true},
		"old client, until close":    {hello + "\r\nhi", "GET", "1.0", 200, "hi", -1, false, true},
		"redirect is the client's":   {"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "GET", "1.1", 302, "", 0, false, false},
		"error is passed on":         {"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", "GET", "1.1", 500, "no", 2, false, false},
		"two lengths":                {hello + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "GET", "1.1", 502, "", -1, false, false},
		"length and chunks":          {hello + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET", "1.1", 502, "", -1, false, false},
		"unknown coding":             {hello + "Transfer-Encoding: gzip\r\n\r\n", "GET", "1.1", 502, "", -1, false, false},
		"folded field":               {hello + "A: b\r\n c\r\nContent-Length: 0\r\n\r\n", "GET", "1.1", 502, "", -1, false, false},
		"bare LF":                    {"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "GET", "1.1", 502, "", -1, false, false},
		"NUL in a value":             {hello + "A: \x00\r\nContent-Length: 0\r\n\r\n", "GET", "1.1", 502, "", -1, false, false},
		"not HTTP":                   {"SSH-2.0-OpenSSH\r\n", "GET", "1.1", 502, "", -1, false, false},
		"status of two digits":       {"HTTP/1.1 20 OK\r\n\r\n", "GET", "1.1", 502, "", -1, false, false},
		"endless head":               {hello + "A: " + strings.Repeat("a", 40<<10), "GET", "1.1", 502, "", -1, false, false},
		"broken first chunk":         {hello + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "GET", "1.1", 502, "", -1, false, false},
		"nothing":                    {"", "POST", "1.1", 502, "", -1, false, false},
		"half a head":                {hello + "Content-", "POST", "1.1", 502, "", -1, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, nil, function("f", rawReplica(t, func(c net.Conn, _ *bufio.Reader, _ string) { _, _ = io.WriteString(c, tc.answer) })))
			c, in := e.dial(t)
			_, _ = fmt.Fprintf(c, "%s /function/f HTTP/%s\r\nHost: h\r\n\r\n", tc.method, tc.version)
			resp, body := readResponse(t, in, tc.method)
			if resp.StatusCode != tc.status {
				t.Fatalf("got %s %q, want %d", resp.Status, body, tc.status)
			}
			if tc.status == 502 {
				if resp.Header.Get("X-OpenFaaS-Internal") != "gateway" {
					t.Errorf("the error is not marked as ours: %v", resp.Header)
				}
				return
			}
			if chunked := len(resp.TransferEncoding) > 0; body != tc.body || resp.ContentLength != tc.length && !(tc.length == 0 && resp.ContentLength == -1) || chunked != tc.chunked {
				t.Errorf("got body %q, length %d, codings %v", body, resp.ContentLength, resp.TransferEncoding)
			}
			_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
			if _, err := in.ReadByte(); (err != nil) != tc.closed {
				t.Errorf("the connection's next answer: error %v, want closed %t", err, tc.closed)
			}
		})
	}
}

// TestBrokenResponseIsNeverWhole: when the function dies within its response, the client must be able to tell.
func TestBrokenResponseIsNeverWhole(t *testing.T) {
	t.Parallel()
	const hello = "HTTP/1.1 200 OK\r\n"
	for name, tc := range map[string]struct {
		answer  string
		reset   bool
		version string
	}{
		"length":                         {hello + "Content-Length: 10\r\n\r\nhalf", false, "1.1"},
		"chunks, within one":             {hello + "Transfer-Encoding: chunked\r\n\r\n8\r\nhalf", false, "1.1"},
		"chunks, between two":            {hello + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false, "1.1"},
		"chunks, malformed later":        {hello + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", false, "1.1"},
		"until close, reset":             {hello + "\r\nhalf", true, "1.1"},
		"old client, length":             {hello + "Content-Length: 10\r\n\r\nhalf", false, "1.0"},
		"old client, chunks":             {hello + "Transfer-Encoding: chunked\r\n\r\n8\r\nhalf", false, "1.0"},
		"old client, until close, reset": {hello + "\r\nhalf", true, "1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relayed := make(chan struct{})
			e := start(t, nil, function("f", rawReplica(t, func(c net.Conn, _ *bufio.Reader, _ string) {
				head, rest, _ := strings.Cut(tc.answer, "half")
				_, _ = io.WriteString(c, head+"half")
				<-relayed // the client has the first part, so the head is out
				_, _ = io.WriteString(c, rest)
				if tc.reset {
					_ = c.(*net.TCPConn).SetLinger(0)
				}
			})))
			c, in := e.dial(t)
			_, _ = fmt.Fprintf(c, "GET /function/f HTTP/%s\r\nHost: h\r\n\r\n", tc.version)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4)
			_, err = io.ReadFull(resp.Body, got)
			if close(relayed); err != nil || string(got) != "half" {
				t.Fatalf("got %q, error %v", got, err)
			}
			if rest, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("the body ended with %q and no error", rest)
			}
		})
	}
}

// untilClientLeaves is a function that says when it has been entered, and how its client has left.
func untilClientLeaves(entered chan<- struct{}, left chan<- error) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		if r.URL.Path == "/upload" {
			_, err := io.Copy(io.Discard, r.Body)
			left <- err
			return
		}
		<-r.Context().Done()
		left <- r.Context().Err()
	}
}

func TestClientThatLeavesIsNoticed(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}, 2), make(chan error, 2)
	e := start(t, nil, function("f", newReplica(t, untilClientLeaves(entered, left))))
	for name, raw := range map[string]string{
		"within its body":               "POST /function/f/upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
		"while the function is at work": "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
	} {
		c, _ := e.dial(t)
		_, _ = io.WriteString(c, raw)
		<-entered
		_ = c.Close()
		if err := <-left; err == nil {
			t.Errorf("%s: the function saw a whole request", name)
		}
	}
}

func TestAnswerBeforeTheBody(t *testing.T) {
	t.Parallel()
	// The function answers and closes without having read what the client sends; the client must get the whole answer.
	r := rawReplica(t, func(c net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
	})
	e := start(t, nil, function("f", r))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
	var sent atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		piece := make([]byte, 16<<10)
		for {
			n, err := c.Write(piece)
			if sent.Add(int64(n)); err != nil || sent.Load() > 50<<20 {
				return
			}
		}
	}()
	if resp, body := readResponse(t, in, "POST"); resp.StatusCode != 413 || body != "big" {
		t.Errorf("got %s %q", resp.Status, body)
	}
	_ = c.Close()
	<-done
	if sent.Load() >= 50<<20 {
		t.Errorf("the gateway took %d bytes of a body that had been answered", sent.Load())
	}
}

func TestReplicaThatDiesWithinAnUpload(t *testing.T) {
	t.Parallel()
	// The client is in the middle of its body and silent; the failure is the function's, and is told at once.
	e := start(t, nil, function("f", rawReplica(t, func(c net.Conn, in *bufio.Reader, _ string) { _, _ = in.ReadByte() })))
	resp, body := e.exchange(t, "POST /function/f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123")
	if resp.StatusCode != 502 || !resp.Close {
		t.Errorf("got %s %q, close %t", resp.Status, body, resp.Close)
	}
}

func TestNoContentHasNoCoding(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", rawReplica(t, answers("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"))))
	if resp, _ := e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 204 || len(resp.TransferEncoding) > 0 {
		t.Errorf("got %s with %v", resp.Status, resp.TransferEncoding)
	}
}

func TestSlowClientsAreTold(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	e := start(t, func(c *Config) {
		c.HeaderTimeout, c.ReadTimeout, c.IdleTimeout = time.Second, time.Second, time.Second
	}, function("f", r))
	for name, tc := range map[string]struct {
		raw    string
		status int
	}{
		"head":           {"GET /function/f HTTP/1.1\r\nHo", 408},
		"short body":     {"POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n1", 408},
		"streaming body": {"POST /function/f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1", 408},
		"nothing":        {"", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, in := e.dial(t)
			_, _ = io.WriteString(c, tc.raw)
			if tc.status == 0 {
				if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("an idle connection ended with %v", err)
				}
				return
			}
			if resp, body := readResponse(t, in, "POST"); resp.StatusCode != tc.status {
				t.Errorf("got %s %q, want %d", resp.Status, body, tc.status)
			}
		})
	}
}

func TestSlowFunctionIs504(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	e := start(t, func(c *Config) { c.UpstreamTimeout = time.Second }, function("f", r))
	c, in := e.dial(t)
	for range 2 { // the connection survives
		_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp, body := readResponse(t, in, "GET"); resp.StatusCode != 504 || resp.Header.Get("X-OpenFaaS-Internal") != "gateway" {
			t.Errorf("got %s %q", resp.Status, body)
		}
	}
}
