package certs

import (
	"context"
	"crypto/tls"
	"os"
	"time"

	"waggle/provider/settings"
)

// pollEvery is how soon a pair of files that was replaced is in use.
const pollEvery = time.Second

// files is a pair of PEM files, and what they looked like when they were read.
type files struct {
	cert, key         string
	certSeen, keySeen os.FileInfo
	complaint         string // about the files as they are; empty if they are in use
}

// changed reports whether a file is another one than was read, or its text is.
func (f *files) changed() bool {
	same := func(path string, seen os.FileInfo) bool {
		now, err := os.Stat(path)
		return err == nil && seen != nil && os.SameFile(now, seen) && now.ModTime().Equal(seen.ModTime()) && now.Size() == seen.Size()
	}
	return !same(f.cert, f.certSeen) || !same(f.key, f.keySeen)
}

// reload reads the pair and puts it into use if it works.
func (s *Store) reload() (*tls.Certificate, error) {
	f := s.files
	// Looked at before they are read: what is written meanwhile is a change.
	f.certSeen, _ = os.Stat(f.cert)
	f.keySeen, _ = os.Stat(f.key)
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, settings.Mistake("tls_cert_file", f.cert, "a certificate in PEM whose key is in tls_key_file, %s: %w", f.key, err)
	}
	s.replace("", &cert)
	return &cert, nil
}

// followFiles polls the files. Two files cannot be replaced at once, so a pair that does not work is read again, and
// logged once.
func (s *Store) followFiles(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if s.files.complaint == "" && !s.files.changed() {
			continue
		}
		cert, err := s.reload()
		switch {
		case err == nil:
			s.files.complaint = ""
			s.cfg.Logger.Info("certificate replaced", "domain", nameOf(cert.Leaf), "expires", cert.Leaf.NotAfter)
		case err.Error() != s.files.complaint:
			s.files.complaint = err.Error()
			s.cfg.Logger.Error("new certificate does not work, keeping the old one", "error", err)
		}
	}
}
