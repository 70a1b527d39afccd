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
		raw, err := c.upstream.Load().NetConn().(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			ms, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
			if tunnels++; err != nil || ms != 0 {
				t.Errorf("silence is limited to %d ms, error %v", ms, err)
			}
		})
	})
	if tunnels != 1 {
		t.Errorf("%d tunnels, want 1", tunnels)
	}
}
