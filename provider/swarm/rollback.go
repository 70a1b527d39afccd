package swarm

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Swarm keeps one spec to roll back to: the one before the last change of any kind. It stops watching an update
// when the service changes again. Scaling a function during an update to a broken image would make that image
// the one to roll back to. So a change that can wait does, until the update has proved sound or has been rolled
// back.
const (
	// maxScaleWait bounds how long scaling waits: a new replica that starts at once has shown itself by then. After that
	// the callers whom the function has too few replicas for matter more.
	maxScaleWait = updateMonitor + 5*time.Second
	// guardPoll is the time between two polls.
	guardPoll = 250 * time.Millisecond
	// maxGuard bounds any wait for an update that does not get anywhere, such as one that waits for a node with room. The
	// pull of a large image should fit.
	maxGuard = 5 * time.Minute
)

// guardRollback gives ErrUpdating if a change now would take away what an update under way rolls back to. After
// nil the service may be changed while its version is still that of the given one.
func (c *Cluster) guardRollback(ctx context.Context, service swarm.Service) error {
	if !mayRollBack(service) || desired(service) == 0 {
		return nil
	}
	tasks, err := c.tasks(ctx, service)
	if err != nil || !unproven(service, tasks, time.Now()) {
		return err
	}
	return failf(ErrUpdating, "function %q is being updated: until a new replica has run for %s or the update is rolled back, a change would leave nothing to go back to; try again", service.Spec.Labels[labelFunction], updateMonitor)
}

// mayRollBack is true if the previous spec makes other replicas and the update from it has not ended. No state
// means that the update has not begun, or found no replica to replace.
func mayRollBack(service swarm.Service) bool {
	before, status := service.PreviousSpec, service.UpdateStatus
	return before != nil && !reflect.DeepEqual(before.TaskTemplate, service.Spec.TaskTemplate) &&
		(status == nil || status.State == swarm.UpdateStateUpdating)
}

// unproven is true while it is not known whether an update of a service will roll back. It is known once a new
// replica outlives the time in which managers watch it, although others are still to be replaced. What remains
// in doubt then is their nodes rather than the image. With many replicas an update takes minutes, and an
// autoscaler must be able to act. Tasks are all of the service's, ended ones included. It is pure.
func unproven(service swarm.Service, tasks []swarm.Task, now time.Time) bool {
	if now.Sub(service.UpdatedAt) > maxGuard {
		return false
	}
	proven := func(t swarm.Task) bool {
		return t.DesiredState == swarm.TaskStateRunning && t.Status.State == swarm.TaskStateRunning &&
			now.Sub(t.Status.Timestamp) > updateMonitor && !outOfDate(service, t)
	}
	// Managers do not replace a replica whose node suits changed constraints, and such an update never has a state.
	toReplace := func(t swarm.Task) bool {
		t.Spec.Placement = service.Spec.TaskTemplate.Placement
		return wanted(t) && outOfDate(service, t)
	}
	// Of a function that no node takes, neither as it is nor as it was, nothing can be lost.
	placed := func(t swarm.Task) bool { return t.NodeID != "" }
	if service.UpdateStatus == nil && !slices.ContainsFunc(tasks, toReplace) {
		return false
	}
	return slices.ContainsFunc(tasks, placed) && !slices.ContainsFunc(tasks, proven)
}

// outOfDate is true for a task of another kind than the service's now.
func outOfDate(service swarm.Service, task swarm.Task) bool {
	task.Spec.Runtime = service.Spec.TaskTemplate.Runtime // which engines tell of services alone
	return !reflect.DeepEqual(task.Spec, service.Spec.TaskTemplate)
}
