package gateway

import (
	"bufio"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of <linux/tcp.h>, which package syscall lacks.
const tcpUserTimeout = 0x12

// A function may leave messages unread, which looks to the kernel like a host that died.
func TestTunnelHasNoLimitOnSilence(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("ws", rawReplica(t, func(c net.Conn, in *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, in)
	})))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "GET /function/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if head, err := readHead(in); err != nil || !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("head %q, error %v", head, err)
	}
	tunnels := 0
	e.eachConn(func(c *conn) {
		if ms := silenceLimit(t, c.upstream.Load().NetConn()); ms != 0 {
			t.Errorf("silence is limited to %d ms", ms)
		}
		tunnels++
	})
	if tunnels != 1 {
		t.Errorf("%d tunnels, want 1", tunnels)
	}
}

// silenceLimit is how long, in ms, bytes that were sent may go unacknowledged; 0: no limit.
func silenceLimit(t *testing.T, c net.Conn) (ms int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { ms, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return ms
}

// A long body lifts the limit for its own exchange alone.
func TestLimitOnSilenceComesBackAfterALongBody(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", newReplica(t, length)))
	e.awaitReady(t, "f", 1)
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n"+strings.Repeat("x", 20_000))
	readResponse(t, in, "POST")
	r := e.registry.Lookup([]byte("f")).Pick(nil)
	defer r.Release()
	conn, err := r.Connect(false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !conn.Reused || silenceLimit(t, conn.NetConn()) == 0 {
		t.Errorf("connection used before: %t, limit %d ms", conn.Reused, silenceLimit(t, conn.NetConn()))
	}
}
