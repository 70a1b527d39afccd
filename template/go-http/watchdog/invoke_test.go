package watchdog

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPathsReachTheHandlerUntouched(t *testing.T) {
	t.Parallel()
	b := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) }), nil)
	for _, path := range []string{"/a//b", "/a%2Fb", "/../x", "/a/./b?q=1;2"} {
		connection, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(connection, "GET "+path+" HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n")
		reply, err := io.ReadAll(connection)
		connection.Close()
		if err != nil || !strings.HasSuffix(string(reply), "\r\n\r\n"+path) {
			t.Errorf("%s arrived as %q, %v", path, reply, err)
		}
	}
}

func TestExecTimeout(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	tests := map[string]struct {
		handler http.HandlerFunc
		header  http.Header
		want    int
		body    string
	}{
		"in time": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hi") }, nil, 200, "hi"},
		"a handler that heeds its context": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			http.Header{"X-Timeout": {"20ms"}}, 504, "the function did not answer within 20ms, the caller's X-Timeout\n"},
		"a handler that does not": {func(w http.ResponseWriter, _ *http.Request) {
			<-release
			if _, err := io.WriteString(w, "late"); !errors.Is(err, http.ErrHandlerTimeout) {
				panic("a late write succeeded")
			}
		}, http.Header{"X-Timeout": {"20ms"}}, 504, "the function did not answer within 20ms, the caller's X-Timeout\n"},
		"a reply that has begun is not replaced": {func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "begun")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, http.Header{"X-Timeout": {"20ms"}}, 200, "begun"},
		"a caller cannot lengthen it": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			http.Header{"X-Timeout": {"24h"}}, 504, "the function did not answer within 500ms, its exec_timeout\n"},
	}
	var ends []func() error
	for name, test := range tests {
		b := setup(t, test.handler, func(c *Config) { c.ExecTimeout = 500 * time.Millisecond })
		response, body := b.do(t, "GET", "/", test.header)
		if response.StatusCode != test.want || body != test.body {
			t.Errorf("%s: %d %q, want %d %q", name, response.StatusCode, body, test.want, test.body)
		}
		if (response.Header.Get("X-OpenFaaS-Internal") != "") != (test.want == 504) {
			t.Errorf("%s: X-OpenFaaS-Internal = %q", name, response.Header.Get("X-OpenFaaS-Internal"))
		}
		if response.Header.Get("X-Duration-Seconds") == "" {
			t.Errorf("%s: no X-Duration-Seconds", name)
		}
		ends = append(ends, b.stop)
	}
	close(release)
	for _, stop := range ends {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestExecTimeoutWhileTheBodyIsBeingRead(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	b := setup(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		ended <- err
	}), func(c *Config) { c.ExecTimeout = 20 * time.Millisecond })
	connection, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	io.WriteString(connection, "POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 10\r\n\r\nhalf")
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil || response.StatusCode != 504 {
		t.Fatalf("reply = %v, %v, want 504", response, err)
	}
	response.Body.Close()
	if err := <-ended; err == nil {
		t.Error("the handler read a whole body of which half was sent")
	}
}

func TestMaxInflight(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	b := setup(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}), func(c *Config) { c.MaxInflight = 2 })
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() { b.do(t, "GET", "/", nil) })
		<-entered
	}
	for path, want := range map[string]int{"/": 429, "/_/ready": 429, "/_/health": 200} {
		response, body := b.do(t, "GET", path, nil)
		if response.StatusCode != want {
			t.Errorf("%s at the limit = %d %q, want %d", path, response.StatusCode, body, want)
		}
		if want == 429 && response.Header.Get("X-OpenFaaS-Internal") == "" {
			t.Errorf("%s: the 429 is not marked as ours", path)
		}
	}
	close(release)
	group.Wait()
	if response, _ := b.do(t, "GET", "/_/ready", nil); response.StatusCode != 200 {
		t.Errorf("ready after the limit = %d", response.StatusCode)
	}
}

func TestPanicIsAnswered(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b := setup(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("bug") }),
		func(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
	if response, body := b.do(t, "GET", "/path", http.Header{"X-Call-Id": {"call-7"}}); response.StatusCode != 500 || strings.Contains(body, "bug") {
		t.Errorf("panic = %d %q, want 500 without the reason", response.StatusCode, body)
	}
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	for _, part := range []string{`"panic":"bug"`, `"call_id":"call-7"`, `"path":"/path"`} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log lacks %s: %s", part, log.String())
		}
	}
}

func TestTrailersStreamsAndHijacks(t *testing.T) {
	t.Parallel()
	b := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/trailers":
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "4")
			w.Header().Set(http.TrailerPrefix+"X-Late", "yes")
		case "/hijack":
			connection, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			io.WriteString(connection, "HTTP/1.1 101 Switching Protocols\r\n\r\nraw")
			connection.Close()
		}
	}), nil)
	response, body := b.do(t, "GET", "/trailers", nil)
	if body != "body" || response.Trailer.Get("X-Sum") != "4" || response.Trailer.Get("X-Late") != "yes" {
		t.Errorf("trailers = %q %v", body, response.Trailer)
	}
	connection, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	io.WriteString(connection, "GET /hijack HTTP/1.1\r\nHost: f\r\n\r\n")
	if reply, err := io.ReadAll(connection); err != nil || !strings.HasSuffix(string(reply), "\r\n\r\nraw") {
		t.Errorf("hijacked connection gave %q, %v", reply, err)
	}
}

func BenchmarkInvoke(b *testing.B) {
	for name, limit := range map[string]time.Duration{"unlimited": 0, "exec_timeout": time.Minute} {
		b.Run(name, func(b *testing.B) {
			s := &Server{
				config:  Config{ExecTimeout: limit, Logger: slog.New(slog.DiscardHandler)},
				metrics: newMetrics(), handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hi")) }),
			}
			r, _ := http.NewRequest("GET", "/", nil)
			w := &sink{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				s.ServeHTTP(w, r)
			}
		})
	}
}

type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}
