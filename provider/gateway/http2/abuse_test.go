package http2

import (
	"bytes"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "golang.org/x/net/http2"
)

// TestProtocolErrors sends what RFC 9113 forbids. The whole of it is what h2spec checks; these are the cases that protect
// something here.
func TestProtocolErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do   func(p *peer)
		code wire.ErrCode
	}{
		"even stream":           {func(p *peer) { p.nextID = 2; p.begin(true, get()...) }, wire.ErrCodeProtocol},
		"stream that goes down": {func(p *peer) { p.nextID = 9; p.begin(true, get()...); p.nextID = 7; p.begin(true, get()...) }, wire.ErrCodeProtocol},
		"data on no stream":     {func(p *peer) { p.must(p.WriteData(1, false, []byte("x"))) }, wire.ErrCodeProtocol},
		"window of no stream":   {func(p *peer) { p.must(p.WriteWindowUpdate(1, 1)) }, wire.ErrCodeProtocol},
		"reset of no stream":    {func(p *peer) { p.must(p.WriteRSTStream(1, 0)) }, wire.ErrCodeProtocol},
		"push": {func(p *peer) {
			p.must(p.WritePushPromise(wire.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true}))
		}, wire.ErrCodeProtocol},
		"window beyond its bound": {func(p *peer) { p.must(p.WriteWindowUpdate(0, maxWindow)) }, wire.ErrCodeFlowControl},
		"data within a head":      {func(p *peer) { p.head(false, "x"); p.must(p.WriteData(1, false, nil)) }, wire.ErrCodeProtocol},
		"nonsense for HPACK": {func(p *peer) {
			p.must(p.WriteHeaders(wire.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true}))
		}, wire.ErrCodeCompression},
		"frame that is too long":  {func(p *peer) { p.must(p.WriteRawFrame(wire.FrameData, 0, 1, make([]byte, maxFrame+1))) }, wire.ErrCodeFrameSize},
		"setting out of bounds":   {func(p *peer) { p.must(p.WriteSettings(wire.Setting{ID: wire.SettingMaxFrameSize, Val: 1})) }, wire.ErrCodeProtocol},
		"body beyond all windows": {func(p *peer) { p.flood(connWindow + maxFrame) }, wire.ErrCodeFlowControl},
		"endless head":            {func(p *peer) { p.continueFor(1000, strings.Repeat("x", maxFrame)) }, wire.ErrCodeEnhanceYourCalm},
		"endless head of nothing": {func(p *peer) { p.continueFor(1000, "") }, wire.ErrCodeEnhanceYourCalm},
		"pings":                   {func(p *peer) { p.repeat(2*maxNoise, func() error { return p.WritePing(false, [8]byte{}) }) }, wire.ErrCodeEnhanceYourCalm},
		"settings":                {func(p *peer) { p.repeat(2*maxNoise, func() error { return p.WriteSettings() }) }, wire.ErrCodeEnhanceYourCalm},
		"settings, all in one frame": {func(p *peer) {
			p.must(p.WriteSettings(slices.Repeat([]wire.Setting{{ID: wire.SettingInitialWindowSize, Val: 7}}, 2*maxNoise)...))
		}, wire.ErrCodeEnhanceYourCalm},
		"farewells": {func(p *peer) { p.repeat(2*maxNoise, func() error { return p.WriteGoAway(0, 0, nil) }) }, wire.ErrCodeEnhanceYourCalm},
		"head with more padding than there is room for": {func(p *peer) { // what it did to HPACK's table is unknown
			p.must(p.WriteRawFrame(wire.FrameHeaders, wire.FlagHeadersPadded|wire.FlagHeadersEndHeaders, 1, []byte{9, 0x82}))
		}, wire.ErrCodeProtocol},
		"padded data without a length of padding": {func(p *peer) {
			p.must(p.WriteRawFrame(wire.FrameData, wire.FlagDataPadded, p.begin(false, post()...), nil))
		}, wire.ErrCodeFrameSize},
		"head that breaks off in its priority": {func(p *peer) {
			p.must(p.WriteRawFrame(wire.FrameHeaders, wire.FlagHeadersPriority|wire.FlagHeadersEndHeaders, 1, []byte{0, 0}))
		}, wire.ErrCodeFrameSize},
		"priorities": {func(p *peer) {
			p.repeat(2*maxNoise, func() error { return p.WritePriority(1, wire.PriorityParam{StreamDep: 3}) })
		}, wire.ErrCodeEnhanceYourCalm},
		"unknown frames": {func(p *peer) { p.repeat(2*maxNoise, func() error { return p.WriteRawFrame(0xbb, 0, 0, nil) }) }, wire.ErrCodeEnhanceYourCalm},
		"empty data": {func(p *peer) {
			id := p.begin(false, post()...)
			p.repeat(2*maxNoise, func() error { return p.WriteData(id, false, nil) })
		}, wire.ErrCodeEnhanceYourCalm},
		"streams that are refused": {func(p *peer) { p.repeat(2*maxNoise, func() error { p.begin(false, post()...); return nil }) }, wire.ErrCodeEnhanceYourCalm},
		"faulty streams": {func(p *peer) {
			p.repeat(2*maxNoise, func() error { p.begin(true, get("connection", "close")...); return nil })
		}, wire.ErrCodeEnhanceYourCalm},
		"streams made to be reset": {func(p *peer) { // CVE-2025-8671: the server is made to give up what it then still works on
			p.repeat(2*maxNoise, func() error { id := p.begin(false, post()...); return p.WriteData(id, false, make([]byte, 1)) })
		}, wire.ErrCodeEnhanceYourCalm},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, func(s *Stream) { _, _ = io.Copy(io.Discard, io.LimitReader(s, 1)); s.await1() })
			p.AllowIllegalWrites = true
			tc.do(p)
			p.wantGoAway(tc.code)
		})
	}
}

// TestWindowThatIsFedCrumbs: a client has a response sent byte by byte, each in a frame of its own.
func TestWindowThatIsFedCrumbs(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		window uint32 // of a stream, at first
		length int    // of the request's body, which comes back
		stream bool   // whose window is fed
	}{
		"a stream's":     {0, 4 * maxNoise, true},
		"the connection": {1 << 20, initialWindow + 4*maxNoise, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, echo, wire.Setting{ID: wire.SettingInitialWindowSize, Val: tc.window})
			id := p.begin(false, post()...)
			for left := tc.length; left > 0; left -= maxFrame {
				p.must(p.WriteData(id, left <= maxFrame, make([]byte, min(left, maxFrame))))
			}
			fed := uint32(0)
			if tc.stream {
				fed = id
			}
			received, n := 0, 0
			for n < 2*maxNoise {
				switch f := p.skip().(type) {
				case *wire.MetaHeadersFrame:
				case *wire.DataFrame:
					received += len(f.Data())
				case *wire.GoAwayFrame:
					if n < maxNoise-10 || f.ErrCode != wire.ErrCodeEnhanceYourCalm {
						t.Errorf("it ends after %d crumbs with %v; want some %d and ENHANCE_YOUR_CALM", n, f.ErrCode, maxNoise)
					}
					return
				}
				if tc.stream || received >= initialWindow {
					p.must(p.WriteWindowUpdate(fed, 1))
					n++
				}
			}
			t.Error("the connection goes on")
		})
	}
}

// TestStreamsThatNobodyTakes: a gateway that is full is asked again and again, by one client only so often.
func TestStreamsThatNobodyTakes(t *testing.T) {
	t.Parallel()
	p := serve(t, echo)
	p.full.Store(true)
	for range maxNoise - 10 {
		p.wantReset(p.begin(true, get()...), wire.ErrCodeRefusedStream)
	}
	for range 20 {
		_ = p.WriteHeaders(wire.HeadersFrameParam{StreamID: p.nextID, BlockFragment: p.encode(get()...), EndHeaders: true, EndStream: true})
		p.nextID += 2
		if _, ended := p.read().(*wire.GoAwayFrame); ended {
			return
		}
	}
	t.Error("the connection goes on")
}

// await1 waits until the stream has ended.
func (s *Stream) await1() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for !s.over {
		s.cond.Wait()
	}
}

// head begins a head that is to be continued.
func (p *peer) head(end bool, value string) {
	p.must(p.WriteHeaders(wire.HeadersFrameParam{StreamID: p.nextID, BlockFragment: p.encode(get("a", value)...), EndHeaders: end}))
}

func (p *peer) continueFor(frames int, value string) {
	p.head(false, "b")
	fragment := []byte(nil)
	if value != "" {
		fragment = p.encode("c", value)
	}
	p.repeat(frames, func() error { return p.WriteContinuation(p.nextID, false, fragment) })
}

// repeat does something until the server has had enough, and reads nothing meanwhile.
func (p *peer) repeat(n int, do func() error) {
	for range n {
		if do() != nil {
			return
		}
	}
}

// flood sends n bytes of bodies, spread over as many streams as it takes for none to exceed its own window.
func (p *peer) flood(n int) {
	for n > 0 {
		id := p.begin(false, post()...)
		for sent := 0; sent < streamWindow && n > 0; sent += maxFrame {
			if p.WriteData(id, false, make([]byte, maxFrame)) != nil {
				return
			}
			n -= maxFrame
		}
	}
}

// TestRapidReset is CVE-2023-44487: a client that opens streams and gives them up at once.
func TestRapidReset(t *testing.T) {
	t.Parallel()
	var running, most, all atomic.Int32
	release := make(chan struct{})
	p := serve(t, func(*Stream) {
		all.Add(1)
		for n := running.Add(1); ; {
			old := most.Load()
			if n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		<-release // a function that does not notice
		running.Add(-1)
	})
	before := runtime.NumGoroutine()
	p.repeat(20_000, func() error { return p.WriteRSTStream(p.begin(true, get()...), wire.ErrCodeCancel) })
	p.wantGoAway(wire.ErrCodeEnhanceYourCalm)
	if n := most.Load(); n > 2*5 {
		t.Errorf("%d requests ran at a time, with 5 streams allowed", n)
	}
	if n := all.Load(); n > maxNoise {
		t.Errorf("%d requests were begun", n)
	}
	if n := runtime.NumGoroutine() - before; n > 200 { // other tests run beside this one
		t.Errorf("%d goroutines more than before", n)
	}
	close(release)
}

// TestFloodOfAcknowledgements: a client that asks for answers and does not take them stops being read.
func TestFloodOfAcknowledgements(t *testing.T) {
	t.Parallel()
	p := serve(t, echo)
	_ = p.nc.SetReadBuffer(4 << 10)
	var sent atomic.Int64
	go func() { // until the sockets are full, or the connection has ended
		for p.WritePing(false, [8]byte{}) == nil {
			sent.Add(1)
			p.clock.Add(int64(10 * time.Millisecond)) // slow enough not to be taken for noise
		}
	}()
	most := 0
	last := int64(-1)
	for i := 0; i < 20 && sent.Load() < 20_000_000; {
		p.conn.mu.Lock()
		most = max(most, len(p.conn.out.b))
		p.conn.mu.Unlock()
		if n := sent.Load(); n == last {
			i++ // it stands still
		} else {
			i, last = 0, n
		}
		time.Sleep(5 * time.Millisecond)
	}
	if most > 2*controlLimit {
		t.Errorf("%d bytes of acknowledgements wait", most)
	}
	_ = p.nc.Close()
}

// TestHeaderBomb: a field that is sent once and referred to again and again must not be unpacked as often. It is not
// parallel: it looks at the whole process's allocations.
func TestHeaderBomb(t *testing.T) {
	p := serve(t, func(s *Stream) { _, _ = s.Write([]byte("HTTP/1.1 431 X\r\nContent-Length: 0\r\n\r\n")) })
	block := p.encode(get("bomb", strings.Repeat("x", 3900))...)
	index := p.encode("bomb", strings.Repeat("x", 3900))
	if len(index) != 1 {
		t.Fatalf("a reference has %d bytes", len(index))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p.must(p.WriteHeaders(wire.HeadersFrameParam{StreamID: 1, BlockFragment: append(block, bytes.Repeat(index, 12_000)...), EndHeaders: true, EndStream: true}))
	if heads, _ := p.response(1); heads[0][0].Value != "431" {
		t.Errorf("got %v", heads)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 { // unpacked, it would be 47 MB
		t.Errorf("%d bytes were allocated", n)
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do    func(p *peer)
		after time.Duration
		calm  bool // the client is told in order
	}{
		"nothing to do":      {func(*peer) {}, 76 * time.Second, true},
		"half a head":        {func(p *peer) { p.head(false, "x") }, 11 * time.Second, false},
		"half a frame":       {func(p *peer) { _, _ = p.nc.Write([]byte{0, 0}) }, 11 * time.Second, false},
		"half a DATA frame":  {func(p *peer) { p.begin(false, post()...); _, _ = p.nc.Write([]byte{0, 0, 9, 0, 0, 0, 0, 0, 1, 'x'}) }, 61 * time.Second, false},
		"a drop at a time":   {(*peer).drip, time.Second, false},
		"idle after a while": {func(p *peer) { p.response(p.begin(true, get()...)) }, 76 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, echo)
			tc.do(p)
			deadline := &p.conn.readBy
			if tc.calm {
				deadline = &p.conn.idleBy
			}
			waiting := func() bool { return deadline.Load() > 0 }
			// Deadlines are set by this clock, and nothing may be under way as it is put forward.
			eventually(t, "the wait", func() bool { return waiting() && p.conn.writeBy.Load() == 0 })
			p.conn.Expire(p.clock.Load() + int64(tc.after-2*time.Second))
			if p.conn.readBy.Load() == expired || p.conn.idleBy.Load() == expired {
				t.Fatal("it ended too soon")
			}
			p.clock.Add(int64(tc.after))
			eventually(t, "the end", func() bool {
				p.conn.Expire(p.clock.Load())
				return len(p.ended) > 0 || tc.calm && !waiting() // between two reads there is no deadline
			})
			if tc.calm {
				p.wantGoAway(wire.ErrCodeNo)
				return
			}
			if code := <-p.ended; code != wire.ErrCodeNo {
				t.Errorf("ended with %s", code)
			}
		})
	}
}

// drip sends a head that would never end, a byte a second.
func (p *peer) drip() {
	_, _ = p.nc.Write([]byte{0, 0, 99, 1, 0, 0, 0, 0, 1})
	eventually(p.t, "the head's beginning", func() bool { return p.conn.readBy.Load() > 0 })
	for range 10 {
		_, _ = p.nc.Write([]byte{0})
		p.clock.Add(int64(time.Second))
	}
}

func TestSlowTakerIsCut(t *testing.T) {
	t.Parallel()
	result := make(chan error, 1)
	p := serve(t, func(s *Stream) { result <- answer(s, 64<<20) },
		wire.Setting{ID: wire.SettingInitialWindowSize, Val: maxWindow})
	p.must(p.WriteWindowUpdate(0, maxWindow-initialWindow))
	p.begin(true, get()...)
	eventually(t, "a full socket", func() bool { return p.conn.writeBy.Load() > 0 })
	for {
		select {
		case err := <-result:
			if err == nil {
				t.Error("64 MB went to a client that took nothing")
			}
			return
		default: // a write may be between two rounds
			p.conn.Expire(p.clock.Add(int64(2 * time.Minute)))
		}
	}
}

func TestStreamsAreNoIdleness(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	p := serve(t, func(s *Stream) { <-release; _ = answer(s, 1) })
	id := p.begin(true, get()...)
	eventually(t, "the stream", func() bool { return p.conn.idleBy.Load() == 0 && p.conn.writeBy.Load() == 0 })
	p.conn.Expire(p.clock.Add(int64(time.Hour)))
	close(release)
	if _, body := p.response(id); body != "0" {
		t.Errorf("got %q", body)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	p := serve(t, func(s *Stream) { <-release; _ = answer(s, 3) })
	first := p.begin(true, get()...)
	goAway := func() uint32 {
		f, ok := p.skip().(*wire.GoAwayFrame)
		if !ok || f.ErrCode != wire.ErrCodeNo {
			t.Fatalf("got %v, want GOAWAY", f)
		}
		return f.LastStreamID
	}
	p.conn.Drain(p.clock.Load())
	if last := goAway(); last != maxStreamID {
		t.Errorf("the first GOAWAY names stream %d", last)
	}
	// What was sent before that arrived is still served.
	second := p.begin(true, get()...)
	eventually(t, "the second stream", func() bool {
		p.conn.mu.Lock()
		defer p.conn.mu.Unlock()
		return p.conn.running == 2
	})
	p.conn.Drain(p.clock.Load()) // too soon for another
	p.conn.Drain(p.clock.Add(int64(drainPause)))
	if last := goAway(); last != second {
		t.Errorf("the second GOAWAY names stream %d, want %d", last, second)
	}
	late := p.begin(false, post()...) // ignored, and no error
	p.must(p.WriteData(late, true, []byte("x")))
	close(release)
	ended := map[uint32]bool{}
	for !ended[first] || !ended[second] {
		if f, ok := p.skip().(*wire.DataFrame); ok && f.StreamEnded() {
			ended[f.StreamID] = true
		}
	}
	p.wantGoAway(wire.ErrCodeNo)
}

func TestIdleConnectionDrainsByItself(t *testing.T) {
	t.Parallel()
	p := serve(t, echo)
	p.conn.Drain(p.clock.Load())
	p.conn.Drain(p.clock.Add(int64(drainPause)))
	p.wantGoAway(wire.ErrCodeNo)
}
