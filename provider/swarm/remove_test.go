package swarm

import (
	"slices"
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

// TestRemovable: a service may be removed when no replica is to run, and managers are not about to delete a task of it.
func TestRemovable(t *testing.T) {
	t.Parallel()
	task := func(slot int, state, desired swarm.TaskState) swarm.Task {
		return swarm.Task{Slot: slot, Status: swarm.TaskStatus{State: state}, DesiredState: desired}
	}
	const (
		pending, running, shutdown, remove = swarm.TaskStatePending, swarm.TaskStateRunning, swarm.TaskStateShutdown, swarm.TaskStateRemove
		ready, failed                      = swarm.TaskStateReady, swarm.TaskStateFailed
	)
	history := func(n int, state swarm.TaskState) (tasks []swarm.Task) {
		for range n {
			tasks = append(tasks, task(1, state, shutdown))
		}
		return tasks
	}
	for name, test := range map[string]struct {
		tasks           []swarm.Task
		want, wantDrain bool
	}{
		"no replica":                       {nil, true, false},
		"nobody has stopped it yet":        {[]swarm.Task{task(1, running, running)}, false, false},
		"nobody has taken it back yet":     {[]swarm.Task{task(1, pending, running)}, false, false},
		"it is to start after another":     {[]swarm.Task{task(1, running, shutdown), task(1, ready, ready)}, false, true},
		"a replica drains":                 {[]swarm.Task{task(1, running, remove)}, true, true},
		"a replica has drained":            {[]swarm.Task{task(1, shutdown, remove)}, false, false},
		"one that never ran is given up":   {[]swarm.Task{task(1, pending, remove)}, false, false},
		"as much history as is kept":       {append(history(4, failed), task(1, running, remove)), true, true},
		"more history than is kept":        {history(6, failed), false, false},
		"more than is kept of what waited": {history(6, pending), false, false},
	} {
		if got := removable(test.tasks, defaultTaskHistory); got != test.want {
			t.Errorf("%s: removable is %t, want %t", name, got, test.want)
		}
		if got := slices.ContainsFunc(test.tasks, draining); got != test.wantDrain {
			t.Errorf("%s: draining is %t, want %t", name, got, test.wantDrain)
		}
	}
}
