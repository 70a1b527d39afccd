package gateway

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waggle/provider/feed"
	"waggle/provider/settings"
)

// control is a provider: the real hub behind basic auth, and an API that says what it was asked.
type control struct {
	*httptest.Server
	hub   *feed.Hub
	wake  func(name string)
	wakes atomic.Int32
	// deployed are functions that exist although no table may have them; asked counts the questions after one.
	deployed sync.Map
	asked    atomic.Int32
}

// Wake implements feed.Waker.
func (p *control) Wake(_ context.Context, name, _ string) error {
	p.wakes.Add(1)
	if p.wake == nil {
		return errors.New("nobody can be woken")
	}
	p.wake(name)
	return nil
}

func newControl(t *testing.T) *control {
	t.Helper()
	p := &control{}
	var err error
	if p.hub, err = feed.NewHub(feed.HubConfig{Waker: p, Heartbeat: 50 * time.Millisecond, Deployed: func(_ context.Context, name, _ string) (bool, error) {
		p.asked.Add(1)
		_, deployed := p.deployed.Load(name)
		return deployed, nil
	}}); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/feed/", p.hub.Handler())
	mux.HandleFunc("/system/logs", func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "{\"text\":\"%d\"}\n", i)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(600 * time.Millisecond) // longer, in all, than any timeout of the gateway in this test
		}
	})
	mux.HandleFunc("/system/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/system/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.deployed.Store(string(body), true) // if it is the name of a function, it is one now
		w.WriteHeader(http.StatusAccepted)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
	})
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "admin" || password != "s3cret" {
			http.Error(w, "invalid credentials", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { p.CloseClientConnections(); p.Close() })
	return p
}

// under makes a gateway's configuration that follows p.
func under(t *testing.T, p *control) func(*Config) {
	t.Helper()
	return func(c *Config) {
		c.Table, c.ProviderURL, c.Credentials = nil, p.URL, settings.Credentials{User: "admin", Password: "s3cret"}
		c.UpstreamTimeout, c.ReadTimeout, c.WriteTimeout = time.Second, time.Second, time.Second
	}
}

func basic(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }

func TestAPINeedsCredentials(t *testing.T) {
	t.Parallel()
	e := start(t, under(t, newControl(t)))
	for name, tc := range map[string]struct {
		header string
		status int
	}{
		"right":           {"Authorization: " + basic("admin:s3cret") + "\r\n", 202},
		"lower-case word": {"authorization: basic " + basic("admin:s3cret")[6:] + "\r\n", 202}, // RFC 9110 §11.1: schemes have no case
		"none":            {"", 401},
		"wrong password":  {"Authorization: " + basic("admin:wrong") + "\r\n", 401},
		"no password":     {"Authorization: " + basic("admin") + "\r\n", 401},
		"bearer":          {"Authorization: Bearer " + basic("admin:s3cret")[6:] + "\r\n", 401},
		"empty":           {"Authorization:\r\n", 401},
	} {
		resp, body := e.exchange(t, "POST /system/functions?namespace=x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"+tc.header+"\r\n{}")
		if resp.StatusCode != tc.status {
			t.Errorf("%s: got %s %q, want %d", name, resp.Status, body, tc.status)
		}
		if tc.status == 202 && body != "POST /system/functions?namespace=x {}" {
			t.Errorf("%s: the provider saw %q", name, body)
		}
		if tc.status == 401 && !strings.Contains(resp.Header.Get("WWW-Authenticate"), "Basic realm=") {
			t.Errorf("%s: no challenge in %v", name, resp.Header)
		}
	}
}

func TestLogsOutlastEveryTimeout(t *testing.T) {
	t.Parallel()
	e := start(t, under(t, newControl(t)))
	resp, body := e.exchange(t, "GET /system/logs?name=f HTTP/1.1\r\nHost: h\r\nAuthorization: "+basic("admin:s3cret")+"\r\n\r\n")
	if resp.StatusCode != 200 || strings.Count(body, "\n") != 3 {
		t.Errorf("got %s %q", resp.Status, body)
	}
}

func TestScaleFromZero(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "awake") })
	p.wake = func(name string) {
		p.hub.Publish(feed.Table{Epoch: "e", Revision: 2, Functions: []feed.Function{function(name, r)}})
	}
	e := start(t, under(t, p))
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 1, Functions: []feed.Function{function("f")}})
	for e.registry.Lookup([]byte("f")) == nil {
		time.Sleep(time.Millisecond)
	}
	statuses := make(chan string)
	const requests = 100
	for range requests {
		c, in := e.dial(t)
		go func() {
			_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				statuses <- err.Error()
				return
			}
			body, _ := io.ReadAll(resp.Body)
			statuses <- fmt.Sprint(resp.StatusCode, " ", string(body))
		}()
	}
	for range requests {
		if got := <-statuses; got != "200 awake" {
			t.Fatal(got)
		}
	}
	if p.wakes.Load() != 1 {
		t.Errorf("%d wakes for %d requests", p.wakes.Load(), requests)
	}
	for p.hub.Invocations("f", "openfaas-fn") != requests {
		time.Sleep(time.Millisecond)
	}
}

func TestProviderGone(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	e := start(t, under(t, p))
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 1, Functions: []feed.Function{function("f", r), function("zero")}})
	for e.registry.Lookup([]byte("f")) == nil {
		time.Sleep(time.Millisecond)
	}
	if _, body := e.exchange(t, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"); !strings.Contains(body, `"ok"`) {
		t.Errorf("with a provider: %q", body)
	}
	p.CloseClientConnections()
	p.Close()
	for !e.providerGone() {
		time.Sleep(time.Millisecond)
	}
	for path, want := range map[string]string{
		"/function/f":     "200 here",
		"/function/zero":  "503 function has no replicas and the provider cannot be reached to start one\n",
		"/function/never": "404 no such function\n",
		"/healthz":        `200 {"status":"degraded","provider":"gone"`,
	} {
		resp, body := e.exchange(t, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := fmt.Sprint(resp.StatusCode, " ", body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
		if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After in %v", path, resp.Header)
		}
	}
	resp, body := e.exchange(t, "GET /system/functions HTTP/1.1\r\nHost: h\r\nAuthorization: "+basic("admin:s3cret")+"\r\n\r\n")
	if resp.StatusCode != 503 || resp.Header.Get("X-OpenFaaS-Internal") != "gateway" {
		t.Errorf("the API: %s %q", resp.Status, body)
	}
}

func TestBusyFunctionIsQueuedThenRefused(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	entered := make(chan struct{}, 9)
	f := function("f", newReplica(t, func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-release }))
	f.MaxInflight = 1
	e := start(t, func(c *Config) { c.MaxHeld, c.HoldTimeout = 1, 20*time.Second }, f)
	const request = "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n"
	first, firstIn := e.dial(t)
	_, _ = io.WriteString(first, request)
	<-entered
	second, secondIn := e.dial(t)
	_, _ = io.WriteString(second, request)
	s := e.registry.Lookup([]byte("f"))
	for s.Queued() != 1 {
		time.Sleep(time.Millisecond)
	}
	if resp, body := e.exchange(t, request); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("beyond the queue: %s %q", resp.Status, body)
	}
	close(release)
	for _, in := range []*bufio.Reader{firstIn, secondIn} {
		if resp, body := readResponse(t, in, "GET"); resp.StatusCode != 200 {
			t.Errorf("got %s %q", resp.Status, body)
		}
	}
	if s.Inflight() != 0 || s.Queued() != 0 {
		t.Errorf("%d in flight, %d queued at the end", s.Inflight(), s.Queued())
	}
}

// Functions reach the port as well; they are told nothing.
func TestMetricsNeedCredentials(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.Credentials = settings.Credentials{User: "admin", Password: "s3cret"} }, function("f"))
	defer http.DefaultClient.CloseIdleConnections()
	for _, test := range []struct {
		user, password string
		status         int
		text           string
	}{
		{"", "", 401, "invalid credentials\n"}, {"admin", "", 401, "invalid credentials\n"}, {"admin", "s3cret", 200, "gateway_service_count{"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+e.cfg.MetricsListener.Addr().String()+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.user != "" {
			request.SetBasicAuth(test.user, test.password)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != test.status || !strings.Contains(string(text), test.text) || test.status == 401 && strings.Contains(string(text), "gateway") {
			t.Errorf("with %q and %q: %d %s, %v; want %d and %q", test.user, test.password, response.StatusCode, text, err, test.status, test.text)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	f := function("f", newReplica(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }))
	f.Scale = feed.Scale{Min: 1, Max: 20, Type: feed.ScaleRPS, Target: 50}
	e := start(t, nil, f)
	for i := range 50 {
		e.exchange(t, fmt.Sprintf("GET /function/stranger%d HTTP/1.1\r\nHost: h\r\n\r\n", i))
		e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
	}
	resp, err := http.Get("http://" + e.cfg.MetricsListener.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	for _, want := range []string{
		`gateway_function_invocation_total{code="201",function_name="f.openfaas-fn"} 50`,
		`gateway_functions_seconds_count{code="201",function_name="f.openfaas-fn"} 50`,
		`gateway_functions_seconds_bucket{code="201",function_name="f.openfaas-fn",le="0.005"}`,
		`gateway_function_invocation_started{function_name="f.openfaas-fn"} 50`,
		`gateway_function_invocation_inflight{function_name="f.openfaas-fn"} 0`,
		`gateway_service_count{function_name="f.openfaas-fn"} 1`,
		`gateway_service_ready_count{function_name="f.openfaas-fn"} 1`,
		`gateway_service_min{function_name="f.openfaas-fn"} 1`,
		`gateway_service_target_load{function_name="f.openfaas-fn",scaling_type="rps"} 50`,
		`gateway_refused_requests_total{status="404"} 50`,
		"gateway_buffered_bytes 0", "gateway_http2_unread_bytes 0",
		"go_goroutines", "process_cpu_seconds_total",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("missing %s", want)
		}
	}
	if strings.Contains(string(text), "stranger") {
		t.Error("an unknown function has a series")
	}
	e.registry.Apply(feed.Table{Epoch: "e", Revision: 9})
	families, err := e.cfg.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "function_name" {
					t.Errorf("%s outlives its function", family.GetName())
				}
			}
		}
	}
}

func TestShutdownFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	e := start(t, func(c *Config) { c.ShutdownDelay = 300 * time.Millisecond }, function("f", r))
	idle, idleIn := e.dial(t)
	_, _ = io.WriteString(idle, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
	readResponse(t, idleIn, "GET")
	busy, busyIn := e.dial(t)
	_, _ = io.WriteString(busy, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
	<-entered
	stopped := make(chan struct{})
	go func() { e.stop(); close(stopped) }()
	for !e.unready.Load() {
		time.Sleep(time.Millisecond)
	}
	if resp, body := e.exchange(t, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 503 || !strings.Contains(body, "stopping") {
		t.Errorf("unready: %s %q", resp.Status, body)
	}
	if _, err := idleIn.ReadByte(); err != io.EOF {
		t.Errorf("the idle connection ended with %v", err)
	}
	if c, err := net.Dial("tcp", e.addr); err == nil {
		_ = c.Close()
		t.Error("a new connection was taken")
	}
	close(release)
	if resp, body := readResponse(t, busyIn, "GET"); resp.StatusCode != 200 || body != "done" || !resp.Close {
		t.Errorf("the request under way: %s %q, close %t", resp.Status, body, resp.Close)
	}
	<-stopped
}

// TestShutdownAnswersWhoeverWaits has three clients when the gateway's time is over. One waits for a working
// function, one for a function without a replica, and one is being sent a stream. Only the stream is cut.
func TestShutdownAnswersWhoeverWaits(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"at once": 0, "after a while": 100 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entered := make(chan struct{}, 2)
			r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/stream" {
					_, _ = io.WriteString(w, "begun")
					_ = http.NewResponseController(w).Flush()
				}
				entered <- struct{}{}
				<-r.Context().Done()
			})
			none := function("none")
			none.Desired = 1
			e := start(t, func(c *Config) { c.ShutdownTimeout = timeout }, function("f", r), none)
			waiting := make(map[string]*bufio.Reader)
			for _, path := range []string{"f", "none", "f/stream"} {
				c, in := e.dial(t)
				_, _ = io.WriteString(c, "GET /function/"+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
				waiting[path] = in
			}
			<-entered
			<-entered
			for e.registry.Lookup([]byte("none")).Queued() == 0 {
				time.Sleep(time.Millisecond)
			}
			if _, err := waiting["f/stream"].ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			e.stop()
			if took := time.Since(began); took > 30*time.Second { // half of the default
				t.Errorf("stopping took %s", took)
			}
			for _, path := range []string{"f", "none"} {
				resp, body := readResponse(t, waiting[path], "GET")
				if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !resp.Close || !strings.Contains(body, "this gateway stops") ||
					path == "f" && !strings.Contains(body, "shutdown_timeout") {
					t.Errorf("%s: %s %q, Retry-After %q", path, resp.Status, body, resp.Header.Get("Retry-After"))
				}
			}
			if rest, err := io.ReadAll(waiting["f/stream"]); err == nil {
				t.Errorf("the stream ended in order: %q", rest)
			}
		})
	}
}

// A call of the API whose provider goes away in the middle of it.
func TestProviderGoesAwayDuringACall(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	e := start(t, under(t, p))
	resp, body := e.exchange(t, "POST /system/abort HTTP/1.1\r\nHost: h\r\nAuthorization: "+basic("admin:s3cret")+"\r\nContent-Length: 1\r\n\r\nx")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "is not known") {
		t.Errorf("got %s %q", resp.Status, body)
	}
}

func TestConnectionBounds(t *testing.T) {
	t.Parallel()
	for name, adjust := range map[string]func(*Config){
		"in all":      func(c *Config) { c.MaxConns = 2 },
		"per address": func(c *Config) { c.MaxConnsPerIP = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, adjust)
			const request = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
			for range 2 {
				c, in := e.dial(t)
				_, _ = io.WriteString(c, request)
				readResponse(t, in, "GET")
			}
			_, in := e.dial(t)
			if resp, _ := readResponse(t, in, "GET"); resp.StatusCode != 503 || !resp.Close {
				t.Errorf("got %s", resp.Status)
			}
		})
	}
}

// A trusted proxy's connections are those of many clients.
func TestNoBoundPerAddressOnTrustedProxies(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.MaxConns, c.MaxConnsPerIP, c.TrustedProxies = 3, 1, []string{"127.0.0.0/8"} })
	for i, want := range []int{200, 200, 200, 503} {
		c, in := e.dial(t)
		_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp, _ := readResponse(t, in, "GET"); resp.StatusCode != want {
			t.Errorf("connection %d: %s, want %d", i+1, resp.Status, want)
		}
	}
}

func TestNoHoldTimeoutMeansNoWait(t *testing.T) {
	t.Parallel()
	f := function("f")
	f.Desired = 1 // a replica is on its way
	e := start(t, func(c *Config) { c.HoldTimeout = 0 }, f)
	resp, body := e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %s %q, header %v", resp.Status, body, resp.Header)
	}
	if n := e.sum(t, "gateway_held_total"); n != 0 {
		t.Errorf("%g requests count as held", n)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := New(Config{ProviderURL: "ftp://x", MaxHeader: 3, ReadTimeout: -1, Port: 70000})
	for _, want := range []string{"functions_provider_url is \"ftp://x\"", "max_header_bytes is 3", "read_timeout is -1ns", "port is 70000: must be 1 to 65535"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"f", "f.ns/x?y", "?", "/", "f?a/b", "a.b.c//%2F", ".."} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, address []byte) {
		name, rest := splitAddress(address)
		if string(name)+string(rest) != string(address) || strings.ContainsAny(string(name), "/?") {
			t.Fatalf("%q is split into %q and %q", address, name, rest)
		}
		if len(rest) > 0 && rest[0] != '/' && rest[0] != '?' {
			t.Fatalf("%q is split into %q and %q", address, name, rest)
		}
	})
}
