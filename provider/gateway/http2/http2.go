// Package http2 serves HTTP/2 (RFC 9113) to clients and speaks HTTP/1.1 to the gateway.
//
// It stands between a client's socket and the gateway's engine. In: the bytes of one client connection. Out:
// streams, each a net.Conn that carries one request and its response in HTTP/1.1. So there is one engine with
// one set of rules.
//
// It guarantees that a request has the same meaning on both sides, and that a malformed one is not passed on. A
// response that is not whole is reset. Whatever a client can make it store or do is bounded: windows, header
// blocks, output, streams, and frames without effect.
//
// golang.org/x/net/http2 reads frames and checks their form, its hpack decodes header blocks. The states of streams, flow
// control and the translation are done here, because that package's server costs more than the gateway does.
//
// # Decisions
//
//   - Each stream becomes a net.Conn on which the engine reads HTTP/1.1. One engine, one set of rules and one set of
//     tests serve HTTP/1.1, TLS, h2c and h2. net/http's server in front of that engine costs four times as much. It
//     cannot pass on unannounced trailers, an expectation of 100, or a path that is no valid URL.
//   - A connection has these bounds. Streams: 250 open and as many cancelled (rapid reset). Unread bodies: 256 KiB of
//     one, 512 KiB of all, 64 MiB on all connections. A header block: 4 header lengths and 32 frames. Answers that the
//     client does not read: 64 KiB. Frames without effect: 1000 a second.
//   - Shutdown sends two GOAWAY frames a second apart, as RFC 9113 advises, so that no request crosses the last one.
//   - h2spec's 145 cases pass over TLS. Without it 144 do: a connection that begins wrongly is told so in HTTP/1.1.
package http2

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
)

// Config is what all connections have in common. Every field is required.
type Config struct {
	// MaxStreams bounds the streams that a client may have open on a connection. Requests that a client has given up,
	// but whose function does not know yet, may come to as many again.
	MaxStreams int
	// MaxHeader is the longest request head in bytes, in HTTP/1.1 form, that is sure to be passed on whole. A longer one
	// may come without its end, for the reader to refuse.
	MaxHeader int
	// HeaderTimeout bounds the arrival of a header block and of any frame but DATA. ReadTimeout bounds the
	// silence within a DATA frame, WriteTimeout the time that the socket takes no byte, IdleTimeout the time
	// without a stream.
	HeaderTimeout, ReadTimeout, WriteTimeout, IdleTimeout time.Duration
	// Unread counts the memory that bodies take which nobody has read yet, over all connections that share it; required.
	// While it is at its bound, [MaxUnread], streams that would take more end with ENHANCE_YOUR_CALM.
	Unread *sock.Budget
	// Now is the time since a fixed moment in nanoseconds, exact to what deadlines need. Nothing may set it back or forward.
	Now func() int64
}

// MaxUnread bounds [Config.Unread], in bytes. It is needed because many connections may reach their own bounds
// at once, for example while their requests wait for a function to wake.
const MaxUnread = 64 << 20

const (
	// maxFrame is the longest payload that is read or written; it is the protocol's default and least value.
	maxFrame = 16 << 10
	// initialWindow is every window at first (RFC 9113 §6.9.2), maxWindow the most it may come to.
	initialWindow = 64<<10 - 1
	maxWindow     = 1<<31 - 1
	// maxStreamID is above every stream that there can be.
	maxStreamID = 1<<31 - 1
	// streamWindow is what a client may send of one body before the function has read any of it. connWindow is
	// the same for all bodies of a connection: the most that a connection makes the gateway store.
	streamWindow = 256 << 10
	connWindow   = 512 << 10
	// tableSize is the protocol's default for HPACK's dynamic table.
	tableSize = 4 << 10
	// fieldOverhead is what RFC 9113 §6.5.2 counts for each field beside its bytes.
	fieldOverhead = 32
	// maxNoise bounds the frames a second that ask for work and bring nothing: pings, settings, resets, empty ones.
	// Browsers cancel a page's worth of requests at once; nobody needs more than that.
	maxNoise = 1000
	// tinyCredit bounds window updates that count as noise: those that open a shut window by less. With these a
	// client has a response sent in frames that are mostly headers (CVE-2019-9511). Updates of an open window
	// may be any size.
	tinyCredit = 256
	// drainPause is the time between the two GOAWAY frames of a shutdown (RFC 9113 §6.8). It is longer than a
	// round trip, so that no request crosses the second.
	drainPause = time.Second
	// closeTimeout is how long the last bytes may take, and how long a client may go on sending after them. Data that
	// arrives at a closed socket resets it, and the reset can overtake the GOAWAY.
	closeTimeout = time.Second
)

// Conn is one client connection. Make it with New and run it once with Serve. One other goroutine may call
// Expire and Drain.
type Conn struct {
	cfg    *Config
	sock   *sock.Conn
	take   func(*Stream) bool
	framer *wire.Framer
	in     input
	block  block

	noise      int // frames that brought nothing, since noiseSince; the reader's
	noiseSince int64

	// When the step under way must be over, by the clock of Config; 0: never. [expired] says that Expire has ended it.
	readBy, writeBy, idleBy atomic.Int64

	mu      sync.Mutex // guards what follows, and the state of streams
	streams map[uint32]*Stream
	opened  []*Stream // of those, the ones to be handed over before the next wait
	running int       // streams that their users have not closed, whether or not they are still in streams
	lastID  uint32    // the highest that the client has used
	drain   drainState
	drainAt int64 // when the second GOAWAY is due
	dead    bool  // nothing is sent any more

	out       output
	window    int64 // for DATA to the client, of all streams
	initial   int64 // window of new streams
	maxWrite  int   // longest payload the client takes
	tableShut bool  // HPACK's table for responses has been shut

	recvWindow, consumed int64 // for DATA from the client: what it may send; read since the last WINDOW_UPDATE
}

// drainState is how far a shutdown has come.
type drainState uint8

const (
	serving  drainState = iota
	warned              // the client knows that it should not open streams
	draining            // streams above lastID are ignored
)

// expired in place of a deadline says that it has passed.
const expired = -1

// New makes a connection of s, which the caller closes. take hands a stream to another goroutine, which reads
// the request, writes the response and closes the stream. take must not block. If it returns false, the stream
// is refused, and the client may repeat it.
func New(cfg *Config, s *sock.Conn, take func(*Stream) bool) *Conn {
	c := &Conn{cfg: cfg, sock: s, take: take, streams: make(map[uint32]*Stream), window: initialWindow, initial: initialWindow,
		maxWrite: maxFrame, recvWindow: connWindow}
	c.in.c, c.block.c = c, c
	c.out.drained.L = &c.mu
	c.framer = wire.NewFramer(io.Discard, &c.in)
	c.framer.SetMaxReadFrameSize(maxFrame)
	c.framer.SetReuseFrames()
	c.block.decoder = hpack.NewDecoder(tableSize, c.block.emit)
	c.block.decoder.SetMaxStringLength(c.block.maxSize())
	return c
}

// Serve answers requests until the connection has ended; early is what has been read of it already. It returns the error
// code that the connection was ended with; NO_ERROR also if the client just left. Streams may still be open then: they
// fail, and their users close them.
func (c *Conn) Serve(early []byte) wire.ErrCode {
	defer c.end()
	c.greet()
	if code, ok := c.in.preface(early); !ok {
		return code
	}
	for {
		if err := c.readFrame(); err != nil {
			if code, over := c.judge(err); over {
				return code
			}
		}
	}
}

// judge does what an error calls for, and reports whether the connection has ended, and with which code.
func (c *Conn) judge(err error) (code wire.ErrCode, over bool) {
	var stream wire.StreamError
	if errors.As(err, &stream) {
		if err = c.refuse(stream.StreamID, stream.Code); err == nil {
			return 0, false
		}
	}
	var conn wire.ConnectionError
	switch {
	case errors.As(err, &conn):
		return c.quit(wire.ErrCode(conn)), true
	case errors.Is(err, wire.ErrFrameTooLarge):
		return c.quit(wire.ErrCodeFrameSize), true
	case errors.Is(err, os.ErrDeadlineExceeded) && c.in.boundary && c.over():
		return c.quit(wire.ErrCodeNo), true
	}
	return wire.ErrCodeNo, true
}

// greet sends the settings and opens the connection's window as far as it goes.
func (c *Conn) greet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.settings(
		wire.Setting{ID: wire.SettingMaxConcurrentStreams, Val: uint32(c.cfg.MaxStreams)},
		wire.Setting{ID: wire.SettingInitialWindowSize, Val: streamWindow},
		wire.Setting{ID: wire.SettingMaxHeaderListSize, Val: uint32(c.cfg.MaxHeader + http1.MaxFields*fieldOverhead)},
		wire.Setting{ID: wire.SettingNoRFC7540Priorities, Val: 1})
	c.out.windowUpdate(0, connWindow-initialWindow)
	c.flush(c.cfg.WriteTimeout)
	c.restIfIdle()
}

// noisy counts a frame that brought nothing, and fails if the client sends nothing but such.
func (c *Conn) noisy() error {
	now := c.cfg.Now()
	if now-c.noiseSince > int64(time.Second) {
		c.noise, c.noiseSince = 0, now
	}
	if c.noise++; c.noise > maxNoise {
		return wire.ConnectionError(wire.ErrCodeEnhanceYourCalm)
	}
	return nil
}

// Preface is what a client's connection begins with, before its first frame.
var Preface = []byte(wire.ClientPreface)

// preface reads it. A client that leaves before it has sent it, as browsers do that connect ahead, has done nothing wrong.
func (in *input) preface(early []byte) (code wire.ErrCode, ok bool) {
	in.by = in.c.cfg.Now() + int64(in.c.cfg.HeaderTimeout)
	in.give(early)
	var got [len(wire.ClientPreface)]byte
	if _, err := io.ReadFull(in, got[:]); err != nil {
		return wire.ErrCodeNo, false
	}
	return wire.ErrCodeProtocol, bytes.Equal(got[:], Preface)
}
