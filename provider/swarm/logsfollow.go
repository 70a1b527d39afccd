package swarm

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/logs"
	"golang.org/x/sync/errgroup"
)

const (
	// newReplicasEvery is how soon a followed log includes a replica that has started, and how soon a replica's
	// stream that has ended is opened again.
	newReplicasEvery = 500 * time.Millisecond
	// maxReopenWait bounds the back-off for a log that gave no line when it was last read: its node may be away
	// for long.
	maxReopenWait = 10 * time.Second
)

// followed is a replica whose log is being followed. While its log is open it belongs to the reader, but for open.
type followed struct {
	open bool
	// task is the replica as it was when its log was opened.
	task swarm.Task
	// next is what to ask for when the log is opened: what was not read yet.
	next logs.Request
	// due is when it may be opened again, wait how long after its end that is.
	due  time.Time
	wait time.Duration
	// notice is what was last said to be missing.
	notice string
}

// followLogs reads all replicas at once, and each new one, until ctx ends, emit fails or the function is removed. A
// stream may end although its replica lives: its node's engine was restarted, or the managers have a new leader.
func (c *Cluster) followLogs(ctx context.Context, service swarm.Service, r logs.Request, emit func(logLine) error) error {
	ctx, cancel := context.WithCancel(ctx)
	lines, ended := make(chan logLine), make(chan *followed)
	var readers errgroup.Group
	defer func() { _ = readers.Wait() }() // no member returns an error
	defer cancel()
	replicas := make(map[string]*followed)
	start := func(r logs.Request) error {
		tasks, err := c.logTasks(ctx, service, r)
		if err != nil {
			return err
		}
		for _, task := range tasks {
			f := replicas[task.ID]
			if f == nil {
				f = &followed{next: r}
				replicas[task.ID] = f
			} else if f.open || !live(f.task.Status.State) || time.Now().Before(f.due) {
				// One that lived when its log was opened may have written since, though it lives no more.
				continue
			}
			f.open, f.task = true, task
			readers.Go(func() error {
				c.followTask(ctx, f, lines)
				select {
				case ended <- f:
				case <-ctx.Done():
				}
				return nil
			})
		}
		return nil
	}
	if err := start(r); err != nil {
		return err
	}
	// Of a replica that starts from now on, every line is new.
	fresh := logs.Request{Name: r.Name, Instance: r.Instance, Follow: true}
	ticker := time.NewTicker(newReplicasEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case line := <-lines:
			if err := emit(line); err != nil {
				return err
			}
		case f := <-ended:
			f.open, f.due = false, time.Now().Add(f.wait)
			f.wait = min(max(2*f.wait, newReplicasEvery), maxReopenWait)
		case <-ticker.C:
			err := start(fresh)
			if isNotFound(err) {
				return nil
			}
			if err != nil && ctx.Err() == nil {
				c.cfg.Logger.Warn("listing new replicas failed, trying again", "function", r.Name, "error", err)
			}
		}
	}
}

// followTask passes on the lines of one replica until its stream ends, and notes from where the next one is to go on. Of
// a line in whose middle a stream ends, the rest is lost: engines give all its pieces one time.
func (c *Cluster) followTask(ctx context.Context, f *followed, lines chan<- logLine) {
	var last time.Time
	_, err := c.readLogs(ctx, f.task, f.next, func(line logLine) error {
		if line.notice {
			if line.text == f.notice {
				return nil // said already, and nothing is new about it
			}
			f.notice = line.text
		}
		select {
		case lines <- line:
		case <-ctx.Done():
			return ctx.Err()
		}
		// Lines of the two streams of a replica may come a little out of order.
		if line.at.After(last) {
			last = line.at
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.cfg.Logger.Warn("logs are incomplete, and are read further", "function", f.next.Name, "task", f.task.ID, "error", err)
	}
	if !last.IsZero() {
		// Since includes its own time, which engines tell to the nanosecond.
		since := last.Add(time.Nanosecond)
		f.next.Since, f.next.Tail, f.wait = &since, 0, 0
	}
}
