package up

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// certificate is the operator's, for TLS at the gateway; the zero value is none.
type certificate struct {
	cert, key []byte
	version   string // tells it from others in the names of its secrets
}

// readCertificate reads the pair that the settings name, and refuses one that no gateway would start with.
func readCertificate(c Config) (certificate, error) {
	if c.TLSCert == "" && c.TLSKey == "" {
		return certificate{}, nil
	}
	if c.TLSCert == "" || c.TLSKey == "" {
		return certificate{}, fmt.Errorf("TLS_CERT is %q and TLS_KEY is %q; legal are both or neither", c.TLSCert, c.TLSKey)
	}
	if c.TLSPort < 1 || c.TLSPort > 65535 || c.TLSPort == c.Port {
		return certificate{}, fmt.Errorf("TLS_PORT is %d; legal are 1 to 65535, and not PORT", c.TLSPort)
	}
	cert, err := os.ReadFile(c.TLSCert)
	if err != nil {
		return certificate{}, fmt.Errorf("reading TLS_CERT: %w", err)
	}
	key, err := os.ReadFile(c.TLSKey)
	if err != nil {
		return certificate{}, fmt.Errorf("reading TLS_KEY: %w", err)
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return certificate{}, fmt.Errorf("TLS_CERT %s and TLS_KEY %s are no pair: %w", c.TLSCert, c.TLSKey, err)
	}
	sum := sha256.Sum256(append(append([]byte(nil), cert...), key...))
	return certificate{cert: cert, key: key, version: hex.EncodeToString(sum[:6])}, nil
}

// secrets maps the names of its Swarm secrets to their content.
func (c certificate) secrets() map[string][]byte {
	if c.version == "" {
		return nil
	}
	return map[string][]byte{tlsSecrets + "cert-" + c.version: c.cert, tlsSecrets + "key-" + c.version: c.key}
}

// tlsSecrets begins the names of all secrets of certificates.
const tlsSecrets = "waggle-tls-"

// listCertificates lists the secrets of all certificates, of earlier ones too.
func (s *System) listCertificates(ctx context.Context) ([]string, error) {
	listed, err := s.Target.Manager.Run(ctx, "secret", "ls", "--filter", "label="+ownLabel, "--filter", "name="+tlsSecrets, "--format", "{{.Name}}")
	if err != nil {
		return nil, fmt.Errorf("listing the secrets of certificates: %w", err)
	}
	return strings.Fields(listed), nil
}

// ensureCertificate makes the certificate known to the Swarm. It returns how many secrets were new.
func (s *System) ensureCertificate(ctx context.Context) (created int, err error) {
	missing := s.certificate.secrets()
	if len(missing) == 0 {
		return 0, nil
	}
	known, err := s.listCertificates(ctx)
	if err != nil {
		return 0, err
	}
	for _, name := range known {
		delete(missing, name)
	}
	for name, text := range missing {
		if _, err := s.Target.Manager.RunInput(ctx, strings.NewReader(string(text)), "secret", "create", "--label", ownLabel, name, "-"); err != nil {
			return created, fmt.Errorf("creating Swarm secret %s: %w", name, err)
		}
		created++
	}
	return created, nil
}

// forgetCertificates removes those that the gateway no longer uses.
func (s *System) forgetCertificates(ctx context.Context) error {
	known, err := s.listCertificates(ctx)
	if err != nil {
		return err
	}
	current := s.certificate.secrets()
	for _, name := range known {
		if _, used := current[name]; used {
			continue
		}
		if _, err := s.Target.Manager.Run(ctx, "secret", "rm", name); err != nil {
			return fmt.Errorf("removing the secret of an earlier certificate: %w", err)
		}
	}
	return nil
}
