package gateway

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sum is a counter's value over all its labels but those given, which are a name and a value each.
func (e *edge) sum(t *testing.T, counter string, label ...string) (total float64) {
	t.Helper()
	families, err := e.cfg.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != counter {
			continue
		}
		for _, m := range family.GetMetric() {
			counts := true
			for _, l := range m.GetLabel() {
				counts = counts && (len(label) == 0 || l.GetName() != label[0] || l.GetValue() == label[1])
			}
			if counts {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}

// TestClientsFaultsAreNotTheReplicas has clients do what they should not in the middle of their bodies, more often than a
// replica may fail. The replica stays in rotation, and the log says who was at fault.
func TestClientsFaultsAreNotTheReplicas(t *testing.T) {
	t.Parallel()
	const times = 4
	const chunked, begun = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "2\r\nok\r\n"
	leave := func(c net.Conn) { _ = c.Close() }
	send := func(raw string) func(net.Conn) {
		return func(c net.Conn) { _, _ = io.WriteString(c, raw) }
	}
	stall := func(net.Conn) {}
	for name, tc := range map[string]struct {
		path, body string
		fault      func(net.Conn)
		status     int
	}{
		"malformed chunk":                 {"/", chunked, send("zz\r\n"), 400},
		"malformed chunk, response begun": {"/begun", chunked, send("zz\r\n"), 400},
		"leaves":                          {"/", chunked, leave, 499},
		"leaves, response begun":          {"/begun", chunked, leave, 499},
		"leaves within a long body":       {"/", "Content-Length: 1000000\r\n\r\nhello", leave, 499},
		"too much":                        {"/", chunked, send("1000\r\n" + strings.Repeat("x", 4096)), 413},
		"too much, response begun":        {"/begun", chunked, send("1000\r\n" + strings.Repeat("x", 4096)), 413},
		"stalls":                          {"/", chunked, stall, 408},
		"stalls, response begun":          {"/begun", chunked, stall, 408},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entered := make(chan struct{}, times)
			replica := rawReplica(t, func(c net.Conn, in *bufio.Reader, head string) {
				if strings.HasPrefix(head, "POST /begun") {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+begun)
				}
				_, _ = io.ReadFull(in, make([]byte, len("hello")))
				entered <- struct{}{}
				_, _ = io.Copy(io.Discard, in)
			})
			other := rawReplica(t, answers(okAnswer)) // so that the first one can be done without
			f := function("f", replica, other)
			f.Replicas[0].Node = "here"
			log := &lockedBuffer{}
			e := start(t, func(c *Config) {
				c.NodeID, c.AccessLog, c.Logger = "here", 1000, slog.New(slog.NewJSONHandler(log, nil))
				if tc.status == 408 {
					c.ReadTimeout, c.UpstreamTimeout = time.Second, time.Second
				}
				if tc.status == 413 {
					c.MaxBody = 1000
				}
			}, f)
			e.awaitReady(t, "f", 2)
			for range times {
				c, in := e.dial(t)
				_, _ = io.WriteString(c, "POST /function/f"+tc.path+" HTTP/1.1\r\nHost: h\r\n"+tc.body)
				select {
				case <-entered:
				case <-time.After(10 * time.Second):
					t.Fatal("the replica is not asked any more")
				}
				if tc.path == "/begun" {
					head, err := readHead(in)
					if err == nil {
						_, err = io.ReadFull(in, make([]byte, len(begun)))
					}
					if err != nil || !strings.HasPrefix(head, "HTTP/1.1 200 ") {
						t.Fatalf("got %q, error %v", head, err)
					}
				}
				go tc.fault(c)
			}
			var lines []map[string]any
			for len(lines) < times {
				if err := t.Context().Err(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
				lines = log.requests(t)
			}
			for _, line := range lines {
				if line["status"] != float64(tc.status) {
					t.Errorf("logged %v, want status %d", line, tc.status)
				}
			}
			if n := e.sum(t, "gateway_function_invocation_total", "code", strconv.Itoa(tc.status)); n != times {
				t.Errorf("%v invocations counted as %d, want %d", n, tc.status, times)
			}
			if n := e.sum(t, "gateway_replica_ejections_total"); n != 0 {
				t.Errorf("%v ejections", n)
			}
			if n := e.registry.Lookup([]byte("f")).Ready(); n != 2 {
				t.Errorf("%d replicas in rotation, want 2", n)
			}
		})
	}
}
