package swarm

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// A manager that removes a service while it deletes one of its tasks may dereference nil and crash its whole
// engine. (swarmkit's SetServiceTasksRemove reads the tasks in one transaction and uses them in the next; seen
// with engine 20.10 under 64 clients.) So a removal waits until no task of the service is about to be deleted.
// A function at rest has none; after a change it takes some tenths of a second, longer where managers are
// behind.
const (
	// settlePoll is the time between two polls.
	settlePoll = 50 * time.Millisecond
	// maxSettle bounds the wait: a function that never rests can be removed, too.
	maxSettle = 15 * time.Second
	// defaultTaskHistory is how many tasks of a slot a Swarm keeps unless it is told otherwise.
	defaultTaskHistory = 5
)

// Delete removes a function, or gives ErrNotFound. Its replicas end within their stop grace; its name is free at once.
func (c *Cluster) Delete(ctx context.Context, namespace, name string) error {
	namespace = c.namespace(namespace)
	defer c.lock(namespace, name)()
	service, err := c.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	if err := c.settle(ctx, service.ID); err != nil {
		return err
	}
	_, err = c.docker.ServiceRemove(ctx, service.ID, client.ServiceRemoveOptions{})
	if errdefs.IsNotFound(err) {
		return missing(namespace, name)
	}
	if err != nil {
		return dockerError("removing function "+name, err)
	}
	c.cfg.Logger.Info("function removed", "function", name, "namespace", namespace)
	c.nudge()
	return nil
}

// settle waits until nothing of a service's last change is under way.
func (c *Cluster) settle(ctx context.Context, id string) error {
	history, err := c.taskHistory(ctx)
	if err != nil {
		return err
	}
	for started := time.Now(); time.Since(started) < maxSettle; {
		found, err := c.docker.ServiceInspect(ctx, id, client.ServiceInspectOptions{})
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return dockerError("inspecting the function", err)
		}
		tasks, err := c.tasks(ctx, found.Service)
		if err != nil {
			return err
		}
		if atRest(found.Service, tasks, history) {
			return nil
		}
		if err := pause(ctx, settlePoll); err != nil {
			return err
		}
	}
	c.cfg.Logger.Warn("removing a function before its managers have finished its last change", "service", id)
	return nil
}

// taskHistory is how many tasks of each slot the Swarm keeps; less than 0 means all.
func (c *Cluster) taskHistory(ctx context.Context) (int64, error) {
	result, err := c.docker.SwarmInspect(ctx, client.SwarmInspectOptions{})
	if err != nil {
		return 0, dockerError("asking for the Swarm's settings", err)
	}
	if limit := result.Swarm.Spec.Orchestration.TaskHistoryRetentionLimit; limit != nil {
		return *limit, nil
	}
	return defaultTaskHistory, nil
}

// atRest is true when the managers have acted on the service's last change and no task of it is about to be
// deleted. Tasks that end are kept as history, up to a number for each slot. They are deleted beyond it, and
// where a slot was given up.
func atRest(service swarm.Service, tasks []swarm.Task, history int64) bool {
	type slot struct {
		tasks, over int64
		current     bool
	}
	slots := make(map[int]*slot)
	filled := uint64(0)
	for _, task := range tasks {
		over := isOver(task)
		if task.DesiredState == swarm.TaskStateRemove && over {
			return false
		}
		s := slots[task.Slot]
		if s == nil {
			s = &slot{}
			slots[task.Slot] = s
		}
		s.tasks++
		if over {
			s.over++
		}
		if wanted(task) {
			if !s.current {
				filled++
			}
			s.current = true
			// Until an update has a state, nobody has acted on it.
			if service.UpdateStatus == nil && outOfDate(service, task) {
				return false
			}
		}
	}
	for _, s := range slots {
		if history >= 0 && s.over > 0 && s.tasks > max(history, 1) {
			return false
		}
	}
	return filled == desired(service)
}

// wanted is true for a task that is to run, now or once the one before it has ended.
func wanted(task swarm.Task) bool {
	switch task.DesiredState {
	case swarm.TaskStateRunning, swarm.TaskStateReady, swarm.TaskStateAccepted:
		return true
	}
	return false
}

// isOver is true for a task that has ended, or was given up before a node had it.
func isOver(task swarm.Task) bool {
	switch task.Status.State {
	case swarm.TaskStateNew, swarm.TaskStateAllocated, swarm.TaskStatePending:
		return !wanted(task)
	}
	return !live(task.Status.State)
}
