package gateway

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"

	"waggle/provider/gateway/certs"
	"waggle/provider/settings"
)

// listener is a listener for clients.
type listener struct {
	net.Listener
	config *tls.Config // nil without TLS
}

// listenForClients listens on the plain port and, if there is a certificate, on that of TLS.
func (g *Gateway) listenForClients() ([]listener, error) {
	plain, err := listen(g.cfg.Listener, g.cfg.Port)
	if err != nil {
		return nil, fmt.Errorf("listening for clients: %w", err)
	}
	listeners := []listener{{Listener: plain}}
	if g.certs == nil {
		return listeners, nil
	}
	secure, err := listen(g.cfg.TLSListener, g.cfg.TLSPort)
	if err != nil {
		_ = plain.Close()
		return nil, fmt.Errorf("listening for TLS clients: %w", err)
	}
	protocols := []string{"h2", "http/1.1"}
	if g.cfg.DisableHTTP2 {
		protocols = protocols[1:]
	}
	return append(listeners, listener{secure, g.certs.TLS(protocols...)}), nil
}

func closeListeners(listeners []listener) {
	for _, d := range listeners {
		_ = d.Close()
	}
}

var plainOnTLS = []byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Content-Length: 23\r\nX-OpenFaaS-Internal: gateway\r\n\r\nthis port speaks https\n")

// handshake makes a TLS connection of c and reports whether requests in HTTP/1.1 may follow. It serves a connection that
// turns out to be one of HTTP/2 itself.
func (c *conn) handshake() bool {
	c.limit(c.g.cfg.HeaderTimeout)
	protocol, err := c.sock.Handshake()
	if err != nil {
		c.g.metrics.handshakes.Inc()
		var noTLS tls.RecordHeaderError
		if errors.As(err, &noTLS) && noTLS.Conn != nil {
			_, _ = noTLS.Conn.Write(plainOnTLS) // to somebody who may have mistaken the port
		}
		return false
	}
	switch protocol {
	case "h2":
		c.serveHTTP2(nil)
		return false
	case "", "http/1.1":
		return true
	}
	return false // an ACME server has seen what it wanted to see
}

// toTLS answers on the plain port where that only redirects. A call that changes something or carries credentials is
// refused: a redirect would let it go on as it is, with everything readable, for ever.
func (rq *request) toTLS(redirect bool) (keep bool) {
	host := hostOf(rq.req.Host)
	if !redirect || !rq.isGet() || len(host) == 0 || len(rq.req.Authorization) > 0 {
		return rq.refuse(403, "this port only redirects GET and HEAD: use https")
	}
	location := append([]byte("Location: https://"), host...)
	if port := rq.g.cfg.TLSRedirectPort; port != 443 {
		location = strconv.AppendInt(append(location, ':'), int64(port), 10)
	}
	location = append(append(location, rq.req.Target...), "\r\n"...)
	return rq.respond(308, nil, string(location))
}

// hostOf is a Host without its port.
func hostOf(host []byte) []byte {
	colon := bytes.LastIndexByte(host, ':')
	if colon < 0 || bytes.IndexByte(host[colon:], ']') >= 0 {
		return host
	}
	return host[:colon]
}

// challenge answers an ACME server.
func (rq *request) challenge(_ []byte) (keep bool) {
	if rq.g.certs != nil {
		path, _, _ := bytes.Cut(rq.req.Target, []byte("?"))
		if answer, ok := rq.g.certs.Challenge(string(hostOf(rq.req.Host)), string(path)); ok {
			return rq.respond(200, answer, "Content-Type: application/octet-stream\r\n")
		}
	}
	return rq.refuse(404, "404 page not found")
}

// certificates are the settings that concern them.
func (c Config) certificates() certs.Config {
	return certs.Config{CertFile: c.TLSCertFile, KeyFile: c.TLSKeyFile, Domains: c.ACMEDomains, Email: c.ACMEEmail,
		DirectoryURL: c.ACMEDirectoryURL, CacheDir: c.ACMECacheDir, CAFile: c.ACMECAFile, Logger: c.Logger, Registerer: c.Registry}
}

// validateTLS checks how the settings of TLS go together. Where certificates come from is checked with them.
func (c Config) validateTLS() error {
	var errs []error
	if c.certificates().On() && (c.TLSPort == c.Port || c.TLSPort == c.MetricsPort) {
		errs = append(errs, settings.Mistake("tls_port", c.TLSPort, "another port than port and metrics_port"))
	}
	if c.TLSRedirect && !c.certificates().On() {
		errs = append(errs, settings.Mistake("tls_redirect", true, "false, unless tls_cert_file or acme_domains is set"))
	}
	return errors.Join(errs...)
}
