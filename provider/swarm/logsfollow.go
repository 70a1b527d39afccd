package swarm

import (
	"context"
	"hash/maphash"
	"slices"
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
	told   told
}

// overlap is how much of a log is read twice when it is opened again. Lines of a replica's two streams may come a
// little out of order.
const overlap = 100 * time.Millisecond

// told are the lines of late of one replica, so that those that come twice are passed on once.
type told struct {
	newest time.Time
	late   []toldLine
	// again are those that are to come again, and how often.
	again map[toldLine]int
}

type toldLine struct {
	at  int64
	sum uint64
}

var toldSeed = maphash.MakeSeed()

// note takes in a line, and reports whether it has been passed on before.
func (t *told) note(line logLine) (again bool) {
	key := toldLine{line.at.UnixNano(), maphash.String(toldSeed, line.text)}
	if t.again[key] > 0 {
		t.again[key]--
		again = true
	}
	if line.at.After(t.newest) {
		t.newest = line.at
	}
	if t.late = append(t.late, key); len(t.late) == cap(t.late) {
		t.prune()
	}
	return again
}

func (t *told) prune() {
	from := t.newest.Add(-overlap).UnixNano()
	t.late = slices.DeleteFunc(t.late, func(l toldLine) bool { return l.at < from })
}

// reopen begins another reading, and returns the time from which on lines are to be read. That is the time of begun,
// which was not passed on, if it is set and earlier. The zero time means that nothing has been read.
func (t *told) reopen(begun time.Time) time.Time {
	for line, n := range t.again { // these have still not come again
		for range n {
			t.late = append(t.late, line)
		}
	}
	t.prune()
	t.again = make(map[toldLine]int)
	for _, line := range t.late {
		t.again[line]++
	}
	t.late = nil
	if t.newest.IsZero() {
		return begun
	}
	since := t.newest.Add(-overlap)
	if !begun.IsZero() && begun.Before(since) {
		return begun
	}
	return since
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
			bound := newest{lines: maxLogLines / len(tasks), bytes: maxLogBytes / len(tasks)}
			readers.Go(func() error {
				c.followTask(ctx, f, bound, lines)
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

// followTask passes on the lines of one replica until its stream ends, and notes where the next one continues. If the
// request limits old lines, the last ones are read first and on their own. A stream that began with them might begin
// within a line. A line in whose middle a stream ends comes with the next one.
func (c *Cluster) followTask(ctx context.Context, f *followed, bound newest, lines chan<- logLine) {
	var begun time.Time // of the oldest line that had not ended
	read := false
	pass := func(line logLine) error {
		switch {
		case line.notice && line.text == f.notice:
			return nil // said already, and nothing is new about it
		case line.notice:
			f.notice = line.text
		case line.open && live(f.task.Status.State):
			if begun.IsZero() || line.at.Before(begun) {
				begun = line.at
			}
			return nil
		case f.told.note(line):
			return nil
		default:
			read = true
		}
		select {
		case lines <- line:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	goOn := func() {
		if read {
			f.wait = 0
		}
		since := f.told.reopen(begun)
		if before := f.next.Since; before != nil && since.Before(*before) {
			since = *before
		}
		if !since.IsZero() {
			f.next.Since, f.next.Tail = &since, 0
		}
		begun, read = time.Time{}, false
	}
	if f.next.Tail > 0 {
		old, notices := c.collectTask(ctx, f.task, f.next, bound)
		last := lastLines(old, f.next.Tail)
		if len(last) > 0 { // what is older is not asked for
			f.next.Since = &last[0].at
			for _, line := range old[:len(old)-len(last)] {
				f.told.note(line)
			}
		}
		for _, line := range slices.Concat(last, notices) {
			if pass(line) != nil {
				return
			}
		}
		goOn()
	}
	_, err := c.readLogs(ctx, f.task, f.next, pass)
	if err != nil && ctx.Err() == nil {
		c.cfg.Logger.Warn("logs are incomplete, reading on", "function", f.next.Name, "task", f.task.ID, "error", err)
	}
	goOn()
}
