package swarm

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

// TestAtRest: a service may be removed when no task of it is about to be deleted by its managers.
func TestAtRest(t *testing.T) {
	t.Parallel()
	spec := func(image string) swarm.TaskSpec {
		return swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: image}}
	}
	task := func(slot int, image string, state, desired swarm.TaskState) swarm.Task {
		return swarm.Task{Slot: slot, Spec: spec(image), Status: swarm.TaskStatus{State: state}, DesiredState: desired}
	}
	const (
		pending, running, shutdown, remove = swarm.TaskStatePending, swarm.TaskStateRunning, swarm.TaskStateShutdown, swarm.TaskStateRemove
		ready, failed                      = swarm.TaskStateReady, swarm.TaskStateFailed
	)
	history := func(n int, state, desired swarm.TaskState) (tasks []swarm.Task) {
		for range n {
			tasks = append(tasks, task(1, "old", state, desired))
		}
		return append(tasks, task(1, "new", running, running))
	}
	under := &swarm.UpdateStatus{State: swarm.UpdateStateUpdating}
	for name, test := range map[string]struct {
		replicas uint64
		tasks    []swarm.Task
		update   *swarm.UpdateStatus
		want     bool
	}{
		"it runs":                          {1, []swarm.Task{task(1, "new", running, running)}, nil, true},
		"no node takes it":                 {1, []swarm.Task{task(1, "new", pending, running)}, nil, true},
		"asleep":                           {0, nil, nil, true},
		"nobody has started it yet":        {1, nil, nil, false},
		"nobody has scaled it up yet":      {2, []swarm.Task{task(1, "new", running, running)}, nil, false},
		"nobody has scaled it down yet":    {0, []swarm.Task{task(1, "new", running, running)}, nil, false},
		"nobody has updated it yet":        {1, []swarm.Task{task(1, "old", running, running)}, nil, false},
		"an update waits for its replica":  {1, []swarm.Task{task(1, "old", running, running), task(1, "new", pending, running)}, under, true},
		"an update that stops first":       {1, []swarm.Task{task(1, "old", running, shutdown), task(1, "new", ready, ready)}, under, true},
		"a replica drains":                 {0, []swarm.Task{task(1, "new", running, remove)}, nil, true},
		"a replica has drained":            {0, []swarm.Task{task(1, "new", shutdown, remove)}, nil, false},
		"one that never ran is given up":   {0, []swarm.Task{task(1, "new", pending, remove)}, nil, false},
		"as much history as is kept":       {1, history(4, failed, shutdown), nil, true},
		"more history than is kept":        {1, history(5, failed, shutdown), nil, false},
		"more than is kept of what waited": {1, history(5, pending, shutdown), nil, false},
	} {
		service := swarm.Service{UpdateStatus: test.update, Spec: swarm.ServiceSpec{
			TaskTemplate: spec("new"), Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &test.replicas}},
		}}
		service.Spec.TaskTemplate.Runtime = swarm.RuntimeContainer // as engines tell of services, and not of tasks
		if got := atRest(service, test.tasks, defaultTaskHistory); got != test.want {
			t.Errorf("%s: at rest is %t, want %t", name, got, test.want)
		}
	}
}
