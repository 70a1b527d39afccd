package watchdog

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// listener hands out connections whose reads and writes cost less, see conn.
type listener struct{ net.Listener }

// Accept waits for the next connection.
func (l listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := accepted.(*net.TCPConn)
	if !ok {
		return accepted, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	c := &conn{TCPConn: tcp, raw: raw}
	c.receive.attempt, c.send.attempt = c.tryReceive, c.trySend
	return c, nil
}

// conn makes its system calls without telling the scheduler of them. Calls that never block need not tell, and telling
// costs a tenth of a small request: a call of above 20 µs, as a write is while the kernel carries its packet through a
// container's network, loses its processor to another thread, which has to be woken for that.
// Waiting and deadlines stay with the runtime, and errors look as they do there. One goroutine at a time may read, and
// one may write, which is all that net/http does.
type conn struct {
	*net.TCPConn
	raw           syscall.RawConn
	receive, send transfer
}

// transfer is one direction: what is to be moved, and what came of it.
type transfer struct {
	data    []byte
	n       int
	err     syscall.Errno
	attempt func(fd uintptr) (done bool) // made once, so that a call allocates nothing
}

// Read waits for bytes and returns what there is; at the end it returns io.EOF.
func (c *conn) Read(p []byte) (int, error) {
	t := &c.receive
	t.data, t.n, t.err = p, 0, 0
	err := c.raw.Read(t.attempt)
	t.data = nil
	if err != nil || t.err != 0 {
		return 0, c.failure("read", err, t.err)
	}
	if t.n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return t.n, nil
}

// Write sends all of p unless it fails.
func (c *conn) Write(p []byte) (int, error) {
	t := &c.send
	t.data, t.n, t.err = p, 0, 0
	err := c.raw.Write(t.attempt)
	t.data = nil
	if err != nil || t.err != 0 {
		return t.n, c.failure("write", err, t.err)
	}
	return t.n, nil
}

// failure is the error that a net.TCPConn would have returned; net/http looks at its Op.
func (c *conn) failure(op string, err error, errno syscall.Errno) error {
	var waiting *net.OpError
	if errors.As(err, &waiting) {
		err = waiting.Err
	}
	if err == nil {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (c *conn) tryReceive(fd uintptr) (done bool) {
	t := &c.receive
	t.n, t.err = move(syscall.SYS_RECVFROM, fd, t.data)
	return t.err != syscall.EAGAIN
}

func (c *conn) trySend(fd uintptr) (done bool) {
	t := &c.send
	for t.n < len(t.data) {
		var n int
		if n, t.err = move(syscall.SYS_SENDTO, fd, t.data[t.n:]); t.err != 0 {
			return t.err != syscall.EAGAIN
		}
		t.n += n
	}
	return true
}

// move makes one call that does not block, whatever mode somebody has put the socket into.
func move(call, fd uintptr, p []byte) (n int, err syscall.Errno) {
	for {
		moved, _, err := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		if err == 0 {
			return int(moved), 0
		}
		if err != syscall.EINTR {
			return 0, err
		}
	}
}
