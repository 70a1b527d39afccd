package swarmtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// taskLog is what a task wrote, already in the wire's form, a signal that there is more, and one that ends the streams
// there are.
type taskLog struct {
	pieces []logPiece
	more   chan struct{}
	cut    chan struct{}
	// garbage is what streams send before they are cut.
	garbage []byte
	// notice is what streams begin with.
	notice []byte
	// followers counts the streams since the last cut.
	followers int
}

type logPiece struct {
	at    time.Time
	frame []byte
}

// pieceSize is where an engine cuts a line.
const pieceSize = 16 << 10

// WriteLog makes a task write a line; stream is 1 or 2.
func (e *Engine) WriteLog(task string, at time.Time, stream byte, line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	log := e.log(task)
	for rest := line + "\n"; rest != ""; {
		piece := rest[:min(len(rest), pieceSize)]
		rest = rest[len(piece):]
		log.pieces = append(log.pieces, logPiece{at, Frame(stream, at, task, piece)})
	}
	close(log.more)
	log.more = make(chan struct{})
}

// SlowLogs makes each piece of a log take so long on its way.
func (e *Engine) SlowLogs(piece time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.logPace = piece
}

// Notice makes the streams of a task's log begin with a message of the engine's own.
func (e *Engine) Notice(task, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	frame := append([]byte{3, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, uint32(len(text)))...)
	e.log(task).notice = append(frame, text...)
}

// CutLogs sends garbage to all streams that follow a task's log and ends them. An engine does that when it is
// stopped or loses its connection to the managers. It returns how many there were.
func (e *Engine) CutLogs(task string, garbage []byte) (streams int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	log := e.log(task)
	streams, log.followers = log.followers, 0
	log.garbage = garbage
	close(log.cut)
	log.cut = make(chan struct{})
	return streams
}

// Frame is a piece of a log as engines send it.
func Frame(stream byte, at time.Time, task, text string) []byte {
	payload := at.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") +
		" com.docker.swarm.node.id=node1,com.docker.swarm.service.id=service1,com.docker.swarm.task.id=" + task + " " + text
	frame := append([]byte{stream, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, uint32(len(payload)))...)
	return append(frame, payload...)
}

func (e *Engine) log(task string) *taskLog {
	log, found := e.logs[task]
	if !found {
		log = &taskLog{more: make(chan struct{}), cut: make(chan struct{})}
		e.logs[task] = log
	}
	return log
}

// TaskLogs sends what a task wrote and, when following, goes on until ctx ends.
func (e *Engine) TaskLogs(ctx context.Context, id string, options client.TaskLogsOptions) (client.TaskLogsResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.answers(); err != nil {
		return nil, err
	}
	if _, found := e.tasks[id]; !found {
		return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
	}
	var since time.Time
	if options.Since != "" {
		var err error
		if since, err = time.Parse(time.RFC3339Nano, options.Since); err != nil {
			return nil, fmt.Errorf("since: %w", errdefs.ErrInvalidArgument)
		}
	}
	at := 0
	if n, err := strconv.Atoi(options.Tail); err == nil {
		at = max(0, len(e.log(id).pieces)-n)
	}
	cut := e.log(id).cut
	if options.Follow {
		e.log(id).followers++
	}
	reader, writer := io.Pipe()
	notice, pace := e.log(id).notice, e.logPace
	context.AfterFunc(ctx, func() { writer.CloseWithError(ctx.Err()) })
	go func() {
		if _, err := writer.Write(notice); err != nil {
			return
		}
		for {
			e.mu.Lock()
			log := e.log(id)
			pieces, more := log.pieces[at:], log.more
			e.mu.Unlock()
			at += len(pieces)
			for _, piece := range pieces {
				if piece.at.Before(since) {
					continue
				}
				if pace > 0 {
					select {
					case <-time.After(pace):
					case <-ctx.Done():
						return
					}
				}
				if _, err := writer.Write(piece.frame); err != nil {
					return
				}
			}
			if !options.Follow {
				writer.Close()
				return
			}
			select {
			case <-more:
			case <-cut:
				e.mu.Lock()
				garbage := log.garbage
				e.mu.Unlock()
				if _, err := writer.Write(garbage); err == nil {
					writer.Close()
				}
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return reader, nil
}
