package machines

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
)

// sshDir holds what the system's ssh needs for this run. It has a configuration with the inventory's host keys, one
// control socket a machine, and a command `ssh` that uses them. The docker command finds that one on its PATH. So its
// connections share the machine's one connection too.
type sshDir string

// newSSHDir is short on purpose: the path of a control socket may have 107 bytes.
func newSSHDir(cluster *inventory.Inventory) (sshDir, error) {
	real, err := exec.LookPath("ssh")
	if err != nil {
		return "", errors.New("the ssh command is not installed: as root, run 'apt-get install openssh-client'")
	}
	dir, err := os.MkdirTemp("/tmp", "waggle-ssh-")
	if err != nil {
		return "", fmt.Errorf("preparing ssh: %w", err)
	}
	var config, known strings.Builder
	for _, machine := range cluster.Machines {
		writeHost(&config, &known, dir, cluster.KnownHosts, machine)
	}
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"config":      {config.String(), 0o600},
		"known_hosts": {known.String(), 0o600},
		"ssh":         {fmt.Sprintf("#!/bin/sh\nexec %s -F %s/config \"$@\"\n", real, dir), 0o700},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(file.text), file.mode); err != nil {
			return "", errors.Join(fmt.Errorf("preparing ssh: %w", err), os.RemoveAll(dir))
		}
	}
	return sshDir(dir), nil
}

// writeHost adds a machine, by its name, to the configuration. The inventory allows no character in its values that
// means something to ssh.
func writeHost(config, known *strings.Builder, dir, knownHosts string, machine inventory.Machine) {
	user, host, _ := strings.Cut(machine.SSH, "@")
	port := "22"
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	}
	host = strings.Trim(host, "[]")
	fmt.Fprintf(config, "Host %s\n  HostName %s\n  Port %s\n  User %s\n", machine.Name, host, port, user)
	fmt.Fprintf(config, "  BatchMode yes\n  ForwardAgent no\n  ForwardX11 no\n  ConnectTimeout 10\n")
	fmt.Fprintf(config, "  ServerAliveInterval 5\n  ServerAliveCountMax 3\n")
	fmt.Fprintf(config, "  ControlMaster auto\n  ControlPath %s/%%n\n  ControlPersist 60\n", dir)
	if machine.IdentityFile != "" {
		fmt.Fprintf(config, "  IdentityFile %q\n  IdentitiesOnly yes\n", machine.IdentityFile)
	}
	config.WriteString("  StrictHostKeyChecking yes\n")
	switch {
	case machine.HostKey == "" && knownHosts == "":
		return // The operator's own file has to know the machine, by its address.
	case machine.HostKey == "":
		fmt.Fprintf(config, "  UserKnownHostsFile %q\n  GlobalKnownHostsFile /dev/null\n", knownHosts)
		return
	}
	fmt.Fprintf(config, "  HostKeyAlias %s\n  UserKnownHostsFile %s/known_hosts\n  GlobalKnownHostsFile /dev/null\n", machine.Name, dir)
	fmt.Fprintf(known, "%s %s\n", machine.Name, machine.HostKey)
}

// close ends the shared connections and removes the directory.
func (d sshDir) close(machines []*Machine) error {
	for _, machine := range machines {
		// It fails where there is no connection, which is what is wanted.
		_ = exec.Command(filepath.Join(string(d), "ssh"), "-O", "exit", machine.Name).Run()
	}
	return os.RemoveAll(string(d))
}

// Machine is one machine of the inventory, behind ssh. It may be used from many goroutines.
type Machine struct {
	inventory.Machine
	// Engine is its Docker engine, reached through the same ssh connection.
	Engine docker.Engine

	ssh   sshDir
	probe string // path of the probe program there, once it is copied
}

// run executes a command of the shell there. The error is one line that names the machine.
func (m *Machine) run(ctx context.Context, input io.Reader, command string) (string, error) {
	cmd := m.command(ctx, command)
	cmd.Stdin = input
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", m.explain(ctx, err, complaint.String())
	}
	return strings.TrimSpace(out.String()), nil
}

func (m *Machine) command(ctx context.Context, command string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(string(m.ssh), "ssh"), "-T", m.Name, command)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// explain turns a failure of ssh into one line with the remedy, where there is a known one.
func (m *Machine) explain(ctx context.Context, err error, complaint string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", m.Name, context.Cause(ctx))
	}
	line := strings.Join(strings.Fields(complaint), " ")
	switch {
	case strings.Contains(complaint, "Host key verification failed"), strings.Contains(complaint, "REMOTE HOST IDENTIFICATION HAS CHANGED"):
		return fmt.Errorf("%s: it does not have the host key that is expected. Look at the machine's own key on its console; "+
			"if it is right, put it into the inventory as host_key: %w", m.Name, errUnreachable)
	case strings.Contains(complaint, "Permission denied"):
		return fmt.Errorf("%s: ssh does not let %s in. Put your public key into authorized_keys there, or name another identity_file: %w",
			m.Name, m.SSH, errUnreachable)
	case isExit(err, 255):
		return fmt.Errorf("%s: ssh to %s failed: %s. Try `ssh %s`: %w", m.Name, m.SSH, cmp.Or(line, err.Error()), m.SSH, errUnreachable)
	}
	return fmt.Errorf("%s: %s", m.Name, cmp.Or(line, err.Error()))
}

// errUnreachable marks a machine that ssh does not get to.
var errUnreachable = errors.New("unreachable")

func isExit(err error, code int) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == code
}
