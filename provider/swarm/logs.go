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
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/logs"
)

const (
	// maxLogLines and maxLogBytes bound what is held in memory to be sorted; the newest lines win.
	maxLogLines = 100_000
	maxLogBytes = 64 << 20
	// logOpenTimeout bounds the wait for the stream to begin.
	logOpenTimeout = 15 * time.Second
)

// Logs gives what the replicas of a function wrote, or ErrNotFound. Emit is called for each line, one at a time, until
// it fails or the lines are at their end; the end of ctx is the end, too, and no error.
//
// Without Follow the lines of all replicas come in the order of their time, and Tail counts them together. With
// Follow, what is there comes first, at most Tail lines of each replica, then each line as it is written; replicas
// that start meanwhile are included.
func (c *Cluster) Logs(ctx context.Context, r logs.Request, emit func(logs.Message) error) error {
	namespace := c.namespace(r.Namespace)
	service, err := c.find(ctx, namespace, r.Name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.openLogs(ctx, cancel, service.ID, r)
	if errdefs.IsNotFound(err) {
		return failf(ErrNotFound, "function %q does not exist in namespace %q", r.Name, namespace)
	}
	if err != nil {
		return dockerError("reading logs of "+r.Name, err)
	}
	defer stream.Close()

	message := func(line logLine) logs.Message {
		return logs.Message{Name: r.Name, Namespace: namespace, Instance: line.task, Timestamp: line.at, Text: line.text}
	}
	wanted := func(line logLine) bool { return r.Instance == "" || strings.HasPrefix(line.task, r.Instance) }
	if r.Follow {
		return c.follow(ctx, newFrames(stream), func(line logLine) error {
			if !wanted(line) {
				return nil
			}
			return emit(message(line))
		})
	}
	lines := c.collectLogs(ctx, newFrames(stream), wanted)
	if r.Tail > 0 && len(lines) > r.Tail {
		lines = lines[len(lines)-r.Tail:]
	}
	for _, line := range lines {
		if err := emit(message(line)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) openLogs(ctx context.Context, cancel func(), id string, r logs.Request) (io.ReadCloser, error) {
	options := client.ServiceLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Details: true, Follow: r.Follow}
	if r.Since != nil {
		options.Since = r.Since.UTC().Format(time.RFC3339Nano)
	}
	if r.Tail > 0 {
		options.Tail = strconv.Itoa(r.Tail)
	}
	timer := time.AfterFunc(logOpenTimeout, cancel)
	defer timer.Stop()
	return c.docker.ServiceLogs(ctx, id, options)
}

// follow passes lines on as they come. A message of the engine in between, such as that one node does not answer, does
// not end it: the other nodes' lines are still wanted.
func (c *Cluster) follow(ctx context.Context, in *frames, emit func(logLine) error) error {
	for {
		line, err := in.next()
		var notice *errLog
		switch {
		case errors.As(err, &notice):
			c.cfg.Logger.Warn("logs are incomplete", "error", notice.text)
			continue
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := emit(line); err != nil {
			return err
		}
	}
}

// collectLogs reads to the end and sorts. Lines of one replica keep their order even where their times are equal.
func (c *Cluster) collectLogs(ctx context.Context, in *frames, wanted func(logLine) bool) []logLine {
	var lines []logLine
	size := 0
	for {
		line, err := in.next()
		var notice *errLog
		if errors.As(err, &notice) {
			c.cfg.Logger.Warn("logs are incomplete", "error", notice.text)
			continue
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				c.cfg.Logger.Warn("logs are incomplete", "error", err)
			}
			break
		}
		if !wanted(line) {
			continue
		}
		lines = append(lines, line)
		size += len(line.text)
		if len(lines) > maxLogLines || size > maxLogBytes {
			lines, size = newerHalf(lines)
		}
	}
	sortLines(lines)
	return lines
}

func sortLines(lines []logLine) {
	slices.SortStableFunc(lines, func(a, b logLine) int { return a.at.Compare(b.at) })
}

func newerHalf(lines []logLine) ([]logLine, int) {
	sortLines(lines)
	lines = slices.Clone(lines[len(lines)/2:])
	size := 0
	for _, line := range lines {
		size += len(line.text)
	}
	return lines, size
}
