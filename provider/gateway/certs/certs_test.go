package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// makePair is a certificate of a domain and its key, in PEM.
func makePair(t *testing.T, domain string, expires time.Time) (cert, key []byte) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{domain}, NotAfter: expires}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// journal is what has been logged.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// store is a store on files, its log and its metric.
type store struct {
	*Store
	t         *testing.T
	cert, key string
	log       journal
	registry  *prometheus.Registry
}

func newStore(t *testing.T, cert, key []byte) *store {
	t.Helper()
	dir := t.TempDir()
	s := &store{t: t, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), registry: prometheus.NewRegistry()}
	s.write(s.cert, cert)
	s.write(s.key, key)
	var err error
	s.Store, err = New(Config{CertFile: s.cert, KeyFile: s.key, Logger: slog.New(slog.NewTextHandler(&s.log, nil)), Registerer: s.registry})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// write replaces a file as a careful program does: at once.
func (s *store) write(path string, text []byte) {
	s.t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		s.t.Fatal(err)
	}
}

// serves is the domain of the certificate in use.
func (s *store) serves() string {
	cert, err := s.TLS("h2").GetCertificate(&tls.ClientHelloInfo{ServerName: "whatever"})
	if err != nil {
		return err.Error()
	}
	return nameOf(cert.Leaf)
}

func (s *store) metric() string {
	s.t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	var series []string
	for _, m := range families[0].GetMetric() {
		series = append(series, fmt.Sprintf("%s=%.0f", m.GetLabel()[0].GetValue(), m.GetGauge().GetValue()))
	}
	return strings.Join(series, " ")
}

func TestFilesThatChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		expires := time.Now().Add(time.Hour).Truncate(time.Second)
		oldCert, oldKey := makePair(t, "old", expires)
		newCert, newKey := makePair(t, "new", expires.Add(time.Hour))
		s := newStore(t, oldCert, oldKey)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		defer func() {
			stop()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}()
		step := func(what, want string, complaints int) {
			t.Helper()
			time.Sleep(3 * pollEvery)
			synctest.Wait()
			if got := s.serves(); got != want {
				t.Errorf("%s: the certificate of %s is in use, want that of %s", what, got, want)
			}
			if n := strings.Count(s.log.String(), "level=ERROR"); n != complaints {
				t.Errorf("%s: %d complaints, want %d: %s", what, n, complaints, s.log.String())
			}
		}
		step("nothing happened", "old", 0)
		s.write(s.cert, newCert)
		step("only the certificate has come", "old", 1)
		s.write(s.key, newKey)
		step("the key as well", "new", 1)
		if want := fmt.Sprintf("new=%d", expires.Add(time.Hour).Unix()); s.metric() != want {
			t.Errorf("the metric is %q, want %q", s.metric(), want)
		}
		s.write(s.cert, []byte("nonsense"))
		step("nonsense", "new", 2)
		if err := os.Remove(s.key); err != nil {
			t.Fatal(err)
		}
		step("no key", "new", 3)
		s.write(s.cert, oldCert)
		step("the old certificate without a key", "new", 3)
		s.write(s.key, oldKey)
		step("the old pair", "old", 3)
	})
}

func TestExpiredCertificateIsUsedAndSaid(t *testing.T) {
	t.Parallel()
	cert, key := makePair(t, "gone", time.Now().Add(-time.Hour))
	s := newStore(t, cert, key)
	if s.serves() != "gone" || !strings.Contains(s.log.String(), "certificate has expired") {
		t.Errorf("serves %s, log %s", s.serves(), s.log.String())
	}
}

func TestDomainsWithoutACertificateYet(t *testing.T) {
	t.Parallel()
	s, err := New(Config{Domains: []string{"A.example.org."}, CacheDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	config := s.TLS("h2", "http/1.1")
	if got := strings.Join(config.NextProtos, " "); got != "h2 http/1.1 acme-tls/1" {
		t.Errorf("protocols are %q", got)
	}
	cert, key := makePair(t, "a.example.org", time.Now().Add(time.Hour))
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	get := func(name string) bool {
		got, err := config.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		return err == nil && got.Leaf.Equal(pair.Leaf)
	}
	if get("a.example.org") {
		t.Error("there is a certificate that nobody has got")
	}
	s.replace("a.example.org", &pair)
	for name, want := range map[string]bool{"a.example.org": true, "A.EXAMPLE.ORG.": true, "": true, "b.example.org": false} {
		if get(name) != want {
			t.Errorf("%q has a certificate: %t", name, !want)
		}
	}
	for _, path := range []string{ChallengePath + "x", ChallengePath + "../../x", ChallengePath + "%zz", ChallengePath} {
		if answer, ok := s.Challenge("a.example.org", path); ok {
			t.Errorf("%s is answered with %q", path, answer)
		}
	}
}

func TestOrdersAreLocated(t *testing.T) {
	t.Parallel()
	c := &courier{orders: make(map[string]string)}
	made := http.Header{"Location": {"https://ca/order/1"}}
	c.locate("https://ca/new-order", made, []byte(`{"status":"pending","finalize":"https://ca/order/1/finalize"}`))
	c.locate("https://ca/account", http.Header{"Location": {"https://ca/account/1"}}, []byte(`{"status":"valid"}`))
	c.locate("https://ca/other", http.Header{"Location": {"https://ca/x"}}, []byte("no JSON"))
	other, finalized, again := http.Header{}, http.Header{}, http.Header{}
	c.locate("https://ca/order/2/finalize", other, nil)
	c.locate("https://ca/order/1/finalize", finalized, nil)
	c.locate("https://ca/order/1/finalize", again, nil)
	if other.Get("Location") != "" || finalized.Get("Location") != "https://ca/order/1" || again.Get("Location") != "https://ca/order/1" {
		t.Errorf("got %v, %v and %v", other, finalized, again)
	}
	for i := range 2 * maxOrders {
		c.locate("https://ca/new-order", made, fmt.Appendf(nil, `{"finalize":"https://ca/order/%d/finalize"}`, i))
	}
	if len(c.orders) > maxOrders {
		t.Errorf("%d orders are remembered", len(c.orders))
	}
}
