package http2

import (
	"sync"

	"waggle/provider/gateway/sock"
)

var bodyBuffers = sync.Pool{New: func() any { return &sock.Buffer{B: make([]byte, maxFrame)} }}

// queue holds bytes that came before they were wanted, in borrowed buffers.
type queue struct {
	list []*sock.Buffer
	r, w int // what is unread of the first buffer begins at r, what is free of the last at w
	n    int // bytes in all
}

// size is the memory it takes, in bytes.
func (q *queue) size() int64 { return int64(len(q.list)) * maxFrame }

// grows says by how much n bytes more would make it grow.
func (q *queue) grows(n int) int64 {
	free := 0
	if len(q.list) > 0 {
		free = maxFrame - q.w
	}
	return int64(max(n-free, 0)+maxFrame-1) / maxFrame * maxFrame
}

func (q *queue) put(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		if len(q.list) == 0 || q.w == maxFrame {
			q.list = append(q.list, bodyBuffers.Get().(*sock.Buffer))
			q.w = 0
		}
		k := copy(q.list[len(q.list)-1].B[q.w:], p)
		q.w += k
		p = p[k:]
	}
}

func (q *queue) get(p []byte) (n int) {
	for n < len(p) && q.n > 0 {
		first := q.list[0]
		end := maxFrame
		if len(q.list) == 1 {
			end = q.w
		}
		k := copy(p[n:], first.B[q.r:end])
		n += k
		q.n -= k
		if q.r += k; q.r == end {
			bodyBuffers.Put(first)
			q.list, q.r = q.list[1:], 0
		}
	}
	if len(q.list) == 0 {
		q.list = nil
	}
	return n
}

// drop forgets everything and returns how much that was.
func (q *queue) drop() (n int) {
	n = q.n
	for _, b := range q.list {
		bodyBuffers.Put(b)
	}
	*q = queue{}
	return n
}
