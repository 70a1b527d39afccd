package up

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
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
	function bool // an OpenFaaS secret <name> for functions
	// The services of the stack that have it as /run/secrets/<name>: servers ask for it, clients log in with it, and peers
	// do both.
	servers, clients, peers []string
	// Those that have it as /run/secrets/<name>-now, and the one before as <name>-before: they change it where the server
	// is somebody else's.
	setters []string
	// rotate says how it can be changed.
	rotate rotation
}

// swarm reports whether parts of the stack have it.
func (c credential) swarm() bool { return len(c.servers)+len(c.clients)+len(c.peers) > 0 }

// rotation is how a secret is changed while the system runs; rotate.go does it.
type rotation int

const (
	// fixed: it cannot be.
	fixed rotation = iota
	// overlapping: its servers take the next one beside the old one for a while, so that no client is ever refused.
	overlapping
	// abrupt: its server has one at a time, and clients wait until they have it too.
	abrupt
	// keyList: a list of keys, of which the first signs and all verify.
	keyList
)

// credentials lists every secret of the system, and deploy/stack.yml names the same services.
var credentials = []credential{
	{name: "basic-auth-user", generate: func() string { return "admin" }, servers: []string{"provider"}, peers: []string{"gateway"}},
	{name: "basic-auth-password", generate: randomHex, servers: []string{"provider"}, peers: []string{"gateway"}, rotate: overlapping},
	{name: "redis-capture", generate: randomHex, function: true, servers: []string{"redis"}, rotate: overlapping},
	{name: "redis-copies", generate: randomHex, function: true, servers: []string{"redis"}, rotate: overlapping},
	{name: "redis-drain", generate: randomHex, servers: []string{"redis"}, clients: []string{"worker"}, rotate: overlapping},
	{name: "redis-queue", generate: randomHex, servers: []string{"queue"}, clients: []string{"gateway"}, rotate: overlapping},
	{name: "postgres-admin", generate: randomHex, servers: []string{"postgres"}, clients: []string{"migrate"}, setters: []string{"migrate"}, rotate: abrupt},
	{name: "postgres-drain", generate: randomHex, servers: []string{"postgres"}, clients: []string{"worker"}, setters: []string{"migrate"}, rotate: abrupt},
	{name: "postgres-results", generate: randomHex, function: true, servers: []string{"postgres"}, setters: []string{"migrate"}, rotate: abrupt},
	{name: archiveKey, generate: randomKey, clients: []string{"postgres"}},
	{name: "voter-keys", generate: voterKeys, function: true, rotate: keyList},
	{name: summaryKey, generate: newSummaryKey},
}

// values are a credential's: the one in use and, while it is rotated, another.
type values struct {
	credential
	// current is what clients log in with; next will follow it, previous went before it, and closed went before it and is being
	// forgotten. All but the first are "" in between rotations.
	current, next, previous, closed string
}

// The endings of the files of these in the state directory.
const (
	nextFile     = ".next"
	previousFile = ".previous"
	closedFile   = ".closed"
)

func (s state) values(c credential) (values, error) {
	v := values{credential: c}
	for suffix, to := range map[string]*string{"": &v.current, nextFile: &v.next, previousFile: &v.previous, closedFile: &v.closed} {
		var err error
		if *to, err = s.read(c.name + suffix); err != nil {
			return v, err
		}
	}
	return v, nil
}

// presented is what clients and functions get.
func (v values) presented() string {
	if v.rotate == keyList && v.next != "" && !strings.Contains(v.current, v.next) {
		return v.current + "\n" + v.next
	}
	return v.current
}

// ordered is what peers get: they log in with the first line and take every one.
func (v values) ordered() string {
	if v.rotate != overlapping {
		return v.presented()
	}
	lines := []string{v.current}
	for _, other := range []string{v.next, v.previous} {
		if other != "" && !slices.Contains(lines, other) {
			lines = append(lines, other)
		}
	}
	return strings.Join(lines, "\n")
}

// accepted is what servers get: sorted, so that they do not restart when clients change from one line to the other.
func (v values) accepted() string {
	return strings.Join(slices.Sorted(slices.Values(strings.Split(v.ordered(), "\n"))), "\n")
}

// secretName is the name of the Swarm secret with this content. A Swarm secret never changes, so another value has another name.
func (v values) secretName(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "waggle-" + v.name + "-" + hex.EncodeToString(sum[:6])
}

// forms maps the variables of deploy/stack.yml to what the parts of the stack get.
func (v values) forms() map[string]string {
	variable := "SECRET_" + strings.ToUpper(strings.ReplaceAll(v.name, "-", "_"))
	forms := map[string]string{}
	if len(v.servers) > 0 {
		forms[variable+"_ACCEPTED"] = v.accepted()
	}
	if len(v.clients) > 0 {
		forms[variable] = v.presented()
	}
	if len(v.peers) > 0 {
		forms[variable+"_ORDERED"] = v.ordered()
	}
	if len(v.setters) > 0 {
		forms[variable+"_BEFORE"] = cmp.Or(v.previous, v.closed, v.current)
	}
	return forms
}

// secretNames are the settings by which deploy/stack.yml finds its secrets.
func (s *System) secretNames() ([]string, error) {
	var env []string
	for _, c := range credentials {
		v, err := s.state.values(c)
		if err != nil {
			return nil, err
		}
		for variable, content := range v.forms() {
			env = append(env, variable+"="+v.secretName(content))
		}
	}
	return env, nil
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

// secretLabel names the credential of which a Swarm secret is a version.
const secretLabel = "com.waggle.credential"

// inSwarm lists the Swarm secrets of credentials, by name.
func (s *System) inSwarm(ctx context.Context) (map[string][]string, error) {
	listed, err := s.Target.Manager.Run(ctx, "secret", "ls", "--filter", "label="+ownLabel, "--format", `{{.Label "`+secretLabel+`"}} {{.Name}}`)
	if err != nil {
		return nil, fmt.Errorf("listing Swarm secrets: %w", err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(listed) {
		if fields := strings.Fields(line); len(fields) == 2 {
			found[fields[0]] = append(found[fields[0]], fields[1])
		} else if len(fields) == 1 {
			// Before there were versions, a secret had the name of its credential and no label.
			name := strings.TrimPrefix(fields[0], "waggle-")
			found[name] = append(found[name], fields[0])
		}
	}
	return found, nil
}

// ensureCredentials generates what is missing and makes it known to the Swarm. It returns how many were new.
//
// Swarm never gives a secret back. So a Swarm that has ours while the state directory does not cannot be served. A
// new password would not fit the one inside the data volumes. A secret that only functions have is known by the hash
// of what was applied last. Other voter keys would give every voter a new identity, and with it another vote.
func (s *System) ensureCredentials(ctx context.Context) (created int, err error) {
	existing, err := s.inSwarm(ctx)
	if err != nil {
		return 0, err
	}
	for _, c := range credentials {
		v, err := s.state.values(c)
		if err != nil {
			return created, err
		}
		if err := s.checkCredential(v, existing[c.name]); err != nil {
			return created, err
		}
		if v.current == "" {
			v.current = c.generate()
			if err := s.state.write(c.name, v.current); err != nil {
				return created, err
			}
		}
		made, err := s.storeSecrets(ctx, v, existing[c.name])
		created += made
		if err != nil {
			return created, err
		}
	}
	return created, nil
}

// checkCredential refuses a state directory that has lost a value, or has another than the Swarm.
func (s *System) checkCredential(v values, existing []string) error {
	const advice = "Put the file back, or take it from a backup with `make restore WHAT=state`. `make purge` starts afresh and deletes all votes."
	applied, err := s.state.read("applied-" + v.name)
	if err != nil {
		return err
	}
	if v.current == "" && v.swarm() && len(existing) > 0 {
		return failf(advice, "the Swarm has secret %s but %s is gone", existing[0], s.state.path(v.name))
	}
	if v.current == "" && applied != "" {
		return failf(advice, "the functions have secret %s but %s is gone", v.name, s.state.path(v.name))
	}
	versioned := slices.DeleteFunc(slices.Clone(existing), func(name string) bool { return name == "waggle-"+v.name })
	if !v.swarm() || len(versioned) == 0 {
		return nil
	}
	var ours []string
	for _, content := range v.everyForm() {
		ours = append(ours, v.secretName(content))
	}
	if !slices.ContainsFunc(versioned, func(name string) bool { return slices.Contains(ours, name) }) {
		return failf("If somebody has rotated it: "+advice+" To change a secret: make rotate SECRET="+v.name, "the Swarm has another %s than %s", v.name, s.state.path(v.name))
	}
	return nil
}

// everyForm lists what the Swarm may have at any step of a rotation that these values are in.
func (v values) everyForm() []string {
	var all []string
	for _, current := range []string{v.current, v.previous} {
		for _, next := range []string{v.next, ""} {
			for _, previous := range []string{v.previous, v.closed, ""} {
				w := values{credential: v.credential, current: current, next: next, previous: previous}
				all = append(all, w.presented(), w.ordered(), w.accepted())
			}
		}
	}
	return all
}

// storeSecrets makes the Swarm secrets that the stack needs of a credential, and returns how many were new.
func (s *System) storeSecrets(ctx context.Context, v values, existing []string) (created int, err error) {
	for _, content := range v.forms() {
		name := v.secretName(content)
		if slices.Contains(existing, name) {
			continue
		}
		if _, err := s.Target.Manager.RunInput(ctx, strings.NewReader(content), "secret", "create", "--label", ownLabel, "--label", secretLabel+"="+v.name, name, "-"); err != nil {
			return created, fmt.Errorf("creating Swarm secret %s: %w", name, err)
		}
		existing = append(existing, name)
		created++
	}
	return created, nil
}

// forgetSecrets removes the versions that nothing uses any more.
func (s *System) forgetSecrets(ctx context.Context) error {
	existing, err := s.inSwarm(ctx)
	if err != nil {
		return err
	}
	for _, c := range credentials {
		v, err := s.state.values(c)
		if err != nil {
			return err
		}
		wanted := map[string]bool{}
		for _, content := range v.forms() {
			wanted[v.secretName(content)] = true
		}
		for _, name := range existing[c.name] {
			if wanted[name] {
				continue
			}
			// A service of the operator's own, such as a Prometheus, may still have it.
			if _, err := s.Target.Manager.Run(ctx, "secret", "rm", name); err != nil && !strings.Contains(err.Error(), "in use") {
				return fmt.Errorf("removing an earlier secret: %w", err)
			}
		}
	}
	return nil
}

// voterKeys makes the secret whose form functions/vote/keys.go defines: the key of the pseudonyms, and one that signs.
func voterKeys() string { return "poll:" + randomKey() + "\nk1:" + randomKey() }

// randomKey is 256 random bits in hexadecimal.
func randomKey() string {
	b := make([]byte, 32)
	rand.Read(b)
	return hex.EncodeToString(b)
}
