package crowd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func target(t *testing.T, raw string) []Target {
	t.Helper()
	got, err := NewTarget(raw)
	if err != nil {
		t.Fatal(err)
	}
	return []Target{got}
}

func TestClientSpeaksLikeABrowser(t *testing.T) {
	t.Parallel()
	seen := make(chan *http.Request, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		seen <- r
		w.WriteHeader(http.StatusSeeOther)
	}))
	t.Cleanup(server.Close)
	c := newClient(target(t, server.URL), 10*time.Second)
	t.Cleanup(c.close)
	cookies := &jar{}
	cookies.take(http.Header{"Set-Cookie": {"a=1", "b=2"}})
	got, err := c.do(0, request{path: "/function/vote?x=1", accept: "text/html", contentType: "text/plain", body: []byte("hello"), cookies: cookies})
	if err != nil || got.status != http.StatusSeeOther {
		t.Fatalf("got %d, %v", got.status, err)
	}
	r := <-seen
	body, _ := io.ReadAll(r.Body)
	host := c.targets[0].URL.Host
	for what, pair := range map[string][2]string{
		"method": {r.Method, "POST"}, "path": {r.RequestURI, "/function/vote?x=1"}, "host": {r.Host, host}, "body": {string(body), "hello"},
		"origin": {r.Header.Get("Origin"), "http://" + host}, "fetch site": {r.Header.Get("Sec-Fetch-Site"), "same-origin"},
		"cookie": {r.Header.Get("Cookie"), "a=1; b=2"}, "type": {r.Header.Get("Content-Type"), "text/plain"}, "accept": {r.Header.Get("Accept"), "text/html"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s %q, want %q", what, pair[0], pair[1])
		}
	}
	if _, err := c.do(0, request{path: "/", accept: "*/*", cookies: &jar{}}); err != nil {
		t.Fatal(err)
	}
	if r := <-seen; r.Method != "GET" || r.Header.Get("Cookie") != "" || r.Header.Get("Origin") != "" {
		t.Errorf("GET: %s with %v", r.Method, r.Header)
	}
}

func TestClientKeepsAConnectionUntilItMayNot(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		handler http.HandlerFunc
		opened  int
	}{
		"kept": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }, 1},
		"kept, chunked": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "o")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "k")
		}, 1},
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, 1},
		"closed":     {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") }, 3},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opened := 0
			server := httptest.NewUnstartedServer(test.handler)
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened++ // By the one goroutine that accepts; read once the server has closed.
				}
			}
			server.Start()
			c := newClient(target(t, server.URL), 10*time.Second)
			for range 3 {
				if _, err := c.do(0, request{path: "/", accept: "*/*", cookies: &jar{}}); err != nil {
					t.Fatal(err)
				}
			}
			c.close()
			server.Close()
			if opened != test.opened {
				t.Errorf("%d connections, want %d", opened, test.opened)
			}
		})
	}
}

// raw serves one connection with whatever answer does.
func raw(t *testing.T, answer func(net.Conn)) *client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			answer(conn)
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return newClient(target(t, "http://"+listener.Addr().String()), 10*time.Second)
}

func TestClientTellsFailuresApart(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answer  func(net.Conn)
		timeout time.Duration
		is      error
		says    string
	}{
		"closed without an answer": {func(net.Conn) {}, 0, io.ErrUnexpectedEOF, "reading the answer"},
		"cut in the headers":       {func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nA: b\r\n") }, 0, io.ErrUnexpectedEOF, "reading the answer"},
		"cut in the body":          {func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") }, 0, io.ErrUnexpectedEOF, "reading the body"},
		"no HTTP":                  {func(c net.Conn) { fmt.Fprint(c, "SSH-2.0\r\n\r\n") }, 0, nil, "malformed"},
		"too long": {func(c net.Conn) {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", bodyLimit+1, strings.Repeat("x", bodyLimit+1))
		}, 0, nil, "longer than"},
		"no answer in time": {func(c net.Conn) { io.Copy(io.Discard, c) }, 20 * time.Millisecond, os.ErrDeadlineExceeded, "reading the answer"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := raw(t, test.answer)
			if test.timeout > 0 {
				c.timeout = test.timeout
			}
			_, err := c.do(0, request{path: "/", accept: "*/*", body: []byte("x"), cookies: &jar{}})
			c.close()
			if err == nil || !strings.Contains(err.Error(), test.says) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v, want %q, %v", err, test.says, test.is)
			}
			if errors.Is(err, errUnsent) {
				t.Errorf("%v: the request was sent", err)
			}
		})
	}
}

func TestClientKnowsThatNothingWasSent(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	c := newClient(target(t, "http://"+address), 10*time.Second)
	if _, err := c.do(0, request{path: "/", accept: "*/*", cookies: &jar{}}); !errors.Is(err, errUnsent) {
		t.Errorf("got %v", err)
	}
}

func TestNewTarget(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		raw      string
		address  string
		loopback bool
	}{
		"a port":            {"http://127.0.0.1:8080/function/vote", "127.0.0.1:8080", true},
		"no port":           {"http://localhost/function/vote", "localhost:80", true},
		"https":             {"https://example.org/v", "example.org:443", false},
		"IPv6":              {"http://[::1]:99/", "[::1]:99", true},
		"a private address": {"http://10.0.0.1:80/", "10.0.0.1:80", false},
		"a name like ours":  {"http://localhost.example.org/", "localhost.example.org:80", false},
		"no scheme":         {"127.0.0.1:8080", "", false},
		"another scheme":    {"ftp://127.0.0.1/", "", false},
		"no host":           {"http:///function/vote", "", false},
		"a password":        {"http://a:b@127.0.0.1/", "", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := NewTarget(test.raw)
			if (err == nil) != (test.address != "") || got.address != test.address {
				t.Fatalf("got %q, %v; want %q", got.address, err, test.address)
			}
			if err == nil && got.Loopback() != test.loopback {
				t.Errorf("loopback %v", got.Loopback())
			}
		})
	}
}

func BenchmarkClient(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	defer server.Close()
	t, err := NewTarget(server.URL)
	if err != nil {
		b.Fatal(err)
	}
	c := newClient([]Target{t}, time.Second)
	defer c.close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.do(0, request{path: "/", accept: "*/*", cookies: &jar{}}); err != nil {
			b.Fatal(err)
		}
	}
}
