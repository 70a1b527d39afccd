// Package sock reads and writes stream sockets with as little CPU as the kernel's interface allows.
//
// It lies below both sides of the gateway: connections from clients and to replicas. In: a net.Conn. Out: reads that
// borrow their buffer only once there is something to read, so that an idle connection holds none. A write takes two
// parts in one system call. The kernel's state of a peer can be read without disturbing the connection's owner.
//
// It bypasses net.Conn because that costs a scheduler hand-over around every system call. For calls that never block
// (these sockets are non-blocking) that is a tenth of the gateway's time. The runtime's poller, deadlines and life
// cycle stay in charge.
//
// TLS runs on top of such a socket (NewTLS). A connection without a socket (a pipe within the process, a stream of
// HTTP/2) falls back to its own Read and Write. It also falls back to its Gone, Quiet, Abort, AwaitRead and WriteBoth
// if it has them.
package sock

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Conn is a connection. One goroutine may read while another writes; Gone, Unblock and Close are free for all.
type Conn struct {
	nc     net.Conn
	raw    syscall.RawConn // nil if this is no kernel socket
	secure *secure         // nil if this is not TLS
	both   bothWriter      // nil unless nc, which is no socket, is one

	// Written counts the bytes the kernel has taken for sending. It belongs to the writer.
	Written uint64

	read struct {
		into []byte
		pool *sync.Pool
		buf  *Buffer
		n    int
		err  syscall.Errno
	}
	write                        writeState
	tryRead, tryBorrow, tryWrite func(fd uintptr) bool
	tryPeek, tryLain             func(fd uintptr)
	quiet                        bool          // what tryPeek saw
	lain                         time.Duration // what tryLain saw
}

// writeState is a write under way: two parts, of which left bytes are still to go.
type writeState struct {
	iov  [2]syscall.Iovec
	left int
	err  syscall.Errno
	msg  syscall.Msghdr
}

// bothWriter is a connection without a socket that wants both parts of a write at once.
type bothWriter interface {
	// WriteBoth sends a, then b, whole, and returns how many bytes went out.
	WriteBoth(a, b []byte) (int, error)
}

// readWaiter is a connection without a socket that can wait for something to read without a buffer.
type readWaiter interface {
	// AwaitRead returns once Read would not wait.
	AwaitRead()
}

// Buffer is a borrowed buffer; its owner puts it back.
type Buffer struct{ B []byte }

// New wraps nc, which Conn owns from now on.
func New(nc net.Conn) *Conn {
	c := &Conn{nc: nc}
	if s, ok := nc.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			c.raw = raw
			c.tryRead, c.tryBorrow, c.tryWrite, c.tryPeek, c.tryLain = c.doRead, c.doBorrow, c.doWrite, c.doPeek, c.doLain
			return c
		}
	}
	c.both, _ = nc.(bothWriter)
	return c
}

// NetConn is the connection underneath.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Close closes the connection in order.
func (c *Conn) Close() error { return c.nc.Close() }

// Abort closes it so that the peer cannot take what it has received for the whole: with a reset where TCP has one.
func (c *Conn) Abort() {
	switch nc := c.nc.(type) {
	case *net.TCPConn:
		_ = nc.SetLinger(0)
	case *tls.Conn:
		c.secure.under.Abort() // no close_notify: it would make what was sent look whole, and can block
		return
	case interface{ Abort() }:
		nc.Abort()
		return
	}
	_ = c.nc.Close()
}

// CloseWrite ends the sending direction, if the connection can.
func (c *Conn) CloseWrite() {
	if c.secure != nil {
		c.secure.closeWrite()
		return
	}
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// Unblock makes reads and writes return os.ErrDeadlineExceeded, now and until Rearm.
func (c *Conn) Unblock() { _ = c.nc.SetDeadline(past) }

// UnblockRead is Unblock for reads alone.
func (c *Conn) UnblockRead() { _ = c.nc.SetReadDeadline(past) }

// Rearm ends the effect of Unblock and UnblockRead.
func (c *Conn) Rearm() { _ = c.nc.SetDeadline(time.Time{}) }

// Read reads into p; at the end of the stream it returns io.EOF.
func (c *Conn) Read(p []byte) (int, error) {
	if c.raw == nil {
		if c.secure != nil {
			return c.secure.read(p)
		}
		return c.nc.Read(p)
	}
	c.read.into = p
	err := c.raw.Read(c.tryRead)
	c.read.into = nil
	return c.readResult(err)
}

// Borrow waits for bytes and only then takes a buffer from pool (of *Buffer) to read them into.
// The buffer is the caller's if err is nil, and n is at least 1 then; otherwise it is nil.
func (c *Conn) Borrow(pool *sync.Pool) (b *Buffer, n int, err error) {
	if c.raw == nil {
		if c.secure != nil {
			return c.secure.borrow(pool)
		}
		if w, ok := c.nc.(readWaiter); ok {
			w.AwaitRead()
		}
		b = pool.Get().(*Buffer)
		n, err = c.nc.Read(b.B)
		return lend(pool, b, n, err)
	}
	c.read.pool = pool
	err = c.raw.Read(c.tryBorrow)
	n, err = c.readResult(err)
	b, c.read.buf = c.read.buf, nil
	return b, n, err
}

// lend is the end of Borrow with a buffer that has been read into. An error that came with bytes comes again with the next
// read, as io.Reader has it.
func lend(pool *sync.Pool, b *Buffer, n int, err error) (*Buffer, int, error) {
	if n > 0 {
		return b, n, nil
	}
	pool.Put(b)
	if err == nil {
		err = io.ErrNoProgress
	}
	return nil, 0, err
}

func (c *Conn) readResult(err error) (int, error) {
	switch {
	case err != nil:
		return 0, err
	case c.read.err != 0:
		return 0, os.NewSyscallError("recv", c.read.err)
	case c.read.n == 0:
		return 0, io.EOF
	}
	return c.read.n, nil
}

func (c *Conn) doRead(fd uintptr) bool { return c.recv(fd, c.read.into) }

func (c *Conn) doBorrow(fd uintptr) bool {
	b := c.read.pool.Get().(*Buffer)
	done := c.recv(fd, b.B)
	if done && c.read.err == 0 && c.read.n > 0 {
		c.read.buf = b
	} else {
		c.read.pool.Put(b)
	}
	return done
}

// recv tries once and reports whether it got an answer other than "not yet".
func (c *Conn) recv(fd uintptr, p []byte) bool {
	for {
		// The socket is non-blocking, so the call returns at once and need not tell the scheduler of itself.
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
		switch errno {
		case 0:
			c.read.n, c.read.err = int(n), 0
			return true
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			c.read.n, c.read.err = 0, errno
			return true
		}
	}
}

// Write sends a, then b, whole; b may be empty. Where it fails, Written says how far it came.
func (c *Conn) Write(a, b []byte) error {
	if c.raw == nil {
		return c.writeOther(a, b)
	}
	w := &c.write
	w.iov[0].Base, w.iov[0].Len = unsafe.SliceData(a), uint64(len(a))
	w.iov[1].Base, w.iov[1].Len = unsafe.SliceData(b), uint64(len(b))
	w.left, w.err = len(a)+len(b), 0
	if w.left == 0 {
		return nil
	}
	err := c.raw.Write(c.tryWrite)
	w.iov[0].Base, w.iov[1].Base = nil, nil
	if err == nil && w.err != 0 {
		err = os.NewSyscallError("send", w.err)
	}
	return err
}

// writeOther is Write where there is no socket.
func (c *Conn) writeOther(a, b []byte) error {
	if c.secure != nil {
		return c.secure.write(a, b)
	}
	if c.both != nil {
		n, err := c.both.WriteBoth(a, b)
		c.Written += uint64(n)
		return err
	}
	for _, p := range [2][]byte{a, b} {
		if len(p) > 0 {
			n, err := c.nc.Write(p)
			c.Written += uint64(n)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// doWrite sends until everything is gone, the socket is full or broken.
func (c *Conn) doWrite(fd uintptr) bool {
	w := &c.write
	for w.left > 0 {
		var n uintptr
		var errno syscall.Errno
		// MSG_NOSIGNAL: a peer that left is an error here, not a signal to the process.
		if w.iov[1].Len == 0 {
			n, _, errno = syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(w.iov[0].Base)), uintptr(w.iov[0].Len), syscall.MSG_NOSIGNAL, 0, 0)
		} else {
			w.msg.Iov, w.msg.Iovlen = &w.iov[0], 2
			n, _, errno = syscall.RawSyscall(syscall.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&w.msg)), syscall.MSG_NOSIGNAL)
		}
		switch errno {
		case 0:
			c.Written += uint64(n)
			w.advance(int(n))
		case syscall.EAGAIN:
			return false
		case syscall.EINTR:
		default:
			w.err = errno
			return true
		}
	}
	return true
}

// advance moves the vectors past n sent bytes.
func (w *writeState) advance(n int) {
	w.left -= n
	for i := range w.iov {
		v := &w.iov[i]
		step := min(n, int(v.Len))
		if step > 0 {
			v.Len -= uint64(step)
			n -= step
			if v.Len == 0 {
				v.Base = nil // one past the end would be some other object
			} else {
				v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), step))
			}
		}
	}
	if w.iov[0].Len == 0 {
		w.iov[0], w.iov[1] = w.iov[1], syscall.Iovec{}
	}
}
