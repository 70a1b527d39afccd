package crowd

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// bodyLimit bounds an answer: a ballot page is a few kilobytes.
	bodyLimit = 256 << 10
	// restLimit is how long a connection may rest before it is dialled anew. It is shorter than any server's
	// idle timeout, so that a vote is not written into a connection that its server has just closed.
	restLimit = 3 * time.Second
)

// errUnsent marks a request of which no byte left: its outcome is known.
var errUnsent = errors.New("nothing was sent")

// Target is one address of the vote function.
type Target struct {
	// URL is where the ballot is, such as http://127.0.0.1:8080/function/vote.
	URL *url.URL
	// address is what to dial, origin what a browser calls the site.
	address, origin string
}

// NewTarget parses an address. The scheme is http or https; a host is required.
func NewTarget(raw string) (Target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return Target{}, fmt.Errorf("url %q: %w", raw, err)
	}
	ports := map[string]string{"http": "80", "https": "443"}
	if ports[u.Scheme] == "" || u.Hostname() == "" || u.User != nil {
		return Target{}, fmt.Errorf("url %q: it must be http://host[:port]/path or https://host[:port]/path", raw)
	}
	port := u.Port()
	if port == "" {
		port = ports[u.Scheme]
	}
	return Target{URL: u, address: net.JoinHostPort(u.Hostname(), port), origin: u.Scheme + "://" + u.Host}, nil
}

// Loopback reports whether the target is this machine by its literal address or the name localhost.
func (t Target) Loopback() bool {
	host := t.URL.Hostname()
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// request is one request; body nil means GET.
type request struct {
	path        string
	accept      string
	contentType string
	body        []byte
	cookies     *jar
}

// answer is a complete response. Its body is valid until the client's next call.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// client speaks HTTP/1.1 over one kept connection to each target. It exists because the load shares its cores with
// the system under load. net/http's transport takes two goroutines and several hand-overs for a connection; this
// takes none. Responses are read by net/http, so framing is as correct as there. One goroutine at a time may use it.
type client struct {
	targets []Target
	timeout time.Duration
	conns   []*conn
	out     bytes.Buffer
	in      bytes.Buffer
}

type conn struct {
	net.Conn
	reader *bufio.Reader
	rested time.Time
}

func newClient(targets []Target, timeout time.Duration) *client {
	return &client{targets: targets, timeout: timeout, conns: make([]*conn, len(targets))}
}

func (c *client) close() {
	for i := range c.conns {
		c.drop(i)
	}
}

func (c *client) drop(target int) {
	if kept := c.conns[target]; kept != nil {
		_ = kept.Close() // Nothing is owed to a connection that is given up.
		c.conns[target] = nil
	}
}

// do sends r and reads the whole answer, at most c.timeout long, dialling included. An error that is errUnsent means
// the server cannot have seen the request; after any other error it may have.
func (c *client) do(target int, r request) (answer, error) {
	deadline := time.Now().Add(c.timeout)
	cn, err := c.connect(target, deadline)
	if err != nil {
		return answer{}, fmt.Errorf("connecting: %w: %w", errUnsent, err)
	}
	got, keep, err := c.exchange(cn, target, r)
	if err != nil || !keep {
		c.drop(target)
	}
	cn.rested = time.Now()
	return got, err
}

func (c *client) connect(target int, deadline time.Time) (*conn, error) {
	if kept := c.conns[target]; kept != nil {
		if time.Since(kept.rested) < restLimit {
			return kept, kept.SetDeadline(deadline)
		}
		c.drop(target)
	}
	raw, err := net.DialTimeout("tcp", c.targets[target].address, time.Until(deadline))
	if err != nil {
		return nil, err
	}
	if c.targets[target].URL.Scheme == "https" {
		raw = tls.Client(raw, &tls.Config{ServerName: c.targets[target].URL.Hostname(), NextProtos: []string{"http/1.1"}})
	}
	c.conns[target] = &conn{Conn: raw, reader: bufio.NewReaderSize(raw, 4096)}
	return c.conns[target], raw.SetDeadline(deadline)
}

func (c *client) exchange(cn *conn, target int, r request) (got answer, keep bool, err error) {
	c.write(target, r)
	if n, err := cn.Write(c.out.Bytes()); err != nil {
		if n == 0 {
			err = fmt.Errorf("%w: %w", errUnsent, err)
		}
		return answer{}, false, fmt.Errorf("sending: %w", err)
	}
	res, err := http.ReadResponse(cn.reader, nil) //nolint:bodyclose // the connection is ours; Close would only read an overlong body to its end
	if err != nil {
		return answer{}, false, fmt.Errorf("reading the answer: %w", err)
	}
	c.in.Reset()
	n, err := io.Copy(&c.in, io.LimitReader(res.Body, bodyLimit+1))
	if err != nil {
		return answer{}, false, fmt.Errorf("reading the body: %w", err)
	}
	if n > bodyLimit {
		return answer{}, false, fmt.Errorf("reading the body: longer than %d bytes", bodyLimit)
	}
	return answer{status: res.StatusCode, header: res.Header, body: c.in.Bytes()}, !res.Close, nil
}

// write forms the request as a browser of the same origin would.
func (c *client) write(target int, r request) {
	t, b := &c.targets[target], &c.out
	b.Reset()
	method := "GET "
	if r.body != nil {
		method = "POST "
	}
	b.WriteString(method)
	b.WriteString(r.path)
	b.WriteString(" HTTP/1.1\r\nHost: ")
	b.WriteString(t.URL.Host)
	b.WriteString("\r\nUser-Agent: waggle-voters\r\nAccept: ")
	b.WriteString(r.accept)
	if cookies := r.cookies.header(); cookies != "" {
		b.WriteString("\r\nCookie: ")
		b.WriteString(cookies)
	}
	if r.body != nil {
		b.WriteString("\r\nOrigin: ")
		b.WriteString(t.origin)
		b.WriteString("\r\nSec-Fetch-Site: same-origin\r\nContent-Type: ")
		b.WriteString(r.contentType)
		b.WriteString("\r\nContent-Length: ")
		b.WriteString(strconv.Itoa(len(r.body)))
	}
	b.WriteString("\r\n\r\n")
	b.Write(r.body)
}
