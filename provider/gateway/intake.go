package gateway

import (
	"fmt"
	"time"

	"waggle/provider/gateway/sock"
)

const (
	// intakeRoom bounds the bodies of asynchronous calls that are held while they arrive and until they are stored. Many
	// connections that send long bodies at once would take all memory otherwise. It is the most that async_max_body_bytes
	// may be.
	intakeRoom = 64 << 20
)

// intake collects one body in memory. It takes room only as bytes arrive, so that announcing a long body costs nobody
// anything.
type intake struct {
	room  *sock.Budget // of all intakes
	cfg   *Config
	most  int64 // the longest legal body
	taken int64
	body  []byte
}

// add appends p. A status other than 0 says why it could not.
func (i *intake) add(p []byte) (status int, reason string) {
	need := int64(len(i.body) + len(p))
	if need > i.most {
		return 413, i.cfg.asyncTooLong()
	}
	if need > int64(cap(i.body)) {
		size := min(max(need, 2*int64(cap(i.body))), i.most)
		if !i.room.Take(size - i.taken) {
			return 429, fmt.Sprintf("too many bodies of asynchronous calls are arriving: legal are %d bytes at once", intakeRoom)
		}
		i.taken, i.body = size, append(make([]byte, 0, size), i.body...)
	}
	i.body = append(i.body, p...)
	return 0, ""
}

// slowest is the bytes per second below which a body is given up: it takes room that others need.
const slowest = 4 << 10

// patience is how long the next part of a body may take after so much has arrived in that time. It is what a client
// may be silent, but never more than the slowest legal body would have left.
func patience(arrived int, silence time.Duration, since time.Duration) time.Duration {
	atMost := silence + time.Duration(arrived)*time.Second/slowest
	return max(min(silence, atMost-since), 1) // 0 would be no bound
}

// release gives the room back; the body is not used afterwards.
func (i *intake) release() {
	i.room.Give(i.taken)
	i.taken, i.body = 0, nil
}

// receive reads the request's body whole, without its framing. A status other than 0 says what the client is told; 499
// that it has left.
func (rq *request) receive(in *intake) (status int, reason string) {
	rq.rest = rq.req.Body
	if rq.rest.Empty() {
		rq.complete = true
		return 0, ""
	}
	if rq.rest.Length() > in.most {
		return 413, in.cfg.asyncTooLong()
	}
	used, done, status, reason := rq.take(in, rq.in.B[rq.head:rq.w])
	if status != 0 {
		return status, reason
	}
	if done {
		rq.body, rq.complete = rq.head+used, true
		return 0, ""
	}
	if rq.req.Expect {
		rq.c.limit(rq.g.cfg.WriteTimeout)
		if err := rq.c.sock.Write(goOn, nil); err != nil {
			return rq.clientError(err), ""
		}
	}
	for begun := time.Now(); !done; {
		rq.c.limit(patience(len(in.body), rq.g.cfg.ReadTimeout, time.Since(begun)))
		if done, status, reason = rq.receiveMore(in); status != 0 {
			return status, reason
		}
	}
	rq.body, rq.complete = rq.w, true
	return 0, ""
}

// receiveMore reads what comes next.
func (rq *request) receiveMore(in *intake) (done bool, status int, reason string) {
	b, n, err := rq.c.sock.Borrow(&mediumBuffers)
	if err != nil {
		return false, rq.clientError(err), in.cfg.keptBodyTooLate()
	}
	defer mediumBuffers.Put(b)
	used, done, status, reason := rq.take(in, b.B[:n])
	if done && used < n {
		rq.pipelined = append([]byte(nil), b.B[used:n]...)
	}
	return done, status, reason
}

// goOn is the interim response that a client with "Expect: 100-continue" waits for.
var goOn = []byte("HTTP/1.1 100 Continue\r\n\r\n")

// take adds what of p is payload and says how much of p belongs to the body.
func (rq *request) take(in *intake, p []byte) (used int, done bool, status int, reason string) {
	for used < len(p) && !done {
		n, payload, ended, err := rq.rest.Decode(p[used:])
		if err != nil {
			return used, false, statusOf(err), err.Error()
		}
		if status, reason = in.add(payload); status != 0 {
			return used, false, status, reason
		}
		used, done = used+n, ended
	}
	return used, done, 0, ""
}
