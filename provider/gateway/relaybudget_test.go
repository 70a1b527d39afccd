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
)

// Beyond the bound on what is passed on everything still passes, in small buffers.
func TestPassingInACrowd(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789", 100_000)
	header := strings.Repeat("h", 3*smallBuffer)
	echo := function("echo", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Long", header)
		_, _ = w.Write(body)
	}))
	ws := function("ws", rawReplica(t, func(c net.Conn, in *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, in)
	}))
	for name, crowd := range map[string]int64{"in a crowd": relayRoom, "alone": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, nil, echo, ws)
			e.relayBudget.Add(crowd)
			resp, body := e.exchange(t, fmt.Sprintf("POST /function/echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(long), long))
			if resp.StatusCode != 200 || body != long || resp.Header.Get("X-Long") != header {
				t.Errorf("%s, %d bytes of %d, a header of %d bytes of %d", resp.Status, len(body), len(long), len(resp.Header.Get("X-Long")), len(header))
			}
			c, in := e.dial(t)
			_, _ = io.WriteString(c, "GET /function/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			if head, err := readHead(in); err != nil || !strings.HasPrefix(head, "HTTP/1.1 101 ") {
				t.Fatalf("head %q, error %v", head, err)
			}
			go func() { _, _ = io.WriteString(c, long) }()
			got := make([]byte, len(long))
			if _, err := io.ReadFull(in, got); err != nil || string(got) != long {
				t.Errorf("the tunnel gave something else, error %v", err)
			}
			for e.relayBudget.Used() != crowd { // an open tunnel through which nothing passes holds none
				time.Sleep(time.Millisecond)
			}
			_ = c.Close()
		})
	}
}

// A crowd that reads nothing, or writes nothing more, holds no wide buffers beyond the bound.
func TestRelayedBytesAreCounted(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("endless", newReplica(t, func(w http.ResponseWriter, _ *http.Request) {
		for part := make([]byte, 1<<16); ; {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	})))
	var clients []net.Conn
	for range 5 {
		c, _ := e.dial(t)
		_, _ = io.WriteString(c, "GET /function/endless HTTP/1.1\r\nHost: h\r\n\r\n")
		clients = append(clients, c)
	}
	for e.relayBudget.Used() != 5*mediumBuffer {
		time.Sleep(time.Millisecond)
	}
	for _, c := range clients {
		_ = c.Close()
	}
	for e.relayBudget.Used() != 0 {
		time.Sleep(time.Millisecond)
	}
}
