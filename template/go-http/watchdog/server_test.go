package watchdog

import (
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
