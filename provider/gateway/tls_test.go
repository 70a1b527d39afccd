package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair is a certificate of our own making and its key, in files.
type pair struct {
	cert, key string
	roots     *x509.CertPool
}

func newPair(t testing.TB) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "h"}, DNSNames: []string{"h", "votes.example.org"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := pair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), x509.NewCertPool()}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(p.cert, text, 0o600),
		os.WriteFile(p.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)); err != nil {
		t.Fatal(err)
	}
	p.roots.AppendCertsFromPEM(text)
	return p
}

// secured adds TLS with the pair to a configuration, before adjust.
func (p pair) secured(t testing.TB, adjust func(*Config)) func(*Config) {
	return func(c *Config) {
		var err error
		if c.TLSListener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		c.TLSCertFile, c.TLSKeyFile = p.cert, p.key
		if adjust != nil {
			adjust(c)
		}
	}
}

// dialTLS opens a TLS connection to the gateway that fails the test rather than hang it.
func (e *edge) dialTLS(t *testing.T, p pair, protocols ...string) *tls.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", e.cfg.TLSListener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { _ = nc.Close() })
	return tls.Client(nc, &tls.Config{RootCAs: p.roots, ServerName: "h", NextProtos: protocols})
}

func TestHandshakes(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	e := start(t, p.secured(t, nil))
	off := start(t, p.secured(t, func(c *Config) { c.DisableHTTP2 = true }))
	for name, tc := range map[string]struct {
		e         *edge
		protocols []string
		version   uint16
		want      string // the protocol; "none" if there must be no connection
	}{
		"both, HTTP/2 last":      {e, []string{"http/1.1", "h2"}, tls.VersionTLS13, "h2"},
		"TLS 1.2":                {e, []string{"h2", "http/1.1"}, tls.VersionTLS12, "h2"},
		"TLS 1.1":                {e, nil, tls.VersionTLS11, "none"},
		"no ALPN":                {e, nil, tls.VersionTLS13, ""},
		"HTTP/1.1 only":          {e, []string{"http/1.1"}, tls.VersionTLS13, "http/1.1"},
		"something else":         {e, []string{"spdy/1"}, tls.VersionTLS13, "none"},
		"challenge without ACME": {e, []string{"acme-tls/1"}, tls.VersionTLS13, "none"},
		"HTTP/2 switched off":    {off, []string{"h2", "http/1.1"}, tls.VersionTLS13, "http/1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := tc.e.dialTLS(t, p, tc.protocols...)
			c = tls.Client(c.NetConn(), &tls.Config{RootCAs: p.roots, ServerName: "h", NextProtos: tc.protocols, MinVersion: tls.VersionTLS10, MaxVersion: tc.version})
			if err := c.Handshake(); (err == nil) != (tc.want != "none") {
				t.Fatalf("error %v", err)
			} else if err == nil && c.ConnectionState().NegotiatedProtocol != tc.want {
				t.Errorf("agreed on %q, want %q", c.ConnectionState().NegotiatedProtocol, tc.want)
			}
		})
	}
}

func TestSessionsAreResumed(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	e := start(t, p.secured(t, nil))
	sessions := tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		c := e.dialTLS(t, p)
		c = tls.Client(c.NetConn(), &tls.Config{RootCAs: p.roots, ServerName: "h", ClientSessionCache: sessions})
		_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if text, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
			t.Errorf("got %.40q, error %v", text, err)
		}
		if resumed := c.ConnectionState().DidResume; resumed != (i == 1) {
			t.Errorf("connection %d is resumed: %t", i+1, resumed)
		}
	}
}

func TestPlainRequestOnTheTLSPortIsTold(t *testing.T) {
	t.Parallel()
	e := start(t, newPair(t).secured(t, nil))
	nc, err := net.Dial("tcp", e.cfg.TLSListener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, _ = io.WriteString(nc, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
	if text, _ := io.ReadAll(nc); !strings.HasPrefix(string(text), "HTTP/1.1 400 ") || !strings.Contains(string(text), "https") {
		t.Errorf("got %q", text)
	}
}

// TestHandshakesAreBounded: those that begin none count as connections, and end with the time for a head.
func TestHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	e := start(t, p.secured(t, func(c *Config) { c.MaxConnsPerIP, c.HeaderTimeout = 2, time.Second }))
	var silent []net.Conn
	for range 2 {
		silent = append(silent, e.dialTLS(t, p).NetConn())
	}
	for e.clientsNow() != 2 {
		time.Sleep(time.Millisecond)
	}
	if err := e.dialTLS(t, p).Handshake(); err == nil {
		t.Error("a third connection was let in")
	}
	for _, c := range silent {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a silent connection ended with %v", err)
		}
	}
	for e.clientsNow() != 0 {
		time.Sleep(time.Millisecond)
	}
	if err := e.dialTLS(t, p).Handshake(); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func (e *edge) clientsNow() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.clients
}

func TestPlainPortThatOnlyRedirects(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	e := start(t, p.secured(t, func(c *Config) { c.TLSRedirect = true }), function("f", newReplica(t, func(http.ResponseWriter, *http.Request) {})))
	std := start(t, p.secured(t, func(c *Config) { c.TLSRedirect, c.TLSRedirectPort = true, 443 }))
	for name, tc := range map[string]struct {
		e             *edge
		request, more string
		status        int
		location      string
	}{
		"GET":                  {e, "GET /function/f//a%2Fb?x=;", "Host: votes.example.org", 308, "https://votes.example.org:8443/function/f//a%2Fb?x=;"},
		"HEAD":                 {e, "HEAD /function/f", "Host: votes.example.org:8080", 308, "https://votes.example.org:8443/function/f"},
		"IPv6":                 {e, "GET /", "Host: [::1]:8080", 308, "https://[::1]:8443/"},
		"IPv6 without a port":  {e, "GET /", "Host: [::1]", 308, "https://[::1]:8443/"},
		"standard port":        {std, "GET /x", "Host: h:80", 308, "https://h/x"},
		"cookies of a browser": {e, "GET /function/f", "Host: h\r\nCookie: a=b", 308, "https://h:8443/function/f"},
		"POST":                 {e, "POST /function/f", "Host: h\r\nContent-Length: 0", 403, ""},
		"credentials":          {e, "GET /function/f", "Host: h\r\nAuthorization: Bearer x", 403, ""},
		"the API":              {e, "GET /system/functions", "Host: h", 403, ""},
		"unknown challenge":    {e, "GET /.well-known/acme-challenge/x", "Host: h", 404, ""},
		"health":               {e, "GET /healthz", "Host: h", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp, body := tc.e.exchange(t, tc.request+" HTTP/1.1\r\n"+tc.more+"\r\n\r\n")
			if resp.StatusCode != tc.status || resp.Header.Get("Location") != tc.location {
				t.Errorf("got %s to %q %q, want %d to %q", resp.Status, resp.Header.Get("Location"), body, tc.status, tc.location)
			}
			if ours := resp.Header.Get("X-OpenFaaS-Internal"); (ours == "gateway") != (tc.status >= 400) {
				t.Errorf("X-OpenFaaS-Internal is %q", ours)
			}
		})
	}
	client, base := e.client(t, "h2", p)
	for name, post := range map[string]func() (*http.Response, error){
		"in this process": func() (*http.Response, error) { return e.within(t).Post("http://gateway/function/f", "", nil) },
		"with TLS":        func() (*http.Response, error) { return client.Post(base+"/function/f", "", nil) },
	} {
		response, err := post()
		if err != nil || response.StatusCode != 200 {
			t.Fatalf("a caller %s got %v, %v", name, response, err)
		}
		_ = response.Body.Close()
	}
}

func TestSettingsOfTLSAreChecked(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for name, tc := range map[string]struct {
		adjust func(*Config)
		want   string
	}{
		"no key":              {func(c *Config) { c.TLSKeyFile = "" }, "tls_key_file is \"\": must be set where tls_cert_file is"},
		"no such file":        {func(c *Config) { c.TLSCertFile = "/nowhere" }, "tls_cert_file is \"/nowhere\": must be a certificate"},
		"key that is none":    {func(c *Config) { c.TLSKeyFile = p.cert }, "tls_key_file"},
		"files and domains":   {func(c *Config) { c.ACMEDomains = []string{"a.b"} }, "acme_domains is \"a.b\": must be left out"},
		"no cache":            {func(c *Config) { c.TLSCertFile, c.TLSKeyFile, c.ACMEDomains = "", "", []string{"a.b"} }, "acme_cache_dir is \"\": must be"},
		"wildcard":            {func(c *Config) { c.ACMEDomains = []string{"*.a.b"} }, "acme_domains is \"*.a.b\": must be host names"},
		"one port for both":   {func(c *Config) { c.TLSPort = c.Port }, "tls_port is 8080: must be another port"},
		"redirect to nowhere": {func(c *Config) { c.TLSCertFile, c.TLSKeyFile, c.TLSRedirect = "", "", true }, "tls_redirect is true"},
		"too many streams":    {func(c *Config) { c.HTTP2MaxStreams = 1 << 20 }, "http2_max_streams is 1048576: must be 1 to 10000"},
		"port that is none":   {func(c *Config) { c.TLSRedirectPort = 70000 }, "tls_redirect_port is 70000"},
		"roots without a root": {func(c *Config) {
			c.TLSCertFile, c.TLSKeyFile, c.ACMEDomains, c.ACMECacheDir, c.ACMECAFile = "", "", []string{"a.b"}, t.TempDir(), p.key
		}, "acme_ca_file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Config{ProviderURL: "http://p", Port: 8080, TLSCertFile: p.cert, TLSKeyFile: p.key}
			tc.adjust(&c)
			if _, err := New(c); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestCertificateExpiryIsAMetric(t *testing.T) {
	t.Parallel()
	e := start(t, newPair(t).secured(t, nil))
	families, err := e.cfg.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "gateway_tls_certificate_expiry_seconds" {
			m := f.GetMetric()[0]
			if until := time.Unix(int64(m.GetGauge().GetValue()), 0); !until.After(time.Now()) || fmt.Sprint(m.GetLabel()[0].GetValue()) != "h" {
				t.Errorf("got %v", m)
			}
			return
		}
	}
	t.Error("there is none")
}
