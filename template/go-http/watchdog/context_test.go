package watchdog

import (
	"context"
	"errors"
	"sync"
	"testing"
)

type contextKey struct{}

func TestCallContextEnds(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		end   func(c *callContext, cutOff context.CancelFunc)
		cause error
	}{
		"with a cause":       {func(c *callContext, _ context.CancelFunc) { c.end(context.DeadlineExceeded) }, context.DeadlineExceeded},
		"without one":        {func(c *callContext, _ context.CancelFunc) { c.end(nil) }, context.Canceled},
		"the first counts":   {func(c *callContext, _ context.CancelFunc) { c.end(context.DeadlineExceeded); c.end(nil) }, context.DeadlineExceeded},
		"with its parent":    {func(_ *callContext, cutOff context.CancelFunc) { cutOff() }, context.Canceled},
		"after its parent":   {func(c *callContext, cutOff context.CancelFunc) { cutOff(); c.end(context.DeadlineExceeded) }, nil},
		"before a late look": {func(c *callContext, cutOff context.CancelFunc) { c.end(context.DeadlineExceeded); cutOff() }, nil},
	}
	for name, test := range tests {
		for _, looked := range []bool{false, true} {
			parent, cutOff := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "value"))
			c := &callContext{Context: parent}
			var child context.Context = c
			if looked {
				var release context.CancelFunc
				child, release = context.WithCancel(c)
				defer release()
				if c.Err() != nil || child.Err() != nil {
					t.Errorf("%s: ended before its end: %v, %v", name, c.Err(), child.Err())
				}
			}
			test.end(c, cutOff)
			cutOff()
			<-c.Done()
			<-child.Done()
			if err := c.Err(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, looked at before: %t: Err is %v", name, looked, err)
			}
			if cause := context.Cause(child); test.cause != nil && cause != test.cause { //nolint:errorlint // the very same
				t.Errorf("%s, looked at before: %t: the cause is %v, want %v", name, looked, cause, test.cause)
			}
			if c.Value(contextKey{}) != "value" {
				t.Errorf("%s: the parent's value is gone", name)
			}
		}
	}
}

func TestCallContextIsSafeForAll(t *testing.T) {
	t.Parallel()
	parent, cutOff := context.WithCancel(t.Context())
	defer cutOff()
	c := &callContext{Context: parent}
	ended := make(chan struct{})
	defer context.AfterFunc(c, func() { close(ended) })()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { <-c.Done() })
		group.Go(func() { c.end(context.DeadlineExceeded) })
		group.Go(func() { _ = c.Err(); c.Value(contextKey{}) })
	}
	group.Wait()
	<-ended
	if cause := context.Cause(c); !errors.Is(cause, context.DeadlineExceeded) {
		t.Errorf("the cause is %v", cause)
	}
}

func TestCallContextOfARequestCostsOneAllocation(t *testing.T) {
	parent, cutOff := context.WithCancel(t.Context())
	defer cutOff()
	if n := testing.AllocsPerRun(100, func() {
		c := &callContext{Context: parent}
		keep = c
		c.end(nil)
	}); n != 1 {
		t.Errorf("%g allocations", n)
	}
}

// keep has what is given to it escape, as a request does.
var keep any
