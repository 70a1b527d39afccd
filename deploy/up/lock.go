package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lockName is a Swarm config. Creating one whose name exists fails on every manager, so two operators at two machines
// cannot change one system at the same time.
const lockName = "waggle-deploy-lock"

// holder is who has the lock.
type holder struct {
	name    string // user@host
	process int
	since   time.Time
}

// me is this process.
func me() (holder, error) {
	host, err := os.Hostname()
	if err != nil {
		return holder{}, fmt.Errorf("finding the name of this machine: %w", err)
	}
	who, err := user.Current()
	if err != nil {
		return holder{}, fmt.Errorf("finding who deploys: %w", err)
	}
	return holder{name: who.Username + "@" + host, process: os.Getpid(), since: time.Now()}, nil
}

// labels are how the lock says who has it.
func (h holder) labels() []string {
	return []string{"--label", ownLabel, "--label", "com.waggle.holder=" + h.name, "--label", "com.waggle.process=" + strconv.Itoa(h.process),
		"--label", "com.waggle.since=" + h.since.UTC().Format(time.RFC3339)}
}

// readHolder is the inverse of labels, as the format below prints them.
func readHolder(text string) (holder, error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return holder{}, fmt.Errorf("the lock %s says %q, not who has it", lockName, text)
	}
	process, err1 := strconv.Atoi(fields[1])
	since, err2 := time.Parse(time.RFC3339, fields[2])
	return holder{fields[0], process, since}, errors.Join(err1, err2)
}

// gone reports whether h was a process of this machine and user that has ended: an interrupted run, which the next
// continues.
func (h holder) gone(now holder) bool {
	return h.name == now.name && (h.process == now.process || errors.Is(syscall.Kill(h.process, 0), syscall.ESRCH))
}

// lock takes the deploy lock of the Swarm and returns how to give it back. It does not wait: who has it may take minutes.
func (s *System) lock(ctx context.Context) (unlock func(), err error) {
	now, err := me()
	if err != nil {
		return nil, err
	}
	take := func() error {
		_, err := s.Target.Manager.RunInput(ctx, strings.NewReader("held\n"), append(append([]string{"config", "create"}, now.labels()...), lockName, "-")...)
		return err
	}
	unlock = func() {
		// Whatever ended the run, the lock goes with it. Purge removes it before.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, _ = s.Target.Manager.Run(ctx, "config", "rm", lockName)
	}
	takeErr := take()
	if takeErr == nil {
		return unlock, nil
	}
	const format = `{{index .Spec.Labels "com.waggle.holder"}} {{index .Spec.Labels "com.waggle.process"}} {{index .Spec.Labels "com.waggle.since"}}`
	text, err := s.Target.Manager.Run(ctx, "config", "inspect", "--format", format, lockName)
	if err != nil {
		return nil, fmt.Errorf("taking the deploy lock: %w", takeErr) // it is not that somebody has it
	}
	other, err := readHolder(text)
	if err != nil {
		return nil, err
	}
	if !other.gone(now) {
		return nil, failf("Wait, or if that run is no more: docker config rm "+lockName, "%s has been deploying since %s (%s ago, process %d)",
			other.name, other.since.Format(time.RFC3339), now.since.Sub(other.since).Round(time.Second), other.process)
	}
	unlock()
	if err := take(); err != nil {
		return nil, fmt.Errorf("taking the deploy lock of an interrupted run: %w", err)
	}
	return unlock, nil
}
