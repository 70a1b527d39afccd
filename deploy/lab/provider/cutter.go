package provider

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"
)

// Failpoint is where the provider dies: just before the engine gets its nth changing request, or just after it answered.
type Failpoint struct {
	// Nth counts from 1; no change is the 0th.
	Nth   int
	After bool
}

// String says it in words.
func (f Failpoint) String() string {
	if f.After {
		return fmt.Sprintf("after change %d", f.Nth)
	}
	return fmt.Sprintf("before change %d", f.Nth)
}

// Reached is how many changing requests of the call have reached the engine.
func (f Failpoint) Reached() int {
	if f.After {
		return f.Nth
	}
	return f.Nth - 1
}

// Cutter stands between a provider and its engine, and kills the provider at a failpoint. It counts only
// requests that change something, POST and DELETE. Between two of those the Swarm does not change, so dying at
// any other request is dying at one of these points. Meanwhile a provider also watches and looks for incomplete
// changes; with none incomplete, that changes nothing.
type Cutter struct {
	engine http.Handler
	server *http.Server

	mu       sync.Mutex
	armed    bool
	point    Failpoint
	die      func()
	changes  int
	refusing bool
}

// listen starts it at a socket of its own and returns its address for DOCKER_HOST.
func (c *Cutter) listen(t *testing.T, socket string, engine http.RoundTripper) string {
	t.Helper()
	c.engine = &httputil.ReverseProxy{Transport: engine, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine"
	}}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: time.Minute}
	go func() { _ = c.server.Serve(listener) }()
	return "unix://" + socket
}

// Arm begins to count. The zero [Failpoint] is never met.
func (c *Cutter) Arm(point Failpoint, die func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.point, c.die = true, point, die
}

// Refuse makes the engine seem to use every secret that is to be removed.
func (c *Cutter) Refuse(refusing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusing = refusing
}

// Count is how many changes there were since Arm.
func (c *Cutter) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changes
}

// ServeHTTP implements http.Handler.
func (c *Cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost && r.Method != http.MethodDelete {
		c.engine.ServeHTTP(w, r)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusing && r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/secrets/") {
		http.Error(w, `{"message":"rpc error: code = InvalidArgument desc = secret 'x' is in use by the following service: y"}`, http.StatusBadRequest)
		return
	}
	if c.armed {
		c.changes++
	}
	if !c.armed || c.changes != c.point.Nth {
		c.engine.ServeHTTP(w, r)
		return
	}
	if c.point.After {
		c.engine.ServeHTTP(httptest.NewRecorder(), r)
	}
	c.die()
	panic(http.ErrAbortHandler)
}
