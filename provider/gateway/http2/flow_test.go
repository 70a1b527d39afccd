package http2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "golang.org/x/net/http2"
	"pgregory.net/rapid"
)

// answer writes a response with a body of n bytes.
func answer(s *Stream, n int) error {
	body := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
	_, err := s.WriteBoth(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n), body)
	return err
}

// data reads DATA frames of a stream until it has n bytes.
func (p *peer) data(id uint32, n int) {
	p.t.Helper()
	for n > 0 {
		if f, ok := p.read().(*wire.DataFrame); ok && f.StreamID == id {
			n -= len(f.Data())
		}
	}
	if n < 0 {
		p.t.Fatalf("%d bytes more than the window has room for", -n)
	}
}

func TestWindowsHoldResponsesBack(t *testing.T) {
	t.Parallel()
	p := serve(t, func(s *Stream) {
		if err := answer(s, 200_000); err != nil {
			t.Error(err)
		}
	}, wire.Setting{ID: wire.SettingInitialWindowSize, Val: 10})
	id := p.begin(true, get()...)
	p.data(id, 10)
	p.must(p.WriteWindowUpdate(id, 5))
	p.data(id, 5)
	// A window may become smaller than nothing; what opens it again has to make up for that.
	p.must(p.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Val: 0}))
	p.must(p.WriteWindowUpdate(id, 10+7))
	p.data(id, 7)
	p.must(p.WriteWindowUpdate(id, 1<<20))
	p.data(id, initialWindow-22) // now it is the connection's that is shut
	p.must(p.WriteWindowUpdate(0, 1<<20))
	p.data(id, 200_000-initialWindow)
}

func TestStreamsShareTheConnectionInTurns(t *testing.T) {
	t.Parallel()
	p := serve(t, func(s *Stream) { _ = answer(s, 100_000) }, wire.Setting{ID: wire.SettingInitialWindowSize, Val: 1 << 20})
	first, second := p.begin(true, get()...), p.begin(true, get()...)
	got := map[uint32]int{}
	for got[first]+got[second] < 200_000 {
		f, ok := p.read().(*wire.DataFrame)
		if !ok {
			continue
		}
		got[f.StreamID] += len(f.Data())
		if n := got[first] + got[second]; n >= initialWindow && n%1000 == initialWindow%1000 && n < 200_000 {
			p.must(p.WriteWindowUpdate(0, 1000))
		}
	}
	if got[first] != got[second] {
		t.Errorf("got %v", got)
	}
}

// TestHeadsPassAShutWindow: flow control is DATA's alone, so a stream whose data waits for the connection's window holds
// no other's head or trailers up.
func TestHeadsPassAShutWindow(t *testing.T) {
	t.Parallel()
	heads := []string{"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n"}
	var streams atomic.Int32
	p := serve(t, func(s *Stream) {
		if n := streams.Add(1); n > 1 {
			_, _ = s.Write([]byte(heads[n-2]))
			return
		}
		_ = answer(s, initialWindow+1000)
	}, wire.Setting{ID: wire.SettingInitialWindowSize, Val: 1 << 20})
	first := p.begin(true, get()...)
	p.data(first, initialWindow)
	eventually(t, "a wait for the window", func() bool {
		p.conn.mu.Lock()
		defer p.conn.mu.Unlock()
		return len(p.conn.out.queue) > 0
	})
	for range heads {
		p.response(p.begin(true, get()...))
	}
	p.must(p.WriteWindowUpdate(0, 1000))
	p.data(first, 1000)
}

// TestHeadsAreNotForgottenInTheQueue fills the output for many streams at a time, heads and data: each wait must end.
func TestHeadsAreNotForgottenInTheQueue(t *testing.T) {
	t.Parallel()
	long := "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nX: " + strings.Repeat("x", 20_000) + "\r\n\r\n"
	p := serve(t, func(s *Stream) {
		if _, err := s.WriteBoth([]byte(long), make([]byte, 100_000)); err != nil {
			t.Error(err)
		}
	}, wire.Setting{ID: wire.SettingInitialWindowSize, Val: 1 << 20})
	const rounds, streams = 20, 5
	for range rounds {
		for range streams {
			p.begin(true, get()...)
		}
		for ended := 0; ended < streams; {
			if f, ok := p.skip().(*wire.DataFrame); ok {
				p.must(p.WriteWindowUpdate(0, max(f.Length, 1)))
				if f.StreamEnded() {
					ended++
				}
			}
		}
	}
}

func TestDeadlinesEndWritesAndReads(t *testing.T) {
	t.Parallel()
	results := make(chan error, 3)
	blocked, release := make(chan *Stream, 1), make(chan struct{})
	p := serve(t, func(s *Stream) {
		blocked <- s
		results <- answer(s, 100)
		_ = s.SetDeadline(time.Time{})
		_, err := s.Read(make([]byte, 9000))
		results <- err
		<-release
		_, err = io.ReadAll(s)
		results <- err
	}, wire.Setting{ID: wire.SettingInitialWindowSize, Val: 10})
	id := p.begin(false, post()...)
	s := <-blocked
	p.data(id, 10)
	_ = s.SetDeadline(time.Unix(1, 0))
	if err := <-results; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the write ended with %v", err)
	}
	if err := <-results; err != nil {
		t.Errorf("the read after it ended with %v", err)
	}
	_ = s.SetDeadline(time.Unix(1, 0))
	close(release)
	if err := <-results; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the read ended with %v", err)
	}
	p.wantReset(id, wire.ErrCodeInternal)
}

func TestUploadsAreBoundedByWindows(t *testing.T) {
	t.Parallel()
	read := make(chan int)
	p := serve(t, func(s *Stream) {
		b := make([]byte, streamWindow)
		for n := range read {
			if _, err := io.ReadFull(s, b[:n]); err != nil {
				t.Error(err)
			}
		}
		_ = answer(s, 0)
	})
	id := p.begin(false, post("content-length", "10000000")...)
	for sent := 0; sent < streamWindow; sent += maxFrame {
		p.must(p.WriteData(id, false, make([]byte, maxFrame)))
	}
	read <- len("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10000000\r\n\r\n") + streamWindow/2
	for {
		if f, ok := p.read().(*wire.WindowUpdateFrame); ok && f.StreamID == id {
			if f.Increment != streamWindow/2 {
				t.Errorf("the window opens by %d", f.Increment)
			}
			break
		}
	}
	for range streamWindow/2/maxFrame + 1 { // one more than there is room for
		p.must(p.WriteData(id, false, make([]byte, maxFrame)))
	}
	p.wantReset(id, wire.ErrCodeFlowControl)
	close(read)
}

// serveBesideUnread is serve for what handle does with the third stream; the first two leave unread so many bytes each.
func serveBesideUnread(t *testing.T, handle func(*Stream), unread ...int) *peer {
	t.Helper()
	end := make(chan struct{})
	var streams atomic.Int32
	p := serve(t, func(s *Stream) {
		if int(streams.Add(1)) <= len(unread) {
			<-end
			return
		}
		handle(s)
	})
	t.Cleanup(func() { close(end) })
	for i, n := range unread {
		id := p.begin(false, post()...)
		for int(streams.Load()) <= i {
			time.Sleep(time.Millisecond)
		}
		for ; n > 0; n -= maxFrame {
			p.must(p.WriteData(id, false, make([]byte, min(n, maxFrame))))
		}
	}
	return p
}

// What some streams leave unread must not keep shut for others what they have read.
func TestUploadGoesOnBesideThoseThatAreNotRead(t *testing.T) {
	t.Parallel()
	p := serveBesideUnread(t, func(s *Stream) {
		if _, err := io.Copy(io.Discard, s); err != nil {
			t.Error(err)
		}
		_ = answer(s, 0)
	}, 240<<10, 64<<10)
	window := connWindow - 304<<10
	const whole = 1 << 20
	id := p.begin(false, post("content-length", fmt.Sprint(whole))...)
	own := streamWindow
	for sent := 0; sent < whole; {
		if n := min(window, own, maxFrame, whole-sent); n > 0 {
			sent, window, own = sent+n, window-n, own-n
			p.must(p.WriteData(id, sent == whole, make([]byte, n)))
			continue
		}
		f, ok := p.read().(*wire.WindowUpdateFrame) // fails the test if none comes
		switch {
		case ok && f.StreamID == id:
			own += int(f.Increment)
		case ok && f.StreamID == 0 && f.Increment != connWindow-initialWindow:
			window += int(f.Increment)
		}
	}
	for {
		if f, ok := p.read().(*wire.MetaHeadersFrame); ok && f.StreamID == id {
			return
		}
	}
}

// A client that takes nothing is not read on, however little of its windows it is given back at a time.
func TestWindowsGivenBackWaitForRoom(t *testing.T) {
	t.Parallel()
	const left = 40 << 10 // of the window
	p := serveBesideUnread(t, func(s *Stream) { _, _ = io.Copy(io.Discard, s) }, streamWindow, connWindow-streamWindow-left)
	_ = p.nc.SetReadBuffer(16 << 10)
	_ = p.conn.sock.NetConn().(*net.TCPConn).SetWriteBuffer(16 << 10)
	id := p.begin(false, post()...)
	var crumbs []byte
	const batch = 500
	for range batch {
		crumbs = append(crumbs, 0, 0, 2, byte(wire.FrameData), byte(wire.FlagDataPadded)) // padding is credited at once
		crumbs = append(binary.BigEndian.AppendUint32(crumbs, id), 0, 'x')
	}
	most, sent := 0, int64(0)
	for until := time.Now().Add(2 * time.Second); most <= 2*controlLimit && time.Now().Before(until); {
		_ = p.nc.SetWriteDeadline(until)
		if _, err := p.nc.Write(crumbs); err != nil {
			break
		}
		sent += batch
		for taken := false; !taken && time.Now().Before(until); runtime.Gosched() {
			p.conn.mu.Lock()
			most = max(most, len(p.conn.out.b))
			s := p.conn.streams[id]
			taken = s != nil && s.received == sent && s.body.n == 0
			p.conn.mu.Unlock()
		}
	}
	if most > 2*controlLimit {
		t.Errorf("%d bytes waited to be sent after %d frames", most, sent)
	}
}

// Bodies that nobody has read yet take so much memory in all and no more; what is read or given up makes room again.
func TestUnreadBodiesHaveABound(t *testing.T) {
	t.Parallel()
	streams, results, read := make(chan *Stream, 2), make(chan error, 2), make(chan struct{})
	p := serve(t, func(s *Stream) {
		streams <- s
		<-read
		_, err := io.ReadAll(s)
		results <- err
		_ = answer(s, 0)
	})
	unread := p.conn.cfg.Unread
	const room = 2 * maxFrame
	unread.Add(MaxUnread - room)
	first := p.begin(false, post()...)
	p.must(p.WriteData(first, false, make([]byte, maxFrame)))
	p.must(p.WriteData(first, false, make([]byte, maxFrame-1)))
	p.must(p.WriteData(first, true, make([]byte, 1))) // fits into what has been taken
	second := p.begin(false, post()...)
	p.must(p.WriteData(second, false, make([]byte, 1)))
	p.wantReset(second, wire.ErrCodeEnhanceYourCalm)
	if got := unread.Used(); got != MaxUnread {
		t.Errorf("%d bytes are taken, want %d", got, MaxUnread)
	}
	close(read)
	failed := 0
	for range 2 {
		if err := <-results; err != nil {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%d requests failed, want the second alone", failed)
	}
	eventually(t, "room", func() bool { return unread.Used() == MaxUnread-room })
}

func TestBodiesThatNobodyReadsAreCredited(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(*Stream){
		"refused and lingering": func(s *Stream) {
			_ = answer(s, 0)
			_ = s.CloseWrite()
			_, _ = io.Copy(io.Discard, s)
		},
		"refused":      func(s *Stream) { _ = answer(s, 0) },
		"not answered": func(*Stream) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, handle)
			done := make(chan struct{})
			go func() { // what the server says is read all the time
				defer close(done)
				for {
					if _, err := p.ReadFrame(); err != nil {
						return
					}
				}
			}()
			for range 3 * connWindow / streamWindow {
				id := p.begin(false, post()...)
				for range 5 {
					p.must(p.WriteDataPadded(id, false, make([]byte, 10_000), make([]byte, 200)))
				}
				p.must(p.WriteRSTStream(id, wire.ErrCodeCancel))
			}
			eventually(t, "the window", func() bool {
				p.conn.mu.Lock()
				defer p.conn.mu.Unlock()
				return p.conn.recvWindow+p.conn.consumed == connWindow
			})
			_ = p.nc.Close()
			<-done
		})
	}
}

// Whoever waits for a slow body takes a buffer only when there is something to put into it.
func TestAwaitRead(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		happens func(p *peer, s *Stream, id uint32)
		want    string
	}{
		"bytes come":             {func(p *peer, _ *Stream, id uint32) { p.must(p.WriteData(id, false, []byte("abc"))) }, `"3\r\nabc\r\n"`},
		"the body ends":          {func(p *peer, _ *Stream, id uint32) { p.must(p.WriteData(id, true, nil)) }, `"0\r\n\r\n"`},
		"the client resets":      {func(p *peer, _ *Stream, id uint32) { p.must(p.WriteRSTStream(id, wire.ErrCodeCancel)) }, "stream was reset"},
		"its deadline passes":    {func(_ *peer, s *Stream, _ uint32) { _ = s.SetDeadline(time.Unix(1, 0)) }, "i/o timeout"},
		"nobody wants the rest":  {func(_ *peer, s *Stream, _ uint32) { _ = s.CloseWrite() }, "EOF"},
		"the stream is closed":   {func(_ *peer, s *Stream, _ uint32) { _ = s.Close() }, "EOF"},
		"the connection is gone": {func(p *peer, _ *Stream, _ uint32) { _ = p.nc.Close() }, "stream was reset"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			streams, results := make(chan *Stream), make(chan string, 1)
			p := serve(t, func(s *Stream) {
				head := make([]byte, 9000)
				s.AwaitRead() // for the head, which is there
				if _, err := s.Read(head); err != nil {
					t.Error(err)
				}
				streams <- s
				s.AwaitRead()
				n, err := s.Read(head)
				got := strconv.Quote(string(head[:n]))
				if err != nil {
					got = err.Error()
				}
				results <- got
			})
			id := p.begin(false, post()...)
			s := <-streams
			select {
			case got := <-results:
				t.Fatalf("did not wait for anything: %s", got)
			case <-time.After(10 * time.Millisecond):
			}
			tc.happens(p, s, id)
			if got := <-results; got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestClientThatResetsIsNoticed(t *testing.T) {
	t.Parallel()
	began, gone := make(chan *Stream), make(chan error, 2)
	p := serve(t, func(s *Stream) {
		began <- s
		_, err := io.ReadAll(s)
		gone <- err
		gone <- answer(s, 0)
	})
	id := p.begin(false, post()...)
	s := <-began
	if s.Gone() || s.Quiet() {
		t.Error("an open stream is gone, or quiet")
	}
	p.must(p.WriteRSTStream(id, wire.ErrCodeCancel))
	if err := <-gone; !errors.Is(err, errReset) || !s.Gone() {
		t.Errorf("reading ended with %v, gone: %t", err, s.Gone())
	}
	if err := <-gone; !errors.Is(err, errReset) {
		t.Errorf("the response ended with %v", err)
	}
	// The connection goes on.
	id = p.begin(true, get()...)
	<-began
	p.response(id)
}

func TestQueueKeepsOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		var model []byte
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "put") {
				p := bytes.Repeat([]byte{byte(rapid.IntRange(0, 255).Draw(t, "byte"))}, rapid.IntRange(0, 3*maxFrame).Draw(t, "length"))
				q.put(p)
				model = append(model, p...)
				continue
			}
			p := make([]byte, rapid.IntRange(0, 3*maxFrame).Draw(t, "wanted"))
			n := q.get(p)
			if n != min(len(p), len(model)) || !bytes.Equal(p[:n], model[:n]) {
				t.Fatalf("got %d bytes, want %d", n, min(len(p), len(model)))
			}
			model = model[n:]
		}
		if q.n != len(model) || q.drop() != len(model) {
			t.Fatalf("%d bytes are left, want %d", q.n, len(model))
		}
	})
}

func TestManyStreamsAtOnce(t *testing.T) {
	t.Parallel()
	p := serve(t, echo)
	const rounds = 200
	for range rounds {
		want := map[uint32]string{}
		got := map[uint32]string{}
		for i := range 5 {
			id := p.begin(false, post("content-length", "3")...)
			p.must(p.WriteData(id, true, fmt.Appendf(nil, "%03d", i)))
			want[id] = fmt.Sprintf("|%03d", i)
		}
		for ended := 0; ended < 5; {
			if f, ok := p.skip().(*wire.DataFrame); ok {
				got[f.StreamID] += string(f.Data())
				if f.StreamEnded() {
					ended++
				}
				p.must(p.WriteWindowUpdate(0, max(f.Length, 1)))
			}
		}
		for id, text := range want {
			if !strings.HasSuffix(got[id], text) {
				t.Fatalf("stream %d got %q, want %q at its end", id, got[id], text)
			}
		}
	}
}
