package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// authority is Pebble, the ACME server that Let's Encrypt tests with, in this process.
type authority struct {
	url   string
	own   pair           // what it is known by
	roots *x509.CertPool // what it signs with
}

// newAuthority makes one that looks for proof on the given ports of this machine, whatever the domain.
func newAuthority(t *testing.T, httpPort, tlsPort int) authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	silent := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(silent, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	front := wfe.New(silent, store, va.New(silent, httpPort, tlsPort, false, newResolver(t), store), issuer, []string{"pebble"}, false, false, 1, 1)
	a := authority{own: newPair(t), roots: x509.NewCertPool()}
	a.roots.AppendCertsFromPEM(issuer.GetRootCert(0).PEM())
	cert, err := tls.LoadX509KeyPair(a.own.cert, a.own.key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(front.Handler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	a.url = s.URL + wfe.DirectoryPath
	return a
}

// newResolver is a DNS server that knows every name, as this machine's.
func newResolver(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		if q := question.Question[0]; q.Qtype == dns.TypeA {
			answer.Answer = append(answer.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)})
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	return l.Addr().String()
}

// certificate is the one that the gateway shows for a name, once it has one.
func (e *edge) certificate(t *testing.T, name string, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	for range 3000 {
		c, err := tls.Dial("tcp", e.cfg.TLSListener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: name})
		if err == nil {
			defer c.Close()
			return c.ConnectionState().PeerCertificates[0]
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("there is no certificate of %s", name)
	return nil
}

func listenLoopback(t *testing.T) (net.Listener, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, l.Addr().(*net.TCPAddr).Port
}

// TestACME gets certificates from a real ACME server, by each kind of proof. It sets the environment, so it is alone.
func TestACME(t *testing.T) {
	const closed = 1 // a port that nobody listens on
	for name, tc := range map[string]struct{ http, tls bool }{"TLS-ALPN-01": {false, true}, "HTTP-01": {true, false}} {
		t.Run(name, func(t *testing.T) {
			plain, httpPort := listenLoopback(t)
			secure, tlsPort := listenLoopback(t)
			if !tc.http {
				httpPort = closed
			}
			if !tc.tls {
				tlsPort = closed
			}
			a := newAuthority(t, httpPort, tlsPort)
			cache := t.TempDir()
			configure := func(plain, secure net.Listener) func(*Config) {
				return func(c *Config) {
					_ = c.Listener.Close()
					c.Listener, c.TLSListener, c.ShutdownDelay, c.TLSRedirect = plain, secure, time.Millisecond, true
					c.ACMEDomains, c.ACMEDirectoryURL, c.ACMECacheDir = []string{"Votes.example.org", "www.example.org"}, a.url, filepath.Join(cache, "acme")
					c.ACMEEmail, c.ACMECAFile = "ops@example.org", a.own.cert
				}
			}
			e := start(t, configure(plain, secure))
			first := e.certificate(t, "votes.example.org", a.roots)
			if other := e.certificate(t, "www.example.org", a.roots); other.Equal(first) {
				t.Error("two domains share a certificate")
			}
			if c, err := tls.Dial("tcp", secure.Addr().String(), &tls.Config{RootCAs: a.roots, ServerName: "nobody.example.org"}); err == nil {
				t.Errorf("there is a certificate for a domain that is not configured: %v", c.ConnectionState().PeerCertificates[0].DNSNames)
			}
			e.checkExpiries(t, first)
			e.stop()
			// The next process does not ask again.
			plain, _ = listenLoopback(t)
			secure, _ = listenLoopback(t)
			if again := start(t, configure(plain, secure)).certificate(t, "votes.example.org", a.roots); !again.Equal(first) {
				t.Error("the certificate was not kept")
			}
		})
	}
}

// checkExpiries checks the metric.
func (e *edge) checkExpiries(t *testing.T, cert *x509.Certificate) {
	t.Helper()
	families, err := e.cfg.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "gateway_tls_certificate_expiry_seconds" && m.GetLabel()[0].GetValue() == "votes.example.org" {
				if int64(m.GetGauge().GetValue()) != cert.NotAfter.Unix() {
					t.Errorf("the metric says %v, the certificate %s", m.GetGauge(), cert.NotAfter)
				}
				return
			}
		}
	}
	t.Error("there is no metric")
}

func TestACMEServerThatIsAway(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	secure, _ := listenLoopback(t)
	e := start(t, func(c *Config) {
		c.TLSListener, c.ACMEDomains, c.ACMEDirectoryURL, c.ACMECacheDir, c.ACMECAFile = secure, []string{"a.example.org"}, "https://127.0.0.1:1/dir", t.TempDir(), p.cert
	})
	// Nobody waits for it, and everything else goes on.
	if _, err := tls.Dial("tcp", secure.Addr().String(), &tls.Config{RootCAs: p.roots, ServerName: "a.example.org"}); err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("got %v", err)
	}
	if resp, _ := e.exchange(t, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("got %s", resp.Status)
	}
}
