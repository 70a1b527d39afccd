package swarm

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// A manager that is told to remove a service while it deletes one of the service's tasks may end in a nil pointer, and
// takes its whole engine along (swarmkit's SetServiceTasksRemove reads the tasks in one transaction and uses them in
// the next; seen with engine 20.10 under 64 clients). Tasks are deleted shortly after their service was changed, so a
// removal waits until the last change has settled: a few tenths of a second, and none for a function at rest.
const (
	// settleTime is longer than the 250 ms for which the manager gathers tasks to delete.
	settleTime = 400 * time.Millisecond
	// settleLook is the time between two looks.
	settleLook = 50 * time.Millisecond
	// maxSettle bounds the wait: a function that never rests can be removed, too.
	maxSettle = 3 * time.Second
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
	for started := time.Now(); time.Since(started) < maxSettle; {
		found, err := c.docker.ServiceInspect(ctx, id, client.ServiceInspectOptions{})
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return dockerError("looking at the function", err)
		}
		tasks, err := c.tasks(ctx, found.Service)
		if err != nil {
			return err
		}
		if atRest(found.Service, tasks, time.Now()) {
			return nil
		}
		if err := pause(ctx, settleLook); err != nil {
			return err
		}
	}
	return nil
}

// atRest is true when no task of the service is about to be deleted.
func atRest(service swarm.Service, tasks []swarm.Task, now time.Time) bool {
	if now.Sub(service.UpdatedAt) < settleTime {
		return false
	}
	for _, task := range tasks {
		switch {
		case task.DesiredState == swarm.TaskStateRemove:
			return false
		case !live(task.Status.State) && now.Sub(task.UpdatedAt) < settleTime:
			return false
		}
	}
	return true
}
