package http2

import (
	wire "golang.org/x/net/http2"
)

// process does what a frame says. Its errors are wire.StreamError and wire.ConnectionError.
func (c *Conn) process(frame wire.Frame) error {
	switch f := frame.(type) {
	case *wire.DataFrame:
		return c.data(f)
	case *wire.HeadersFrame:
		return c.block.headers(f)
	case *wire.ContinuationFrame:
		return c.block.continuation(f)
	case *wire.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *wire.RSTStreamFrame:
		return c.clientReset(f)
	case *wire.SettingsFrame:
		return c.settings(f)
	case *wire.PingFrame:
		return c.ping(f)
	case *wire.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return wire.StreamError{StreamID: f.StreamID, Code: wire.ErrCodeProtocol}
		}
	case *wire.PushPromiseFrame:
		return wire.ConnectionError(wire.ErrCodeProtocol)
	case *wire.GoAwayFrame: // it concerns streams that we would open; the client's go on
	}
	return c.noisy()
}

func (c *Conn) ping(f *wire.PingFrame) error {
	if f.IsAck() {
		return c.noisy()
	}
	c.mu.Lock()
	c.out.pingAck(f.Data)
	c.awaitRoom()
	c.mu.Unlock()
	return c.noisy()
}

func (c *Conn) settings(f *wire.SettingsFrame) error {
	if f.IsAck() {
		return c.noisy()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f.ForeachSetting(c.setting); err != nil {
		return err
	}
	c.out.settingsAck()
	c.awaitRoom()
	return c.noisy()
}

// setting applies one. HPACK's table size does not matter: nothing is ever put into the table. Each counts as noise, since
// thousands fit into one frame, and one of them can concern every stream.
func (c *Conn) setting(s wire.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	switch s.ID {
	case wire.SettingInitialWindowSize:
		change := int64(s.Val) - c.initial
		c.initial = int64(s.Val)
		for _, stream := range c.streams {
			if !stream.widen(change) {
				return wire.ConnectionError(wire.ErrCodeFlowControl)
			}
		}
	case wire.SettingMaxFrameSize:
		c.maxWrite = min(int(s.Val), maxFrame)
	}
	return c.noisy()
}

func (c *Conn) windowUpdate(f *wire.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		shut := c.window <= 0
		if c.window += int64(f.Increment); c.window > maxWindow {
			return wire.ConnectionError(wire.ErrCodeFlowControl)
		}
		c.wakeNext()
		return c.fed(shut, f.Increment)
	}
	s := c.streams[f.StreamID]
	if s == nil {
		return c.closedOrIdle(f.StreamID, nil)
	}
	shut := s.window <= 0
	if !s.widen(int64(f.Increment)) {
		return wire.StreamError{StreamID: s.id, Code: wire.ErrCodeFlowControl}
	}
	return c.fed(shut, f.Increment)
}

// fed counts a window that was shut and has been given next to nothing, whether or not that opens it.
func (c *Conn) fed(shut bool, n uint32) error {
	if shut && n < tinyCredit {
		return c.noisy()
	}
	return nil
}

// widen changes what the stream may send by n bytes, and reports whether that is legal.
func (s *Stream) widen(n int64) bool {
	shut := s.window <= 0
	s.window += n
	if shut && s.window > 0 {
		s.cond.Broadcast()
	}
	return s.window <= maxWindow
}

// closedOrIdle is err for a stream that has been used, and an error of the connection for one that has not.
func (c *Conn) closedOrIdle(id uint32, err error) error {
	if id%2 == 0 || id > c.lastID && c.drain != draining {
		return wire.ConnectionError(wire.ErrCodeProtocol)
	}
	return err
}

// clientReset ends a stream that the client has given up.
func (c *Conn) clientReset(f *wire.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[f.StreamID]
	if s == nil {
		if err := c.closedOrIdle(f.StreamID, nil); err != nil {
			return err
		}
	} else {
		s.fail()
	}
	return c.noisy()
}

// data takes a piece of a request's body.
func (c *Conn) data(f *wire.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaitRoom()                          // for what the last one gave back of the windows: they may be tiny
	length, p := int64(f.Length), f.Data() // padding counts for windows, and is none of the body
	s := c.streams[f.StreamID]
	if s == nil {
		if err := c.closedOrIdle(f.StreamID, nil); err != nil {
			return err
		}
	}
	if c.recvWindow -= length; c.recvWindow < 0 {
		return wire.ConnectionError(wire.ErrCodeFlowControl)
	}
	if s == nil || s.remoteEnded {
		c.credit(length) // nobody reads it
		if f.StreamID > c.lastID {
			return nil // too late for a connection that drains
		}
		if s == nil && (len(p) > 0 || f.StreamEnded()) {
			c.out.reset(f.StreamID, wire.ErrCodeStreamClosed) // no noise: it was on its way, perhaps, as this side ended the stream
			c.awaitRoom()
			return nil
		}
		return wire.StreamError{StreamID: f.StreamID, Code: wire.ErrCodeStreamClosed}
	}
	s.recvWindow -= length
	s.received += int64(len(p))
	fault := wire.ErrCodeNo
	switch {
	case s.recvWindow < 0:
		fault = wire.ErrCodeFlowControl
	case s.declared >= 0 && (s.received > s.declared || f.StreamEnded() && s.received < s.declared):
		fault = wire.ErrCodeProtocol // RFC 9113 §8.1.1
	case s.deaf:
	case !s.keep(p):
		fault = wire.ErrCodeEnhanceYourCalm
	default:
		length -= int64(len(p)) // the rest is credited as it is read
	}
	c.credit(length)
	s.credit(length)
	if fault != wire.ErrCodeNo {
		return wire.StreamError{StreamID: s.id, Code: fault}
	}
	if f.StreamEnded() {
		s.endRemote()
	}
	s.cond.Broadcast()
	if len(p) == 0 && !f.StreamEnded() {
		return c.noisy()
	}
	return nil
}

// credit gives n bytes of the connection's window back to the client. They are sent once they at least double
// the window: what others leave unread may have used up most of it.
func (c *Conn) credit(n int64) {
	c.consumed += n
	if c.consumed > 0 && c.consumed >= min(connWindow/2, c.recvWindow) && !c.dead {
		c.out.windowUpdate(0, c.consumed)
		c.recvWindow += c.consumed
		c.consumed = 0
	}
}

// refuse ends a stream for a fault of the client's.
func (c *Conn) refuse(id uint32, code wire.ErrCode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		c.reset(s, code)
	} else {
		c.out.reset(id, code)
		c.awaitRoom()
	}
	return c.noisy()
}

// reset ends a stream from this side.
func (c *Conn) reset(s *Stream, code wire.ErrCode) {
	c.out.reset(s.id, code)
	s.fail()
}
