package swarmtest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// orchestrate makes the number of tasks that should run what the service asks for.
func (e *Engine) orchestrate(service swarm.Service) {
	var running []string
	taken := map[int]bool{}
	for id, task := range e.tasks {
		if task.ServiceID == service.ID && task.DesiredState == swarm.TaskStateRunning {
			running = append(running, id)
			taken[task.Slot] = true
		}
	}
	slices.Sort(running)
	want := 1
	if replicated := service.Spec.Mode.Replicated; replicated != nil && replicated.Replicas != nil {
		want = int(*replicated.Replicas)
	}
	for len(running) > want {
		e.end(running[len(running)-1], swarm.TaskStateRemove)
		running = running[:len(running)-1]
	}
	for slot := 1; len(taken) < want; slot++ {
		if !taken[slot] {
			taken[slot] = true
			e.start(service, slot)
		}
	}
	e.trim(service.ID)
}

// history is how many tasks of a slot are kept, those that have ended included.
const history = 5

// trim forgets the oldest tasks that have ended, where a slot has too many.
func (e *Engine) trim(service string) {
	slots := map[int][]string{}
	for id, task := range e.tasks {
		if task.ServiceID == service {
			slots[task.Slot] = append(slots[task.Slot], id)
		}
	}
	for _, ids := range slots {
		slices.Sort(ids)
		for _, id := range ids[:max(len(ids)-history, 0)] {
			if e.tasks[id].Status.State == swarm.TaskStateShutdown {
				e.dropTask(id)
			}
		}
	}
}

func (e *Engine) start(service swarm.Service, slot int) {
	n := e.next()
	task := swarm.Task{
		ID: fmt.Sprintf("task%06d", n), ServiceID: service.ID, Slot: slot, NodeID: e.host, Spec: service.Spec.TaskTemplate,
		DesiredState: swarm.TaskStateRunning,
		Status: swarm.TaskStatus{State: swarm.TaskStateStarting, Timestamp: time.Now(),
			ContainerStatus: &swarm.ContainerStatus{ContainerID: fmt.Sprintf("container%d", n)}},
		NetworksAttachments: []swarm.NetworkAttachment{{
			Network:   swarm.Network{Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: e.network}}},
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8)},
		}},
	}
	if !e.held {
		task = settled(task)
	}
	e.putTask(task)
}

// end stops a task. With the desired state shutdown it stays as history; with remove it is deleted.
func (e *Engine) end(id string, desired swarm.TaskState) {
	task := e.tasks[id]
	task.DesiredState = desired
	if !e.held {
		task = settled(task)
	}
	e.putTask(task)
	e.reap(task)
}

// reapAfter is how long tasks wait to be deleted. Real managers collect them for 250 ms.
const reapAfter = 20 * time.Millisecond

// reap deletes a task later that has ended and is to be removed.
func (e *Engine) reap(task swarm.Task) {
	if task.DesiredState != swarm.TaskStateRemove || task.Status.State != swarm.TaskStateShutdown {
		return
	}
	time.AfterFunc(reapAfter, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if _, found := e.tasks[task.ID]; found {
			e.dropTask(task.ID)
		}
	})
}

// dropTasks forgets all tasks of a service.
func (e *Engine) dropTasks(service string) {
	for id, task := range e.tasks {
		if task.ServiceID == service {
			e.dropTask(id)
		}
	}
}

func settled(task swarm.Task) swarm.Task {
	if task.DesiredState == swarm.TaskStateRunning && task.Status.State == swarm.TaskStateStarting {
		task.Status.State = swarm.TaskStateRunning
	}
	if task.DesiredState == swarm.TaskStateShutdown || task.DesiredState == swarm.TaskStateRemove {
		task.Status.State = swarm.TaskStateShutdown
	}
	return task
}

// TaskList gives the tasks of the filter's service and desired states.
func (e *Engine) TaskList(_ context.Context, options client.TaskListOptions) (client.TaskListResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.answers(); err != nil {
		return client.TaskListResult{}, err
	}
	e.lists++
	for id := range options.Filters["service"] {
		if _, found := e.services[id]; !found {
			return client.TaskListResult{}, fmt.Errorf("service %s not found: %w", id, errdefs.ErrNotFound)
		}
	}
	var ids []string
	for id, task := range e.tasks {
		if in(options.Filters["service"], task.ServiceID) && in(options.Filters["desired-state"], string(task.DesiredState)) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	found := make([]swarm.Task, len(ids))
	for i, id := range ids {
		found[i] = e.tasks[id]
	}
	return client.TaskListResult{Items: found}, nil
}

// SetTask changes a task, as the Swarm does when a replica fails or a health check passes. If it runs here, its
// container's event comes first.
func (e *Engine) SetTask(id string, change func(*swarm.Task)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	task := e.tasks[id]
	change(&task)
	e.tellContainer(task)
	e.putTask(task)
}

// tellContainer sends the event of a container on this engine, with the labels that it has.
func (e *Engine) tellContainer(task swarm.Task) {
	if task.NodeID == e.nodes[0].ID {
		e.send(events.Message{Type: events.ContainerEventType, Actor: events.Actor{
			ID: task.Status.ContainerStatus.ContainerID, Attributes: task.Spec.ContainerSpec.Labels,
		}})
	}
}

// TaskIDs gives the ids of all tasks.
func (e *Engine) TaskIDs() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.tasks))
}
