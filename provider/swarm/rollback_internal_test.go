package swarm

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

func TestUnproven(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	spec := func(image, constraint string) swarm.TaskSpec {
		return swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: image}, Placement: &swarm.Placement{Constraints: []string{constraint}}}
	}
	task := func(image, node string, state, desired swarm.TaskState, age time.Duration) swarm.Task {
		return swarm.Task{Spec: spec(image, "a"), NodeID: node, DesiredState: desired, Status: swarm.TaskStatus{State: state, Timestamp: now.Add(-age)}}
	}
	const running, pending, failed, shutdown = swarm.TaskStateRunning, swarm.TaskStatePending, swarm.TaskStateFailed, swarm.TaskStateShutdown
	updating := &swarm.UpdateStatus{State: swarm.UpdateStateUpdating}
	older := task("old", "n", running, running, time.Hour)
	for name, test := range map[string]struct {
		status *swarm.UpdateStatus
		tasks  []swarm.Task
		age    time.Duration
		want   bool
	}{
		"not begun":                        {nil, []swarm.Task{older}, 0, true},
		"found no replica to replace":      {nil, []swarm.Task{task("new", "n", running, running, 0)}, 0, false},
		"nothing has started":              {updating, []swarm.Task{older, task("new", "", pending, running, 0)}, 0, true},
		"a new replica has just started":   {updating, []swarm.Task{older, task("new", "n", running, running, 9*time.Second)}, 0, true},
		"a new replica has failed":         {updating, []swarm.Task{task("old", "n", shutdown, shutdown, time.Hour), task("new", "n", failed, shutdown, time.Minute)}, 0, true},
		"a new replica lives":              {updating, []swarm.Task{older, task("new", "n", running, running, 11*time.Second)}, 0, false},
		"one of another update had lived":  {updating, []swarm.Task{task("new", "n", running, shutdown, time.Hour)}, 0, true},
		"no node takes it, nor ever did":   {updating, []swarm.Task{task("old", "", pending, running, 0), task("new", "", pending, running, 0)}, 0, false},
		"it does not get anywhere":         {updating, []swarm.Task{older, task("new", "", pending, running, 0)}, 6 * time.Minute, false},
		"nobody begins it for a long time": {nil, []swarm.Task{older}, 6 * time.Minute, false},
	} {
		service := swarm.Service{UpdateStatus: test.status, Meta: swarm.Meta{UpdatedAt: now.Add(-test.age)}, Spec: swarm.ServiceSpec{TaskTemplate: spec("new", "a")}}
		service.Spec.TaskTemplate.Runtime = swarm.RuntimeContainer // as engines tell of services, and not of tasks
		if got := unproven(service, test.tasks, now); got != test.want {
			t.Errorf("%s: unproven is %t, want %t", name, got, test.want)
		}
	}
	moved := swarm.Service{Meta: swarm.Meta{UpdatedAt: now}, Spec: swarm.ServiceSpec{TaskTemplate: spec("new", "b")}}
	if unproven(moved, []swarm.Task{task("new", "n", running, running, 0)}, now) {
		t.Error("unproven is true for an update of constraints alone that replaces nothing")
	}
}
