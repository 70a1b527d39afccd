package watchdog

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair is both ends of a connection: ours, and a plain one.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if theirs, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = (listener{l}).Accept(); err != nil {
		t.Fatal(err)
	}
	if _, ok := ours.(*conn); !ok {
		t.Fatalf("accepted a %T", ours)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestConnMovesMoreThanBuffersHold(t *testing.T) {
	t.Parallel()
	ours, theirs := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go func() {
		_, _ = io.Copy(theirs, theirs) // the echo stops when it cannot go on: both directions have to wait
		_ = theirs.(*net.TCPConn).CloseWrite()
	}()
	written := make(chan error, 1)
	go func() {
		n, err := ours.Write(sent)
		if n != len(sent) {
			err = errors.Join(err, io.ErrShortWrite)
		}
		written <- errors.Join(err, ours.(*conn).CloseWrite())
	}()
	got, err := io.ReadAll(ours)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

func TestConnFailsAsTCPDoes(t *testing.T) {
	t.Parallel()
	read := func(c net.Conn) (int, error) { return c.Read(make([]byte, 1)) }
	write := func(c net.Conn) (int, error) { return c.Write(make([]byte, 64<<20)) }
	tests := map[string]struct {
		prepare func(ours, theirs net.Conn) error
		do      func(net.Conn) (int, error)
		op      string // "" is io.EOF itself
		want    error
	}{
		"end":            {func(_, theirs net.Conn) error { return theirs.Close() }, read, "", io.EOF},
		"read deadline":  {func(ours, _ net.Conn) error { return ours.SetReadDeadline(time.Now().Add(time.Millisecond)) }, read, "read", os.ErrDeadlineExceeded},
		"write deadline": {func(ours, _ net.Conn) error { return ours.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)) }, write, "write", os.ErrDeadlineExceeded},
		"closed here":    {func(ours, _ net.Conn) error { return ours.Close() }, read, "read", net.ErrClosed},
		"reset": {func(_, theirs net.Conn) error {
			return errors.Join(theirs.(*net.TCPConn).SetLinger(0), theirs.Close())
		}, read, "read", syscall.ECONNRESET},
		"a write after a reset": {func(ours, theirs net.Conn) error {
			err := errors.Join(theirs.(*net.TCPConn).SetLinger(0), theirs.Close())
			_, _ = read(ours)
			return err
		}, write, "write", syscall.EPIPE},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := pair(t)
			if err := test.prepare(ours, theirs); err != nil {
				t.Fatal(err)
			}
			n, err := test.do(ours)
			var wrapped *net.OpError
			if !errors.Is(err, test.want) || errors.As(err, &wrapped) != (test.op != "") || wrapped != nil && wrapped.Op != test.op {
				t.Errorf("got %d, %v (%T), want %v of %q", n, err, err, test.want, test.op)
			}
		})
	}
}

func TestConnAllocatesNothing(t *testing.T) {
	ours, theirs := pair(t)
	go func() { _, _ = io.Copy(theirs, theirs) }()
	message := make([]byte, 16)
	round := func() {
		if _, err := ours.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(ours, message); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%g allocations for a write and a read", n)
	}
}
