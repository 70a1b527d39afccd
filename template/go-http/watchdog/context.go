package watchdog

import (
	"context"
	"sync"
)

// callContext is a request's context with an end of its own, which costs next to nothing unless the handler looks at
// it: a context of package context would be entered in its parent's table and taken out again for each request, which
// is a tenth of what a small one costs. It is safe for concurrent use, as every context must be.
type callContext struct {
	context.Context // net/http's, which ends with the connection

	mu     sync.Mutex
	ended  bool
	cause  error
	own    context.Context // made by the first look
	cancel context.CancelCauseFunc
}

// end cancels the context; the first call's cause counts, and none means context.Canceled.
func (c *callContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended, c.cause = true, cause
	if c.own != nil {
		c.cancel(cause)
	}
}

func (c *callContext) look() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.own != nil:
	case c.ended: // whatever became of the parent since
		c.own, c.cancel = context.WithCancelCause(context.WithoutCancel(c.Context))
		c.cancel(c.cause)
	default:
		c.own, c.cancel = context.WithCancelCause(c.Context)
	}
	return c.own
}

// Done is closed at the time limit, when the caller has gone, and when the handler has returned.
func (c *callContext) Done() <-chan struct{} { return c.look().Done() }

// Err is context.Canceled once Done is closed.
func (c *callContext) Err() error { return c.look().Err() }

// Value is also how package context finds the context to hang a child on.
func (c *callContext) Value(key any) any { return c.look().Value(key) }
