package machines

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"waggle/deploy/inventory"
	"waggle/deploy/machines/report"
)

const (
	swarmPort = "2377"
	// memberWithin bounds how long a machine that joined may take to be ready.
	memberWithin = time.Minute
)

// node is a member of the Swarm as its managers see it.
type node struct {
	ID, Hostname, Role, State string
	Labels                    map[string]string
}

// nodes lists the members of the Swarm.
func (m *Machines) nodes(ctx context.Context) ([]node, error) {
	manager, err := m.manager()
	if err != nil {
		return nil, err
	}
	ids, err := manager.Engine.Run(ctx, "node", "ls", "--quiet")
	if err != nil {
		return nil, fmt.Errorf("listing the Swarm's nodes: %w", err)
	}
	const format = `{"ID":{{json .ID}},"Hostname":{{json .Description.Hostname}},"Role":{{json .Spec.Role}},"State":{{json .Status.State}},"Labels":{{json .Spec.Labels}}}`
	out, err := manager.Engine.Run(ctx, append([]string{"node", "inspect", "--format", format}, strings.Fields(ids)...)...)
	if err != nil {
		return nil, fmt.Errorf("reading the Swarm's nodes: %w", err)
	}
	var nodes []node
	for decoder := json.NewDecoder(strings.NewReader(out)); decoder.More(); {
		var next node
		if err := decoder.Decode(&next); err != nil {
			return nil, fmt.Errorf("reading the Swarm's nodes: %w", err)
		}
		nodes = append(nodes, next)
	}
	return nodes, nil
}

// Form makes one Swarm of the machines. The first manager starts it and the others join by their addresses. Each gets
// exactly the role and the labels of the inventory.
func (m *Machines) Form(ctx context.Context) (string, error) {
	manager, err := m.manager()
	if err != nil {
		return "", err
	}
	did := []string{"found"}
	if !m.facts[manager].Swarm.Active() {
		if err := m.start(ctx, manager); err != nil {
			return "", err
		}
		did = []string{"started on " + manager.Name}
	}
	joined, err := m.joinRest(ctx, manager)
	if err != nil {
		return "", err
	}
	if len(joined) > 0 {
		did = append(did, "joined "+strings.Join(joined, ", "))
	}
	changed, err := m.setRoles(ctx, manager)
	if err != nil {
		return "", err
	}
	return strings.Join(append(did, changed...), "; "), nil
}

func (m *Machines) start(ctx context.Context, manager *Machine) error {
	_, err := manager.Engine.Run(ctx, "swarm", "init", "--advertise-addr", manager.Address, "--data-path-addr", manager.Address,
		"--default-addr-pool", m.inventory.Network.Pool, "--default-addr-pool-mask-length", "20")
	if err != nil {
		return fmt.Errorf("%s: starting the Swarm: %w", manager.Name, err)
	}
	return m.lookAgain(ctx, manager)
}

func (m *Machines) lookAgain(ctx context.Context, machine *Machine) error {
	found, err := machine.facts(ctx)
	m.facts[machine] = found
	return err
}

// joinRest joins the machines that are in no Swarm. The tokens are made anew afterwards, so that whoever read one on
// the way cannot join with it.
func (m *Machines) joinRest(ctx context.Context, manager *Machine) ([]string, error) {
	var joined []string
	for _, machine := range m.present {
		if m.facts[machine].Swarm.Active() {
			continue
		}
		kind := "worker"
		if machine.Has(inventory.Manager) {
			kind = "manager"
		}
		token, err := manager.Engine.Run(ctx, "swarm", "join-token", "--quiet", kind)
		if err != nil {
			return nil, fmt.Errorf("%s: asking for a join token: %w", manager.Name, err)
		}
		err = machine.ask(ctx, report.Join{
			ListenAddr: machine.Address, AdvertiseAddr: machine.Address, DataPathAddr: machine.Address,
			RemoteAddrs: []string{hostPort(manager.Address, swarmPort)}, JoinToken: token,
		}, nil, "join")
		if err != nil {
			return nil, fmt.Errorf("joining %s: %w", machine.Name, err)
		}
		if err := m.lookAgain(ctx, machine); err != nil {
			return nil, err
		}
		joined = append(joined, machine.Name)
	}
	if len(joined) == 0 {
		return nil, nil
	}
	for _, kind := range []string{"worker", "manager"} {
		if _, err := manager.Engine.Run(ctx, "swarm", "join-token", "--rotate", "--quiet", kind); err != nil {
			return nil, fmt.Errorf("%s: making a new join token: %w", manager.Name, err)
		}
	}
	return joined, nil
}

func hostPort(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// setRoles gives every member the inventory's role and labels. Managers are made before others stop being managers.
func (m *Machines) setRoles(ctx context.Context, manager *Machine) ([]string, error) {
	nodes, err := m.awaitMembers(ctx)
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, kind := range []string{"promote", "demote"} {
		for _, machine := range m.all {
			member, ok := nodes[machine.Name]
			isManager, wanted := member.Role == "manager", machine.Has(inventory.Manager)
			if !ok || isManager == wanted || wanted != (kind == "promote") {
				continue
			}
			if _, err := manager.Engine.Run(ctx, "node", kind, member.ID); err != nil {
				return nil, fmt.Errorf("%s: changing its role: %w", machine.Name, err)
			}
			changed = append(changed, kind+"d "+machine.Name)
		}
	}
	for _, machine := range m.all {
		member, ok := nodes[machine.Name]
		if !ok {
			continue
		}
		args := labelChanges(machine.Machine, member.Labels)
		if len(args) == 0 {
			continue
		}
		if _, err := manager.Engine.Run(ctx, slices.Concat([]string{"node", "update"}, args, []string{member.ID})...); err != nil {
			return nil, fmt.Errorf("%s: changing its labels: %w", machine.Name, err)
		}
		changed = append(changed, "labelled "+machine.Name)
	}
	return changed, nil
}

// labelChanges are the arguments of docker node update that make the labels of our roles those of the inventory.
func labelChanges(machine inventory.Machine, labels map[string]string) []string {
	var args []string
	for _, role := range inventory.Roles {
		if role == inventory.Manager {
			continue
		}
		value, has := labels[role.Label()]
		switch {
		case machine.Has(role) && value != "true":
			args = append(args, "--label-add", role.Label()+"=true")
		case !machine.Has(role) && has:
			args = append(args, "--label-rm", role.Label())
		}
	}
	// A drain that was given up: the inventory says that the machine captures, so its ballot comes back.
	if _, has := labels[inventory.DrainingLabel]; has && machine.Has(inventory.Capture) {
		args = append(args, "--label-rm", inventory.DrainingLabel)
	}
	return args
}

// awaitMembers returns the Swarm's nodes by name once every machine that answers is a ready one.
func (m *Machines) awaitMembers(ctx context.Context) (map[string]node, error) {
	deadline := time.Now().Add(memberWithin)
	for {
		nodes, err := m.nodes(ctx)
		if err != nil {
			return nil, err
		}
		byName, waiting := map[string]node{}, ""
		for _, member := range nodes {
			// A machine that left and joined again is listed twice.
			if known, ok := byName[member.Hostname]; !ok || known.State != "ready" {
				byName[member.Hostname] = member
			}
		}
		for _, machine := range m.present {
			if byName[machine.Name].State != "ready" {
				waiting = machine.Name
			}
		}
		if waiting == "" {
			return byName, nil
		}
		if time.Now().After(deadline) {
			return nil, finding(waiting, "the Swarm's manager does not see it as a ready node after "+memberWithin.String(),
				"See `docker node ls` on a manager; if it is in another Swarm, let it leave with `docker swarm leave --force`")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
