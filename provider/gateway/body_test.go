package gateway

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const announced = "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 65000\r\n\r\n"

// awaitBuffered waits until buffered bodies take so much memory.
func (e *edge) awaitBuffered(t *testing.T, want int64) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); e.bodyBudget.Used() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("bodies take %d bytes, want %d", e.bodyBudget.Used(), want)
		}
	}
}

// length answers with the length of what it got.
func length(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	fmt.Fprint(w, n, err)
}

// TestBodiesTakeRoomAsTheyArrive announces bodies, which costs nothing, and then sends them, which does; in the end, however
// that comes, all room is given back.
func TestBodiesTakeRoomAsTheyArrive(t *testing.T) {
	t.Parallel()
	const clients = 40
	e := start(t, nil, function("f", newReplica(t, length)))
	e.awaitReady(t, "f", 1)
	var all []net.Conn
	send := func(n int) {
		t.Helper()
		for _, c := range all {
			if _, err := io.WriteString(c, strings.Repeat("x", n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range clients {
		c, _ := e.dial(t)
		all = append(all, c)
		_, _ = io.WriteString(c, announced+"x")
	}
	for s := e.registry.Lookup([]byte("f")); s.Started.Load() < clients; time.Sleep(time.Millisecond) {
		if e.bodyBudget.Used() != 0 {
			break
		}
	}
	if n := e.bodyBudget.Used(); n != 0 {
		t.Fatalf("%d announced bodies take %d bytes", clients, n)
	}
	send(5000)
	e.awaitBuffered(t, clients*mediumBuffer)
	send(35000)
	e.awaitBuffered(t, clients*largeBuffer)
	for _, c := range all[:clients/2] {
		_ = c.Close()
	}
	e.awaitBuffered(t, clients/2*largeBuffer)
	all = all[clients/2:]
	send(65000 - 40001)
	e.awaitBuffered(t, 0)
}

func TestBodyThatFindsNoRoomIsUploaded(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", newReplica(t, length)))
	for name, free := range map[string]int64{"none": 0, "too little": mediumBuffer} {
		e.bodyBudget.Add(bodyRoom - free - e.bodyBudget.Used())
		c, in := e.dial(t)
		for range 2 { // the connection survives
			_, _ = io.WriteString(c, announced+strings.Repeat("x", 65000))
			if resp, body := readResponse(t, in, "POST"); resp.StatusCode != 200 || body != "65000 <nil>" {
				t.Errorf("%s: got %s %q", name, resp.Status, body)
			}
		}
		e.awaitBuffered(t, bodyRoom-free)
	}
}

// A short body that never falls silent, and never ends, does not keep its room.
func TestShortBodyThatTricklesIsGivenUp(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.ReadTimeout = time.Second }, function("f", newReplica(t, length)))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, announced)
	go func() {
		for {
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	if resp, body := readResponse(t, in, "POST"); resp.StatusCode != 408 {
		t.Errorf("got %s %q", resp.Status, body)
	}
}
