package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	// retryFirst is longer than autocert remembers a failure (a minute), retryMost what authorities ask of those who fail.
	retryFirst = 70 * time.Second
	retryMost  = time.Hour
	// refreshEvery is how often a certificate that autocert has renewed is looked for; it renews weeks ahead.
	refreshEvery = time.Hour
	// requestTimeout bounds one request to the authority, maxReply its answer in bytes.
	requestTimeout = 30 * time.Second
	maxReply       = 1 << 20
	// maxOrders bounds the orders that are remembered; each domain has one at a time.
	maxOrders = 1000
)

// authority gets certificates from an ACME server.
type authority struct {
	domains    []string
	manager    *autocert.Manager
	challenges http.Handler
	stopping   context.Context
	stop       context.CancelFunc
}

func newAuthority(cfg Config) (*authority, error) {
	a := &authority{}
	for _, d := range cfg.Domains {
		a.domains = append(a.domains, strings.ToLower(strings.TrimSuffix(d, ".")))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if cfg.CAFile != "" {
		text, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading acme_ca_file: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("acme_ca_file is %s: there is no PEM certificate in it", cfg.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	if err := os.MkdirAll(cfg.CacheDir, 0o700); err != nil {
		return nil, fmt.Errorf("making acme_cache_dir: %w", err)
	}
	a.stopping, a.stop = context.WithCancel(context.Background())
	directory := cfg.DirectoryURL
	if directory == "" {
		directory = acme.LetsEncryptURL
	}
	a.manager = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(cfg.CacheDir), HostPolicy: autocert.HostWhitelist(a.domains...), Email: cfg.Email,
		Client: &acme.Client{DirectoryURL: directory, UserAgent: "waggle", HTTPClient: &http.Client{
			Transport: &courier{Transport: transport, ctx: a.stopping, orders: make(map[string]string)}, Timeout: requestTimeout}},
	}
	a.challenges = a.manager.HTTPHandler(nil) // which also allows them
	return a, nil
}

// courier carries requests to the authority. It ends them when its context does, since autocert gives them contexts
// of its own. It also repairs the one answer that package acme cannot read. acme wants the order's address with the
// answer to "finalize"; RFC 8555 does not require it and some servers leave it out (golang.org/issue/77704).
type courier struct {
	*http.Transport
	ctx context.Context

	mu     sync.Mutex
	orders map[string]string // guarded by mu; from where an order is finalized to its own address
}

// RoundTrip implements http.RoundTripper. It reads the answer whole, so that nothing outlives it.
func (c *courier) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	resp, err := c.Transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	c.locate(r.URL.String(), resp.Header, body)
	return resp, err
}

// locate notes where orders are, and says so where an answer does not.
func (c *courier) locate(asked string, header http.Header, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if location := header.Get("Location"); location != "" {
		var order struct{ Finalize string }
		if json.Unmarshal(body, &order) == nil && order.Finalize != "" {
			if len(c.orders) == maxOrders {
				clear(c.orders) // they are all over by now
			}
			c.orders[order.Finalize] = location
		}
	} else if known := c.orders[asked]; known != "" { // again and again: the first answer may be that a nonce is bad
		header.Set("Location", known)
	}
}

// followAuthority gets each domain's certificate, and its successors, until ctx is done.
func (s *Store) followAuthority(ctx context.Context) error {
	defer s.acme.stop()
	defer context.AfterFunc(ctx, s.acme.stop)()
	retry := retryFirst
	for {
		next := refreshEvery
		for _, domain := range s.acme.domains {
			if err := s.obtain(domain); err != nil && ctx.Err() == nil {
				next = retry
				s.cfg.Logger.Error("getting a certificate failed", "domain", domain, "error", err, "next_try", next.String())
			}
		}
		if next == refreshEvery {
			retry = retryFirst
		} else {
			retry = min(2*retry, retryMost)
		}
		wait := time.NewTimer(next)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
	}
}

// obtain asks autocert, which asks the authority if it has no certificate, and puts the answer into use.
func (s *Store) obtain(domain string) error {
	// What it would get from any client of today: one that can do ECDSA.
	cert, err := s.acme.manager.GetCertificate(&tls.ClientHelloInfo{ServerName: domain,
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}})
	if err != nil {
		return err
	}
	if old := (*s.current.Load())[domain]; old == nil || !old.Leaf.Equal(cert.Leaf) {
		s.replace(domain, cert)
		s.cfg.Logger.Info("certificate in use", "domain", domain, "expires", cert.Leaf.NotAfter)
	}
	return nil
}
