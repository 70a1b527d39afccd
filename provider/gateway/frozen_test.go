package gateway

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestAClientThatLeftWhileTheGatewayWasFrozen had its request lie in the kernel: it has asked somebody else since.
func TestAClientThatLeftWhileTheGatewayWasFrozen(t *testing.T) {
	t.Parallel()
	const post = "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
	for name, tc := range map[string]struct {
		secure, leaves bool
	}{
		"left":            {false, true},
		"left, over TLS":  {true, true},
		"waits":           {false, false},
		"waits, over TLS": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			fn := function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) { calls.Add(1) }))
			p := newPair(t)
			e := start(t, p.secured(t, nil), fn)
			e.thawed.Store(int64(time.Hour)) // as if it were thawing all the time
			s := e.registry.Lookup([]byte("f"))
			c, in := e.dial(t)
			if tc.secure {
				secured := e.dialTLS(t, p, "http/1.1")
				if err := secured.Handshake(); err != nil {
					t.Fatal(err)
				}
				c, in = secured, nil
			}
			if _, err := io.WriteString(c, post); err != nil {
				t.Fatal(err)
			}
			if tc.leaves {
				_ = c.Close()
				for s.Started.Load() == 0 {
					time.Sleep(time.Millisecond)
				}
				awaitIdle(t, s.Started.Load, s.Completed.Load)
			} else if in != nil {
				if resp, _ := readResponse(t, in, "POST"); resp.StatusCode != 200 {
					t.Errorf("got %s, want 200", resp.Status)
				}
			} else if text, err := io.ReadAll(io.LimitReader(c, 12)); !strings.HasPrefix(string(text), "HTTP/1.1 200") {
				t.Errorf("got %q, %v; want 200", text, err)
			}
			if got, want := calls.Load() == 1, !tc.leaves; got != want {
				t.Errorf("the function was called %d times", calls.Load())
			}
		})
	}
}

// TestARequestThatLayInTheKernelHasTheTimeAtWhichItCame: behind another on its connection, as while the gateway is stopped.
func TestARequestThatLayInTheKernelHasTheTimeAtWhichItCame(t *testing.T) {
	t.Parallel()
	started, release := make(chan string, 2), make(chan struct{})
	e := start(t, nil, function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		started <- r.Header.Get("X-Start-Time")
		<-release
	})))
	c, in := e.dial(t)
	post := func() {
		if _, err := io.WriteString(c, "POST /function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
			t.Fatal(err)
		}
	}
	post()
	<-started
	post()
	sent := time.Now()
	const lies = 500 * time.Millisecond
	time.Sleep(lies)
	close(release)
	for range 2 {
		if resp, _ := readResponse(t, in, "POST"); resp.StatusCode != 200 {
			t.Fatalf("got %s, want 200", resp.Status)
		}
	}
	wantStart(t, <-started, sent, lies/2)
}

// TestAStreamThatLayInTheKernelHasTheTimeAtWhichItCame: as the above, while the connection's reader is held up.
func TestAStreamThatLayInTheKernelHasTheTimeAtWhichItCame(t *testing.T) {
	t.Parallel()
	started := make(chan string, 1)
	e := start(t, nil, function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		started <- r.Header.Get("X-Start-Time")
	})))
	f := e.dialHTTP2(t, 1<<20)
	_, _ = f.get("/healthz")
	f.next(wire.FrameData)
	e.mu.Lock() // which the next stream needs
	_, _ = f.get("/healthz")
	const lies = 500 * time.Millisecond
	time.Sleep(lies / 10)
	f.id += 2
	f.buf.Reset()
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "h"}, {":path", "/function/f"}} {
		_ = f.fields.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	err := f.WriteHeaders(wire.HeadersFrameParam{StreamID: f.id, BlockFragment: f.buf.Bytes(), EndHeaders: true, EndStream: true})
	sent := time.Now()
	time.Sleep(lies)
	e.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	wantStart(t, <-started, sent, lies/2)
}

// wantStart wants an X-Start-Time of at most late after sent.
func wantStart(t *testing.T, start string, sent time.Time, late time.Duration) {
	t.Helper()
	nanos, err := strconv.ParseInt(start, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if after := time.Unix(0, nanos).Sub(sent); after > late || after < -late {
		t.Errorf("X-Start-Time is %s after the request was sent", after)
	}
}

func TestAStreamThatWasGivenUpWhileTheGatewayWasFrozen(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	e := start(t, nil, function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) { calls.Add(1) })))
	e.thawed.Store(int64(time.Hour))
	s := e.registry.Lookup([]byte("f"))
	f := e.dialHTTP2(t, 1<<20)
	given, _ := f.get("/function/f")
	if err := f.WriteRSTStream(given, wire.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	_, _ = f.get("/function/f")
	if h := f.next(wire.FrameHeaders).(*wire.MetaHeadersFrame); h.PseudoValue("status") != "200" {
		t.Errorf("another stream of the connection got %v", h.Fields)
	}
	awaitIdle(t, s.Started.Load, s.Completed.Load)
	if n := calls.Load(); n != 1 {
		t.Errorf("the function was called %d times, want once: the first stream was given up", n)
	}
}

// TestTheSweepNoticesThatItWasFrozen: its own clock then lags behind.
func TestTheSweepNoticesThatItWasFrozen(t *testing.T) {
	t.Parallel()
	e := start(t, nil)
	for e.thawed.Load() == 0 {
		e.clock.Store(-int64(2 * frozenAfter))
		time.Sleep(sweepEvery)
	}
}
