package gateway

import (
	"sync"

	"waggle/provider/gateway/sock"
)

// Buffer sizes. Most heads fit the small one. Bodies are relayed with the medium one. The large one holds the longest
// head and a body that is kept for a repeat.
const (
	smallBuffer  = 4 << 10
	mediumBuffer = 32 << 10
	largeBuffer  = replayLimit + maxMaxHeader
	maxMaxHeader = 64 << 10
	// replayLimit is the longest body that is read whole before a replica is picked. Such a body can be sent again,
	// and a slow client does not keep a replica waiting.
	replayLimit = 64 << 10
)

var (
	smallBuffers  = bufferPool(smallBuffer)
	mediumBuffers = bufferPool(mediumBuffer)
	largeBuffers  = bufferPool(largeBuffer)
)

func bufferPool(size int) sync.Pool {
	return sync.Pool{New: func() any { return &sock.Buffer{B: make([]byte, size)} }}
}

func poolOf(size int) *sync.Pool {
	switch bufferFor(size) {
	case smallBuffer:
		return &smallBuffers
	case mediumBuffer:
		return &mediumBuffers
	}
	return &largeBuffers
}

// bufferFor is the size of the buffer that holds size bytes.
func bufferFor(size int) int {
	switch {
	case size <= smallBuffer:
		return smallBuffer
	case size <= mediumBuffer:
		return mediumBuffer
	}
	return largeBuffer
}

func putBuffer(b *sock.Buffer) {
	if b != nil {
		poolOf(len(b.B)).Put(b)
	}
}

// relayRoom bounds the memory of medium buffers that hold bytes being passed on; beyond it small ones are used. Such
// a buffer is held for as long as its receiver takes. Without the bound, many clients that request much and read
// nothing would take all memory.
const relayRoom = 64 << 20

// borrow waits for bytes that are to be passed on, and only then takes a buffer, which goes back with giveBack.
func (g *Gateway) borrow(from *sock.Conn) (b *sock.Buffer, n int, err error) {
	pool := &mediumBuffers
	if g.relayBudget.Full() {
		pool = &smallBuffers
	}
	if b, n, err = from.Borrow(pool); b != nil {
		g.relayBudget.Add(int64(len(b.B)))
	}
	return b, n, err
}

func (g *Gateway) giveBack(b *sock.Buffer) {
	g.relayBudget.Give(int64(len(b.B)))
	putBuffer(b)
}

// widen gives a larger buffer for one that was borrowed, with the same bytes.
func (g *Gateway) widen(b *sock.Buffer, size int) *sock.Buffer {
	wider := poolOf(size).Get().(*sock.Buffer)
	copy(wider.B, b.B)
	g.relayBudget.Add(int64(len(wider.B)))
	g.giveBack(b)
	return wider
}
