package sock

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// secure is what a TLS connection has beside its socket.
type secure struct {
	tls     *tls.Conn
	carrier *carrier
	under   *Conn

	// early is a byte that Quiet has found and the next read gets; it belongs to the reader.
	early    [1]byte
	hasEarly bool
	tryPeek  func(fd uintptr) bool
}

// NewTLS makes nc the server's side of a TLS connection, which Conn owns from now on. Handshake comes next.
func NewTLS(nc net.Conn, config *tls.Config) *Conn {
	s := &secure{under: New(nc), tryPeek: somethingToRead}
	s.carrier = &carrier{Conn: nc, sock: s.under}
	s.tls = tls.Server(s.carrier, config)
	return &Conn{nc: s.tls, secure: s}
}

// Handshake runs the TLS handshake and returns the protocol that ALPN agreed on, or "". Unblock ends it.
func (c *Conn) Handshake() (protocol string, err error) {
	if err := c.secure.tls.HandshakeContext(context.Background()); err != nil {
		return "", err
	}
	return c.secure.tls.ConnectionState().NegotiatedProtocol, nil
}

// carrier carries TLS records over the socket, for a tls.Conn. It takes the short way of package sock, and it can hold
// records back: those of one write go to the kernel together.
type carrier struct {
	net.Conn
	sock *Conn
	dry  bool // reads find nothing; belongs to the reader

	mu   sync.Mutex // held while records go out: the reader, too, has some to send now and then (alerts, new keys)
	held *Buffer    // guarded by mu; records held back, in B[:n]
	n    int        // guarded by mu
}

// Read implements net.Conn.
func (c *carrier) Read(p []byte) (int, error) {
	if c.dry {
		return 0, os.ErrDeadlineExceeded
	}
	return c.sock.Read(p)
}

// Write implements net.Conn.
func (c *carrier) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil && c.n+len(p) > len(c.held.B) {
		if err := c.send(); err != nil {
			return 0, err
		}
	}
	if c.held != nil {
		c.n += copy(c.held.B[c.n:], p)
		return len(p), nil
	}
	if err := c.sock.Write(p, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// hold makes writes wait until release.
func (c *carrier) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = heldPool.Get().(*Buffer)
}

// release sends what has been held back.
func (c *carrier) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.send()
	heldPool.Put(c.held)
	c.held = nil
	return err
}

// send sends what is held back. The caller holds mu.
func (c *carrier) send() error {
	n := c.n
	c.n = 0
	return c.sock.Write(c.held.B[:n], nil)
}

// SetWriteDeadline implements net.Conn. Package tls sets one for its close_notify alone, of five seconds.
func (c *carrier) SetWriteDeadline(t time.Time) error {
	if latest := time.Now().Add(closeNotifyTimeout); t.After(latest) {
		t = latest
	}
	return c.Conn.SetWriteDeadline(t)
}

const (
	maxPlaintext = 16 << 10 // of one TLS record (RFC 8446 §5.1)
	heldBytes    = 64 << 10
	// smallWrite is what package tls puts into one record even at the beginning of a connection, where its records are
	// as short as TCP segments.
	smallWrite = 1 << 10
	// closeNotifyTimeout is how long close_notify may wait for room in a full socket.
	closeNotifyTimeout = time.Second
)

var (
	plaintexts = sync.Pool{New: func() any { return &Buffer{B: make([]byte, maxPlaintext)} }}
	heldPool   = sync.Pool{New: func() any { return &Buffer{B: make([]byte, heldBytes)} }}
)

// write sends a and b: in one record if they fit into one, and with as few system calls as records allow.
func (s *secure) write(a, b []byte) error {
	if len(a)+len(b) <= smallWrite {
		return s.join(a, b)
	}
	s.carrier.hold()
	err := s.join(a, b)
	return errors.Join(err, s.carrier.release())
}

func (s *secure) join(a, b []byte) error {
	if len(a) > 0 && len(b) > 0 && len(a)+len(b) <= maxPlaintext {
		joined := plaintexts.Get().(*Buffer)
		defer plaintexts.Put(joined)
		n := copy(joined.B, a)
		n += copy(joined.B[n:], b)
		a, b = joined.B[:n], nil
	}
	for _, p := range [2][]byte{a, b} {
		if len(p) > 0 {
			if _, err := s.tls.Write(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *secure) read(p []byte) (int, error) {
	if s.hasEarly && len(p) > 0 {
		s.hasEarly = false
		p[0] = s.early[0]
		return 1, nil
	}
	n, err := s.tls.Read(p)
	if n > 0 {
		err = nil // in TLS 1.2 a close_notify comes together with the bytes before it; the next read gives it again
	}
	return n, err
}

// readBuffered reads what TLS holds already, without asking the socket: it then fails with os.ErrDeadlineExceeded.
func (s *secure) readBuffered(p []byte) (int, error) {
	s.carrier.dry = true
	defer func() { s.carrier.dry = false }()
	return s.read(p)
}

// borrow is Borrow for TLS: the buffer is taken once the socket has something, which may still be less than a record.
func (s *secure) borrow(pool *sync.Pool) (*Buffer, int, error) {
	b := pool.Get().(*Buffer)
	n, err := s.readBuffered(b.B)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		pool.Put(b)
		if s.under.raw != nil {
			if err := s.under.raw.Read(s.tryPeek); err != nil {
				return nil, 0, err
			}
		}
		b = pool.Get().(*Buffer)
		n, err = s.read(b.B)
	}
	return lend(pool, b, n, err)
}

// somethingToRead reports whether a read would not have to wait.
func somethingToRead(fd uintptr) bool {
	for {
		if _, errno := peek(fd); errno != syscall.EINTR {
			return errno != syscall.EAGAIN
		}
	}
}

func (s *secure) quiet() bool {
	if !s.hasEarly {
		n, _ := s.readBuffered(s.early[:])
		s.hasEarly = n > 0
	}
	return !s.hasEarly && s.under.Quiet()
}

// closeWrite sends close_notify, so that the peer knows that nothing was cut off, and then TCP's FIN.
func (s *secure) closeWrite() {
	_ = s.tls.CloseWrite()
	s.under.CloseWrite()
}
