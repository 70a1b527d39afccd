// Package machines works on the machines of an inventory over the system's ssh. It checks them, makes one Swarm of
// them, and brings images to them.
//
// In: an inventory, and an ssh command that can log in. Out: the engines of the machines as package up needs them.
// Every step looks first and changes only what differs, so that a run that was interrupted is continued by the next.
// A machine that is down but already a member of the Swarm is skipped with a warning; the next run finishes it.
//
// One connection a machine carries everything, the docker command's included. Nothing is installed but a probe
// program, which is removed at the end.
package machines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
	"waggle/deploy/machines/report"
)

// Machines are those of one inventory. Its methods must not run at the same time.
type Machines struct {
	inventory *inventory.Inventory
	all       []*Machine
	ssh       sshDir
	builder   docker.Engine
	root      string
	note      func(string)

	// present are the machines that answer, with what they say of themselves; down are the others.
	present []*Machine
	facts   map[*Machine]facts
	down    map[*Machine]error
}

// facts are what a machine says of itself, and how far its clock is from ours.
type facts struct {
	report.Facts
	clockOffset time.Duration
}

// Config says what Open needs.
type Config struct {
	Inventory *inventory.Inventory
	// Builder is the engine that images come from.
	Builder docker.Engine
	// Root is the repository's directory, from which the probe program is built.
	Root string
	// Note receives warnings and lines of progress; nil discards them.
	Note func(string)
}

// Open connects to the machines, and asks each what it is. It is an error if none answers. Close must be called.
func Open(ctx context.Context, config Config) (*Machines, error) {
	ssh, err := newSSHDir(config.Inventory)
	if err != nil {
		return nil, err
	}
	m := &Machines{inventory: config.Inventory, ssh: ssh, builder: config.Builder, root: config.Root, note: config.Note}
	if m.note == nil {
		m.note = func(string) {}
	}
	for _, described := range config.Inventory.Machines {
		m.all = append(m.all, &Machine{
			Machine: described, ssh: ssh,
			Engine: docker.Engine{Host: "ssh://" + described.Name, Path: string(ssh)},
		})
	}
	if err := m.look(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Close ends the connections and removes what was copied to the machines.
func (m *Machines) Close() error {
	for _, machine := range m.present {
		if machine.probe != "" {
			_, _ = machine.run(context.Background(), nil, "rm -f "+machine.probe)
		}
	}
	return m.ssh.close(m.all)
}

// look copies the probe to every machine and keeps what each says of itself.
func (m *Machines) look(ctx context.Context) error {
	m.facts, m.down = map[*Machine]facts{}, map[*Machine]error{}
	probes := &probeBuilder{root: m.root}
	defer probes.close()
	var mu sync.Mutex
	var group errgroup.Group
	for _, machine := range m.all {
		group.Go(func() error {
			err := machine.copyProbe(ctx, probes)
			var found facts
			if err == nil {
				found, err = machine.facts(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, errUnreachable) {
				m.down[machine] = err
				return nil
			}
			m.facts[machine] = found
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var reasons []error
	for _, machine := range m.all {
		if err, down := m.down[machine]; down {
			reasons = append(reasons, err)
		} else {
			m.present = append(m.present, machine)
		}
	}
	if len(m.present) == 0 {
		return errors.Join(reasons...)
	}
	return nil
}

// probeBuilder builds the probe once for each architecture that is asked for.
type probeBuilder struct {
	root string
	mu   sync.Mutex
	dir  string
}

// goArch maps what `uname -m` says to Go's name of it.
var goArch = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}

func (b *probeBuilder) build(ctx context.Context, architecture string) (path string, err error) {
	arch, ok := goArch[architecture]
	if !ok {
		return "", fmt.Errorf("its architecture is %s: must be x86_64 or aarch64", architecture)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "waggle-probe-"); err != nil {
			return "", err
		}
	}
	path = filepath.Join(b.dir, arch)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./deploy/machines/probe")
	build.Dir = b.root
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the probe: %w: %s", err, out)
	}
	return path, nil
}

func (b *probeBuilder) close() { _ = os.RemoveAll(b.dir) }

func (m *Machine) copyProbe(ctx context.Context, probes *probeBuilder) error {
	architecture, err := m.run(ctx, nil, "uname -m")
	if err != nil {
		return err
	}
	path, err := probes.build(ctx, architecture)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	program, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the probe: %w", err)
	}
	defer func() { _ = program.Close() }()
	m.probe, err = m.run(ctx, program, `f=$(mktemp) && cat >"$f" && chmod 700 "$f" && echo "$f"`)
	return err
}

// ask runs the probe there; question and answer travel as JSON, nil is none.
func (m *Machine) ask(ctx context.Context, question, answer any, args ...string) error {
	text, err := json.Marshal(question)
	if err != nil {
		return err
	}
	out, err := m.run(ctx, strings.NewReader(string(text)), m.probe+" "+strings.Join(args, " "))
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		return fmt.Errorf("%s: reading the probe's answer: %w", m.Name, err)
	}
	return nil
}

// facts asks the machine what it is. Its clock is compared with the middle of the question's way there and back.
func (m *Machine) facts(ctx context.Context) (facts, error) {
	var found facts
	asked := time.Now()
	if err := m.ask(ctx, nil, &found.Facts, "facts"); err != nil {
		return found, err
	}
	found.clockOffset = found.Clock.Sub(asked.Add(time.Since(asked) / 2))
	return found, nil
}

// Manager is the engine that the Swarm is asked through: a manager that is one already, else the one that will be first.
func (m *Machines) Manager() (docker.Engine, error) {
	manager, err := m.manager()
	if err != nil {
		return docker.Engine{}, err
	}
	return manager.Engine, nil
}

func (m *Machines) manager() (*Machine, error) {
	var first *Machine
	for _, machine := range m.present {
		if swarm := m.facts[machine].Swarm; swarm.Active() && swarm.ControlAvailable {
			return machine, nil
		}
		if first == nil && machine.Has(inventory.Manager) {
			first = machine
		}
	}
	if first == nil {
		return nil, errors.New("no machine with role manager answers")
	}
	return first, nil
}

// Engines are those of the machines that answer.
func (m *Machines) Engines() []docker.Engine {
	engines := make([]docker.Engine, len(m.present))
	for i, machine := range m.present {
		engines[i] = machine.Engine
	}
	return engines
}

// Gateways are the addresses of the gateways, in the order of the inventory, as ssh reaches their machines.
func (m *Machines) Gateways() []string {
	var gateways []string
	for _, machine := range m.present {
		if machine.Has(inventory.Edge) {
			_, host, _ := strings.Cut(machine.SSH, "@")
			if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
				host = host[:colon]
			}
			gateways = append(gateways, fmt.Sprintf("http://%s:%d", host, m.inventory.Edge.Port))
		}
	}
	return gateways
}
