package gateway

import "time"

// gatherRoom bounds the memory that gathered bodies take in all, beyond the small buffer that every request has. Without
// it, a crowd of clients that send their short bodies slowly would take all memory. A body that finds no room is uploaded
// as it comes, like a long one: all it loses is that it cannot be sent again.
const gatherRoom = 64 << 20

// gather reads the body whole if it is short enough to be kept and there is room, else as much as has arrived. A status
// other than 0 has been sent to the client.
func (ex *exchange) gather() (status int, keep bool) {
	ex.rest = ex.req.Body
	if ex.rest.Empty() {
		ex.complete = true
		return 0, true
	}
	length := ex.rest.Length()
	if most := ex.g.cfg.MaxBody; most > 0 && length > most {
		return 413, ex.refuse(413, "request body is too long")
	}
	if length >= 0 && length <= replayLimit && !ex.req.Expect && ex.head-ex.r+int(length) > ex.w-ex.r {
		if status := ex.readBody(int(length)); status != 0 {
			return status, ex.refuse(status, "request body did not arrive")
		}
	}
	n, done, err := ex.rest.Advance(ex.in.B[ex.head:ex.w])
	if err != nil {
		status := statusOf(err)
		return status, ex.refuse(status, err.Error())
	}
	ex.body, ex.complete = ex.head+n, done
	if ex.beyondBound() {
		return 413, ex.refuse(413, "request body is too long")
	}
	return 0, true
}

// beyondBound reports whether more has come of a body that did not announce its length than is legal.
func (ex *exchange) beyondBound() bool {
	return ex.g.cfg.MaxBody > 0 && ex.rest.Unchunked() > ex.g.cfg.MaxBody
}

// readBody reads until length bytes of body are there, or as many as there is room for. It takes room only as bytes arrive,
// so that announcing a body costs nobody anything.
func (ex *exchange) readBody(length int) (status int) {
	wait := ex.g.cfg.ReadTimeout
	for ex.w < ex.head+length {
		if ex.w == len(ex.in.B) {
			grown, status := ex.grow(ex.head - ex.r + length)
			if !grown || status != 0 {
				return status
			}
		}
		ex.c.limit(wait)
		n, err := ex.c.sock.Read(ex.in.B[ex.w:])
		ex.w += n
		if err != nil {
			return ex.clientError(err)
		}
		if ex.w < ex.head+length {
			wait = patience(ex.w-ex.head, ex.g.cfg.ReadTimeout, time.Since(ex.started))
		}
	}
	return 0
}

// grow makes place for twice as much as there is, and no more than most, bytes from ex.r on. It reports false if there is
// no room for that.
func (ex *exchange) grow(most int) (grown bool, status int) {
	need := min(2*(ex.w-ex.r), most)
	if need > len(ex.in.B) {
		more := int64(bufferFor(need)) - ex.gathered
		if ex.g.gathered.Add(more) > gatherRoom {
			ex.g.gathered.Add(-more)
			return false, 0
		}
		ex.gathered += more
	}
	ex.room(need)
	// Same bytes, new place.
	offset := len(ex.req.Target) - len(ex.path)
	if _, err := ex.req.Parse(ex.in.B[ex.r:ex.w], ex.g.cfg.MaxURI); err != nil {
		return false, 400
	}
	ex.path = ex.req.Target[offset:]
	ex.mark()
	return true, 0
}

// ungather gives back what the buffer that held a body counted for.
func (ex *exchange) ungather() {
	if ex.gathered != 0 {
		ex.g.gathered.Add(-ex.gathered)
		ex.gathered = 0
	}
}
