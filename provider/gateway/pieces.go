package gateway

import "waggle/provider/gateway/sock"

// widePieces is how many pieces of bodies may be under way in medium buffers, 64 MiB; beyond that they are small. A piece
// is held for as long as its receiver takes: without the bound, a crowd of clients that ask for much and read nothing
// would take all memory.
const widePieces = 64 << 20 / mediumBuffer

// borrow waits for bytes that are to be passed on, and only then takes a buffer, which goes back with giveBack.
func (g *Gateway) borrow(from *sock.Conn) (b *sock.Buffer, n int, err error) {
	pool := &mediumBuffers
	if g.pieces.Load() >= widePieces {
		pool = &smallBuffers
	}
	if b, n, err = from.Borrow(pool); b != nil {
		g.pieces.Add(1)
	}
	return b, n, err
}

func (g *Gateway) giveBack(b *sock.Buffer) {
	g.pieces.Add(-1)
	putBuffer(b)
}
