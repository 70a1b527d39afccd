package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// protocol is what clients speak to the proxies. Behind them it is HTTP/1.1, always.
type protocol struct {
	name       string
	tls, http2 bool
}

var protocols = map[string]protocol{
	"http1":  {name: "http1"},
	"https1": {name: "https1", tls: true},
	"h2c":    {name: "h2c", http2: true},
	"h2":     {name: "h2", tls: true, http2: true},
}

func (p protocol) scheme() string {
	if p.tls {
		return "https://"
	}
	return "http://"
}

// generator is the program that makes the load, and the Debian package that has it.
func (p protocol) generator() (program, pkg string) {
	if p.http2 {
		return "h2load", "nghttp2-client"
	}
	return "wrk", "wrk"
}

// makeCertificate writes a pair for TLS, and both in one file as HAProxy wants them.
func (b *bench) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("making a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding the key: %w", err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, text := range map[string][]byte{"cert.pem": cert, "key.pem": secret, "both.pem": append(cert, secret...)} {
		if err := os.WriteFile(filepath.Join(b.dir, name), text, 0o600); err != nil {
			return fmt.Errorf("writing the certificate: %w", err)
		}
	}
	return nil
}

// loadHTTP2 runs h2load once, as load does wrk.
func (b *bench) loadHTTP2(ctx context.Context, url string, c testCase, length time.Duration) (result, float64, error) {
	args := []string{"-t1", "-c", strconv.Itoa(b.connections), "-m", strconv.Itoa(b.streams), "-D", strconv.Itoa(int(length.Seconds()))}
	if c.body > 0 {
		path := filepath.Join(b.dir, c.name+".body")
		if err := os.WriteFile(path, make([]byte, c.body), 0o600); err != nil {
			return result{}, 0, fmt.Errorf("writing h2load's body: %w", err)
		}
		args = append(args, "-d", path)
	}
	out, err := exec.CommandContext(ctx, "h2load", append(args, url)...).CombinedOutput()
	if err != nil {
		return result{}, 0, fmt.Errorf("running h2load: %w: %s", err, out)
	}
	return parseHTTP2(string(out))
}

var (
	reFinished = regexp.MustCompile(`finished in [^,]+, ([\d.]+) req/s`)
	reDone     = regexp.MustCompile(`requests: .* (\d+) done, \d+ succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	reStatuses = regexp.MustCompile(`status codes: \d+ 2xx, \d+ 3xx, (\d+) 4xx, (\d+) 5xx`)
)

// parseHTTP2 reads h2load's report, which has no percentiles, and how many requests it is about.
func parseHTTP2(out string) (r result, n float64, err error) {
	rate, done, statuses := reFinished.FindStringSubmatch(out), reDone.FindStringSubmatch(out), reStatuses.FindStringSubmatch(out)
	if rate == nil || done == nil || statuses == nil {
		return r, 0, fmt.Errorf("h2load said nothing that can be read: %s", strings.TrimSpace(out))
	}
	r.rate, _ = strconv.ParseFloat(rate[1], 64)
	n, _ = strconv.ParseFloat(done[1], 64)
	for _, count := range append(done[2:], statuses[1:]...) {
		k, _ := strconv.Atoi(count)
		r.errors += k
	}
	return r, n, nil
}
