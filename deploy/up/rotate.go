package up

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rotating a secret has three steps. Each is a deployment of what runs already, with other secrets, and waits until it is
// in effect everywhere:
//
//  1. next: servers take the next value beside the one in use. The last key of a list is new.
//  2. change: clients use the next value; the one before stays valid. The new key signs.
//  3. close: servers take the one before no longer.
//
// A server that has one password at a time gets it in the second step, together with its clients. They are refused for the
// seconds between its restart and theirs, and try again. Votes wait in Redis meanwhile. In a Postgres of others each role
// changes its own password: the migration logs in with the one before.
//
// The state directory has <name>.next during the first step, <name>.previous during the second and <name>.closed during the
// third. So an interrupted rotation is continued by the next, and `make up` in between deploys the step that was reached.

// maxVoterKeys is how many signing keys the function vote takes: functions/vote/keys.go.
const maxVoterKeys = 8

// rotatable are the secrets that a selection names; "all" is every one.
func rotatable(selection string) ([]credential, error) {
	var found []credential
	legal := []string{"all"}
	for _, c := range credentials {
		if c.rotate == fixed {
			continue
		}
		legal = append(legal, c.name)
		if selection == "all" || selection == c.name {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("SECRET is %q: must be one of %s", selection, strings.Join(legal, ", "))
	}
	return found, nil
}

// Rotate gives a secret, or "all" of them, a new value while the system runs. No vote is lost or refused for it, besides
// what the restart of one capture node's Redis at a time costs. It may be repeated after an interruption.
func (s *System) Rotate(ctx context.Context, selection string) error {
	selected, err := rotatable(selection)
	if err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := s.newest(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(selected, func(c credential) bool { return len(c.setters) > 0 }) && s.externalPostgres() && !changesPasswords(d) {
		return failf("Run `make up` first.", "the version that runs cannot change the passwords of an external Postgres")
	}
	if err := s.runningPolls(ctx, d); err != nil {
		return err
	}
	if err := s.patience(ctx, 0); err != nil {
		return err
	}
	advance := func(move func(state, values) error) func() (string, error) {
		return func() (string, error) {
			for _, c := range selected {
				v, err := s.state.values(c)
				if err == nil {
					err = move(s.state, v)
				}
				if err != nil {
					return "", err
				}
			}
			return s.redeploy(ctx, d)
		}
	}
	err = s.run(
		step{"state", func() (string, error) {
			for _, c := range selected {
				if err := s.state.mayRotate(c); err != nil {
					return "", err
				}
			}
			_, err := s.ensureCredentials(ctx)
			return s.StateDir, err
		}},
		step{"next", advance(state.prepare)},
		step{"change", advance(state.change)},
		step{"close", advance(state.close)},
	)
	if err != nil {
		return advise(err, "Repeat the command: it continues where it stopped.")
	}
	var names []string
	for _, c := range selected {
		if err := s.state.remove(c.name + closedFile); err != nil {
			return err
		}
		names = append(names, c.name)
	}
	fmt.Fprintf(s.Out, "\nRotated %s. Make a backup of the state: make backup.\n", joinWords(names))
	return nil
}

// changesPasswords reports whether a deployment's migration changes the passwords in a Postgres of others.
func changesPasswords(d Deployment) bool {
	return strings.Contains(d.Files["external.yml"], "postgres-admin-before")
}

// mayDeploy refuses a deployment that would give new passwords to clients, and not to a Postgres of others.
func (s *System) mayDeploy(d Deployment) error {
	if !s.externalPostgres() || changesPasswords(d) {
		return nil
	}
	for _, c := range credentials {
		v, err := s.state.values(c)
		if err != nil {
			return err
		}
		if len(c.setters) > 0 && v.previous+v.closed != "" {
			return failf("Finish it: make rotate SECRET="+c.name, "%s is being rotated, and %s cannot change it in an external Postgres", c.name, d.Version)
		}
	}
	return nil
}

// patience raises the timeout with each node beyond a number: servers of votes restart one after the other, with a pause.
func (s *System) patience(ctx context.Context, beyond int) error {
	all, err := s.members(ctx)
	s.Timeout += time.Duration(max(0, len(all)-beyond)) * time.Minute
	return err
}

// mayRotate refuses a value that is not there or cannot take another.
func (s state) mayRotate(c credential) error {
	v, err := s.values(c)
	if err != nil {
		return err
	}
	if v.current == "" {
		return failf("Run `make up`, which makes it.", "%s is not there", s.path(c.name))
	}
	if c.rotate == keyList && v.next == "" && len(signingKeys(v.current)) >= maxVoterKeys {
		return failf("Once no poll is open that was voted in with the oldest, remove their lines and run `make up`.",
			"%s has %d keys already", s.path(c.name), maxVoterKeys)
	}
	return nil
}

// prepare makes the next value, unless an interrupted rotation has.
func (s state) prepare(v values) error {
	if v.next != "" || v.previous != "" || v.closed != "" {
		return nil
	}
	next := ""
	if v.rotate == keyList {
		next = nextKey(v.current)
	} else {
		next = v.generate()
	}
	return s.write(v.name+nextFile, next)
}

// change puts the next value in the place of the current one. The order of writes lets a crash leave a state that
// prepare and change understand.
func (s state) change(v values) error {
	if v.next == "" {
		return nil
	}
	if v.rotate == keyList {
		if err := s.write(v.name, moveUp(v.current, v.next)); err != nil {
			return err
		}
		return s.remove(v.name + nextFile)
	}
	if v.current != v.next {
		if err := s.write(v.name+previousFile, v.current); err != nil {
			return err
		}
		if err := s.write(v.name, v.next); err != nil {
			return err
		}
	}
	return s.remove(v.name + nextFile)
}

// close lets servers forget the value before. Its file stays, under another name, until they have: it says that what the
// Swarm has is not somebody else's.
func (s state) close(v values) error {
	if v.previous == "" {
		return nil
	}
	if err := os.Rename(s.path(v.name+previousFile), s.path(v.name+closedFile)); err != nil {
		return fmt.Errorf("closing a credential: %w", err)
	}
	return nil
}

func (s state) remove(name string) error {
	if err := os.Remove(s.path(name)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing a credential: %w", err)
	}
	return nil
}

var signingKey = regexp.MustCompile(`(?m)^([a-z0-9]{1,16}):[0-9a-fA-F]+\s*$`)

// signingKeys are the ids of the keys of a list, without the one for pseudonyms.
func signingKeys(list string) []string {
	var ids []string
	for _, match := range signingKey.FindAllStringSubmatch(list, -1) {
		if match[1] != "poll" {
			ids = append(ids, match[1])
		}
	}
	return ids
}

// nextKey makes a key with an id that the list has not had: one more than its highest.
func nextKey(list string) string {
	highest := 0
	for _, id := range signingKeys(list) {
		if n, err := strconv.Atoi(strings.TrimPrefix(id, "k")); err == nil {
			highest = max(highest, n)
		}
	}
	return fmt.Sprintf("k%d:%s", highest+1, randomKey())
}

// moveUp puts a key before the others, so that it signs, and leaves all other lines as they are.
func moveUp(list, key string) string {
	lines := slices.DeleteFunc(strings.Split(list, "\n"), func(line string) bool { return strings.TrimSpace(line) == key })
	at := slices.IndexFunc(lines, func(line string) bool {
		return signingKey.MatchString(line) && !strings.HasPrefix(line, "poll:")
	})
	if at < 0 {
		at = len(lines)
	}
	return strings.Join(slices.Insert(lines, at, key), "\n")
}

// redeploy hands a deployment over again with the secrets as they are now, and returns once it is in effect everywhere.
func (s *System) redeploy(ctx context.Context, d Deployment) (string, error) {
	before, err := s.remember(ctx)
	if err != nil {
		return "", err
	}
	if _, err := s.ensureCredentials(ctx); err != nil {
		return "", err
	}
	if d.Env["CAPTURE_NODES"], err = s.captureList(ctx); err != nil {
		return "", err
	}
	if err := s.deploy(ctx, d); err != nil {
		return "", err
	}
	if _, err := s.awaitServices(ctx); err != nil {
		return "", err
	}
	if _, err := s.deployFunctions(ctx, d.Functions); err != nil {
		return "", err
	}
	err = s.await(ctx, func(ctx context.Context) error {
		if err := s.functionsHaveSecrets(ctx); err != nil {
			return err
		}
		return s.functionsSettled(ctx)
	})
	if err != nil {
		return "", err
	}
	if _, err := s.awaitAnswers(ctx); err != nil {
		return "", err
	}
	if err := s.forgetSecrets(ctx); err != nil {
		return "", err
	}
	after, err := s.fingerprint(ctx)
	if err != nil {
		return "", err
	}
	if changed := after.changedFrom(before); len(changed) > 0 {
		return "changed " + joinWords(changed), nil
	}
	return "nothing changed", nil
}

// functionsHaveSecrets returns an error as long as a function is to run with an earlier version of a secret. The provider
// names versions <namespace>.<secret>.<number>.
func (s *System) functionsHaveSecrets(ctx context.Context) error {
	listed, err := s.Target.Manager.Run(ctx, "secret", "ls", "--filter", "label="+functionLabel, "--format", "{{.Name}}")
	if err != nil {
		return fmt.Errorf("listing the functions' secrets: %w", err)
	}
	newest := map[string]int{}
	for name := range strings.FieldsSeq(listed) {
		secret, number := secretVersion(name)
		newest[secret] = max(newest[secret], number)
	}
	ids, err := s.Target.Manager.Run(ctx, "service", "ls", "--quiet", "--filter", "label="+functionLabel)
	if err != nil || ids == "" {
		return err
	}
	const format = "{{.Spec.Name}}{{range .Spec.TaskTemplate.ContainerSpec.Secrets}} {{.SecretName}}{{end}}"
	out, err := s.Target.Manager.Run(ctx, append([]string{"service", "inspect", "--format", format}, strings.Fields(ids)...)...)
	if err != nil {
		return fmt.Errorf("reading the functions' secrets: %w", err)
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		for _, name := range fields[min(1, len(fields)):] {
			if secret, number := secretVersion(name); number < newest[secret] {
				return fmt.Errorf("function %s does not have the newest value of secret %s yet", fields[0], secret)
			}
		}
	}
	return nil
}

func secretVersion(name string) (secret string, number int) {
	at := strings.LastIndexByte(name, '.')
	if at < 0 {
		return name, 0
	}
	number, err := strconv.Atoi(name[at+1:])
	if err != nil {
		return name, 0
	}
	return name[:at], number
}
