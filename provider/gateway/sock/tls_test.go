package sock

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// testTLS is a server's configuration that no client has to trust.
var testTLS = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2"}}
})

// securePair is a TLS connection whose server is wrapped; below is the client's TCP connection.
func securePair(t *testing.T, versions ...uint16) (c *Conn, client *tls.Conn, below *net.TCPConn) {
	t.Helper()
	_, below, server := rawPair(t)
	c = NewTLS(server, testTLS())
	client = tls.Client(below, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	for _, v := range versions {
		client = tls.Client(below, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: v})
	}
	failed := make(chan error, 1)
	go func() { failed <- client.Handshake() }()
	protocol, err := c.Handshake()
	if err := errors.Join(err, <-failed); err != nil || protocol != "h2" {
		t.Fatalf("protocol %q, error %v", protocol, err)
	}
	return c, client, below
}

// rawPair is a TCP connection, its client wrapped as well.
func rawPair(t *testing.T) (*Conn, *net.TCPConn, *net.TCPConn) {
	t.Helper()
	c, peer := pair(t)
	return c, peer, c.NetConn().(*net.TCPConn)
}

func TestTLSWritesArriveWholeAndInOrder(t *testing.T) {
	t.Parallel()
	for name, sizes := range map[string][2]int{"one": {10, 0}, "two": {10, 20}, "second only": {0, 20}, "a record": {300, 15 << 10},
		"a little more": {300, 17 << 10}, "beyond what is held back": {100 << 10, 100 << 10}, "more than the socket holds": {8 << 20, 8<<20 + 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, client, _ := securePair(t)
			a, b := bytes.Repeat([]byte("a"), sizes[0]), bytes.Repeat([]byte("b"), sizes[1])
			got := make(chan []byte)
			go func() { all, _ := io.ReadAll(client); got <- all }()
			for range 2 { // records grow after the first ones
				if err := c.Write(a, b); err != nil {
					t.Fatal(err)
				}
			}
			c.CloseWrite()
			if all := <-got; !bytes.Equal(all, append(append(a, b...), append(a, b...)...)) {
				t.Errorf("%d bytes arrived differently", len(all))
			}
		})
	}
}

func TestTLSReads(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			c, client, below := securePair(t, version)
			pool := newPool(4)
			_, _ = client.Write([]byte("abcdef"))
			b, n, err := c.Borrow(pool)
			if err != nil || string(b.B[:n]) != "abcd" {
				t.Fatalf("borrowed %v, error %v", b, err)
			}
			// The rest is nowhere but in TLS: that is not quiet, and looking must not lose it.
			for range 2 {
				if c.Quiet() || c.Gone() {
					t.Error("quiet, or gone, with two bytes unread")
				}
			}
			p := make([]byte, 9)
			n, err = io.ReadAtLeast(reader{c}, p, 2)
			if err != nil || string(p[:n]) != "ef" {
				t.Errorf("read %q, error %v", p[:n], err)
			}
			if !c.Quiet() || c.Gone() {
				t.Error("an open, silent connection is not quiet, or gone")
			}
			// Half a request, and the client's close_notify after it.
			_, _ = client.Write([]byte("xy"))
			_ = client.CloseWrite()
			if c.Quiet() || c.Gone() {
				t.Error("quiet, or gone, though TCP is open and there is a request")
			}
			_ = below.CloseWrite()
			for !c.Gone() {
				time.Sleep(time.Millisecond)
			}
			if n, err := io.ReadAtLeast(reader{c}, p, 2); err != nil || string(p[:n]) != "xy" {
				t.Errorf("read %q, error %v", p[:n], err)
			}
			if b, _, err := c.Borrow(pool); err != io.EOF || b != nil {
				t.Errorf("at the end: buffer %v, error %v", b, err)
			}
		})
	}
}

// TestTLSGivesWhatComesWithAFarewell: package tls looks ahead in TLS 1.2, whose alerts it knows by their outside, and
// then returns the last bytes and io.EOF at once.
func TestTLSGivesWhatComesWithAFarewell(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, read := range map[string]func(*Conn) (string, error){
			"read": func(c *Conn) (string, error) { p := make([]byte, 9); n, err := c.Read(p); return string(p[:n]), err },
			"borrow": func(c *Conn) (string, error) {
				b, n, err := c.Borrow(newPool(9))
				if b == nil {
					return "", err
				}
				return string(b.B[:n]), err
			},
			"borrow what was read ahead": func(c *Conn) (string, error) {
				if b, n, err := c.Borrow(newPool(2)); err != nil || string(b.B[:n]) != "la" {
					return "", err
				}
				b, n, err := c.Borrow(newPool(9))
				if b == nil {
					return "", err
				}
				return "la" + string(b.B[:n]), err
			},
		} {
			t.Run(tls.VersionName(version)+" "+name, func(t *testing.T) {
				t.Parallel()
				_, below, server := rawPair(t)
				c := NewTLS(server, testTLS())
				together := &joined{Conn: below}
				client := tls.Client(together, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: version})
				failed := make(chan error, 1)
				go func() { failed <- client.Handshake() }()
				_, err := c.Handshake()
				if err := errors.Join(err, <-failed); err != nil {
					t.Fatal(err)
				}
				together.hold = true
				_, _ = client.Write([]byte("last"))
				_ = client.CloseWrite()
				if _, err := below.Write(together.held); err != nil {
					t.Fatal(err)
				}
				if got, err := read(c); got != "last" || err != nil {
					t.Errorf("read %q, error %v", got, err)
				}
				if n, err := c.Read(make([]byte, 9)); n != 0 || err != io.EOF {
					t.Errorf("behind it: %d bytes, error %v", n, err)
				}
			})
		}
	}
}

// joined is a connection that can hold back what is written, so that all of it arrives together.
type joined struct {
	net.Conn
	hold bool
	held []byte
}

func (j *joined) Write(p []byte) (int, error) {
	if !j.hold {
		return j.Conn.Write(p)
	}
	j.held = append(j.held, p...)
	return len(p), nil
}

// SetWriteDeadline keeps package tls from shutting the connection behind its close_notify, which has yet to go out.
func (j *joined) SetWriteDeadline(time.Time) error { return nil }

type reader struct{ c *Conn }

func (r reader) Read(p []byte) (int, error) { return r.c.Read(p) }

func TestTLSBorrowHoldsNothingWhileItWaits(t *testing.T) {
	t.Parallel()
	c, client, _ := securePair(t)
	var mu sync.Mutex
	taken := 0
	pool := &sync.Pool{New: func() any { mu.Lock(); taken++; mu.Unlock(); return &Buffer{B: make([]byte, 64)} }}
	got := make(chan string)
	for range 3 {
		go func() {
			b, n, err := c.Borrow(pool)
			if err != nil {
				got <- err.Error()
				return
			}
			got <- string(b.B[:n])
		}()
		_, _ = client.Write([]byte("hello"))
		if s := <-got; s != "hello" {
			t.Errorf("got %q", s)
		}
	}
}

func TestTLSUnblockAndRearm(t *testing.T) {
	t.Parallel()
	c, client, _ := securePair(t)
	for name, read := range map[string]func() error{
		"read":   func() error { _, err := c.Read(make([]byte, 1)); return err },
		"borrow": func() error { _, _, err := c.Borrow(newPool(9)); return err },
	} {
		got := make(chan error)
		go func() { got <- read() }()
		c.Unblock()
		if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: unblocked with %v", name, err)
		}
		c.Rearm()
	}
	// Neither direction has suffered.
	_, _ = client.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("after rearming: %d, %v", n, err)
	}
	if err := c.Write([]byte("y"), nil); err != nil {
		t.Errorf("after rearming: %v", err)
	}
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Errorf("after rearming: %v", err)
	}
}

func TestTLSEnds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		end   func(*Conn)
		whole bool // the client can tell that nothing was cut off
	}{
		"in order": {func(c *Conn) { _ = c.Close() }, true},
		"half":     {(*Conn).CloseWrite, true},
		"cut off":  {(*Conn).Abort, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, client, _ := securePair(t)
			_ = c.Write([]byte("part"), nil)
			_, _ = io.ReadFull(client, make([]byte, 4))
			tc.end(c)
			rest, err := io.ReadAll(client)
			if (err == nil) != tc.whole || len(rest) > 0 {
				t.Errorf("the client got %q and %v", rest, err)
			}
		})
	}
}

// recorded is a connection that notes its deadline.
type recorded struct {
	net.Conn
	deadline time.Time
}

func (r *recorded) SetWriteDeadline(t time.Time) error { r.deadline = t; return nil }

func TestTLSGoodbyeIsShort(t *testing.T) {
	t.Parallel()
	r := &recorded{}
	c := &carrier{Conn: r}
	now := time.Now()
	_ = c.SetWriteDeadline(now.Add(5 * time.Second))
	if latest := time.Now().Add(closeNotifyTimeout); r.deadline.After(latest) || r.deadline.Before(now) {
		t.Errorf("the close_notify may last until %s, want %s at most", r.deadline, latest)
	}
	if _ = c.SetWriteDeadline(now.Add(-time.Second)); !r.deadline.Before(now) {
		t.Errorf("a deadline that has gone by became %s", r.deadline)
	}
}

func TestHandshakeCanBeEnded(t *testing.T) {
	t.Parallel()
	_, _, server := rawPair(t)
	c := NewTLS(server, testTLS())
	got := make(chan error)
	go func() { _, err := c.Handshake(); got <- err }()
	c.Unblock()
	if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
}
