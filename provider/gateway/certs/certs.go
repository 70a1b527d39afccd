// Package certs keeps the certificates that the gateway shows to its TLS clients.
//
// It stands beside the listener. In: a pair of PEM files, or domains for which an ACME server (RFC 8555) gives
// certificates. Out: the certificate for a handshake, and when each expires. A handshake never waits for a file or
// for a certificate authority. A certificate is only replaced by one that works.
//
// # Decisions
//
//   - A TLS handshake never waits for a certificate authority. Certificates are fetched in the background and served
//     from memory; until there is one, handshakes fail at once.
//   - ACME state is per gateway. A second edge node would request certificates of its own and could not answer the
//     first one's challenges. So several edge nodes need files.
//     first one's challenges. Several edge nodes take files.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/acme"

	"waggle/provider/settings"
)

// Config says where certificates come from: either CertFile and KeyFile are set, or Domains and CacheDir.
type Config struct {
	// CertFile is a PEM file with a certificate and the chain behind it, KeyFile one with its private key.
	CertFile, KeyFile string

	// Domains get a certificate each, by ACME.
	Domains []string
	// Email is what the authority may write to; empty: nobody.
	Email string
	// DirectoryURL is the ACME server's; empty: Let's Encrypt's.
	DirectoryURL string
	// CacheDir keeps account and certificates over restarts: authorities refuse those who ask too often.
	CacheDir string
	// CAFile is a PEM file with the roots by which the ACME server itself is known; empty: the system's.
	CAFile string

	// Logger is required.
	Logger *slog.Logger
	// Registerer takes the metric; required.
	Registerer prometheus.Registerer
}

// validate says what is wrong with c, by the names of the gateway's settings.
func (c Config) validate() error {
	var errs []error
	files, domains := c.CertFile != "" || c.KeyFile != "", len(c.Domains) > 0
	switch {
	case files && domains:
		errs = append(errs, settings.Mistake("acme_domains", strings.Join(c.Domains, ","), "left out where tls_cert_file is set"))
	case files && (c.CertFile == "" || c.KeyFile == ""):
		errs = append(errs, settings.Mistake("tls_key_file", c.KeyFile, "set where tls_cert_file is, and only there"))
	case domains && c.CacheDir == "":
		errs = append(errs, settings.Mistake("acme_cache_dir", c.CacheDir, "a directory that outlives the container, for acme_domains"))
	}
	for _, d := range c.Domains {
		if !strings.Contains(strings.Trim(d, "."), ".") || strings.ContainsAny(d, "*/: ") {
			errs = append(errs, settings.Mistake("acme_domains", d, "host names with a dot in them, without wildcard, scheme or port"))
		}
	}
	return errors.Join(errs...)
}

// On reports whether there are to be any certificates at all.
func (c Config) On() bool { return c.CertFile != "" || c.KeyFile != "" || len(c.Domains) > 0 }

// Store has the certificates. Make it with New and run it once with Run; its other methods are for concurrent use.
type Store struct {
	cfg    Config
	expiry *prometheus.GaugeVec // domain
	// current maps a domain to its certificate; files have the domain "".
	current atomic.Pointer[map[string]*tls.Certificate]

	files *files
	acme  *authority
}

// New checks cfg and reads the files, if there are any: a pair that does not work is an error. It starts nothing.
func New(cfg Config) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, expiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gateway_tls_certificate_expiry_seconds",
		Help: "When the certificate in use expires, in Unix time."}, []string{"domain"})}
	s.current.Store(&map[string]*tls.Certificate{})
	var err error
	if len(cfg.Domains) > 0 {
		s.acme, err = newAuthority(cfg)
	} else {
		s.files = &files{cert: cfg.CertFile, key: cfg.KeyFile}
		_, err = s.reload()
	}
	if err != nil {
		return nil, err
	}
	return s, cfg.Registerer.Register(s.expiry)
}

// Run keeps the certificates fresh until ctx is done.
func (s *Store) Run(ctx context.Context) error {
	if s.acme != nil {
		return s.followAuthority(ctx)
	}
	return s.followFiles(ctx)
}

// TLS is what a TLS server needs, for the protocols that it speaks. At least TLS 1.2, with Go's cipher suites and session
// tickets, whose keys Go changes daily.
func (s *Store) TLS(protocols ...string) *tls.Config {
	if s.acme != nil {
		protocols = append(protocols, acme.ALPNProto)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate, NextProtos: protocols}
}

// certificate implements tls.Config.GetCertificate.
func (s *Store) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	current := *s.current.Load()
	if s.acme == nil {
		return current[""], nil
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto {
		return s.acme.manager.GetCertificate(hello) // a challenge, whose answer is at hand
	}
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" {
		name = s.acme.domains[0]
	}
	if cert := current[name]; cert != nil {
		return cert, nil
	}
	return nil, fmt.Errorf("there is no certificate for %q", name)
}

// replace puts a certificate into use.
func (s *Store) replace(domain string, cert *tls.Certificate) {
	next := make(map[string]*tls.Certificate)
	for d, c := range *s.current.Load() {
		next[d] = c
	}
	next[domain] = cert
	s.current.Store(&next)
	s.expiry.Reset()
	for _, c := range next {
		s.expiry.WithLabelValues(nameOf(c.Leaf)).Set(float64(c.Leaf.NotAfter.Unix()))
	}
	if left := time.Until(cert.Leaf.NotAfter); left < 0 {
		s.cfg.Logger.Warn("certificate has expired", "domain", nameOf(cert.Leaf), "expired", cert.Leaf.NotAfter)
	}
}

func nameOf(leaf *x509.Certificate) string {
	if len(leaf.DNSNames) > 0 {
		return leaf.DNSNames[0]
	}
	return leaf.Subject.CommonName
}

// ChallengePath is where an ACME server asks for proof over plain HTTP.
const ChallengePath = "/.well-known/acme-challenge/"

// Challenge answers such a question; host has no port. It reports false if nobody has asked for that certificate.
func (s *Store) Challenge(host, path string) (answer []byte, ok bool) {
	if s.acme == nil {
		return nil, false
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, path, nil)
	if err != nil {
		return nil, false
	}
	request.Host = host
	var w recorder
	s.acme.challenges.ServeHTTP(&w, request)
	return w.body, w.status == 0 || w.status == http.StatusOK
}

// recorder is an http.ResponseWriter that keeps what it gets.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) { r.status = status }

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	r.body = append(r.body, p...)
	return len(p), nil
}
