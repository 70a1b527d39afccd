package sock

import (
	"encoding/binary"
	"io"
	"syscall"
	"time"
	"unsafe"
)

// Gone reports whether the peer has closed or broken the connection, as far as the kernel knows. It never blocks and
// consumes no byte, so it may run beside a reader. A connection without a socket is asked for its own method Gone;
// one without that counts as open. Of TLS the TCP connection is asked. A client's close_notify lies before its FIN
// like data, and only the reader can tell the two apart.
func (c *Conn) Gone() bool {
	if c.secure != nil {
		return c.secure.under.finished()
	}
	if c.raw == nil {
		asked, ok := c.nc.(interface{ Gone() bool })
		return ok && asked.Gone()
	}
	gone := false
	err := c.raw.Control(func(fd uintptr) {
		n, errno := peek(fd)
		gone = errno == 0 && n == 0 || errno != 0 && errno != syscall.EAGAIN && errno != syscall.EINTR
	})
	return gone || err != nil
}

// Quiet reports whether a connection without a request under way is fit for one: open, and nothing unasked for in it.
// It belongs to the reader. A connection without a socket is asked for its own method Quiet; one that has none is quiet.
func (c *Conn) Quiet() bool {
	if c.secure != nil {
		return c.secure.quiet()
	}
	if c.raw == nil {
		asked, ok := c.nc.(interface{ Quiet() bool })
		return !ok || asked.Quiet()
	}
	err := c.raw.Control(c.tryPeek)
	return c.quiet && err == nil
}

func (c *Conn) doPeek(fd uintptr) {
	_, errno := peek(fd)
	c.quiet = errno == syscall.EAGAIN
}

// peek reads at most one byte, leaves it where it is and does not wait for it.
func peek(fd uintptr) (n uintptr, errno syscall.Errno) {
	var b [1]byte
	n, _, errno = syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return n, errno
}

// Offsets into struct tcp_info of <linux/tcp.h>; bytes_acked exists since Linux 4.1.
const (
	tcpInfoState      = 0
	tcpInfoUnacked    = 24
	tcpInfoLastData   = 52 // milliseconds since data came
	tcpInfoBytesAcked = 120
	tcpInfoNeeded     = tcpInfoBytesAcked + 8
)

// States of <net/tcp_states.h>.
const (
	tcpStateClosed    = 7
	tcpStateCloseWait = 8 // the peer's FIN has come
	tcpStateLastAck   = 9 // and ours has gone
	tcpStateClosing   = 11
)

// tcpInfo asks for struct tcp_info; it returns nil if the kernel does not give all that is used of it.
func tcpInfo(fd uintptr, into *[256]byte) []byte {
	size := uint32(len(into))
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(into)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || size < tcpInfoNeeded {
		return nil
	}
	return into[:size]
}

// finished reports whether the peer sends no more, by the state of TCP alone: unread data does not hide it.
func (c *Conn) finished() bool {
	if c.raw == nil {
		return c.Gone()
	}
	over := false
	err := c.raw.Control(func(fd uintptr) {
		var space [256]byte
		if info := tcpInfo(fd, &space); info != nil {
			switch info[tcpInfoState] {
			case tcpStateClosed, tcpStateCloseWait, tcpStateLastAck, tcpStateClosing:
				over = true
			}
		}
	})
	return over || err != nil
}

// Lain is how long ago the newest of the peer's data came, which may have lain in the kernel since. It is 0 if that is not
// known. It belongs to the reader. A connection without a socket is asked for its own method Lain.
func (c *Conn) Lain() time.Duration {
	if c.secure != nil {
		c = c.secure.under
	}
	if c.raw == nil {
		if asked, ok := c.nc.(interface{ Lain() time.Duration }); ok {
			return asked.Lain()
		}
		return 0
	}
	if c.raw.Control(c.tryLain) != nil {
		return 0
	}
	return c.lain
}

func (c *Conn) doLain(fd uintptr) {
	var space [256]byte
	c.lain = 0
	if info := tcpInfo(fd, &space); info != nil {
		c.lain = time.Duration(binary.NativeEndian.Uint32(info[tcpInfoLastData:])) * time.Millisecond
	}
}

// NeverArrived reports whether it is certain that the peer's process received no byte beyond the first sent ones, on
// a connection that ended with ended. A false answer means "not certain". pending then says that the peer's
// acknowledgement or reset is still on its way.
//
// It is certain if nothing more was handed to the kernel, and in one other case. The peer closed in order (io.EOF:
// its FIN came), has since answered with a reset, and has not acknowledged the bytes. A FIN acknowledges all that
// came before it, and no process can read what comes after a close.
//
// That takes the FIN for a close. A peer may also shut down its sending side alone, read on, and reset before its
// kernel sends a delayed acknowledgement. That looks the same from here. A reset without a FIN proves nothing,
// because acknowledgements may lag behind what was read.
func (c *Conn) NeverArrived(sent uint64, ended error) (certain, pending bool) {
	if c.Written == sent {
		return true, false
	}
	if c.raw == nil || ended != io.EOF {
		return false, false
	}
	_ = c.raw.Control(func(fd uintptr) {
		var space [256]byte
		info := tcpInfo(fd, &space)
		if info == nil {
			return
		}
		acked := binary.NativeEndian.Uint64(info[tcpInfoBytesAcked:])
		unacked := binary.NativeEndian.Uint32(info[tcpInfoUnacked:])
		missing := acked <= sent+1 // our SYN counts as one byte
		certain = missing && info[tcpInfoState] == tcpStateClosed
		pending = missing && !certain && unacked > 0
	})
	return certain, pending
}

// tcpUserTimeout is TCP_USER_TIMEOUT of <linux/tcp.h>, which package syscall lacks.
const tcpUserTimeout = 0x12

// LimitSilence breaks the connection once bytes that were sent have gone unacknowledged for d (RFC 5482).
func (c *Conn) LimitSilence(d time.Duration) {
	if c.raw == nil {
		return
	}
	_ = c.raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
	})
}
