package swarm

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// Managers may lose a removal as they may lose any change, and then replicas run on with no service left to touch.
// So a function is scaled to zero first, and its service is removed when its managers have acted on that.
//
// A manager that removes a service while it deletes one of its tasks may dereference nil and crash its whole
// engine. (swarmkit's SetServiceTasksRemove reads the tasks in one transaction and uses them in the next; seen
// with engine 20.10 under 64 clients.) So a removal waits until no task of the service is about to be deleted.
const (
	// settlePoll is the time between two polls.
	settlePoll = 50 * time.Millisecond
	// maxDrainWait bounds the wait for replicas that finish requests: each is deleted when it ends.
	maxDrainWait = 3 * time.Second
	// touchEvery is how long managers get to act before the service is touched.
	touchEvery = 10 * time.Second
	// maxSettle bounds the whole wait. A client of the API waits for 60 s.
	maxSettle = 30 * time.Second
	// defaultTaskHistory is how many tasks of a slot a Swarm keeps unless it is told otherwise.
	defaultTaskHistory = 5
)

// Delete removes a function, or gives ErrNotFound. It returns when no replica takes new requests. Those that have
// requests end within their stop grace; the name is free at once. ErrUnavailable means that the Swarm has not
// stopped the replicas within 30 s: the function is there still, scaled to zero.
func (c *Cluster) Delete(ctx context.Context, namespace, name string) error {
	namespace = c.namespace(namespace)
	defer c.lock(namespace, name)()
	if err := c.scaleToZero(ctx, namespace, name, false); err != nil {
		return err
	}
	service, err := c.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	if err := c.settle(ctx, service); err != nil {
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

// scaleToZero writes that a function has no replicas. With again it does so even if that is what was written last.
func (c *Cluster) scaleToZero(ctx context.Context, namespace, name string, again bool) error {
	return c.modify(ctx, namespace, name, "", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		spec := service.Spec
		spec.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: new(uint64(0))}}
		return spec, again || desired(service) != 0, nil
	})
}

// settle waits until the managers have stopped all replicas of a service that was scaled to zero.
func (c *Cluster) settle(ctx context.Context, service swarm.Service) error {
	namespace, name := service.Spec.Labels[labelNamespace], service.Spec.Labels[labelFunction]
	history, err := c.taskHistory(ctx)
	if err != nil {
		return err
	}
	started := time.Now()
	for touch := touchEvery; ; {
		tasks, err := c.tasks(ctx, service)
		if err != nil {
			return err
		}
		took := time.Since(started)
		switch {
		case removable(tasks, history) && (took >= maxDrainWait || !slices.ContainsFunc(tasks, draining)):
			return nil
		case took >= maxSettle:
			return failf(ErrUnavailable, "function %q is scaled to zero, and the Swarm has not stopped its replicas within %s: remove it again later", name, maxSettle)
		case took >= touch:
			touch += touchEvery
			c.cfg.Logger.Warn("a function that is being removed is touched: its managers have not stopped its replicas", "function", name, "namespace", namespace)
			if err := c.scaleToZero(ctx, namespace, name, true); err != nil {
				return err
			}
		}
		if err := pause(ctx, settlePoll); err != nil {
			return err
		}
	}
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

// removable is true when no replica is to run and no task is about to be deleted. Tasks that end are kept as history, up
// to a number for each slot. They are deleted beyond it, and where the service was scaled down.
func removable(tasks []swarm.Task, history int64) bool {
	type slot struct{ tasks, over int64 }
	slots := make(map[int]slot)
	for _, task := range tasks {
		over := isOver(task)
		if wanted(task) || (over && task.DesiredState == swarm.TaskStateRemove) {
			return false
		}
		s := slots[task.Slot]
		s.tasks++
		if over {
			s.over++
		}
		slots[task.Slot] = s
	}
	for _, s := range slots {
		if history >= 0 && s.over > 0 && s.tasks > max(history, 1) {
			return false
		}
	}
	return true
}

// draining is true for a replica that still runs and is to stop.
func draining(task swarm.Task) bool { return !wanted(task) && !isOver(task) }

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
