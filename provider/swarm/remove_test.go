package swarm

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

// TestRemovalStage: a service is removed when managers are not about to delete a task of it.
func TestRemovalStage(t *testing.T) {
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
		tasks []swarm.Task
		want  removal
	}{
		"no replica":                       {nil, ended},
		"nobody has stopped it yet":        {[]swarm.Task{task(1, running, running)}, unheard},
		"nobody has taken it back yet":     {[]swarm.Task{task(1, pending, running)}, unheard},
		"it is to start after another":     {[]swarm.Task{task(1, running, shutdown), task(1, ready, ready)}, unheard},
		"a replica ends":                   {[]swarm.Task{task(1, running, remove)}, ending},
		"a replica is being replaced":      {[]swarm.Task{task(1, running, shutdown)}, ending},
		"a replica has ended":              {[]swarm.Task{task(1, shutdown, remove)}, ending},
		"one that never ran is given up":   {[]swarm.Task{task(1, pending, remove)}, ending},
		"history of a replica that ends":   {append(history(4, failed), task(1, running, remove)), ending},
		"as much history as is kept":       {append(history(5, failed), task(2, failed, shutdown)), ended},
		"more history than is kept":        {history(6, failed), ending},
		"more than is kept of what waited": {history(6, pending), ending},
	} {
		if got := removalStage(test.tasks, defaultTaskHistory); got != test.want {
			t.Errorf("%s: the stage is %d, want %d", name, got, test.want)
		}
	}
}
