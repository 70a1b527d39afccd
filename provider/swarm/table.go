package swarm

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"waggle/provider/feed"
)

// functionPort is where every function listens.
const functionPort = 8080

// view is what the watcher has last read of the Swarm.
type view struct {
	services []swarm.Service
	// declared is what can be read of the services, in the order of the table.
	declared []declared
	// tasks are the live ones of each service, by its id.
	tasks map[string][]swarm.Task
	// failed are the recent ones of each service that have ended by themselves.
	failed map[string][]swarm.Task
	// read is when tasks were read.
	read time.Time
	// down holds the ids of nodes that do not answer: Swarm goes on calling their tasks running.
	down map[string]bool
}

// declared is a function as its service has it, which changes seldom, apart from its replicas, which change often.
type declared struct {
	serviceID string
	function  feed.Function
}

// declare reads services of a Swarm with these nodes. It is pure.
func declare(services []swarm.Service, nodes []swarm.Node) []declared {
	list := make([]declared, 0, len(services))
	for _, service := range services {
		d, _ := deploymentOf(service) // a function of which no more is known is served all the same
		o, _ := parseOptions(&d)      // what a rule of today would refuse has its default
		list = append(list, declared{service.ID, feed.Function{
			Name: d.Service, Namespace: d.Namespace, Service: service.Spec.Name,
			Desired: desired(service), Nodes: takers(service, nodes), Scale: o.scale, Unscaled: o.unscaled, Updating: underWay(service.UpdateStatus),
			MaxInflight: o.maxInflight, ExecTimeout: o.execTimeout, WriteTimeout: o.writeTimeout, CORS: o.cors,
			Idempotent: o.idempotent, HealthPath: o.healthPath, Retry: o.retry,
			HoldBrowsers: o.holdBrowsers, WaitingText: o.waitingText,
		}})
	}
	slices.SortFunc(list, func(a, b declared) int { return compareNames(a.function, b.function) })
	return list
}

// underWay is true while Swarm replaces replicas, whichever way.
func underWay(update *swarm.UpdateStatus) bool {
	return update != nil && (update.State == swarm.UpdateStateUpdating || update.State == swarm.UpdateStateRollbackStarted)
}

// compareNames is the order of a table's functions.
func compareNames(a, b feed.Function) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// functions makes the replica table of a view. It is pure.
func (c Config) functions(v view) []feed.Function {
	table := make([]feed.Function, len(v.declared))
	for i, d := range v.declared {
		table[i] = d.function
		table[i].Replicas = c.replicas(v.tasks[d.serviceID], v.down, d.function.Desired == 0)
		table[i].Trouble = troubleOf(v.tasks[d.serviceID], v.failed[d.serviceID], v.read)
	}
	return table
}

// replicas gives those that live. Of a function that is to have none, none takes a request, whatever Swarm says of its tasks.
func (c Config) replicas(tasks []swarm.Task, down map[string]bool, none bool) []feed.Replica {
	var list []feed.Replica
	for _, task := range tasks {
		state, alive := replicaState(task)
		address := c.address(task)
		if !alive || address == "" || down[task.NodeID] {
			continue
		}
		if none {
			if task.Status.State != swarm.TaskStateRunning {
				continue
			}
			state = feed.Draining
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
	case swarm.TaskStateStarting:
		return feed.Starting, awaited(task)
	case swarm.TaskStateAssigned, swarm.TaskStateAccepted, swarm.TaskStatePreparing, swarm.TaskStateReady:
		return feed.Preparing, awaited(task)
	}
	return "", false
}

// awaited is true for a task that is to run once it can.
func awaited(task swarm.Task) bool {
	return task.DesiredState == swarm.TaskStateRunning || task.DesiredState == swarm.TaskStateReady
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

// settled is true when Swarm has nothing left to do for any function: then its tasks need not be polled so often.
func (v view) settled() bool {
	for _, service := range v.services {
		tasks := v.tasks[service.ID]
		if available(tasks, nil) != desired(service) || len(tasks) != int(desired(service)) || (updating(service) && !rolledBack(service)) {
			return false
		}
	}
	return true
}
