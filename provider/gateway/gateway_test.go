package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waggle/provider/feed"
)

func TestMain(m *testing.M) {
	// Pebble, the ACME server, has no end.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"))
}

// replica is a function's replica made of a handler; its health path always answers.
func newReplica(t *testing.T, handler http.HandlerFunc) feed.Replica {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_/health" {
			return
		}
		handler(w, r)
	}))
	t.Cleanup(s.Close)
	return replicaAt(s.Listener.Addr().String())
}

func replicaAt(address string) feed.Replica {
	return feed.Replica{ID: address, Address: address, State: feed.Ready}
}

// function is a table entry of the default namespace.
func function(name string, replicas ...feed.Replica) feed.Function {
	return feed.Function{Name: name, Namespace: "openfaas-fn", Service: name, Desired: uint64(len(replicas)), Scale: feed.Scale{Min: 1, Max: 9},
		HealthPath: "/_/health", Replicas: replicas}
}

// edge is a running gateway.
type edge struct {
	*Gateway
	addr string
	stop func()
}

// start runs a gateway that serves fns, changed by adjust, until the test ends.
func start(t testing.TB, adjust func(*Config), fns ...feed.Function) *edge {
	t.Helper()
	cfg := Config{Table: &feed.Table{Epoch: "test", Revision: 1, Functions: fns},
		HoldTimeout: 30 * time.Second, ShutdownTimeout: time.Minute}
	var err error
	if cfg.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if cfg.MetricsListener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if adjust != nil {
		adjust(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stopped := false
	e := &edge{Gateway: g, addr: cfg.Listener.Addr().String()}
	e.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(e.stop)
	return e
}

// dial opens a connection to the gateway that fails the test rather than hang it.
func (e *edge) dial(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", e.addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { _ = c.Close() })
	return c, bufio.NewReader(c)
}

// exchange sends a raw request on a connection of its own and reads one response, body included.
func (e *edge) exchange(t *testing.T, raw string) (*http.Response, string) {
	t.Helper()
	c, in := e.dial(t)
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(raw, " ")
	return readResponse(t, in, method)
}

func readResponse(t *testing.T, in *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("reading the response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the body of %s: %v", resp.Status, err)
	}
	return resp, string(body)
}

// quickReplica is the address of a replica that costs as little as can be.
func quickReplica(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := make([]byte, 4096)
				answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nHello World\n")
				for {
					if _, err := c.Read(in); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// BenchmarkRoundTrip is a request through the gateway to a replica and back, with a client and a replica that cost as
// little as can be. What it allocates, the gateway does.
func BenchmarkRoundTrip(b *testing.B) {
	e := start(b, nil, function("f", replicaAt(quickReplica(b))))
	c, err := net.Dial("tcp", e.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request := []byte("POST /function/f/x?y HTTP/1.1\r\nHost: votes.example.org\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Length: 4\r\n\r\nbody")
	response := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		n, err := c.Read(response)
		if err != nil || !bytes.HasPrefix(response[:n], []byte("HTTP/1.1 200 ")) {
			b.Fatalf("%s %v", response[:n], err)
		}
	}
}

func TestForwarding(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.RequestURI, len(body))
	})
	e := start(t, nil, function("hello", r))
	for range 3 {
		resp, body := e.exchange(t, "POST /function/hello/a//b%2Fc?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12345")
		if resp.StatusCode != 200 || body != "POST /a//b%2Fc?x=1 5" {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
		if resp.Header.Get("X-Call-Id") == "" || resp.Header.Get("X-Duration-Seconds") == "" {
			t.Errorf("got header %v", resp.Header)
		}
	}
	if resp, body := e.exchange(t, "GET /function/nobody HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 404 {
		t.Errorf("unknown function: %d %q", resp.StatusCode, body)
	}
	if resp, body := e.exchange(t, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("healthz: %d %q", resp.StatusCode, body)
	}
}

// What the function says of a call stands; the gateway adds only what is missing.
func TestFieldsOfTheFunctionStand(t *testing.T) {
	t.Parallel()
	own := []string{"X-Call-Id", "X-Start-Time", "X-Duration-Seconds", "X-Served-By"}
	r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own" {
			for _, name := range own {
				w.Header().Set(name, "mine")
			}
		}
	})
	e := start(t, nil, function("f", r))
	for path, mine := range map[string]bool{"/own": true, "/none": false} {
		resp, _ := e.exchange(t, "GET /function/f"+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
		for _, name := range own {
			if got := resp.Header[name]; len(got) != 1 || (got[0] == "mine") != mine {
				t.Errorf("%s has %s %q", path, name, got)
			}
		}
	}
}

func TestCrashEndsOneConnectionOnly(t *testing.T) {
	t.Parallel()
	g, err := New(Config{Table: &feed.Table{Epoch: "test", Revision: 1, Functions: []feed.Function{function("bad")}}})
	if err != nil {
		t.Fatal(err)
	}
	g.registry.Lookup([]byte("bad")).Stats = nil // stands for any mistake of ours
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /function/bad HTTP/1.1\r\nHost: h\r\n\r\n")
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g.newConn(nc).serve() // does not take the process with it
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("a crashed request was answered with %d bytes", n)
	}
}
