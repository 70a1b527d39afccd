package watchdog

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a running server on ports of its own.
type bundle struct {
	*Server
	url    string
	client *http.Client
	stop   func() error
}

func setup(t *testing.T, handler http.Handler, change func(*Config)) *bundle {
	t.Helper()
	config := Config{
		Handler: handler, Logger: slog.New(slog.DiscardHandler),
		ReadTimeout: time.Minute, WriteTimeout: time.Minute, ExecTimeout: time.Minute,
	}
	if change != nil {
		change(&config)
	}
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(server.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	transport := &http.Transport{}
	var once sync.Once
	var runErr error
	stop := func() error {
		once.Do(func() {
			cancel()
			runErr = <-ended
			transport.CloseIdleConnections()
		})
		return runErr
	}
	t.Cleanup(func() { _ = stop() })
	return &bundle{Server: server, url: "http://127.0.0.1:" + port, client: &http.Client{Transport: transport}, stop: stop}
}

func (b *bundle) do(t *testing.T, method, path string, header http.Header) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, b.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := b.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

type moody struct {
	http.Handler
	// mu guards ready and flushed.
	mu      sync.Mutex
	ready   error
	flushed bool
}

func (m *moody) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

func (m *moody) Shutdown(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flushed = true
	return nil
}

func TestProbes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		method, path string
		ready        error
		want         int
	}{
		"health":                       {"GET", "/_/health", nil, 200},
		"health of an unready one":     {"GET", "/_/health", errors.New("no store"), 200},
		"ready":                        {"GET", "/_/ready", nil, 200},
		"unready":                      {"GET", "/_/ready", errors.New("no store"), 503},
		"head":                         {"HEAD", "/_/ready", nil, 200},
		"post":                         {"POST", "/_/health", nil, 405},
		"unknown":                      {"GET", "/_/secrets", nil, 404},
		"the function's own underline": {"GET", "/_health", nil, 418},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			teapot := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) })
			b := setup(t, &moody{Handler: teapot, ready: test.ready}, nil)
			if response, body := b.do(t, test.method, test.path, nil); response.StatusCode != test.want {
				t.Errorf("%s %s = %d %q, want %d", test.method, test.path, response.StatusCode, body, test.want)
			}
		})
	}
}

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
			http.Header{"X-Timeout": {"20ms"}}, 504, "the function did not answer within 20ms\n"},
		"a handler that does not": {func(w http.ResponseWriter, _ *http.Request) {
			<-release
			if _, err := io.WriteString(w, "late"); !errors.Is(err, http.ErrHandlerTimeout) {
				panic("a late write succeeded")
			}
		}, http.Header{"X-Timeout": {"20ms"}}, 504, "the function did not answer within 20ms\n"},
		"a reply that has begun is not replaced": {func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "begun")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, http.Header{"X-Timeout": {"20ms"}}, 200, "begun"},
		"a caller cannot lengthen it": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			http.Header{"X-Timeout": {"24h"}}, 504, "the function did not answer within 500ms\n"},
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

func TestStopDrains(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	f := &moody{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-release
		io.WriteString(w, "finished")
	})}
	b := setup(t, f, nil)
	got := make(chan string, 1)
	go func() {
		_, body := b.do(t, "GET", "/", nil)
		got <- body
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a request running: %v", err)
	default:
	}
	close(release)
	if body := <-got; body != "finished" {
		t.Errorf("the running request got %q", body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stopping: %v", err)
	}
	if !f.flushed {
		t.Error("Shutdown was not called")
	}
}

func TestDrainingIsUnreadyAndRetiresConnections(t *testing.T) {
	t.Parallel()
	b := setup(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "served") }), nil)
	b.draining.Store(true)
	for _, path := range []string{"/_/health", "/_/ready"} {
		if response, _ := b.do(t, "GET", path, nil); response.StatusCode != 503 {
			t.Errorf("%s while draining = %d, want 503", path, response.StatusCode)
		}
	}
	response, body := b.do(t, "GET", "/", nil)
	if body != "served" || !response.Close {
		t.Errorf("request while draining = %q, close %t; want it served and the connection closed", body, response.Close)
	}
}

func TestPanicIsAnswered(t *testing.T) {
	t.Parallel()
	b := setup(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("bug") }), nil)
	if response, body := b.do(t, "GET", "/", nil); response.StatusCode != 500 || strings.Contains(body, "bug") {
		t.Errorf("panic = %d %q, want 500 without the reason", response.StatusCode, body)
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

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := setup(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }), nil)
	b.do(t, "GET", "/", nil)
	b.do(t, "PUT", "/", nil)
	b.do(t, "BREW", "/", nil)
	b.do(t, "GET", "/_/health", nil)
	_, port, _ := net.SplitHostPort(b.MetricsAddr().String())
	response, err := b.client.Get("http://127.0.0.1:" + port + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`http_requests_total{code="204",method="GET"} 1`, `http_requests_total{code="204",method="PUT"} 1`,
		`http_requests_total{code="204",method="other"} 1`, `http_requests_in_flight 0`,
		`http_request_duration_seconds_bucket{code="204",method="GET",le="+Inf"} 1`,
		`http_request_duration_seconds_count{code="204",method="GET"} 1`,
	} {
		if !strings.Contains(string(body), line+"\n") {
			t.Errorf("metrics lack %q:\n%s", line, body)
		}
	}
}

func TestHealthcheckExitCode(t *testing.T) {
	t.Parallel()
	b := setup(t, http.NotFoundHandler(), nil)
	_, port, _ := net.SplitHostPort(b.Addr().String())
	getenv := func(name string) string { return map[string]string{"port": port}[name] }
	if code := Healthcheck(getenv, io.Discard); code != 0 {
		t.Errorf("healthy: exit %d", code)
	}
	b.draining.Store(true)
	if code := Healthcheck(getenv, io.Discard); code != 1 {
		t.Errorf("draining: exit %d", code)
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if code := Healthcheck(getenv, io.Discard); code != 1 {
		t.Errorf("gone: exit %d", code)
	}
}

func TestPortInUseIsAnErrorOfNew(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	_, err = New(Config{Handler: http.NotFoundHandler(), Port: port})
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(port)) {
		t.Errorf("error = %v, want one that names port %d", err, port)
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
