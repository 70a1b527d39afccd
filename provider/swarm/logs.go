package swarm

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/logs"
	"golang.org/x/sync/errgroup"
)

const (
	// maxLogLines and maxLogBytes bound what is held in memory to be sorted, over all replicas; the newest lines win.
	maxLogLines = 100_000
	maxLogBytes = 64 << 20
	// taskLogTimeout bounds the reading of what one replica wrote so far; its node may not answer.
	taskLogTimeout = 10 * time.Second
	// readersAtOnce bounds how many replicas are read at once when nobody waits for more lines.
	readersAtOnce = 8
)

// Logs gives what the replicas of a function wrote, or ErrNotFound. Emit is called for each line, one at a time, until
// it fails or the lines are at their end; the end of ctx is the end, too, and no error.
//
// Without Follow the lines of all replicas come in the order of their time, and Tail counts them together. With
// Follow, what is there comes first, at most Tail lines of each replica, then each line as it is written; replicas
// that start meanwhile are included, and the function's removal is the end.
//
// Each replica's log is read on its own: the engine's log of a whole service loses lines and never ends when it is long
// and there are several replicas (seen with engine 20.10: 16 of 20 reads of 340 KB).
func (c *Cluster) Logs(ctx context.Context, r logs.Request, emit func(logs.Message) error) error {
	namespace := c.namespace(r.Namespace)
	service, err := c.find(ctx, namespace, r.Name)
	if err != nil {
		return err
	}
	send := func(line logLine) error {
		return emit(logs.Message{Name: r.Name, Namespace: namespace, Instance: line.task, Timestamp: line.at, Text: line.text})
	}
	if r.Follow {
		return c.followLogs(ctx, service, r, send)
	}
	lines, err := c.collectLogs(ctx, service, r)
	if err != nil {
		return err
	}
	if r.Tail > 0 && len(lines) > r.Tail {
		lines = lines[len(lines)-r.Tail:]
	}
	for _, line := range lines {
		if err := send(line); err != nil {
			return err
		}
	}
	return nil
}

// logTasks lists the replicas, running and ended, that have written or may write: they got as far as a container.
func (c *Cluster) logTasks(ctx context.Context, service swarm.Service, r logs.Request) ([]swarm.Task, error) {
	tasks, err := c.tasks(ctx, service)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(tasks, func(t swarm.Task) bool {
		return t.Status.ContainerStatus == nil || t.Status.ContainerStatus.ContainerID == "" || !strings.HasPrefix(t.ID, r.Instance)
	}), nil
}

func (c *Cluster) openLogs(ctx context.Context, task swarm.Task, r logs.Request) (io.ReadCloser, error) {
	options := client.TaskLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Details: true, Follow: r.Follow}
	if r.Since != nil {
		options.Since = r.Since.UTC().Format(time.RFC3339Nano)
	}
	if r.Tail > 0 {
		options.Tail = strconv.Itoa(r.Tail)
	}
	return c.docker.TaskLogs(ctx, task.ID, options)
}

// collectLogs reads all replicas to the end and sorts. What cannot be read is left out, with a line in our own log: a
// node that is away must not hide the others.
func (c *Cluster) collectLogs(ctx context.Context, service swarm.Service, r logs.Request) ([]logLine, error) {
	tasks, err := c.logTasks(ctx, service, r)
	if err != nil || len(tasks) == 0 {
		return nil, err
	}
	each := make([][]logLine, len(tasks))
	var group errgroup.Group
	group.SetLimit(readersAtOnce)
	for i, task := range tasks {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, taskLogTimeout)
			defer cancel()
			bound := newest{lines: maxLogLines / len(tasks), bytes: maxLogBytes / len(tasks)}
			err := c.readLogs(ctx, task, r, func(line logLine) error {
				each[i] = bound.add(each[i], line)
				return nil
			})
			if err != nil {
				c.cfg.Logger.Warn("logs are incomplete", "function", r.Name, "task", task.ID, "error", err)
			}
			return nil
		})
	}
	_ = group.Wait() // no member returns an error
	lines := slices.Concat(each...)
	slices.SortStableFunc(lines, func(a, b logLine) int { return a.at.Compare(b.at) })
	return lines, ctx.Err()
}

// readLogs passes on the lines of one replica until they end. A message of the engine in between does not end them.
func (c *Cluster) readLogs(ctx context.Context, task swarm.Task, r logs.Request, emit func(logLine) error) error {
	stream, err := c.openLogs(ctx, task, r)
	if errdefs.IsNotFound(err) {
		return nil // the Swarm has just forgotten it
	}
	if err != nil {
		return dockerError("opening the log", err)
	}
	defer stream.Close()
	in := newFrames(stream)
	for {
		line, err := in.next()
		var notice *errLog
		switch {
		case errors.As(err, &notice):
			c.cfg.Logger.Warn("logs are incomplete", "function", r.Name, "task", task.ID, "error", notice.text)
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		line.task = task.ID
		if err := emit(line); err != nil {
			return err
		}
	}
}

// newest bounds a list of lines, dropping the older half when it is full.
type newest struct {
	lines, bytes int
	held         int
}

func (n *newest) add(list []logLine, line logLine) []logLine {
	list = append(list, line)
	n.held += len(line.text)
	for len(list) > 1 && (len(list) > n.lines || n.held > n.bytes) {
		drop := (len(list) + 1) / 2
		for _, old := range list[:drop] {
			n.held -= len(old.text)
		}
		list = slices.Clone(list[drop:])
	}
	return list
}
