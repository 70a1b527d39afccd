package swarm

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Managers may lose a change; their log then says "failed to update task … update out of sequence". A replica
// that the service no longer wants goes on running, or one is missing, until the service changes again. Writing
// the service unchanged makes the managers check it again.
const (
	// lostAfter is how long a service and its tasks must disagree. Managers need milliseconds.
	lostAfter = 30 * time.Second
	// maxLostWait bounds the wait between attempts at a service that is not mended by being touched.
	maxLostWait = time.Hour
)

// loss is a service whose tasks are not as many as it wants.
type loss struct {
	// replicas is how many it wants.
	replicas uint64
	// due is when it is mended if nothing changes, wait how long after the attempt before that is.
	due  time.Time
	wait time.Duration
}

// lossBook follows the losses, by service id. Its zero value is ready; it is for one goroutine.
type lossBook map[string]loss

// note takes in what was read at now, and gives the services that are to be touched.
func (b lossBook) note(v view, now time.Time) (due []swarm.Service) {
	for _, service := range v.services {
		known, found := b[service.ID]
		switch {
		case !lost(service, v.tasks[service.ID]):
			delete(b, service.ID)
		case !found || known.replicas != desired(service):
			b[service.ID] = loss{replicas: desired(service), due: now.Add(lostAfter), wait: lostAfter}
		case !now.Before(known.due):
			due = append(due, service)
			known.wait = min(2*known.wait, maxLostWait)
			known.due = now.Add(known.wait)
			b[service.ID] = known
		}
	}
	return due
}

// lost is true if a service at rest has more tasks than it wants, or fewer. One that no node takes, or that waits to be
// started again, is a task all the same.
func lost(service swarm.Service, tasks []swarm.Task) bool {
	if underWay(service.UpdateStatus) {
		return false
	}
	var n uint64
	for _, task := range tasks {
		if wanted(task) {
			n++
		}
	}
	return n != desired(service)
}

// orphanBook holds since when a replica has run on without its function, by the id of its task. It is for one goroutine.
type orphanBook map[string]orphan

type orphan struct {
	since time.Time
	told  bool
}

// note takes in all orphans that were read at now. It counts those that Swarm has had the time to end, and gives the ones
// of them that are new.
func (b orphanBook) note(tasks []swarm.Task, now time.Time) (count int, fresh []swarm.Task) {
	found := make(map[string]bool, len(tasks))
	for _, task := range tasks {
		found[task.ID] = true
		known, ok := b[task.ID]
		if !ok {
			known.since = now
		}
		if now.Sub(known.since) >= lostAfter {
			count++
			if !known.told {
				fresh, known.told = append(fresh, task), true
			}
		}
		b[task.ID] = known
	}
	maps.DeleteFunc(b, func(id string, _ orphan) bool { return !found[id] })
	return count, fresh
}

func (v view) anyLost() bool {
	return slices.ContainsFunc(v.services, func(s swarm.Service) bool { return lost(s, v.tasks[s.ID]) })
}

// touch writes a service as it is, unless it has changed since it was read. It is pure good will: a failure is no error of
// anybody's request.
func (c *Cluster) touch(ctx context.Context, service swarm.Service) {
	namespace, name := service.Spec.Labels[labelNamespace], service.Spec.Labels[labelFunction]
	defer c.lock(namespace, name)()
	err := c.modify(ctx, namespace, name, "touched, as its replicas are not as many as it wants", func(now swarm.Service) (swarm.ServiceSpec, bool, error) {
		if now.Version != service.Version {
			return now.Spec, false, nil
		}
		return now.Spec, true, c.guardRollback(ctx, now)
	})
	if err != nil && !errors.Is(err, ErrNotFound) && ctx.Err() == nil {
		c.cfg.Logger.Warn("writing again a service whose managers lost a change failed", "function", name, "namespace", namespace, "error", err)
	}
}
