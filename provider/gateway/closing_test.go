package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// manyBytes is a response longer than the buffers of both sockets, so that its end is still unsent when the gateway is done.
const manyBytes = 2 << 20

func many(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", fmt.Sprint(manyBytes))
	_, _ = w.Write(make([]byte, manyBytes))
}

// readMany reads a response of manyBytes, as a client that was busy at first does.
func readMany(t *testing.T, in *bufio.Reader) {
	t.Helper()
	time.Sleep(300 * time.Millisecond)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("%d of %d bytes came, then %v", n, manyBytes, err)
	}
}

// Bytes that nobody reads make the kernel reset a connection that is closed, and forget what was still to be sent.
func TestResponseIsWholeWhateverTheClientSendsBehindItsRequest(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", newReplica(t, many)))
	e.awaitReady(t, "f", 1)
	for name, tc := range map[string]struct{ request, behind string }{
		"close":        {"GET /function/f HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "\r\n"},
		"HTTP/1.0":     {"GET /function/f HTTP/1.0\r\n\r\n", "\r\n"},
		"next request": {"GET /function/f HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, in := e.dial(t)
			_, _ = io.WriteString(c, tc.request)
			_, _ = in.Peek(1)
			_, _ = io.WriteString(c, tc.behind)
			readMany(t, in)
		})
	}
}

func TestShutdownKeepsResponsesWholeForClientsThatPipeline(t *testing.T) {
	t.Parallel()
	entered, answer := make(chan struct{}, 1), make(chan struct{})
	e := start(t, nil, function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-answer
		many(w, r)
	})))
	e.awaitReady(t, "f", 1)
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
	<-entered
	_, _ = io.WriteString(c, "GET /function/f/2 HTTP/1.1\r\nHost: h\r\n\r\n")
	stopped := make(chan struct{})
	go func() { e.stop(); close(stopped) }()
	for !e.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	close(answer)
	readMany(t, in)
	_ = c.Close()
	<-stopped
}

// closes reports how long it took the gateway to close the connection in order, which the test waits for.
func closes(t *testing.T, c net.Conn, in *bufio.Reader) time.Duration {
	t.Helper()
	begun := time.Now()
	_ = c.SetReadDeadline(begun.Add(10 * time.Second))
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection ended with %v, want its end in order", err)
	}
	return time.Since(begun)
}

// A response without a body is over with its head, whatever the head says of a coding.
func TestResponseWithoutABodyToHTTP10(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ method, answer string }{
		"HEAD": {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		"304":  {"GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"},
		"204":  {"GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, nil, function("f", rawReplica(t, answers(tc.answer))))
			e.awaitReady(t, "f", 1)
			c, in := e.dial(t)
			_, _ = fmt.Fprintf(c, "%s /function/f HTTP/1.0\r\n\r\n", tc.method)
			if _, err := http.ReadResponse(in, &http.Request{Method: tc.method}); err != nil {
				t.Fatal(err)
			}
			if took := closes(t, c, in); took > 5*time.Second {
				t.Errorf("that took %s", took)
			}
		})
	}
}

func TestCloseWinsOverKeepAlive(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", newReplica(t, length)))
	for _, fields := range []string{"Connection: close, keep-alive\r\n", "Connection: keep-alive, close\r\n", "Connection: close\r\nConnection: keep-alive\r\n"} {
		c, in := e.dial(t)
		_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\n"+fields+"\r\n")
		if resp, _ := readResponse(t, in, "GET"); !resp.Close {
			t.Errorf("%q: the response does not say that the connection ends", fields)
		}
		closes(t, c, in)
	}
}

// Nobody may lose a request to a connection that ends unannounced.
func TestAnswerBeforeTheBodySaysThatTheConnectionEnds(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", rawReplica(t, answers("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"))))
	e.awaitReady(t, "f", 1)
	for name, head := range map[string]string{
		"chunks":      "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"expectation": "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
	} {
		c, in := e.dial(t)
		_, _ = io.WriteString(c, "POST /function/f HTTP/1.1\r\nHost: h\r\n"+head)
		if resp, _ := readResponse(t, in, "POST"); resp.StatusCode != 403 || !resp.Close {
			t.Errorf("%s: %s, close: %t", name, resp.Status, resp.Close)
		}
		closes(t, c, in)
	}
}

// One that has been sent whole keeps its connection, however it was sent.
func TestUploadThatIsWholeKeepsTheConnection(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", newReplica(t, length)))
	c, in := e.dial(t)
	for range 50 {
		_, _ = io.WriteString(c, "POST /function/f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
		_, _ = fmt.Fprintf(c, "%x\r\n%s\r\n", 100_000, strings.Repeat("x", 100_000))
		_, _ = io.WriteString(c, "0\r\n\r\n")
		if resp, body := readResponse(t, in, "POST"); resp.Close || body != "100000 <nil>" {
			t.Fatalf("%s %q, close: %t", resp.Status, body, resp.Close)
		}
	}
}

func TestEmptyLineBeforeARequest(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.HeaderTimeout = time.Second }, function("f", newReplica(t, length)))
	t.Run("in two pieces", func(t *testing.T) {
		t.Parallel()
		c, in := e.dial(t)
		_, _ = io.WriteString(c, "\r")
		time.Sleep(30 * time.Millisecond)
		_, _ = io.WriteString(c, "\nGET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp, body := readResponse(t, in, "GET"); resp.StatusCode != 200 {
			t.Errorf("got %s %q", resp.Status, body)
		}
	})
	t.Run("and nothing after it", func(t *testing.T) {
		t.Parallel()
		c, in := e.dial(t)
		_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n\r\n")
		readResponse(t, in, "GET")
		closes(t, c, in) // an answer would be taken for the next request's
	})
}

// A client that has gone altogether looks the same at first.
func TestTunnelOfAClientThatHasGoneEnds(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	defer close(end)
	e := start(t, func(c *Config) { c.UpstreamTimeout = time.Second }, function("f", rawReplica(t, func(c net.Conn, _ *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		<-end // it neither reads nor writes
	})))
	e.awaitReady(t, "f", 1)
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if _, err := readHead(in); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	s := e.registry.Lookup([]byte("f"))
	for until := time.Now().Add(20 * time.Second); s.Inflight() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it holds its replica")
		}
	}
}

// A side that has no more to say may still listen.
func TestHalfClosedTunnel(t *testing.T) {
	t.Parallel()
	e := start(t, nil, function("f", rawReplica(t, func(c net.Conn, in *bufio.Reader, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, in)
		for range 5 { // longer than it takes the gateway to see that a client has gone
			time.Sleep(500 * time.Millisecond)
			_, _ = io.WriteString(c, "x")
		}
	})))
	e.awaitReady(t, "f", 1)
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "GET /function/f HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if _, err := readHead(in); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(in); string(rest) != "xxxxx" || err != nil {
		t.Errorf("got %q, error %v", rest, err)
	}
}
