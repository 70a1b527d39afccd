package main

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"waggle/provider/async"
	"waggle/provider/gateway"
)

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
