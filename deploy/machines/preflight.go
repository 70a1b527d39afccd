package machines

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"waggle/deploy/inventory"
	"waggle/deploy/machines/report"
)

const (
	// clockTolerance is what the design allows for: the order of votes does not depend on clocks, certificates do.
	clockTolerance = time.Second
	// diskForImages is what six images and their next versions take, with room for logs.
	diskForImages = 2 << 30
	oldestEngine  = "20.10"
)

// Check finds out, before anything is changed, whether the machines can become the cluster that the inventory
// describes. The error has one line for each finding: machine, what was found, what to do.
func (m *Machines) Check(ctx context.Context) (string, error) {
	architecture, err := m.builder.Run(ctx, "version", "--format", "{{.Server.Arch}}")
	if err != nil {
		return "", err
	}
	var findings []error
	for _, machine := range m.present {
		if found := m.facts[machine].Architecture; found != architecture {
			findings = append(findings, finding(machine.Name, fmt.Sprintf("its architecture is %s, the images are built for %s", found, architecture),
				"Run this on a machine of its architecture"))
		}
		findings = append(findings, checkFacts(machine.Machine, m.facts[machine].Facts, m.inventory.Network)...)
	}
	findings = append(findings, m.checkClocks()...)
	findings = append(findings, m.checkMembership()...)
	if err := errors.Join(findings...); err != nil {
		return "", err
	}
	if err := m.checkDown(ctx); err != nil {
		return "", err
	}
	if err := m.checkWays(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d machine(s)", len(m.present)), nil
}

// finding phrases one: machine, finding, remedy.
func finding(machine, found, remedy string) error {
	return fmt.Errorf("%s: %s. %s", machine, found, remedy)
}

// checkFacts judges what a machine says of itself.
func checkFacts(machine inventory.Machine, facts report.Facts, network inventory.Network) []error {
	var findings []error
	add := func(remedy, format string, args ...any) {
		findings = append(findings, finding(machine.Name, fmt.Sprintf(format, args...), remedy))
	}
	if facts.HostName != machine.Name {
		add(fmt.Sprintf("Run `sudo hostnamectl set-hostname %s` there, or give it that name in the inventory", machine.Name),
			"its host name is %q", facts.HostName)
	}
	if !slices.Contains(facts.Addresses, machine.Address) {
		add("Name one of them as its address in the inventory", "%s is not one of its addresses, which are %s",
			machine.Address, strings.Join(facts.Addresses, ", "))
	}
	user, _, _ := strings.Cut(machine.SSH, "@")
	switch {
	case strings.Contains(facts.EngineError, "permission denied"):
		add(fmt.Sprintf("Run `sudo usermod -aG docker %s` there", user), "user %s may not use the Docker engine", user)
	case facts.EngineError != "":
		add("Run `sudo apt-get install docker.io` there, or start it with `sudo systemctl start docker`", "%s", facts.EngineError)
	case olderThan(facts.EngineVersion, oldestEngine):
		add("Upgrade it", "its Docker engine is %s: must be %s or newer", facts.EngineVersion, oldestEngine)
	case facts.FreeBytes < diskForImages:
		add("Free some, or move Docker's data-root to a larger disk", "its engine's disk has %d MiB free: must be %d or more",
			facts.FreeBytes>>20, diskForImages>>20)
	}
	if facts.Swarm.Active() && facts.Swarm.NodeAddr != machine.Address {
		add("Give it that address again, or let it leave the Swarm with `docker swarm leave`",
			"the Swarm knows it by %s, the inventory by %s", facts.Swarm.NodeAddr, machine.Address)
	}
	if !facts.Swarm.Active() {
		if route := overlapping(network.Pool, facts.Routes); route != "" {
			add("Choose another network: pool in the inventory", "pool %s overlaps its route to %s", network.Pool, route)
		}
	}
	return findings
}

// overlapping returns the first route that shares addresses with the pool.
func overlapping(pool string, routes []string) string {
	prefix, err := netip.ParsePrefix(pool)
	if err != nil {
		return ""
	}
	for _, text := range routes {
		if route, err := netip.ParsePrefix(text); err == nil && route.Overlaps(prefix) {
			return text
		}
	}
	return ""
}

// olderThan compares versions by their first two numbers.
func olderThan(version, oldest string) bool {
	numbers := func(text string) (major, minor int) {
		parts := strings.SplitN(text, ".", 3)
		major, _ = strconv.Atoi(parts[0])
		if len(parts) > 1 {
			minor, _ = strconv.Atoi(parts[1])
		}
		return major, minor
	}
	major, minor := numbers(version)
	wantMajor, wantMinor := numbers(oldest)
	return major < wantMajor || major == wantMajor && minor < wantMinor
}

// checkClocks compares each machine's clock with the median. All were asked at the same time; what a probe takes to
// answer is well below the tolerance.
func (m *Machines) checkClocks() []error {
	var offsets []time.Duration
	for _, machine := range m.present {
		offsets = append(offsets, m.facts[machine].clockOffset)
	}
	if len(offsets) < 2 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(offsets))
	median := sorted[len(sorted)/2]
	var findings []error
	for i, machine := range m.present {
		if off := offsets[i] - median; off.Abs() > clockTolerance {
			findings = append(findings, finding(machine.Name, fmt.Sprintf("its clock is %+.1f s from the others'", off.Seconds()),
				"Run `sudo timedatectl set-ntp true` there"))
		}
	}
	return findings
}

// checkMembership makes sure that no two machines are in different Swarms.
func (m *Machines) checkMembership() []error {
	manager, err := m.manager()
	if err != nil {
		return []error{err}
	}
	ours := m.facts[manager].Swarm.Cluster
	var findings []error
	for _, machine := range m.present {
		swarm := m.facts[machine].Swarm
		if !swarm.Active() || machine == manager {
			continue
		}
		// A worker does not know its Swarm's id: whether the manager knows the worker is seen when the Swarm is formed.
		if ours == nil || swarm.Cluster != nil && swarm.Cluster.ID != ours.ID {
			findings = append(findings, finding(machine.Name, "it is in another Swarm than "+manager.Name,
				"Let it leave with `docker swarm leave --force`, or take it out of the inventory"))
		}
	}
	return findings
}

// checkDown accepts machines that do not answer if the Swarm knows them already: the next run finishes them.
func (m *Machines) checkDown(ctx context.Context) error {
	if len(m.down) == 0 {
		return nil
	}
	known := map[string]bool{}
	manager, err := m.manager()
	if err != nil {
		return err
	}
	if m.facts[manager].Swarm.Active() {
		nodes, err := m.nodes(ctx)
		if err != nil {
			return err
		}
		for _, node := range nodes {
			known[node.Hostname] = true
		}
	}
	var unknown []error
	for _, machine := range m.all {
		reason, down := m.down[machine]
		switch {
		case !down:
		case known[machine.Name]:
			m.note(fmt.Sprintf("%s does not answer and is skipped: run this again when it is back", machine.Name))
		default:
			unknown = append(unknown, reason)
		}
	}
	return errors.Join(unknown...)
}

// checkWays lets every machine try the ports of every other, and the largest packet of an overlay.
func (m *Machines) checkWays(ctx context.Context) error {
	listening, stop, err := m.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	reached := make([]report.Reached, len(m.present))
	var group errgroup.Group
	for i, machine := range m.present {
		request := report.Reach{MTU: m.inventory.Network.MTU}
		for j, other := range m.present {
			if i != j {
				request.Targets = append(request.Targets, report.Target{
					Name: other.Name, Address: other.Address, Ports: m.portsOf(other, listening[j]),
				})
			}
		}
		group.Go(func() error { return machine.ask(ctx, request, &reached[i], "reach") })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("testing the connections between the machines: %w", err)
	}
	var findings []error
	for i, machine := range m.present {
		findings = append(findings, wayFindings(machine.Name, reached[i], m.inventory.Network.MTU)...)
	}
	return errors.Join(findings...)
}

func wayFindings(from string, reached report.Reached, mtu int) []error {
	var findings []error
	for _, to := range sortedKeys(reached.Blocked) {
		for _, port := range reached.Blocked[to] {
			findings = append(findings, finding(from+" → "+to, fmt.Sprintf("port %d/%s does not answer", port.Number, port.Protocol),
				fmt.Sprintf("Let %s reach it in the firewall of %s and of the network", from, to)))
		}
	}
	for _, to := range sortedKeys(reached.Largest) {
		findings = append(findings, finding(from+" → "+to, fmt.Sprintf("overlay packets of %d bytes do not get through", mtu),
			fmt.Sprintf("Set network: mtu to %d in the inventory", reached.Largest[to])))
	}
	return findings
}

func sortedKeys[V any](of map[string]V) []string {
	keys := make([]string, 0, len(of))
	for key := range of {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// portsOf are the ports on which something answers there: the probe, or the engine of a member. Of the UDP ports that an
// engine holds nothing can be asked; the Swarm's own view of its members has to do.
func (m *Machines) portsOf(machine *Machine, probe report.Listening) []report.Port {
	ports := slices.Clone(probe.Ports)
	swarm := m.facts[machine].Swarm
	for _, port := range report.SwarmPorts {
		held := !slices.Contains(probe.Ports, port)
		if held && port.Protocol == "tcp" && swarm.Active() && (port.Number != 2377 || swarm.ControlAvailable) {
			ports = append(ports, port)
		}
	}
	if !machine.Has(inventory.Manager) {
		ports = slices.DeleteFunc(ports, func(p report.Port) bool { return p.Number == 2377 })
	}
	return ports
}

// listen starts a probe on every machine; stop ends them.
func (m *Machines) listen(ctx context.Context) (listening []report.Listening, stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	var inputs []io.Closer
	stop = func() {
		for _, input := range inputs {
			input.Close()
		}
		wait.Wait()
		cancel()
	}
	for _, machine := range m.present {
		cmd := machine.command(ctx, machine.probe+" listen "+machine.Address)
		input, err := cmd.StdinPipe()
		if err != nil {
			stop()
			return nil, nil, err
		}
		output, err := cmd.StdoutPipe()
		if err != nil {
			stop()
			return nil, nil, err
		}
		var complaint strings.Builder
		cmd.Stderr = &complaint
		if err := cmd.Start(); err != nil {
			stop()
			return nil, nil, machine.explain(ctx, err, "")
		}
		inputs = append(inputs, input)
		line, readErr := bufio.NewReader(output).ReadBytes('\n')
		wait.Go(func() { _ = cmd.Wait() })
		var answer report.Listening
		if readErr != nil || json.Unmarshal(line, &answer) != nil {
			stop()
			return nil, nil, fmt.Errorf("%s: listening on Swarm's ports: %s", machine.Name, strings.TrimSpace(complaint.String()))
		}
		listening = append(listening, answer)
	}
	return listening, stop, nil
}
