package up

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newCertificate writes a pair into files.
func newCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := errors.Join(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// calls is what the fake docker was asked.
func calls(t *testing.T) string {
	t.Helper()
	dir, _, _ := strings.Cut(os.Getenv("PATH"), ":")
	text, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func TestImpossibleCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	cert, key := newCertificate(t)
	_, otherKey := newCertificate(t)
	for name, test := range map[string]struct {
		config Config
		want   string
	}{
		"no key":        {Config{TLSCert: cert}, `TLS_KEY is ""; legal are both or neither`},
		"no such file":  {Config{TLSCert: cert + "x", TLSKey: key, TLSPort: 8443}, "reading TLS_CERT"},
		"no pair":       {Config{TLSCert: cert, TLSKey: otherKey, TLSPort: 8443}, "are no pair"},
		"no port":       {Config{TLSCert: cert, TLSKey: key}, "TLS_PORT is 0; legal are 1 to 65535"},
		"the same port": {Config{TLSCert: cert, TLSKey: key, TLSPort: 80, Port: 80}, "TLS_PORT is 80"},
	} {
		if _, err := readCertificate(test.config); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestCertificateBecomesSecrets(t *testing.T) {
	cert, key := newCertificate(t)
	s := newTestSystem(t, func(c *Config) { c.TLSCert, c.TLSKey, c.TLSPort = cert, key, 8443 })
	certSecret, keySecret := "waggle-tls-cert-"+s.certificate.version, "waggle-tls-key-"+s.certificate.version

	fakeDocker(t, map[string]string{"secret ls": "waggle-tls-cert-old\nwaggle-tls-key-old\n" + certSecret, "secret create": "", "secret rm": ""})
	if created, err := s.ensureCertificate(t.Context()); err != nil || created != 1 {
		t.Errorf("%d created, error %v", created, err)
	}
	if err := s.forgetCertificates(t.Context()); err != nil {
		t.Error(err)
	}
	got := calls(t)
	for text, want := range map[string]bool{"create --label " + ownLabel + " " + keySecret: true, "create --label " + ownLabel + " " + certSecret: false,
		"rm waggle-tls-cert-old": true, "rm waggle-tls-key-old": true, "rm " + certSecret: false} {
		if strings.Contains(got, text) != want {
			t.Errorf("docker %s was called: %t, in %s", text, !want, got)
		}
	}
	if got := strings.Join(s.layers(), " "); got != "stack.yml tls.yml" {
		t.Errorf("the stack is %s", got)
	}
}

func TestWithoutACertificateTheOldOneGoes(t *testing.T) {
	s := newTestSystem(t, nil)
	fakeDocker(t, map[string]string{"secret ls": "waggle-tls-cert-old", "secret rm": ""})
	if created, err := s.ensureCertificate(t.Context()); err != nil || created != 0 {
		t.Errorf("%d created, error %v", created, err)
	}
	if err := s.forgetCertificates(t.Context()); err != nil || !strings.Contains(calls(t), "rm waggle-tls-cert-old") {
		t.Errorf("error %v, calls %s", err, calls(t))
	}
	if got := strings.Join(s.layers(), " "); got != "stack.yml" {
		t.Errorf("the stack is %s", got)
	}
}

func TestTakenTLSPortNamesItsSetting(t *testing.T) {
	if err := checkPort("TLS_PORT", 1, []string{"8080", "1"}); err != nil {
		t.Errorf("the port that our own gateway holds is refused: %v", err)
	}
}
