package http2

import (
	"errors"
	"os"
	"slices"
	"sync"

	wire "golang.org/x/net/http2"

	"waggle/provider/gateway/sock"
)

// inputBuffer holds a frame and a little more.
const inputBuffer = 17 << 10

var inputs = sync.Pool{New: func() any { return &sock.Buffer{B: make([]byte, inputBuffer)} }}

// input is what the framer reads from. It holds a buffer only while there is something in it.
type input struct {
	c    *Conn
	buf  *sock.Buffer
	r, w int
	// boundary is set between two frames, data within a DATA frame; by is when any other frame must be there.
	boundary, data bool
	by             int64
	settled        bool // the client's first frame, SETTINGS, has come
}

// give puts p before what is read from the socket; it must fit a buffer.
func (in *input) give(p []byte) {
	if len(p) > 0 {
		in.buf = inputs.Get().(*sock.Buffer)
		in.r, in.w = 0, copy(in.buf.B, p)
	}
}

func (in *input) drop() {
	if in.buf != nil {
		inputs.Put(in.buf)
		in.buf, in.r, in.w = nil, 0, 0
	}
}

// Read implements io.Reader. Before it waits, streams whose heads are complete start, and what is to be sent is sent.
func (in *input) Read(p []byte) (n int, err error) {
	if in.r == in.w {
		if n, err = in.wait(p); n > 0 || err != nil {
			return n, err
		}
	}
	n = copy(p, in.buf.B[in.r:in.w])
	in.begin()
	if in.r += n; in.r == in.w {
		in.drop()
	}
	return n, nil
}

// begin notes that a frame has begun.
func (in *input) begin() {
	if in.boundary {
		in.boundary = false
		if in.settled && !in.c.block.active {
			in.by = in.c.cfg.Now() + int64(in.c.cfg.HeaderTimeout)
		}
	}
}

// wait reads from the socket: into p if that is long, which saves a copy, else into a buffer of in's own, returning 0.
func (in *input) wait(p []byte) (n int, err error) {
	c := in.c
	if err := c.startStreams(); err != nil {
		return 0, err
	}
	for {
		c.readBy.Store(in.deadline())
		if !in.boundary && len(p) > inputBuffer/2 {
			n, err = c.sock.Read(p)
		} else if in.buf, in.w, err = c.sock.Borrow(&inputs); in.buf != nil {
			in.r = 0
		}
		late := c.readBy.Swap(0) == expired
		switch {
		case n > 0 || in.w > in.r:
			return n, nil
		case !errors.Is(err, os.ErrDeadlineExceeded) || late || c.over():
			return 0, err
		}
		c.sock.Rearm() // Expire was too late: there is something to do again
	}
}

// deadline is when the wait that begins must be over.
func (in *input) deadline() int64 {
	switch {
	case !in.settled || in.c.block.active:
		return in.by
	case in.boundary:
		return 0 // the bound on idle connections holds
	case in.data:
		return in.c.cfg.Now() + int64(in.c.cfg.ReadTimeout)
	}
	return in.by
}

// startStreams hands over the streams whose heads have come. It waits for the end of what has been read, so
// that a short body is there as well, and sends what earlier frames require. It fails if the client keeps
// opening streams that nobody takes.
func (c *Conn) startStreams() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushAside()
	for len(c.opened) > 0 {
		s := c.opened[0]
		c.opened = slices.Delete(c.opened, 0, 1)
		c.mu.Unlock()
		taken := c.take(s)
		c.mu.Lock()
		if !taken {
			c.running--
			if !s.over {
				c.reset(s, wire.ErrCodeRefusedStream)
			}
			c.awaitRoom()
			c.flushAside()
			c.restIfIdle()
			if err := c.noisy(); err != nil {
				return err
			}
		}
	}
	return nil
}

// readFrame reads one frame and does what it says.
func (c *Conn) readFrame() error {
	c.in.boundary, c.in.data = true, false
	head, err := c.framer.ReadFrameHeader()
	if err != nil {
		return err
	}
	c.in.data = head.Type == wire.FrameData
	if head.Length < announced(head) {
		return wire.ConnectionError(wire.ErrCodeFrameSize) // the framer would say that the client has left within it
	}
	frame, err := c.framer.ReadFrameForHeader(head)
	var stream wire.StreamError
	switch {
	case head.Type == wire.FrameHeaders && errors.As(err, &stream):
		return wire.ConnectionError(stream.Code) // without its block, HPACK's table is no longer the client's
	case err != nil:
		return err
	}
	if !c.in.settled {
		if _, ok := frame.(*wire.SettingsFrame); !ok {
			return wire.ConnectionError(wire.ErrCodeProtocol)
		}
		c.in.settled = true
	}
	return c.process(frame)
}

// announced is the length of what a frame's flags say that it begins with.
func announced(head wire.FrameHeader) (n uint32) {
	if (head.Type == wire.FrameData || head.Type == wire.FrameHeaders) && head.Flags.Has(wire.FlagHeadersPadded) {
		n++
	}
	if head.Type == wire.FrameHeaders && head.Flags.Has(wire.FlagHeadersPriority) {
		n += 5
	}
	return n
}
