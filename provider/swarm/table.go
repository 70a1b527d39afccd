package swarm

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/swarm"

	"waggle/provider/feed"
)

// functionPort is where every function listens.
const functionPort = 8080

// view is what the watcher has last read of the Swarm.
type view struct {
	services []swarm.Service
	tasks    []swarm.Task
	// down holds the ids of nodes that do not answer: Swarm goes on calling their tasks running.
	down map[string]bool
}

// functions makes the replica table of a view. It is pure. A service that cannot be read is left out and named in skipped.
func (c Config) functions(v view) (table []feed.Function, skipped []string) {
	tasks := byService(v.tasks)
	table = make([]feed.Function, 0, len(v.services))
	for _, service := range v.services {
		d, err := deploymentOf(service)
		if err != nil {
			skipped = append(skipped, service.Spec.Name)
			continue
		}
		w, err := parseWishes(&d)
		if err != nil {
			skipped = append(skipped, service.Spec.Name)
			continue
		}
		table = append(table, feed.Function{
			Name: d.Service, Namespace: d.Namespace, Service: service.Spec.Name,
			Desired: desired(service), Min: w.min, Max: w.max,
			MaxInflight: w.maxInflight, Idempotent: w.idempotent, HealthPath: w.healthPath, Retry: w.retry,
			Replicas: c.replicas(tasks[service.ID], v.down),
		})
	}
	slices.SortFunc(table, func(a, b feed.Function) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return table, skipped
}

func (c Config) replicas(tasks []swarm.Task, down map[string]bool) []feed.Replica {
	var list []feed.Replica
	for _, task := range tasks {
		state, alive := replicaState(task)
		address := c.address(task)
		if !alive || address == "" || down[task.NodeID] {
			continue
		}
		list = append(list, feed.Replica{ID: task.ID, Address: address, Node: task.NodeID, State: state})
	}
	slices.SortFunc(list, func(a, b feed.Replica) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// replicaState reads the two states that Swarm keeps of a task: what it should be and what it is. Alive is false for one
// that takes no requests now or later.
func replicaState(task swarm.Task) (state feed.State, alive bool) {
	switch task.Status.State {
	case swarm.TaskStateRunning:
		switch task.DesiredState {
		case swarm.TaskStateRunning:
			return feed.Ready, true
		case swarm.TaskStateReady, swarm.TaskStateAccepted:
			return feed.Starting, true
		}
		return feed.Draining, true
	case swarm.TaskStateAssigned, swarm.TaskStateAccepted, swarm.TaskStatePreparing, swarm.TaskStateReady, swarm.TaskStateStarting:
		return feed.Starting, task.DesiredState == swarm.TaskStateRunning || task.DesiredState == swarm.TaskStateReady
	}
	return "", false
}

// address is the task's on the functions overlay, "" while it has none.
func (c Config) address(task swarm.Task) string {
	for _, attachment := range task.NetworksAttachments {
		if attachment.Network.Spec.Name == c.Network && len(attachment.Addresses) > 0 {
			return net.JoinHostPort(attachment.Addresses[0].Addr().String(), strconv.Itoa(functionPort))
		}
	}
	return ""
}

// settled is true when Swarm has nothing left to do for any function: then its tasks need not be looked at so often.
func (v view) settled() bool {
	tasks := byService(v.tasks)
	for _, service := range v.services {
		if available(tasks[service.ID]) != desired(service) || len(tasks[service.ID]) != int(desired(service)) || (updating(service) && !rolledBack(service)) {
			return false
		}
	}
	return true
}
