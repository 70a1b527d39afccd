package gateway

import (
	"fmt"
	"sync/atomic"
	"time"
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
	room  *atomic.Int64 // what all intakes hold
	most  int64         // the longest legal body
	taken int64
	body  []byte
}

// add appends p. A status other than 0 says why it could not.
func (i *intake) add(p []byte) (status int, reason string) {
	need := int64(len(i.body) + len(p))
	if need > i.most {
		return 413, tooLong(i.most)
	}
	if need > int64(cap(i.body)) {
		size := min(max(need, 2*int64(cap(i.body))), i.most)
		if i.room.Add(size-i.taken) > intakeRoom {
			i.room.Add(i.taken - size)
			return 429, fmt.Sprintf("too many bodies of asynchronous calls are arriving: legal are %d bytes at once", intakeRoom)
		}
		i.taken, i.body = size, append(make([]byte, 0, size), i.body...)
	}
	i.body = append(i.body, p...)
	return 0, ""
}

func tooLong(most int64) string {
	return fmt.Sprintf("body of an asynchronous call is too long: legal are %d bytes", most)
}

// slowest is the bytes per second below which a body is given up: it takes room that others need.
const slowest = 4 << 10

// patience is how long the next part of a body may take of which so much has arrived in that time: as long as a client may be
// silent, and no longer than the slowest legal body would have taken by then.
func patience(arrived int, silence Duration, since time.Duration) Duration {
	atMost := silence + Duration(arrived)*Duration(time.Second)/slowest
	return max(min(silence, atMost-Duration(since)), 1) // 0 would be no bound
}

// release gives the room back; the body is not used afterwards.
func (i *intake) release() {
	i.room.Add(-i.taken)
	i.taken, i.body = 0, nil
}

// receive reads the request's body whole, without its framing. A status other than 0 says what the client is told; 499
// that it has left.
func (ex *exchange) receive(in *intake) (status int, reason string) {
	ex.rest = ex.req.Body
	if ex.rest.Empty() {
		ex.complete = true
		return 0, ""
	}
	if ex.rest.Length() > in.most {
		return 413, tooLong(in.most)
	}
	used, done, status, reason := ex.take(in, ex.in.B[ex.head:ex.w])
	if status != 0 {
		return status, reason
	}
	if done {
		ex.body, ex.complete = ex.head+used, true
		return 0, ""
	}
	if ex.req.Expect {
		ex.c.limit(ex.g.cfg.WriteTimeout)
		if err := ex.c.sock.Write(goOn, nil); err != nil {
			return ex.clientError(err), ""
		}
	}
	for begun := time.Now(); !done; {
		ex.c.limit(patience(len(in.body), ex.g.cfg.ReadTimeout, time.Since(begun)))
		if done, status, reason = ex.receiveMore(in); status != 0 {
			return status, reason
		}
	}
	ex.body, ex.complete = ex.w, true
	return 0, ""
}

// receiveMore reads what comes next.
func (ex *exchange) receiveMore(in *intake) (done bool, status int, reason string) {
	b, n, err := ex.c.sock.Borrow(&mediumBuffers)
	if err != nil {
		return false, ex.clientError(err), "request body did not arrive in time"
	}
	defer mediumBuffers.Put(b)
	used, done, status, reason := ex.take(in, b.B[:n])
	if done && used < n {
		ex.behind = append([]byte(nil), b.B[used:n]...)
	}
	return done, status, reason
}

// goOn is the interim response that a client with "Expect: 100-continue" waits for.
var goOn = []byte("HTTP/1.1 100 Continue\r\n\r\n")

// take adds what of p is payload and says how much of p belongs to the body.
func (ex *exchange) take(in *intake, p []byte) (used int, done bool, status int, reason string) {
	for used < len(p) && !done {
		n, payload, ended, err := ex.rest.Decode(p[used:])
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
