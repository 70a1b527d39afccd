package gateway

import (
	"bufio"
	"context"
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
)

// awaitReady waits until n replicas of a function have passed their probe.
func (e *edge) awaitReady(t *testing.T, name string, n int) {
	t.Helper()
	for s := e.registry.Lookup([]byte(name)); s.Ready() != n; time.Sleep(time.Millisecond) {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestRepeats checks what is sent again and what is not. A first replica misbehaves in the way named. If the case
// says that the connection has been used before, a first exchange precedes that. A second replica always answers.
func TestRepeats(t *testing.T) {
	t.Parallel()
	die := func(c net.Conn, in *bufio.Reader, _ string) {} // has read the request, closes
	reset := func(c net.Conn, _ *bufio.Reader, _ string) { _ = c.(*net.TCPConn).SetLinger(0) }
	say := func(answer string) func(net.Conn, *bufio.Reader, string) {
		return func(c net.Conn, in *bufio.Reader, _ string) { _, _ = io.WriteString(c, answer) }
	}
	const unwell = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
	const turnedAway = "HTTP/1.1 429 Too Many Requests\r\nX-OpenFaaS-Internal: go-http\r\nContent-Length: 2\r\n\r\nno"
	for name, tc := range map[string]struct {
		first      func(net.Conn, *bufio.Reader, string)
		method     string
		idempotent bool
		alone      bool // there is no second replica
		status     int
	}{
		"GET, replica dies":                         {die, "GET", false, false, 200},
		"HEAD, replica resets":                      {reset, "HEAD", false, false, 200},
		"POST, replica dies":                        {die, "POST", false, false, 502},
		"POST, replica resets":                      {reset, "POST", false, false, 502},
		"DELETE, replica dies":                      {die, "DELETE", false, false, 502},
		"POST, idempotent function, replica dies":   {die, "POST", true, false, 200},
		"POST, idempotent function, replica unwell": {say(unwell), "POST", true, false, 200},
		"POST, replica unwell":                      {say(unwell), "POST", false, false, 503},
		"POST, idempotent, the only replica unwell": {say(unwell), "POST", true, true, 503},
		"POST, turned away by infrastructure":       {say(turnedAway), "POST", false, false, 200},
		"POST, 429 of the function's own":           {say("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"), "POST", true, false, 429},
		"POST, half a response":                     {say("HTTP/1.1 200 OK\r\nCont"), "POST", true, false, 502},
		"POST, nonsense for a response":             {say("nonsense\r\n\r\n"), "POST", true, false, 502},
		"POST, 500 is the function's answer":        {say("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), "POST", true, false, 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var firsts, seconds atomic.Int32
			f := function("f", rawReplica(t, func(c net.Conn, in *bufio.Reader, head string) {
				body := make([]byte, 4)
				if strings.Contains(head, "Content-Length") {
					_, _ = io.ReadFull(in, body)
				}
				firsts.Add(1)
				tc.first(c, in, head)
			}))
			f.Replicas[0].Node = "here" // so that it is the one asked first
			if !tc.alone {
				f.Replicas = append(f.Replicas, rawReplica(t, func(c net.Conn, in *bufio.Reader, head string) {
					seconds.Add(1)
					answers(okAnswer)(c, in, head)
				}))
			}
			f.Idempotent = tc.idempotent
			e := start(t, func(c *Config) { c.NodeID = "here" }, f)
			e.awaitReady(t, "f", len(f.Replicas))
			raw := tc.method + " /function/f HTTP/1.1\r\nHost: h\r\n\r\n"
			if tc.method == "POST" {
				raw = "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
			}
			resp, body := e.exchange(t, raw)
			if resp.StatusCode != tc.status {
				t.Errorf("got %s %q, want %d", resp.Status, body, tc.status)
			}
			if firsts.Load() != 1 || tc.status == 200 != (seconds.Load() == 1) {
				t.Errorf("the first replica was asked %d times, the second %d", firsts.Load(), seconds.Load())
			}
		})
	}
}

// TestConnectionThatClosedBeforeItIsReused is the race of every keep-alive connection: the replica closes it, rightly,
// before the next request arrives. No request may fail for that, not even one that must not be repeated, and none may be
// processed twice.
func TestConnectionThatClosedBeforeItIsReused(t *testing.T) {
	t.Parallel()
	var processed atomic.Int32
	closed := make(chan struct{})
	f := function("f", rawReplica(t, func(c net.Conn, in *bufio.Reader, head string) {
		_, _ = io.ReadFull(in, make([]byte, 4))
		processed.Add(1)
		_, _ = io.WriteString(c, okAnswer) // keep-alive, and yet it closes
		_ = c.Close()
		closed <- struct{}{}
	}))
	e := start(t, nil, f)
	c, in := e.dial(t)
	const requests = 500
	for i := range requests {
		_, _ = io.WriteString(c, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
		if resp, body := readResponse(t, in, "POST"); resp.StatusCode != 200 {
			t.Fatalf("request %d: %s %q", i, resp.Status, body)
		}
		<-closed
	}
	if n := processed.Load(); n != requests {
		t.Errorf("%d requests were processed %d times", requests, n)
	}
}

// load sends requests over several connections until stop is called, which returns how many succeeded and what failed.
func (e *edge) load(t *testing.T, raw string) (stop func() (int64, []string)) {
	t.Helper()
	var over atomic.Bool
	var good atomic.Int64
	var mu sync.Mutex
	var bad []string
	var workers sync.WaitGroup
	for range 4 {
		c, in := e.dial(t)
		workers.Go(func() {
			for !over.Load() {
				_, err := io.WriteString(c, raw)
				var resp *http.Response
				if err == nil {
					resp, err = http.ReadResponse(in, nil)
				}
				var body []byte
				if err == nil {
					body, err = io.ReadAll(resp.Body)
				}
				if err == nil && resp.StatusCode == 200 {
					good.Add(1)
					continue
				}
				mu.Lock()
				bad = append(bad, fmt.Sprintf("%v %s", err, body))
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	return func() (int64, []string) { over.Store(true); workers.Wait(); return good.Load(), bad }
}

// live is a replica that can be shut down as a function is.
type live struct {
	*httptest.Server
	replica feed.Replica
	open    atomic.Int32 // connections
}

func newLive(t *testing.T) *live {
	t.Helper()
	l := &live{}
	l.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "ok")
	}))
	l.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			l.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			l.open.Add(-1)
		}
	}
	l.Start()
	l.replica = replicaAt(l.Listener.Addr().String())
	t.Cleanup(l.Close)
	return l
}

// TestRollingUpdatesLoseNothing replaces replicas under load. Requests that must not be repeated get a table that
// says draining before the replica stops. Those that may be repeated get no warning.
func TestRollingUpdatesLoseNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		warned bool
		raw    string
	}{
		"warned":   {true, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"},
		"unwarned": {false, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replicas := []*live{newLive(t), newLive(t)}
			revision := uint64(1)
			e := start(t, nil, function("f", replicas[0].replica, replicas[1].replica))
			publish := func(list ...feed.Replica) {
				revision++
				e.registry.Apply(feed.Table{Epoch: "test", Revision: revision, Functions: []feed.Function{function("f", list...)}})
			}
			e.awaitReady(t, "f", 2)
			stop := e.load(t, tc.raw)
			for range 6 {
				old, fresh := replicas[0], newLive(t)
				publish(old.replica, replicas[1].replica, fresh.replica)
				e.awaitReady(t, "f", 3)
				if tc.warned {
					draining := old.replica
					draining.State = feed.Draining
					publish(draining, replicas[1].replica, fresh.replica)
					old.awaitQuiet(t) // a function drains before it stops
				}
				if err := old.Config.Shutdown(context.Background()); err != nil {
					t.Fatal(err)
				}
				publish(replicas[1].replica, fresh.replica)
				replicas = []*live{replicas[1], fresh}
			}
			good, bad := stop()
			if len(bad) > 0 || good == 0 {
				t.Errorf("%d requests succeeded, %d failed: %.300v", good, len(bad), bad)
			}
		})
	}
}

// awaitQuiet waits until every connection to the replica has closed: the gateway retires them once the table says so.
func (l *live) awaitQuiet(t *testing.T) {
	t.Helper()
	for l.open.Load() > 0 {
		time.Sleep(time.Millisecond)
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKilledReplicasCostIdempotentFunctionsNothing kills replicas in the middle of their work.
func TestKilledReplicasCostIdempotentFunctionsNothing(t *testing.T) {
	t.Parallel()
	replicas := []*live{newLive(t), newLive(t)}
	f := function("f", replicas[0].replica, replicas[1].replica)
	f.Idempotent = true
	e := start(t, nil, f)
	e.awaitReady(t, "f", 2)
	stop := e.load(t, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
	for i := range 6 {
		fresh := newLive(t)
		f.Replicas = []feed.Replica{replicas[0].replica, replicas[1].replica, fresh.replica}
		e.registry.Apply(feed.Table{Epoch: "test", Revision: uint64(2 + i), Functions: []feed.Function{f}})
		e.awaitReady(t, "f", 3)
		replicas[0].Listener.Close()
		replicas[0].CloseClientConnections()
		replicas = []*live{replicas[1], fresh}
		f.Replicas = []feed.Replica{replicas[0].replica, replicas[1].replica}
		e.registry.Apply(feed.Table{Epoch: "test", Revision: uint64(2 + i), Functions: []feed.Function{f}})
	}
	if good, bad := stop(); len(bad) > 0 || good == 0 {
		t.Errorf("%d requests succeeded, %d failed: %.300v", good, len(bad), bad)
	}
}

// TestOneRequestDoesNotEndTheFunction sends a request of which every replica dies that gets it, over fresh and over kept
// connections, to functions of several sizes. All but one may die at most, and no more than two.
func TestOneRequestDoesNotEndTheFunction(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		replicas, mayDie int
		kept             bool
	}{
		"one":         {1, 1, false},
		"two":         {2, 1, false},
		"two, kept":   {2, 1, true},
		"three":       {3, 2, false},
		"three, kept": {3, 2, true},
		"five":        {5, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var died atomic.Int32
			f := function("f")
			for range tc.replicas {
				l := newLive(t)
				l.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/poison" {
						died.Add(1)
						_ = l.Listener.Close()
						l.CloseClientConnections()
					}
				})
				f.Replicas = append(f.Replicas, l.replica)
			}
			f.Desired = uint64(tc.replicas)
			e := start(t, func(c *Config) { c.HoldTimeout = time.Second }, f)
			e.awaitReady(t, "f", tc.replicas)
			if tc.kept {
				for range 8 * tc.replicas { // a connection to each is kept then, all but certainly
					e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
				}
			}
			if resp, body := e.exchange(t, "GET /function/f/poison HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 502 && resp.StatusCode != 503 {
				t.Errorf("got %s %q", resp.Status, body)
			}
			if n := int(died.Load()); n == 0 || n > tc.mayDie {
				t.Errorf("%d replicas of %d died, want 1 to %d", n, tc.replicas, tc.mayDie)
			}
			if tc.replicas == 1 {
				return
			}
			if resp, body := e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 200 {
				t.Errorf("the function has ended: %s %q", resp.Status, body)
			}
		})
	}
}

// TestReplicaWithoutRoomIsWaitedFor has a replica that serves fewer requests at once than the gateway knows, as when other
// gateways fill it as well.
func TestReplicaWithoutRoomIsWaitedFor(t *testing.T) {
	t.Parallel()
	const room = 3
	var serving, refused atomic.Int32
	e := start(t, nil, function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		defer serving.Add(-1)
		if serving.Add(1) > room && r.Method == http.MethodPost {
			refused.Add(1)
			w.Header().Set("X-OpenFaaS-Internal", "go-http")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		time.Sleep(time.Millisecond)
	})))
	e.awaitReady(t, "f", 1)
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			if resp, body := e.exchange(t, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"); resp.StatusCode != 200 {
				t.Errorf("got %s %q", resp.Status, body)
			}
		})
	}
	clients.Wait()
	if refused.Load() == 0 {
		t.Error("the replica always had room")
	}
}

// TestReplicaThatNeverHasRoom is waited for no longer than for one that does not come, and not asked without pause.
func TestReplicaThatNeverHasRoom(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	e := start(t, func(c *Config) { c.HoldTimeout = time.Second }, function("f", rawReplica(t, func(c net.Conn, in *bufio.Reader, head string) {
		asked.Add(1)
		_, _ = io.WriteString(c, "HTTP/1.1 429 Too Many Requests\r\nX-OpenFaaS-Internal: go-http\r\nContent-Length: 2\r\n\r\nno")
	})))
	e.awaitReady(t, "f", 1)
	resp, body := e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "busy") {
		t.Errorf("got %s %v %q, want 503 with Retry-After", resp.Status, resp.Header, body)
	}
	if n := asked.Load(); n < 2 || n > 25 {
		t.Errorf("the replica was asked %d times", n)
	}
}

func TestRefusedConnectionGoesToAnotherReplica(t *testing.T) {
	t.Parallel()
	gone, there := newLive(t), newLive(t)
	e := start(t, nil, function("f", gone.replica, there.replica))
	e.awaitReady(t, "f", 2)
	gone.Close()
	for range 10 {
		if resp, body := e.exchange(t, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"); resp.StatusCode != 200 {
			t.Fatalf("got %s %q", resp.Status, body)
		}
	}
}

// TestRefusalThatIsPassedOn has a function that does its work, asks another one through the gateway and passes on its 429,
// header and all. That is no refusal of the first: it must not do its work again.
func TestRefusalThatIsPassedOn(t *testing.T) {
	t.Parallel()
	const full = "HTTP/1.1 429 Too Many Requests\r\nX-OpenFaaS-Internal: go-http\r\nX-Openfaas-Internal: b\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno"
	for name, target := range map[string]string{
		"made by the gateway":                "/async-function/b",
		"made by the other one's supervisor": "/function/b",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var worked atomic.Int32
			var within *http.Client
			a := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
				worked.Add(1)
				body, end := io.Pipe() // so that it is still to come when it is refused, and that cannot be repeated
				defer end.Close()
				request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "http://gateway"+target, body)
				if err != nil {
					t.Error(err)
					return
				}
				if target != "/function/b" {
					_ = end.Close()
				}
				response, err := within.Do(request)
				if err != nil {
					t.Error(err)
					return
				}
				defer response.Body.Close()
				for key, values := range response.Header {
					w.Header()[key] = values
				}
				w.WriteHeader(response.StatusCode)
				_, _ = io.Copy(w, response.Body)
			})
			e := start(t, func(c *Config) {
				c.HoldTimeout = time.Second
				c.Queue = &fakeQueue{refusal: queueRefusal{429}}
			}, function("a", a), function("b", rawReplica(t, answers(full))))
			e.awaitReady(t, "a", 1)
			e.awaitReady(t, "b", 1)
			within = e.within(t)
			resp, body := e.exchange(t, "POST /function/a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
			if by := resp.Header["X-Openfaas-Internal"]; resp.StatusCode != 429 || len(by) != 1 || by[0] != "gateway" || resp.Header.Get("Retry-After") == "" {
				t.Errorf("got %s %v %q, want 429 by the gateway, with Retry-After", resp.Status, resp.Header, body)
			}
			if n := worked.Load(); n != 1 {
				t.Errorf("the function did its work %d times", n)
			}
		})
	}
}
