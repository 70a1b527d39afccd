package swarmtest

import (
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Delay makes the managers accept updates and removals of services without acting on them yet, until Settle.
func (e *Engine) Delay() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.slow = true
}

// Lose makes the managers forget the next n changes of services: they have no effect until the service changes again.
func (e *Engine) Lose(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost = n
}

// Monitor makes updates stay under way when their replicas are replaced, as they do while managers watch the new ones,
// until Settle or FailUpdate.
func (e *Engine) Monitor() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.monitored = true
}

// Settle ends Hold, Delay and Monitor: what should run runs, what should not has ended, updates are complete.
func (e *Engine) Settle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.monitored = false
	if e.slow {
		e.slow = false
		for id := range e.services {
			e.follow(id)
		}
		for _, task := range e.tasks {
			if _, found := e.services[task.ServiceID]; !found {
				e.dropTasks(task.ServiceID)
			}
		}
	}
	for id, service := range e.services {
		if status := service.UpdateStatus; status != nil && status.State == swarm.UpdateStateUpdating {
			e.setUpdate(id, swarm.UpdateStateCompleted)
		}
	}
	e.held = false
	for id, task := range e.tasks {
		if task := settled(task); task.Status.State != e.tasks[id].Status.State {
			e.tellContainer(task)
			e.putTask(task)
			e.reap(task)
		}
	}
}

// FailUpdate does what managers do when they see a new replica of a function's update fail. Without an update under way,
// or with one that was replaced by another change meanwhile, they are not looking.
func (e *Engine) FailUpdate(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, service := range e.services {
		if service.Spec.Name != name || service.UpdateStatus == nil || service.UpdateStatus.State != swarm.UpdateStateUpdating {
			continue
		}
		service.Spec, service.PreviousSpec = *service.PreviousSpec, nil
		e.services[id] = service
		e.replace(id)
		e.setUpdate(id, swarm.UpdateStateRollbackCompleted)
	}
}

// follow brings the tasks of a service to its spec. An update that finds no task of the old kind never has a state.
func (e *Engine) follow(id string) {
	if replaced := e.replace(id); !replaced {
		return
	}
	if e.monitored {
		e.setUpdate(id, swarm.UpdateStateUpdating)
	} else {
		e.setUpdate(id, swarm.UpdateStateCompleted)
	}
}

// replace says whether there was a task of another kind than the service's.
func (e *Engine) replace(id string) (replaced bool) {
	service := e.services[id]
	for name, task := range e.tasks {
		if task.ServiceID == id && task.DesiredState == swarm.TaskStateRunning && !equal(task.Spec, service.Spec.TaskTemplate) {
			e.end(name, swarm.TaskStateShutdown)
			replaced = true
		}
	}
	e.orchestrate(service)
	return replaced
}

// setUpdate changes the service, as managers do; whoever read it before cannot write it any more.
func (e *Engine) setUpdate(id string, state swarm.UpdateState) {
	service, now := e.services[id], time.Now().UTC()
	service.UpdateStatus = &swarm.UpdateStatus{State: state, StartedAt: &now}
	service.Version.Index, service.UpdatedAt = e.next(), now
	e.services[id] = service
}
