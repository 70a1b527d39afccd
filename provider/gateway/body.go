package gateway

import "time"

// bodyRoom bounds the memory that kept bodies take in all, beyond the small buffer that every request has. Without
// it, a crowd of clients that send their short bodies slowly would take all memory. A body that finds no room is uploaded
// as it comes, like a long one: all it loses is that it cannot be sent again.
const bodyRoom = 64 << 20

// bufferBody reads the body whole if it is short enough to be kept and there is room, else as much as has arrived. A status
// other than 0 has been sent to the client.
func (rq *request) bufferBody() (status int, keep bool) {
	rq.rest = rq.req.Body
	if rq.rest.Empty() {
		rq.complete = true
		return 0, true
	}
	length := rq.rest.Length()
	if most := rq.g.cfg.MaxBody; most > 0 && length > most {
		return 413, rq.refuse(413, rq.g.cfg.bodyTooLong())
	}
	if length >= 0 && length <= replayLimit && !rq.req.Expect && rq.head-rq.r+int(length) > rq.w-rq.r {
		if status := rq.readBody(int(length)); status != 0 {
			return status, rq.refuse(status, rq.g.cfg.keptBodyTooLate())
		}
	}
	n, done, err := rq.rest.Advance(rq.in.B[rq.head:rq.w])
	if err != nil {
		status := statusOf(err)
		return status, rq.refuse(status, err.Error())
	}
	rq.body, rq.complete = rq.head+n, done
	if rq.beyondBound() {
		return 413, rq.refuse(413, rq.g.cfg.bodyTooLong())
	}
	return 0, true
}

// beyondBound reports whether more has come of a body that did not announce its length than is legal.
func (rq *request) beyondBound() bool {
	return rq.g.cfg.MaxBody > 0 && rq.rest.Unchunked() > rq.g.cfg.MaxBody
}

// readBody reads until length bytes of body are there, or as many as there is room for. It takes room only as bytes arrive,
// so that announcing a body costs nobody anything.
func (rq *request) readBody(length int) (status int) {
	wait := rq.g.cfg.ReadTimeout
	for rq.w < rq.head+length {
		if rq.w == len(rq.in.B) {
			grown, status := rq.grow(rq.head - rq.r + length)
			if !grown || status != 0 {
				return status
			}
		}
		rq.c.limit(wait)
		n, err := rq.c.sock.Read(rq.in.B[rq.w:])
		rq.w += n
		if err != nil {
			return rq.clientError(err)
		}
		if rq.w < rq.head+length {
			wait = patience(rq.w-rq.head, rq.g.cfg.ReadTimeout, time.Since(rq.started))
		}
	}
	return 0
}

// grow makes place for twice as much as there is, and no more than most, bytes from rq.r on. It reports false if there is
// no room for that.
func (rq *request) grow(most int) (grown bool, status int) {
	need := min(2*(rq.w-rq.r), most)
	if need > len(rq.in.B) {
		more := int64(bufferFor(need)) - rq.kept
		if !rq.g.bodyBudget.Take(more) {
			return false, 0
		}
		rq.kept += more
	}
	rq.room(need)
	// Same bytes, new place.
	offset := len(rq.req.Target) - len(rq.path)
	if _, err := rq.req.Parse(rq.in.B[rq.r:rq.w], rq.g.cfg.MaxURI); err != nil {
		return false, 400
	}
	rq.path = rq.req.Target[offset:]
	rq.markFields()
	return true, 0
}

// releaseBody gives back what the buffer that held a body counted for.
func (rq *request) releaseBody() {
	rq.g.bodyBudget.Give(rq.kept)
	rq.kept = 0
}
