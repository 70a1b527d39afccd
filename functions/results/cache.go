package results

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// freshFor is how old an answer may be: Postgres is asked at most once per freshFor and replica, however many look.
	freshFor = time.Second
	// readTimeout bounds one reading; patience is how long somebody waits for it while there is an older answer.
	readTimeout = 3 * time.Second
	patience    = 500 * time.Millisecond
)

// cache keeps the last count, and the answer rendered from it. One reading runs at a time, for everybody who waits.
type cache struct {
	read   func(context.Context) (*count, error)
	render func(*count, bool) (*answer, error)
	logger *slog.Logger

	// mu guards what follows.
	mu      sync.Mutex
	answer  *answer
	count   *count
	tried   time.Time     // when the last reading ended, well or not
	failing bool          // whether it ended badly
	reading chan struct{} // closed when the running reading ends; nil if there is none
}

// get returns an answer at most freshFor old, or the last one marked stale if Postgres does not answer, or nil if
// there has never been one.
func (c *cache) get(ctx context.Context) *answer {
	c.mu.Lock()
	if c.reading == nil && time.Since(c.tried) < freshFor {
		defer c.mu.Unlock()
		return c.answer
	}
	if c.reading == nil {
		c.reading = make(chan struct{})
		// Not the caller's context: others wait for the same reading. It ends within readTimeout.
		go c.refresh(context.WithoutCancel(ctx))
	}
	reading, old := c.reading, c.answer
	c.mu.Unlock()

	var tired <-chan time.Time
	if old != nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		tired = timer.C
	}
	select {
	case <-reading:
	case <-tired:
		return c.stale()
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answer
}

func (c *cache) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	fresh, err := c.read(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if failing := err != nil; failing != c.failing {
		c.failing = failing
		c.logger.Info("reading the tally changed", "failing", failing, "error", err)
	}
	if err == nil {
		c.count = fresh
	}
	c.show(err != nil)
	c.tried = time.Now()
	close(c.reading)
	c.reading = nil
}

// stale marks the last answer while a reading hangs.
func (c *cache) stale() *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reading != nil && c.answer != nil && !c.answer.stale {
		c.show(true)
	}
	return c.answer
}

// show renders the last count; it needs the lock.
func (c *cache) show(stale bool) {
	if c.count == nil {
		return
	}
	rendered, err := c.render(c.count, stale)
	if err != nil {
		c.logger.Error("rendering the results failed", "error", err)
		return
	}
	c.answer = rendered
}
