package http2

import (
	"sync/atomic"

	wire "golang.org/x/net/http2"

	"waggle/provider/gateway/sock"
)

// over reports whether the connection has nothing left to do: idle for too long, or drained.
func (c *Conn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running == 0 && (c.drain == draining || c.idleBy.Load() == expired)
}

// Expire ends the steps that are late at now, by the clock of Config. It does not block.
func (c *Conn) Expire(now int64) {
	late := func(deadline *atomic.Int64) bool {
		at := deadline.Load()
		return at > 0 && at < now && deadline.CompareAndSwap(at, expired)
	}
	if late(&c.writeBy) {
		c.sock.Abort()
		return
	}
	if late(&c.readBy) || late(&c.idleBy) {
		c.sock.UnblockRead()
	}
}

// Drain ends the connection once its streams have ended. It is called repeatedly, with the time by the clock of
// Config. The client is first asked not to open streams, and later told which stream was the last (RFC 9113
// §6.8). It does not block.
func (c *Conn) Drain(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.dead:
		return
	case c.drain == serving:
		c.drain, c.drainAt = warned, now+int64(drainPause)
		c.out.goAway(maxStreamID, wire.ErrCodeNo)
	case c.drain == warned && now >= c.drainAt:
		c.drain = draining
		c.out.goAway(c.lastID, wire.ErrCodeNo)
	}
	c.flushAside()
	c.restIfIdle()
}

// restIfIdle notes that the last stream has ended, if it has: from now on the connection is idle, or done.
func (c *Conn) restIfIdle() {
	if c.running > 0 || c.dead {
		return
	}
	if c.drain == draining {
		c.sock.UnblockRead()
		return
	}
	if c.idleBy.Load() == 0 {
		c.idleBy.Store(c.cfg.Now() + int64(c.cfg.IdleTimeout))
	}
}

// quit ends the connection and tells the client why.
func (c *Conn) quit(code wire.ErrCode) wire.ErrCode {
	c.mu.Lock()
	c.failStreams()
	c.out.goAway(c.lastID, code)
	c.flush(closeTimeout)
	for (c.out.flushing || len(c.out.b) > 0) && !c.dead {
		c.out.drained.Wait()
	}
	c.dead = true
	c.mu.Unlock()
	c.sock.Rearm()
	c.sock.CloseWrite()
	c.readBy.Store(c.cfg.Now() + int64(closeTimeout))
	rest := inputs.Get().(*sock.Buffer)
	defer inputs.Put(rest)
	for total := 0; total < connWindow; {
		n, err := c.sock.Read(rest.B)
		if err != nil {
			break
		}
		total += n
	}
	return code
}

// end fails whatever still runs.
func (c *Conn) end() {
	c.readBy.Store(0)
	c.idleBy.Store(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failStreams()
	c.dead = true
	c.out.drop()
	c.in.drop()
}

// failStreams tells every stream that its client has gone.
func (c *Conn) failStreams() {
	for _, s := range c.streams {
		s.fail()
	}
	c.running -= len(c.opened) // nobody has them yet, so nobody will close them
	c.opened = nil
}
