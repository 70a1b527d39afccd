package up

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// credential is a generated value that lives in the state directory and in the Swarm.
type credential struct {
	name     string // file name in the state directory
	generate func() string
	swarm    bool // also a Swarm secret waggle-<name> for the parts of the stack
	function bool // also an OpenFaaS secret <name> for functions
}

// credentials lists every secret of the system; README's section on secrets names them too.
var credentials = []credential{
	{name: "basic-auth-user", generate: func() string { return "admin" }, swarm: true},
	{name: "basic-auth-password", generate: randomHex, swarm: true},
	{name: "redis-capture", generate: randomHex, swarm: true, function: true},
	{name: "redis-copies", generate: randomHex, swarm: true, function: true},
	{name: "redis-drain", generate: randomHex, swarm: true},
	{name: "redis-queue", generate: randomHex, swarm: true},
	{name: "postgres-admin", generate: randomHex, swarm: true},
	{name: "postgres-drain", generate: randomHex, swarm: true},
	{name: "postgres-results", generate: randomHex, swarm: true, function: true},
	{name: "voter-keys", generate: voterKeys, function: true},
	{name: summaryKey, generate: newSummaryKey},
}

// randomHex is 192 random bits: letters and digits only, so that it needs no quoting anywhere.
func randomHex() string {
	b := make([]byte, 24)
	rand.Read(b) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b)
}

// state is the directory that keeps the generated credentials between runs, readable by its owner alone.
type state struct{ dir string }

func (s state) path(name string) string { return filepath.Join(s.dir, name) }

// read returns the stored value, or "" when there is none.
func (s state) read(name string) (string, error) {
	b, err := os.ReadFile(s.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading a credential: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// write stores value so that a crash leaves the old file or the new one, never half of it.
func (s state) write(name, value string) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	next := s.path(name) + ".new"
	if err := writeSynced(next, value+"\n"); err != nil {
		return fmt.Errorf("writing a credential: %w", err)
	}
	if err := os.Rename(next, s.path(name)); err != nil {
		return fmt.Errorf("writing a credential: %w", err)
	}
	return nil
}

// writeSynced returns when the text is on disk: a rename may reach it before the text does, and leave an empty file.
func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// ensureCredentials generates what is missing and makes it known to the Swarm. It returns how many were new.
//
// Swarm never gives a secret back. So a Swarm that has ours while the state directory does not cannot be served. A
// new password would not fit the one inside the data volumes. A secret that only functions have is known by the hash
// of what was applied last. Other voter keys would give every voter a new identity, and with it another vote.
func (s *System) ensureCredentials(ctx context.Context) (created int, err error) {
	listed, err := s.Target.Manager.Run(ctx, "secret", "ls", "--format", "{{.Name}}")
	if err != nil {
		return 0, fmt.Errorf("listing Swarm secrets: %w", err)
	}
	existing := strings.Fields(listed)
	for _, c := range credentials {
		value, err := s.state.read(c.name)
		if err != nil {
			return created, err
		}
		inSwarm := slices.Contains(existing, "waggle-"+c.name)
		if value == "" && c.swarm && inSwarm {
			return created, failf("Put the file back, or start afresh with `make purge`, which deletes all votes.",
				"the Swarm has secret waggle-%s but %s is gone", c.name, s.state.path(c.name))
		}
		applied, err := s.state.read("applied-" + c.name)
		if err != nil {
			return created, err
		}
		if value == "" && applied != "" {
			return created, failf("Put the file back, or start afresh with `make purge`, which deletes all votes.",
				"the functions have secret %s but %s is gone", c.name, s.state.path(c.name))
		}
		if value == "" {
			value = c.generate()
			if err := s.state.write(c.name, value); err != nil {
				return created, err
			}
		}
		if c.swarm && !inSwarm {
			if _, err := s.Target.Manager.RunInput(ctx, strings.NewReader(value), "secret", "create", "--label", ownLabel, "waggle-"+c.name, "-"); err != nil {
				return created, fmt.Errorf("creating Swarm secret waggle-%s: %w", c.name, err)
			}
			created++
		}
	}
	return created, nil
}

// voterKeys makes the secret whose form functions/vote/keys.go defines: the key of the pseudonyms, and one that signs.
func voterKeys() string { return "poll:" + randomKey() + "\nk1:" + randomKey() }

// randomKey is 256 random bits in hexadecimal.
func randomKey() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
}
