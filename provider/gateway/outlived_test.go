package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"waggle/provider/feed"
)

// series counts the series that name a function.
func (e *edge) series(t *testing.T, function string) (n int) {
	t.Helper()
	families, err := e.cfg.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetValue() == function {
					n++
				}
			}
		}
	}
	return n
}

// awaitIdle waits until every request that was started has been counted as completed.
func awaitIdle(t *testing.T, started, completed func() uint64) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); started() != completed(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d requests started, %d completed", started(), completed())
		}
	}
}

func TestRequestThatOutlivesItsFunctionLeavesNoSeries(t *testing.T) {
	t.Parallel()
	entered, answer := make(chan struct{}), make(chan struct{})
	for name, tc := range map[string]struct {
		replica feed.Replica
		status  int
	}{
		"under way": {newReplica(t, func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-answer }), 200},
		"held":      {feed.Replica{ID: "x", Address: "127.0.0.1:1", State: feed.Starting}, 404},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, nil, function("f", tc.replica))
			s := e.registry.Lookup([]byte("f"))
			c, in := e.dial(t)
			_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
			if tc.status == 200 {
				<-entered
			} else {
				for s.Queued() == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			if e.series(t, "f.openfaas-fn") == 0 {
				t.Error("no series while there is the function: this test sees none")
			}
			e.registry.Apply(feed.Table{Epoch: "test", Revision: 2})
			if tc.status == 200 {
				answer <- struct{}{}
			}
			if resp, _ := readResponse(t, in, "GET"); resp.StatusCode != tc.status {
				t.Errorf("got %s, want %d", resp.Status, tc.status)
			}
			awaitIdle(t, s.Started.Load, s.Completed.Load)
			if n := e.series(t, "f.openfaas-fn"); n != 0 {
				t.Errorf("%d series of a function that is gone", n)
			}
		})
	}
}

func TestBodyRefusedByItsLengthIsCounted(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.MaxBody = 10 }, function("f", newReplica(t, length)))
	resp, _ := e.exchange(t, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n12345678901")
	if resp.StatusCode != 413 || resp.Header.Get("X-Call-Id") == "" {
		t.Errorf("got %s %v", resp.Status, resp.Header)
	}
	s := e.registry.Lookup([]byte("f"))
	awaitIdle(t, s.Started.Load, s.Completed.Load)
	if n := e.sum(t, "gateway_function_invocation_total", "code", "413"); n != 1 {
		t.Errorf("counted %v times", n)
	}
}

// A client that leaves is counted as that, whatever its request before came to.
func TestClientThatLeavesWithinAnAsyncBodyIsCounted(t *testing.T) {
	t.Parallel()
	e := start(t, withQueue(&fakeQueue{}), function("f"))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\nPOST /async-function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
	readResponse(t, in, "GET")
	_ = c.Close()
	for until := time.Now().Add(10 * time.Second); e.sum(t, "http_requests_total", "status", "499") != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%v were counted as left, %v as 200", e.sum(t, "http_requests_total", "status", "499"), e.sum(t, "http_requests_total", "status", "200"))
		}
	}
}

// What a faulty server sends behind its answer to HEAD must not become the answer to another client.
func TestBytesBehindAResponseAreNobodysAnswer(t *testing.T) {
	t.Parallel()
	const stray = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
	sent := make(chan struct{}, 1)
	e := start(t, nil, function("f", rawReplica(t, func(c net.Conn, in *bufio.Reader, head string) {
		for err := error(nil); err == nil; head, err = readHead(in) {
			if !strings.HasPrefix(head, "HEAD") {
				_, _ = io.WriteString(c, okAnswer)
				continue
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(stray))
			time.Sleep(500 * time.Microsecond) // so that the two do not come together
			_, _ = io.WriteString(c, stray)
			sent <- struct{}{}
		}
	})))
	e.awaitReady(t, "f", 1)
	one, in1 := e.dial(t)
	other, in2 := e.dial(t)
	for range 20 {
		_, _ = io.WriteString(one, "HEAD /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
		readResponse(t, in1, "HEAD")
		<-sent
		_, _ = io.WriteString(other, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
		if resp, body := readResponse(t, in2, "POST"); body != "ok" {
			t.Fatalf("got %s %q", resp.Status, body)
		}
	}
}

// Streams end when their clients leave, and are answers all the same.
func TestStreamsThatClientsLeaveSpeakForTheirReplica(t *testing.T) {
	t.Parallel()
	handle := func(c net.Conn, in *bufio.Reader, head string) {
		if !strings.HasPrefix(head, "POST") {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
			_, _ = io.Copy(io.Discard, in)
		}
	}
	f := function("f", rawReplica(t, handle), rawReplica(t, handle))
	f.Replicas[0].Node = "here"
	e := start(t, func(c *Config) { c.NodeID = "here" }, f)
	e.awaitReady(t, "f", 2)
	s := e.registry.Lookup([]byte("f"))
	for range 3 {
		e.exchange(t, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
		c, in := e.dial(t)
		_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
		_, _ = readHead(in)
		_, _ = in.ReadString('k')
		_ = c.Close()
		awaitIdle(t, s.Started.Load, s.Completed.Load)
	}
	if n := e.sum(t, "gateway_replica_ejections_total"); n != 0 {
		t.Errorf("%v ejections", n)
	}
}

// A response that breaks off counts against its replica although its head was in order.
func TestReplicaThatBreaksOffEveryResponseLeaves(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"half a body":     "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"no chunk at all": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		f := function("f", rawReplica(t, func(c net.Conn, _ *bufio.Reader, _ string) { _, _ = io.WriteString(c, answer) }), rawReplica(t, answers(okAnswer)))
		f.Replicas[0].Node = "here"
		e := start(t, func(c *Config) { c.NodeID = "here" }, f)
		e.awaitReady(t, "f", 2)
		for range 5 {
			c, in := e.dial(t)
			_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
			if resp, err := http.ReadResponse(in, nil); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
			}
			_ = c.Close()
		}
		if n := e.sum(t, "gateway_replica_ejections_total"); n == 0 {
			t.Errorf("%s: it is still in rotation", name)
		}
	}
}
