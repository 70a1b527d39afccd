package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framed is a client that speaks frames.
type framed struct {
	*wire.Framer
	t      *testing.T
	nc     net.Conn
	buf    bytes.Buffer
	fields *hpack.Encoder
	id     uint32 // of the last stream
}

// dialHTTP2 opens an HTTP/2 connection without TLS. Its client's window is shut if window is 0.
func (e *edge) dialHTTP2(t *testing.T, window uint32) *framed {
	t.Helper()
	nc, _ := e.dial(t)
	_, _ = io.WriteString(nc, wire.ClientPreface)
	f := framer(t, nc)
	if err := f.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Val: window}); err != nil {
		t.Fatal(err)
	}
	return f
}

func framer(t *testing.T, nc net.Conn) *framed {
	f := &framed{Framer: wire.NewFramer(nc, nc), t: t, nc: nc}
	f.ReadMetaHeaders = hpack.NewDecoder(4<<10, nil)
	f.fields = hpack.NewEncoder(&f.buf)
	return f
}

// get asks for a path on a stream of its own. It fails only once the connection has ended.
func (f *framed) get(path string) (id uint32, err error) {
	f.id = max(f.id+2, 1)
	if f.id%2 == 0 {
		f.id--
	}
	f.buf.Reset()
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "h"}, {":path", path}} {
		_ = f.fields.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	return f.id, f.WriteHeaders(wire.HeadersFrameParam{StreamID: f.id, BlockFragment: f.buf.Bytes(), EndHeaders: true, EndStream: true})
}

// next is the next frame of the given types.
func (f *framed) next(types ...wire.FrameType) wire.Frame {
	f.t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			f.t.Fatal(err)
		}
		for _, want := range types {
			if frame.Header().Type == want {
				return frame
			}
		}
	}
}

func TestPrefaceInPieces(t *testing.T) {
	t.Parallel()
	e := start(t, nil)
	for _, cut := range []int{1, 3, 8, 12, 14, 16, 23} {
		nc, _ := e.dial(t)
		_ = nc.(*net.TCPConn).SetNoDelay(true)
		_, _ = io.WriteString(nc, wire.ClientPreface[:cut])
		for e.clientsNow() == 0 {
			time.Sleep(time.Millisecond)
		}
		f := framer(t, nc)
		var rest bytes.Buffer
		rest.WriteString(wire.ClientPreface[cut:])
		f.Framer = wire.NewFramer(&rest, nc)
		f.ReadMetaHeaders = hpack.NewDecoder(4<<10, nil)
		_ = f.WriteSettings()
		_, _ = f.get("/healthz")
		_, _ = nc.Write(rest.Bytes())
		if h := f.next(wire.FrameHeaders).(*wire.MetaHeadersFrame); h.PseudoValue("status") != "200" {
			t.Errorf("cut at %d: got %v", cut, h.Fields)
		}
		_ = nc.Close()
	}
}

func TestHTTP2CanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.DisableHTTP2 = true })
	if resp, body := e.exchange(t, wire.ClientPreface); resp.StatusCode != 505 {
		t.Errorf("got %s %q", resp.Status, body)
	}
}

func TestConnectionBoundsCountHTTP2(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.MaxConnsPerIP = 2 })
	for range 2 {
		f := e.dialHTTP2(t, 1<<20)
		_, _ = f.get("/healthz")
		f.next(wire.FrameData)
	}
	_, in := e.dial(t)
	if resp, _ := readResponse(t, in, "GET"); resp.StatusCode != 503 {
		t.Errorf("got %s", resp.Status)
	}
}

func TestRateLimitCountsStreams(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.RateLimit, c.RateBurst = 0.001, 3 })
	f := e.dialHTTP2(t, 1<<20)
	for i := range 4 {
		_, _ = f.get("/nothing")
		want := "404"
		if i == 3 {
			want = "429"
		}
		if h := f.next(wire.FrameHeaders).(*wire.MetaHeadersFrame); h.PseudoValue("status") != want {
			t.Errorf("request %d got %v", i+1, h.Fields)
		}
	}
}

// TestStreamsAreBoundedInAll: each costs the gateway what a connection does.
func TestStreamsAreBoundedInAll(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	e := start(t, func(c *Config) { c.MaxConns = 3 }, function("f", newReplica(t, func(http.ResponseWriter, *http.Request) { <-release })))
	f := e.dialHTTP2(t, 1<<20)
	for range 5 {
		_, _ = f.get("/function/f")
	}
	for range 2 {
		if r := f.next(wire.FrameRSTStream).(*wire.RSTStreamFrame); r.ErrCode != wire.ErrCodeRefusedStream {
			t.Errorf("got %v", r)
		}
	}
	close(release)
	for range 3 {
		f.next(wire.FrameHeaders)
	}
}

// TestRapidResetIsBounded is CVE-2023-44487: a client that opens streams and gives them up at once, thousands of times.
func TestRapidResetIsBounded(t *testing.T) {
	t.Parallel()
	var running, most atomic.Int32
	e := start(t, func(c *Config) { c.HTTP2MaxStreams = 20 }, function("f", newReplica(t, func(_ http.ResponseWriter, r *http.Request) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-r.Context().Done()
		running.Add(-1)
	})))
	f := e.dialHTTP2(t, 1<<20)
	before := runtime.NumGoroutine()
	sent := 0
	for ; sent < 50_000; sent++ {
		id, err := f.get("/function/f")
		if err != nil || f.WriteRSTStream(id, wire.ErrCodeCancel) != nil {
			break
		}
		if extra := runtime.NumGoroutine() - before; sent%1000 == 0 && extra > 3000 {
			t.Fatalf("%d goroutines more after %d streams", extra, sent)
		}
	}
	if last := f.next(wire.FrameGoAway).(*wire.GoAwayFrame); last.ErrCode != wire.ErrCodeEnhanceYourCalm {
		t.Errorf("the connection ended with %s", last.ErrCode)
	}
	if n := most.Load(); n > 2*20 {
		t.Errorf("the function had %d requests at a time from one connection, with 20 streams allowed", n)
	}
	for running.Load() > 0 { // each is told that its client has left
		time.Sleep(time.Millisecond)
	}
}

// TestClientThatTakesNothing: its window stays shut, and its streams end with the time for a response to be taken.
func TestClientThatTakesNothing(t *testing.T) {
	t.Parallel()
	replica := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 100_000)) })
	e := start(t, func(c *Config) { c.WriteTimeout = time.Second }, function("f", replica))
	f := e.dialHTTP2(t, 0)
	for range 10 {
		_, _ = f.get("/function/f")
	}
	for range 10 {
		if r := f.next(wire.FrameRSTStream).(*wire.RSTStreamFrame); r.ErrCode != wire.ErrCodeInternal {
			t.Errorf("got %v", r)
		}
	}
	for s := e.registry.Lookup([]byte("f")); s.Inflight() > 0; {
		time.Sleep(time.Millisecond)
	}
	// Only the streams were late: the connection is as good as before.
	_ = f.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Val: 1 << 20})
	_, _ = f.get("/healthz")
	if h := f.next(wire.FrameHeaders).(*wire.MetaHeadersFrame); h.PseudoValue("status") != "200" {
		t.Errorf("got %v", h.Fields)
	}
}

func TestIdleHTTP2ConnectionsEnd(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { c.IdleTimeout = time.Second })
	f := e.dialHTTP2(t, 1<<20)
	_, _ = f.get("/healthz")
	f.next(wire.FrameData)
	if last := f.next(wire.FrameGoAway).(*wire.GoAwayFrame); last.ErrCode != wire.ErrCodeNo || last.LastStreamID != 1 {
		t.Errorf("got %v", last)
	}
	if _, err := f.ReadFrame(); err == nil {
		t.Error("the connection goes on")
	}
}

func TestHTTP2ErrorsAreCounted(t *testing.T) {
	t.Parallel()
	e := start(t, nil)
	f := e.dialHTTP2(t, 1<<20)
	_ = f.WriteWindowUpdate(7, 1)
	f.next(wire.FrameGoAway)
	_ = f.nc.Close()
	for e.clientsNow() > 0 {
		time.Sleep(time.Millisecond)
	}
	families, err := e.cfg.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "gateway_http2_connection_errors_total" {
			if got := fmt.Sprint(family.GetMetric()); strings.Contains(got, "PROTOCOL_ERROR") {
				return
			}
		}
	}
	t.Error("the error is not counted")
}

// BenchmarkHTTP2RoundTrip is BenchmarkRoundTrip for a client that speaks HTTP/2 without TLS.
func BenchmarkHTTP2RoundTrip(b *testing.B) {
	e := start(b, nil, function("f", replicaAt(quickReplica(b))))
	nc, err := net.Dial("tcp", e.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	f := framer(nil, nc)
	_, _ = io.WriteString(nc, wire.ClientPreface)
	_ = f.WriteSettings()
	f.ReadMetaHeaders = nil
	f.SetReuseFrames()
	_, _ = f.get("/function/f/x?y") // fills HPACK's table
	b.ReportAllocs()
	for b.Loop() {
		for ended := false; !ended; {
			frame, err := f.ReadFrame()
			if err != nil {
				b.Fatal(err)
			}
			d, ok := frame.(*wire.DataFrame)
			ended = ok && d.StreamEnded()
			if ok && d.StreamID%1000 == 1 {
				_ = f.WriteWindowUpdate(0, 12_000)
			}
		}
		if _, err := f.get("/function/f/x?y"); err != nil {
			b.Fatal(err)
		}
	}
}
