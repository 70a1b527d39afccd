package swarm

import (
	"time"

	"github.com/moby/moby/api/types/swarm"

	"waggle/provider/feed"
)

// recently bounds how long a failure is remembered, and how long a replica may have lived for its end to be a failed start.
const recently = time.Minute

// failedToStart is true for a replica that has just ended soon after it was made.
func failedToStart(task swarm.Task, now time.Time) bool {
	ended := task.Status.Timestamp
	return (task.Status.State == swarm.TaskStateFailed || task.Status.State == swarm.TaskStateRejected) &&
		now.Sub(ended) < recently && ended.Sub(task.CreatedAt) < recently
}

// troubleOf says what keeps replicas from starting: Swarm gives its reason for every one that no node takes.
func troubleOf(live, failed []swarm.Task, now time.Time) feed.Trouble {
	var t feed.Trouble
	for _, task := range live {
		if task.Status.State == swarm.TaskStatePending && task.DesiredState == swarm.TaskStateRunning && task.Status.Err != "" {
			t.Unplaced++
			t.Reason = task.Status.Err
		}
	}
	var newest time.Time
	for _, task := range failed {
		if now.Sub(task.Status.Timestamp) >= recently {
			continue
		}
		t.Failed++
		if task.Status.Timestamp.After(newest) && t.Unplaced == 0 {
			newest, t.Reason = task.Status.Timestamp, task.Status.Err
		}
	}
	return t
}
