package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
)

// The labels that say what a node does; package inventory gives them to machines.
const (
	edgeLabel    = "waggle.edge"
	captureLabel = "waggle.capture"
	workerLabel  = "waggle.worker"
	storeLabel   = "waggle.store"
	// drainingLabel keeps the ballot off a capture node whose Redis is to be counted and then stopped. Both depend on
	// captureLabel, which alone cannot remove the ballot before Redis.
	drainingLabel = inventory.DrainingLabel
)

// member is a node of the Swarm as its managers see it.
type member struct {
	ID, Hostname, Role, State string
	Labels                    map[string]string
}

func (m member) has(label string) bool { return m.Labels[label] == "true" }

func (m member) ready() bool { return m.State == "ready" }

// members lists the Swarm's nodes, sorted by name.
func (s *System) members(ctx context.Context) ([]member, error) {
	ids, err := s.Target.Manager.Run(ctx, "node", "ls", "--quiet")
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	const format = `{"ID":{{json .ID}},"Hostname":{{json .Description.Hostname}},"Role":{{json .Spec.Role}},"State":{{json .Status.State}},"Labels":{{json .Spec.Labels}}}`
	out, err := s.Target.Manager.Run(ctx, append([]string{"node", "inspect", "--format", format}, strings.Fields(ids)...)...)
	if err != nil {
		return nil, fmt.Errorf("reading nodes: %w", err)
	}
	var all []member
	for decoder := json.NewDecoder(strings.NewReader(out)); decoder.More(); {
		var next member
		if err := decoder.Decode(&next); err != nil {
			return nil, fmt.Errorf("reading nodes: %w", err)
		}
		all = append(all, next)
	}
	slices.SortFunc(all, func(a, b member) int { return strings.Compare(a.Hostname, b.Hostname) })
	return all, nil
}

// find returns the member of that name. Of two, which a machine leaves that joined again, it is the one that is ready.
func find(all []member, name string) (member, bool) {
	var found member
	for _, m := range all {
		if m.Hostname == name && (found.ID == "" || m.ready()) {
			found = m
		}
	}
	return found, found.ID != ""
}

// others counts the ready members besides one that fit.
func others(all []member, name string, fit func(member) bool) int {
	n := 0
	for _, m := range all {
		if m.Hostname != name && m.ready() && fit(m) {
			n++
		}
	}
	return n
}

func names(all []member) string {
	var found []string
	for _, m := range all {
		found = append(found, m.Hostname)
	}
	return strings.Join(slices.Compact(found), ", ")
}

// node reads NODE: a member that is there.
func (s *System) node(ctx context.Context, name string) (member, []member, error) {
	all, err := s.members(ctx)
	if err != nil {
		return member{}, nil, err
	}
	found, ok := find(all, name)
	if !ok {
		return member{}, all, fmt.Errorf("NODE is %q: must be one of %s", name, names(all))
	}
	return found, all, nil
}

// label changes a node's labels: +name sets one to true, -name removes one.
func (s *System) label(ctx context.Context, m member, changes ...string) error {
	args := []string{"node", "update"}
	for _, change := range changes {
		label := change[1:]
		_, has := m.Labels[label]
		switch {
		case change[0] == '+' && !m.has(label):
			args = append(args, "--label-add", label+"=true")
		case change[0] == '-' && has:
			args = append(args, "--label-rm", label)
		}
	}
	if len(args) == 2 {
		return nil
	}
	if _, err := s.Target.Manager.Run(ctx, append(args, m.ID)...); err != nil {
		return fmt.Errorf("%s: changing its labels: %w", m.Hostname, err)
	}
	return nil
}

// runningOn lists the services, of those named or of all, of which a task runs on the node.
func (s *System) runningOn(ctx context.Context, node string, services ...string) ([]string, error) {
	return s.tasksOn(ctx, node, []string{"Running"}, services...)
}

// tasksOn is runningOn with the states that count.
func (s *System) tasksOn(ctx context.Context, node string, states []string, services ...string) ([]string, error) {
	out, err := s.Target.Manager.Run(ctx, "node", "ps", "--no-trunc", "--format", "{{.Name}} {{.CurrentState}}", node)
	if err != nil {
		return nil, fmt.Errorf("listing what runs on %s: %w", node, err)
	}
	var found []string
	for line := range strings.Lines(out) {
		task, since, _ := strings.Cut(strings.TrimSpace(line), " ")
		service, _, _ := strings.Cut(task, ".")
		state, _, _ := strings.Cut(since, " ")
		if slices.Contains(states, state) && (len(services) == 0 || slices.Contains(services, service)) {
			found = append(found, service)
		}
	}
	return found, nil
}

// engineOf is the engine of a node, if it can be reached from here.
func (s *System) engineOf(ctx context.Context, name string) (docker.Engine, bool) {
	for _, engine := range s.engines() {
		if host, err := engine.Run(ctx, "info", "--format", "{{.Name}}"); err == nil && host == name {
			return engine, true
		}
	}
	return docker.Engine{}, false
}

// errNowhere means that no container of a service runs where this program reaches.
var errNowhere = errors.New("it does not run on a node that can be reached from here")

// container finds a running container of a service of the stack, and its engine.
func (s *System) container(ctx context.Context, part string) (docker.Engine, string, error) {
	service := stackName + "_" + part
	for _, engine := range s.engines() {
		ids, err := engine.Run(ctx, "ps", "--quiet", "--filter", "status=running", "--filter", "label=com.docker.swarm.service.name="+service)
		if err != nil {
			return engine, "", fmt.Errorf("finding %s: %w", service, err)
		}
		if found := strings.Fields(ids); len(found) > 0 {
			return engine, found[0], nil
		}
	}
	return docker.Engine{}, "", advise(fmt.Errorf("%s: %w", service, errNowhere), "See `docker service ps "+service+"`.")
}
