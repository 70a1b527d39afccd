package swarm

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// Managers may lose a removal as they may lose any change, and then replicas run on with no service left to touch.
// So a removal is two changes. The first scales the function to zero and marks its service: from then on nothing of
// this package sees it. The second removes the service once its managers have acted on the first.
//
// A manager that removes a service while it deletes one of its tasks may dereference nil and crash its whole
// engine. (swarmkit's SetServiceTasksRemove reads the tasks in one transaction and uses them in the next; seen
// with engine 20.10 under 64 clients.) So the second change waits until no task of the service is about to be deleted.
const (
	// settlePoll is the time between two polls.
	settlePoll = 50 * time.Millisecond
	// maxDrainWait is how long replicas get to end, whose tasks are deleted then. Those that finish requests take longer.
	maxDrainWait = time.Second
	// maxSettle bounds the whole wait of a request. Reconcile goes on with it.
	maxSettle = 15 * time.Second
	// touchAfter is how long managers get to act before the service is touched. They need milliseconds.
	touchAfter = 10 * time.Second
	// defaultTaskHistory is how many tasks of a slot a Swarm keeps unless it is told otherwise.
	defaultTaskHistory = 5
)

// Delete removes a function, or gives ErrNotFound. Its replicas end within their stop grace; its name is free at once.
func (c *Cluster) Delete(ctx context.Context, namespace, name string) error {
	namespace = c.namespace(namespace)
	defer c.lock(namespace, name)()
	err := c.modify(ctx, namespace, name, "", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		spec := service.Spec
		spec.Labels = maps.Clone(spec.Labels)
		spec.Labels[labelRemoved] = "true"
		spec.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: new(uint64(0))}}
		return spec, true, nil
	})
	if err != nil {
		return err
	}
	c.cfg.Logger.Info("function removed", "function", name, "namespace", namespace)
	if err := c.awaitRemoval(ctx, namespace, name); err != nil {
		c.cfg.Logger.Warn("removing the service of a function goes on", "function", name, "namespace", namespace, "error", err)
	}
	return nil
}

// awaitRemoval ends the removal of a function if one is under way, or gives ErrUnavailable. It may run several times at once.
func (c *Cluster) awaitRemoval(ctx context.Context, namespace, name string) error {
	for started := time.Now(); ; {
		removed, err := c.removed(ctx, labelFunction+"="+name, labelNamespace+"="+namespace)
		if err != nil || len(removed) == 0 {
			return err
		}
		if ended, err := c.remove(ctx, removed[0]); err != nil || ended {
			return err
		}
		if time.Since(started) >= maxSettle {
			return failf(ErrUnavailable, "the Swarm has not stopped the replicas of function %q, which was removed: try again later", name)
		}
		if err := pause(ctx, settlePoll); err != nil {
			return err
		}
	}
}

// removed lists the services that are marked as those of removed functions.
func (c *Cluster) removed(ctx context.Context, labels ...string) ([]swarm.Service, error) {
	all, err := c.owned(ctx, labels...)
	return slices.DeleteFunc(all, func(s swarm.Service) bool { return !isRemoved(s) }), err
}

func isRemoved(service swarm.Service) bool { return service.Spec.Labels[labelRemoved] != "" }

// remove removes a marked service, or reports that it is too early. A mark that managers have lost is written again.
func (c *Cluster) remove(ctx context.Context, service swarm.Service) (ended bool, err error) {
	history, err := c.taskHistory(ctx)
	if err != nil {
		return false, err
	}
	tasks, err := c.tasks(ctx, service)
	marked := time.Since(service.UpdatedAt)
	switch {
	case errors.Is(err, ErrNotFound):
		return true, nil
	case err != nil:
		return false, err
	case removable(tasks, history) && (marked > maxDrainWait || !slices.ContainsFunc(tasks, draining)):
		_, err = c.docker.ServiceRemove(ctx, service.ID, client.ServiceRemoveOptions{})
	case slices.ContainsFunc(tasks, wanted) && marked > touchAfter:
		c.cfg.Logger.Warn("a removed function is touched: its managers have not stopped its replicas", "service", service.Spec.Name)
		_, err := c.docker.ServiceUpdate(ctx, service.ID, client.ServiceUpdateOptions{Version: service.Version, Spec: service.Spec})
		return false, ignoreRace(err)
	default:
		return false, nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return false, dockerError("removing service "+service.Spec.Name, err)
	}
	c.nudge()
	return true, nil
}

// ignoreRace makes nothing of a change that came second.
func ignoreRace(err error) error {
	if err == nil || errdefs.IsNotFound(err) || outOfSequence(err) {
		return nil
	}
	return dockerError("touching a service", err)
}

// finishRemovals ends the removals that a stopped provider or a busy Swarm has left.
func (c *Cluster) finishRemovals(ctx context.Context) error {
	removed, err := c.removed(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, service := range removed {
		problems = append(problems, c.awaitRemoval(ctx, service.Spec.Labels[labelNamespace], service.Spec.Labels[labelFunction]))
	}
	return errors.Join(problems...)
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
