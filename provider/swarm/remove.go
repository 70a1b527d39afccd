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
// this package sees it. The second removes the service once none of its replicas is left.
//
// A manager that removes a service while it deletes one of its tasks dereferences nil and crashes its whole engine.
// (swarmkit's SetServiceTasksRemove reads the tasks in one transaction and uses them in the next. Engine 20.10 does so
// under 64 clients, and at once where managers answer late.) So the second change waits for the last replica and its
// task. A function that is deployed meanwhile takes over the marked service.
const (
	// settlePoll is the time between two polls.
	settlePoll = 50 * time.Millisecond
	// maxDrainWait is how long Delete waits for replicas to end. Those that finish requests take longer; Reconcile goes on.
	maxDrainWait = time.Second
	// removalPoll is the time between two looks of the watcher at replicas that take longer, and maxRemovalPolls how long
	// it looks so often. Those on a node that is away may take days.
	removalPoll, maxRemovalPolls = time.Second, 5 * time.Minute
	// maxSettle bounds the wait for managers that do not stop the replicas.
	maxSettle = 15 * time.Second
	// touchAfter is how long managers get to act. They need milliseconds.
	touchAfter = 10 * time.Second
	// defaultTaskHistory is how many tasks of a slot a Swarm keeps unless it is told otherwise.
	defaultTaskHistory = 5
)

// removal is how far the removal of a function has come.
type removal int

const (
	unheard removal = iota // replicas are still to run: the managers have not acted
	ending                 // none is to run, but some have not ended, or their tasks are about to be deleted
	ended                  // nothing is left that the managers could delete meanwhile
)

// Delete removes a function, or gives ErrNotFound. Its replicas end within their stop grace; its name is free at once.
func (c *Cluster) Delete(ctx context.Context, namespace, name string) error {
	namespace = c.namespace(namespace)
	defer c.lock(namespace, name)()
	err := c.modify(ctx, namespace, name, "", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		spec, container := service.Spec, *service.Spec.TaskTemplate.ContainerSpec
		spec.Labels = maps.Clone(spec.Labels)
		spec.Labels[labelRemoved] = "true"
		spec.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: new(uint64(0))}}
		container.Secrets = nil // they may be removed at once; replicas that end keep theirs
		spec.TaskTemplate.ContainerSpec = &container
		return spec, true, nil
	})
	if err != nil {
		return err
	}
	c.cfg.Logger.Info("function removed", "function", name, "namespace", namespace)
	left, err := c.awaitRemoval(ctx, namespace, name, maxDrainWait)
	if err != nil {
		c.cfg.Logger.Warn("removing the service of a function goes on", "function", name, "namespace", namespace, "error", err)
	}
	if left != nil || err != nil {
		c.callReconcile()
	}
	return nil
}

// callReconcile has the watcher reconcile within removalPoll.
func (c *Cluster) callReconcile() {
	select {
	case c.unfinished <- struct{}{}:
	default:
	}
}

// awaitRemoval ends the removal of a function, if one is under way. After patience it gives the service if replicas
// have still to end, or ErrUnavailable later if the managers do not stop them. The caller holds the function's lock.
func (c *Cluster) awaitRemoval(ctx context.Context, namespace, name string, patience time.Duration) (left *swarm.Service, err error) {
	seen := false // a task that managers have still to delete, since this wait began
	for started := time.Now(); ; {
		removed, err := c.removed(ctx, labelFunction+"="+name, labelNamespace+"="+namespace)
		if err != nil || len(removed) == 0 {
			return nil, err
		}
		stage, left, err := c.remove(ctx, removed[0], seen)
		switch waited := time.Since(started); {
		case err != nil || stage == ended:
			return nil, err
		case stage == ending && waited >= patience:
			return &removed[0], nil
		case waited >= maxSettle:
			return nil, failf(ErrUnavailable, "the Swarm has not stopped the replicas of function %q, which was removed: try again later", name)
		}
		seen = seen || left
		if err := pause(ctx, settlePoll); err != nil {
			return nil, err
		}
	}
}

// removed lists the services that are marked as those of removed functions.
func (c *Cluster) removed(ctx context.Context, labels ...string) ([]swarm.Service, error) {
	all, err := c.owned(ctx, labels...)
	return slices.DeleteFunc(all, func(s swarm.Service) bool { return !isRemoved(s) }), err
}

func isRemoved(service swarm.Service) bool { return service.Spec.Labels[labelRemoved] != "" }

// remove removes a marked service if its removal has come that far, and tells whether there is a task to be deleted first.
// A mark that managers have lost is written again, and so is one that leaves more history than is kept.
// No task may mean that the managers have deleted it, or that they have not made it yet. One that was seen before rules
// the second out, and so does time.
func (c *Cluster) remove(ctx context.Context, service swarm.Service, seen bool) (stage removal, left bool, err error) {
	history, err := c.taskHistory(ctx)
	if err != nil {
		return unheard, false, err
	}
	tasks, err := c.tasks(ctx, service)
	if errors.Is(err, ErrNotFound) {
		return ended, false, nil
	}
	if err != nil {
		return unheard, false, err
	}
	stage, left = removalStage(tasks, history), slices.ContainsFunc(tasks, isLeft)
	late := time.Since(service.UpdatedAt) > touchAfter
	switch {
	case late && (stage == unheard || (stage == ending && !left)):
		c.cfg.Logger.Warn("a removed function is touched: its managers have not stopped its replicas", "service", service.Spec.Name)
		_, err := c.docker.ServiceUpdate(ctx, service.ID, client.ServiceUpdateOptions{Version: service.Version, Spec: service.Spec})
		return stage, left, ignoreRace(err)
	case stage == ended && !seen && !late:
		stage = ending
	case stage == ended:
		if _, err := c.docker.ServiceRemove(ctx, service.ID, client.ServiceRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
			return stage, left, dockerError("removing service "+service.Spec.Name, err)
		}
		c.nudge()
	}
	return stage, left, nil
}

// ignoreRace makes nothing of a change that came second.
func ignoreRace(err error) error {
	if err == nil || errdefs.IsNotFound(err) || outOfSequence(err) {
		return nil
	}
	return dockerError("touching a service", err)
}

// finishRemovals goes a step on with each removal that a stopped provider, a busy Swarm or a slow replica has left.
func (c *Cluster) finishRemovals(ctx context.Context) error {
	removed, err := c.removed(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, service := range removed {
		problems = append(problems, c.finishRemoval(ctx, service.Spec.Labels[labelNamespace], service.Spec.Labels[labelFunction]))
		if time.Since(service.UpdatedAt) < maxRemovalPolls {
			c.callReconcile()
		}
	}
	return errors.Join(problems...)
}

// finishRemoval looks again under the lock: the name may have been deployed meanwhile. Whoever has the lock goes on with
// the removal itself. Another provider has another lock: there must be one at a time, as the stack has it.
func (c *Cluster) finishRemoval(ctx context.Context, namespace, name string) error {
	unlock, free := c.writers.tryLock(lockKey(namespace, name))
	if !free {
		return nil
	}
	defer unlock()
	removed, err := c.removed(ctx, labelFunction+"="+name, labelNamespace+"="+namespace)
	if err != nil || len(removed) == 0 {
		return err
	}
	_, _, err = c.remove(ctx, removed[0], false)
	return err
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

// removalStage judges by all tasks of a service. Tasks that have ended are deleted where the service was scaled down; else
// they are kept as history, up to a number for each slot.
func removalStage(tasks []swarm.Task, history int64) removal {
	stage, slots := ended, make(map[int]int64)
	for _, task := range tasks {
		slots[task.Slot]++
		switch {
		case wanted(task):
			return unheard
		case isLeft(task), history >= 0 && slots[task.Slot] > max(history, 1):
			stage = ending
		}
	}
	return stage
}

// isLeft is true for a task that runs or is to be deleted: for any but history.
func isLeft(task swarm.Task) bool { return !isOver(task) || task.DesiredState == swarm.TaskStateRemove }

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
