package gateway

import (
	"bytes"

	wire "golang.org/x/net/http2"

	"waggle/provider/gateway/http2"
	"waggle/provider/gateway/sock"
)

// http2 is what the package of that name has to know of the settings.
func (c Config) http2(now func() int64) http2.Config {
	return http2.Config{Unread: &sock.Budget{Most: http2.MaxUnread}, MaxStreams: c.HTTP2MaxStreams, MaxHeader: c.MaxHeader, HeaderTimeout: c.HeaderTimeout,
		ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout, IdleTimeout: c.IdleTimeout, Now: now}
}

// serveHTTP2 serves a connection whose client speaks HTTP/2; early is what has been read of it. Each of its streams is a
// conn of its own, so that a request takes the same way whatever version its client speaks.
func (c *conn) serveHTTP2(early []byte) {
	h := http2.New(&c.g.http2, c.sock, func(s *http2.Stream) bool {
		return c.g.admit(&conn{g: c.g, sock: sock.New(s), ip: c.ip, addr: c.addr, proxy: c.proxy, tls: c.tls, stream: true}) == ""
	})
	c.http2.Store(h)
	c.limit(0)
	if code := h.Serve(early); code != wire.ErrCodeNo {
		c.g.metrics.http2Errors.WithLabelValues(code.String()).Inc()
	}
}

// speaksHTTP2 reports whether what is no request in HTTP/1.1 is the beginning of HTTP/2. Over TLS, ALPN would have said so.
func (c *conn) speaksHTTP2(rq *request) bool {
	got := rq.in.B[rq.r:rq.w]
	n := min(len(got), len(http2.Preface))
	c.preface = !c.tls && !c.stream && !c.inner && !c.g.cfg.DisableHTTP2 && c.requests.Load() == 1 && bytes.Equal(got[:n], http2.Preface[:n])
	return c.preface
}
