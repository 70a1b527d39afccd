package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"waggle/provider/async"
	"waggle/provider/gateway"
)

// newQueue makes the queue of asynchronous calls that the environment asks for; nil: none.
func newQueue(c config, edge gateway.Config) (*async.Queue, error) {
	settings, wanted, err := loadQueue(c)
	if err != nil || !wanted {
		return nil, err
	}
	// What is being made when the process is to end has as long as the gateway gives any request.
	settings.StopTimeout = time.Duration(edge.ShutdownDelay) + time.Duration(edge.ShutdownTimeout)
	settings.Logger, settings.Registerer = edge.Logger, edge.Registry
	edge.Logger.Info("queue configured", "config", settings)
	return async.New(settings)
}

// callQueue is the queue as the gateway knows it: neither package imports the other.
type callQueue struct{ *async.Queue }

func (q callQueue) Enqueue(ctx context.Context, call gateway.QueuedCall) error {
	return q.Queue.Enqueue(ctx, async.Call(call))
}

// runEdge runs the gateway and, if there is one, the queue that makes its calls through it. Both begin to stop with ctx;
// the queue's connections close when both have ended, since either may still need them until then.
func runEdge(ctx context.Context, served *gateway.Gateway, queue *async.Queue) error {
	if queue == nil {
		return served.Run(ctx)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return served.Run(ctx) })
	group.Go(func() error { return queue.Run(ctx, served) })
	return errors.Join(group.Wait(), queue.Close())
}
