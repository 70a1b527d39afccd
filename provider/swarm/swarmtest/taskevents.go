package swarmtest

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/swarm"
)

// follower is a stream of task events.
type follower struct {
	changed func(service string)
	broken  chan struct{}
}

// MuteTasks says whether there are no task events, as with a manager whose control socket is missing.
func (e *Engine) MuteTasks(mute bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mute = mute
	if mute {
		e.dropFollowers()
	}
}

// StallTasks says whether streams of task events stay open but send nothing.
func (e *Engine) StallTasks(stalled bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stalled = stalled
}

// Followers is how many streams of task events there are.
func (e *Engine) Followers() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.followers)
}

// Followed is how many there have been.
func (e *Engine) Followed() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.followed
}

// TaskLists is how often tasks were listed.
func (e *Engine) TaskLists() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lists
}

// FollowTasks implements [waggle/provider/swarm.TaskEvents].
func (e *Engine) FollowTasks(ctx context.Context, begun func(), changed func(service string)) error {
	stream := &follower{changed: changed, broken: make(chan struct{})}
	if err := e.follows(stream, begun); err != nil {
		return err
	}
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.followers, stream)
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-stream.broken:
		return errors.New("unexpected EOF")
	}
}

func (e *Engine) follows(stream *follower, begun func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.answers(); err != nil {
		return err
	}
	if e.mute {
		return errors.New("no such socket")
	}
	e.followers[stream] = true
	e.followed++
	begun()
	return nil
}

func (e *Engine) dropFollowers() {
	for stream := range e.followers {
		close(stream.broken)
		delete(e.followers, stream)
	}
}

// putTask stores a new or changed task and sends an event.
func (e *Engine) putTask(task swarm.Task) {
	e.tasks[task.ID] = task
	e.tellTask(task)
}

// dropTask removes a task and sends an event.
func (e *Engine) dropTask(id string) {
	task := e.tasks[id]
	delete(e.tasks, id)
	e.tellTask(task)
}

func (e *Engine) tellTask(task swarm.Task) {
	for stream := range e.followers {
		if !e.stalled {
			stream.changed(task.ServiceID)
		}
	}
}
