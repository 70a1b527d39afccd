package gateway

import (
	"bufio"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A connection that was fresh when a request began need not be so any more when its body has come.
func TestConnectionThatClosesWhileABodyComes(t *testing.T) {
	t.Parallel()
	body, closed := make(chan struct{}), make(chan struct{}, 1)
	var later atomic.Bool
	e := start(t, nil, function("f", rawReplica(t, func(c net.Conn, in *bufio.Reader, _ string) {
		_, _ = io.ReadFull(in, make([]byte, 4))
		_, _ = io.WriteString(c, okAnswer)
		if !later.Swap(true) {
			<-body
			_ = c.Close()
			closed <- struct{}{}
		}
	})))
	c, in := e.dial(t)
	const request = "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"
	// The second head comes with the first request, so it is read as soon as that has its answer.
	_, _ = io.WriteString(c, request+"body"+request)
	readResponse(t, in, "POST")
	s := e.registry.Lookup([]byte("f"))
	for s.Started.Load() != 2 {
		time.Sleep(time.Millisecond)
	}
	close(body)
	<-closed
	time.Sleep(time.Millisecond) // for the FIN
	_, _ = io.WriteString(c, "body")
	if resp, text := readResponse(t, in, "POST"); resp.StatusCode != 200 {
		t.Errorf("got %s %q", resp.Status, text)
	}
	if n := e.sum(t, "gateway_retries_total"); n != 0 {
		t.Errorf("%g requests were sent on a connection that had closed", n)
	}
}
