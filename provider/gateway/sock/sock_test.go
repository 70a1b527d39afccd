package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// pair is a TCP connection wrapped at one end.
func pair(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close(); _ = peer.Close() })
	return New(nc), peer.(*net.TCPConn)
}

func newPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &Buffer{B: make([]byte, size)} }}
}

// settle reads to the end and waits until the peer's verdict on what was written is known.
func settle(c *Conn, sent uint64) bool {
	var err error
	for p := make([]byte, 9); err == nil; {
		_, err = c.Read(p)
	}
	for {
		if certain, pending := c.NeverArrived(sent, err); certain || !pending {
			return certain
		}
	}
}

func TestWritesArriveWholeAndInOrder(t *testing.T) {
	t.Parallel()
	for name, sizes := range map[string][2]int{"one": {10, 0}, "two": {10, 20}, "second only": {0, 20}, "more than the socket holds": {8 << 20, 8<<20 + 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, peer := pair(t)
			a, b := bytes.Repeat([]byte("a"), sizes[0]), bytes.Repeat([]byte("b"), sizes[1])
			got := make(chan []byte)
			go func() { all, _ := io.ReadAll(peer); got <- all }()
			if err := c.Write(a, b); err != nil {
				t.Fatal(err)
			}
			if c.Written != uint64(len(a)+len(b)) {
				t.Errorf("counted %d of %d bytes", c.Written, len(a)+len(b))
			}
			c.CloseWrite()
			if all := <-got; !bytes.Equal(all, append(a, b...)) {
				t.Errorf("%d bytes arrived differently", len(all))
			}
		})
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	c, peer := pair(t)
	pool := newPool(4)
	_, _ = peer.Write([]byte("abcdef"))
	b, n, err := c.Borrow(pool)
	if err != nil || string(b.B[:n]) != "abcd" {
		t.Fatalf("borrowed %v, error %v", b, err)
	}
	p := make([]byte, 9)
	if n, err := c.Read(p); err != nil || string(p[:n]) != "ef" {
		t.Errorf("read %q, error %v", p[:n], err)
	}
	if !c.Quiet() || c.Gone() {
		t.Error("an open, silent connection is not quiet")
	}
	_ = peer.CloseWrite()
	if b, _, err := c.Borrow(pool); err != io.EOF || b != nil {
		t.Errorf("at the end: buffer %v, error %v", b, err)
	}
	if _, err := c.Read(p); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if c.Quiet() || !c.Gone() {
		t.Error("a closed connection is quiet")
	}
}

func TestUnblockAndRearm(t *testing.T) {
	t.Parallel()
	c, peer := pair(t)
	got := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); got <- err }()
	c.Unblock()
	if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("unblocked with %v", err)
	}
	c.Rearm()
	_, _ = peer.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("after rearming: %d, %v", n, err)
	}
}

func TestOtherConnectionsFallBack(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	defer there.Close()
	c := New(here)
	defer c.Close()
	written := make(chan error, 1)
	go func() { written <- c.Write([]byte("ab"), []byte("c")) }()
	p := make([]byte, 3)
	if _, err := io.ReadFull(there, p); err != nil || string(p) != "abc" || <-written != nil || c.Written != 3 {
		t.Errorf("wrote %q, counted %d, error %v", p, c.Written, err)
	}
	go func() { _, _ = there.Write([]byte("xyz")) }()
	b, n, err := c.Borrow(newPool(9))
	if err != nil || string(b.B[:n]) != "xyz" {
		t.Errorf("borrowed %v, error %v", b, err)
	}
	if certain, pending := c.NeverArrived(0, io.EOF); certain || pending || c.Gone() || !c.Quiet() {
		t.Error("claims to know the peer of something that is no socket")
	}
}

// lastWords is a connection without a socket that gives its last bytes together with its end.
type lastWords struct {
	net.Conn
	left string
}

func (l *lastWords) Read(p []byte) (n int, err error) {
	n = copy(p, l.left)
	l.left = l.left[n:]
	return n, io.EOF
}

func TestBorrowKeepsTheErrorForLater(t *testing.T) {
	t.Parallel()
	c := New(&lastWords{left: "ab"})
	b, n, err := c.Borrow(newPool(9))
	if err != nil || string(b.B[:n]) != "ab" {
		t.Errorf("borrowed %v, error %v", b, err)
	}
	if b, _, err := c.Borrow(newPool(9)); err != io.EOF || b != nil {
		t.Errorf("at the end: buffer %v, error %v", b, err)
	}
}

// slowReader is a connection without a socket whose bytes come late.
type slowReader struct {
	net.Conn
	taken   *atomic.Bool
	came    chan struct{}
	tooSoon bool
}

func (r *slowReader) AwaitRead() {
	<-r.came
	r.tooSoon = r.taken.Load()
}

func TestNoBufferWhileThereIsNothingToRead(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	defer there.Close()
	taken := new(atomic.Bool)
	pool := &sync.Pool{New: func() any { taken.Store(true); return &Buffer{B: make([]byte, 9)} }}
	slow := &slowReader{Conn: here, taken: taken, came: make(chan struct{})}
	c := New(slow)
	defer c.Close()
	go func() {
		close(slow.came)
		_, _ = there.Write([]byte("xyz"))
	}()
	b, n, err := c.Borrow(pool)
	if err != nil || string(b.B[:n]) != "xyz" {
		t.Errorf("borrowed %v, error %v", b, err)
	}
	if slow.tooSoon || !taken.Load() {
		t.Errorf("buffer taken before there was something to read: %t; at all: %t", slow.tooSoon, taken.Load())
	}
}

// TestNeverArrived is about the proof that lets a request be sent again. It must hold when the peer had closed before
// the request came, and must not be claimed once the peer's kernel has taken a byte.
func TestNeverArrived(t *testing.T) {
	t.Parallel()
	hello := []byte("hello")
	exchange := func(t *testing.T, c *Conn, peer *net.TCPConn) {
		t.Helper()
		if err := c.Write(hello, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, make([]byte, len(hello))); err != nil {
			t.Fatal(err)
		}
		_, _ = peer.Write([]byte("!"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("peer closed before", func(t *testing.T) {
		t.Parallel()
		c, peer := pair(t)
		exchange(t, c, peer)
		_ = peer.Close()
		sent := c.Written
		_ = c.Write(hello, nil)
		if !settle(c, sent) {
			t.Error("not certain")
		}
	})
	t.Run("peer read it and closed", func(t *testing.T) {
		t.Parallel()
		c, peer := pair(t)
		exchange(t, c, peer)
		sent := c.Written
		_ = c.Write(hello, nil)
		_, _ = io.ReadFull(peer, make([]byte, len(hello)))
		_ = peer.Close()
		if settle(c, sent) {
			t.Error("claimed although the peer had read it")
		}
	})
	t.Run("peer got it and reset", func(t *testing.T) {
		t.Parallel()
		c, peer := pair(t)
		exchange(t, c, peer)
		sent := c.Written
		_ = c.Write(hello, nil)
		_, _ = io.ReadFull(peer, make([]byte, 1))
		_ = peer.SetLinger(0)
		_ = peer.Close()
		if settle(c, sent) {
			t.Error("claimed although the peer had a part of it")
		}
	})
	t.Run("open connection", func(t *testing.T) {
		t.Parallel()
		c, peer := pair(t)
		exchange(t, c, peer)
		sent := c.Written
		if certain, _ := c.NeverArrived(sent, nil); !certain {
			t.Error("not certain although nothing was written")
		}
		_ = c.Write(hello, nil)
		if certain, _ := c.NeverArrived(sent, io.EOF); certain {
			t.Error("claimed of a connection that is open")
		}
	})
}
