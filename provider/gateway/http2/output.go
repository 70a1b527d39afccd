package http2

import (
	"encoding/binary"
	"runtime"
	"slices"
	"sync"
	"time"

	wire "golang.org/x/net/http2"

	"waggle/provider/gateway/sock"
)

const (
	// outputLimit is how much may wait to be sent before streams wait as well; the buffer holds one frame more.
	outputLimit  = 32 << 10
	outputBuffer = outputLimit + maxFrame + frameHeader
	// controlLimit is how much may wait before nothing more is read. Acknowledgements have this room beyond that of
	// streams, so that a client that takes its responses slowly is still heard.
	controlLimit = 64 << 10
	frameHeader  = 9
	// smallOutput is what is worth waiting with for a moment.
	smallOutput = 4 << 10
	// maxRounds bounds how often a stream that sends goes on sending for others.
	maxRounds = 4
)

var outputs = sync.Pool{New: func() any { return &sock.Buffer{B: make([]byte, outputBuffer)} }}

// output is what waits to be sent on a connection. The connection's mu guards it. Whoever adds to it sends it,
// together with what others add meanwhile. So many frames go out in one system call, and nobody waits for a
// lock while the socket is full.
type output struct {
	buf      *sock.Buffer // nil when there is nothing
	b        []byte       // begins in buf, and leaves it if it grows beyond that
	flushing bool
	drained  sync.Cond // told after each round
	queue    []*Stream // those that wait for room or for the connection's window, the longest first
}

func (o *output) bytes() []byte {
	if o.buf == nil {
		o.buf = outputs.Get().(*sock.Buffer)
		o.b = o.buf.B[:0]
	}
	return o.b
}

// enqueue puts s behind those that wait already, or before them, unless it is among them.
func (o *output) enqueue(s *Stream, first bool) {
	switch {
	case slices.Contains(o.queue, s):
	case first:
		o.queue = slices.Insert(o.queue, 0, s)
	default:
		o.queue = append(o.queue, s)
	}
}

func (o *output) dequeue(s *Stream) {
	if i := slices.Index(o.queue, s); i >= 0 {
		o.queue = slices.Delete(o.queue, i, i+1)
	}
}

func (o *output) drop() {
	if o.buf != nil {
		outputs.Put(o.buf)
		o.buf, o.b = nil, nil
	}
}

// appendHeader appends a frame's header.
func appendHeader(b []byte, length int, kind wire.FrameType, flags wire.Flags, id uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, id)
}

func (o *output) settings(list ...wire.Setting) {
	b := appendHeader(o.bytes(), 6*len(list), wire.FrameSettings, 0, 0)
	for _, s := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	o.b = b
}

func (o *output) settingsAck() {
	o.b = appendHeader(o.bytes(), 0, wire.FrameSettings, wire.FlagSettingsAck, 0)
}

func (o *output) pingAck(data [8]byte) {
	o.b = append(appendHeader(o.bytes(), 8, wire.FramePing, wire.FlagPingAck, 0), data[:]...)
}

func (o *output) windowUpdate(id uint32, n int64) {
	o.b = binary.BigEndian.AppendUint32(appendHeader(o.bytes(), 4, wire.FrameWindowUpdate, 0, id), uint32(n))
}

func (o *output) reset(id uint32, code wire.ErrCode) {
	o.b = binary.BigEndian.AppendUint32(appendHeader(o.bytes(), 4, wire.FrameRSTStream, 0, id), uint32(code))
}

func (o *output) goAway(lastID uint32, code wire.ErrCode) {
	b := binary.BigEndian.AppendUint32(appendHeader(o.bytes(), 8, wire.FrameGoAway, 0, 0), lastID)
	o.b = binary.BigEndian.AppendUint32(b, uint32(code))
}

// flush sends what waits, unless somebody is at it, who then sends this too. A connection that takes no byte for timeout
// is dead. The caller holds mu, which is let go meanwhile.
func (c *Conn) flush(timeout time.Duration) {
	if c.out.flushing {
		return
	}
	for round := 0; len(c.out.b) > 0 && !c.dead; round++ {
		if round == maxRounds {
			c.flushAside()
			return
		}
		c.out.flushing = true
		if c.running > 1 && len(c.out.b) < smallOutput {
			c.mu.Unlock()
			runtime.Gosched() // other streams may be about to add to it, which saves a system call each
			c.mu.Lock()
		}
		buf, b := c.out.buf, c.out.b
		c.out.buf, c.out.b = nil, nil
		c.mu.Unlock()
		c.writeBy.Store(c.cfg.Now() + int64(timeout))
		err := c.sock.Write(b, nil)
		c.writeBy.Store(0)
		if buf != nil {
			outputs.Put(buf)
		}
		c.mu.Lock()
		c.out.flushing = false
		if err != nil {
			c.dead = true
			c.failStreams()
			c.sock.Abort()
		}
		c.out.drained.Broadcast()
		c.wakeNext()
	}
}

// flushAside is flush for those who must not wait for the socket.
func (c *Conn) flushAside() {
	if !c.out.flushing && len(c.out.b) > 0 && !c.dead {
		go func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.flush(c.cfg.WriteTimeout)
		}()
	}
}

// wakeNext wakes the stream whose turn it is.
func (c *Conn) wakeNext() {
	if len(c.out.queue) > 0 {
		c.out.queue[0].cond.Broadcast()
	}
}

// awaitRoom stops reading while too much waits to be sent: the client asks for more than it takes.
func (c *Conn) awaitRoom() {
	for len(c.out.b) > controlLimit && !c.dead {
		c.flushAside()
		c.out.drained.Wait()
	}
}
