package swarm

import (
	"context"
	"errors"
	"fmt"
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
	// taskLogTimeout bounds the reading of what one replica wrote so far; its node may not answer. If lines came, but too
	// slowly, the newest tenth of them is asked for, and has as long again.
	taskLogTimeout = 10 * time.Second
	// torn is more pieces than one message of a log has: of so many, one is a whole line, unless a line is longer.
	torn = maxLine/pieceSize + 2
	// readersAtOnce bounds how many replicas are read at once when nobody waits for more lines.
	readersAtOnce = 8
)

// Logs gives what the replicas of a function wrote, or ErrNotFound. It calls emit for each line, one at a time,
// until emit fails, the lines end or ctx ends. The end of ctx is no error.
//
// Without Follow the lines of all replicas come in order of time, and Tail counts them together. With Follow,
// at most Tail old lines of each replica come first, then each line as it is written. Replicas that start
// meanwhile are included; the function's removal ends the lines. A line of LogNotice says what is missing:
// after the others, or with Follow when it is noticed.
//
// Each replica's log is read on its own. With several replicas the engine's log of a whole service loses lines and,
// when long, never ends. (Engine 20.10: 16 of 20 reads of 340 KB.)
func (c *Cluster) Logs(ctx context.Context, r logs.Request, emit func(logs.Message) error) error {
	namespace := c.namespace(r.Namespace)
	service, err := c.find(ctx, namespace, r.Name)
	if err != nil {
		return err
	}
	send := func(line logLine) error {
		if line.notice {
			return emit(LogNotice(r, "%s", line.text))
		}
		return emit(logs.Message{Name: r.Name, Namespace: namespace, Instance: line.task, Timestamp: line.at, Text: line.text})
	}
	if r.Follow {
		return c.followLogs(ctx, service, r, send)
	}
	lines, notices, err := c.collectLogs(ctx, service, r)
	if err != nil {
		return err
	}
	if r.Tail > 0 {
		lines = lastLines(lines, r.Tail)
	}
	for _, line := range slices.Concat(lines, notices) {
		if err := send(line); err != nil {
			return err
		}
	}
	return nil
}

// LogNotice is a line among a function's that the function did not write: it says what of the log is missing.
func LogNotice(r logs.Request, format string, args ...any) logs.Message {
	return logs.Message{Name: r.Name, Namespace: r.Namespace, Instance: "waggle", Timestamp: time.Now().UTC(), Text: "waggle: " + fmt.Sprintf(format, args...)}
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

// collectLogs reads all replicas to the end and sorts. What cannot be read is left out, and named in notices: a node that is
// away must not hide the others.
func (c *Cluster) collectLogs(ctx context.Context, service swarm.Service, r logs.Request) (lines, notices []logLine, err error) {
	tasks, err := c.logTasks(ctx, service, r)
	if err != nil || len(tasks) == 0 {
		return nil, nil, err
	}
	each, missing := make([][]logLine, len(tasks)), make([][]logLine, len(tasks))
	var group errgroup.Group
	group.SetLimit(readersAtOnce)
	for i, task := range tasks {
		group.Go(func() error {
			bound := newest{lines: maxLogLines / len(tasks), bytes: maxLogBytes / len(tasks)}
			each[i], missing[i] = c.collectTask(ctx, task, r, bound)
			for _, line := range missing[i] {
				c.cfg.Logger.Warn("logs are incomplete", "function", r.Name, "task", task.ID, "reason", line.text)
			}
			return nil
		})
	}
	_ = group.Wait() // no member returns an error
	lines = slices.Concat(each...)
	slices.SortStableFunc(lines, func(a, b logLine) int { return a.at.Compare(b.at) })
	return lines, slices.Concat(missing...), ctx.Err()
}

// lastLines gives the last n lines, each with all its messages.
func lastLines(lines []logLine, n int) []logLine {
	for i := len(lines) - 1; i >= 0; i-- {
		if !lines[i].further {
			n--
		}
		if n == 0 {
			return lines[i:]
		}
	}
	return lines
}

// collectTask reads one replica within bound. An engine finds the end of a log as fast as its beginning. So only as many
// pieces are requested as fit, or as the lines asked for may have: the newest ones arrive within any time limit. Where older
// ones are left out, the first line is whole.
func (c *Cluster) collectTask(ctx context.Context, task swarm.Task, r logs.Request, bound newest) (lines, notices []logLine) {
	most := bound.lines
	if r.Tail > 0 {
		most = min(most, r.Tail+torn)
	}
	for {
		asked, kept := r, bound
		asked.Follow, asked.Tail = false, most
		lines, notices = nil, nil
		limited, cancel := context.WithTimeout(ctx, taskLogTimeout)
		pieces, err := c.readLogs(limited, task, asked, func(line logLine) error {
			if line.notice {
				notices = append(notices, line)
			} else {
				lines = kept.add(lines, line)
			}
			return nil
		})
		late := limited.Err() != nil && ctx.Err() == nil
		cancel()
		if err != nil && late && len(lines) > 0 && most >= 10 {
			most /= 10
			bound.lines = most
			continue
		}
		if err != nil {
			notices = append(notices, noticeOf("of replica %s not all lines were read: %v", task.ID, err))
		}
		if !kept.dropped && pieces < most {
			return lines, notices // that was all
		}
		lines = slices.DeleteFunc(lines, func(line logLine) bool { return line.first })
		for len(lines) > 0 && lines[0].further {
			lines = lines[1:]
		}
		whole := countLines(lines)
		if r.Tail > 0 && whole >= r.Tail {
			return lines, notices
		}
		if err == nil && !kept.dropped && most < bound.lines {
			most = min(4*most, bound.lines) // long lines have many pieces
			continue
		}
		return lines, append(notices, noticeOf("of replica %s only the newest %d lines are here: older ones are left out, since and tail choose", task.ID, whole))
	}
}

func countLines(lines []logLine) (n int) {
	for _, line := range lines {
		if !line.further {
			n++
		}
	}
	return n
}

func noticeOf(format string, args ...any) logLine {
	return logLine{notice: true, text: fmt.Sprintf(format, args...)}
}

// readLogs passes on the lines of one replica until they end. A message of the engine in between is passed on as a notice,
// and does not end them. Pieces are what engines count as lines: a long line has several.
func (c *Cluster) readLogs(ctx context.Context, task swarm.Task, r logs.Request, emit func(logLine) error) (pieces int, err error) {
	stream, err := c.openLogs(ctx, task, r)
	if errdefs.IsNotFound(err) {
		return 0, nil // the Swarm has just forgotten it
	}
	if err != nil {
		return 0, dockerError("opening the log", err)
	}
	defer stream.Close()
	in := newFrames(stream)
	for {
		line, err := in.next()
		var notice *errLog
		switch {
		case errors.As(err, &notice):
			line = noticeOf("of replica %s lines are missing: %s", task.ID, notice.text)
		case errors.Is(err, io.EOF):
			return in.pieces, nil
		case err != nil:
			return in.pieces, dockerError("reading the log", err)
		}
		line.task = task.ID
		if err := emit(line); err != nil {
			return in.pieces, err
		}
	}
}

// newest bounds a list of lines, dropping the older half when it is full.
type newest struct {
	lines, bytes int
	held         int
	dropped      bool
}

func (n *newest) add(list []logLine, line logLine) []logLine {
	list = append(list, line)
	n.held += len(line.text)
	for len(list) > 1 && (len(list) > n.lines || n.held > n.bytes) {
		n.dropped = true
		drop := (len(list) + 1) / 2
		for _, old := range list[:drop] {
			n.held -= len(old.text)
		}
		list = slices.Clone(list[drop:])
	}
	return list
}
