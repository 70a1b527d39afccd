package gateway

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"waggle/provider/gateway/sock"
)

// upload carries a body that was not there whole to the replica, beside the response. Only such bodies cost a second
// goroutine. Two goroutines then share both connections, and who is to blame for an end decides what follows:
//
//	what the upload sees               field       who is at fault, and the answer
//	the client is silent too long      status 408  the client; the replica's connection is broken, its answer not awaited
//	the client has left                status 499  the client; nobody is answered
//	a malformed chunk, too long        400, 413    the client; as for 408
//	the replica takes nothing more     done false  nobody yet: the replica may have answered already, which decides
//	the body has ended                 done true   nobody
//	stopUpload wants it to end         stopped     nobody: the response is over, or the attempt is
type upload struct {
	finished chan struct{}
	reading  atomic.Bool // waiting for the client
	stopped  atomic.Bool // the other side wants it to end: not being able to read is nobody's fault then
	gaveUp   atomic.Bool // the client is at fault; set before that breaks the replica's connection
	// The rest is written before finished is closed.
	done   bool   // the whole body went out
	status int    // not 0: the client's fault, and what to tell it
	reason string // for status
}

// startUpload takes over reading from the client until the body ends.
func (a *attempt) startUpload() {
	u := &upload{finished: make(chan struct{})}
	a.upload = u
	to := a.conn.Conn
	go func() {
		defer close(u.finished)
		defer a.c.guard()
		for more := true; more; {
			more = a.carry(u, to)
		}
		if u.status != 0 {
			// The client is at fault. The replica must see that the body is not whole, and nobody is left to take its answer.
			u.gaveUp.Store(true)
			to.Abort()
		}
	}()
}

// carry takes the next bytes from the client to the replica, and reports false once the body has ended or either side is
// broken. A client that makes it wait costs no buffer.
func (a *attempt) carry(u *upload, to *sock.Conn) (more bool) {
	a.c.limit(a.g.cfg.ReadTimeout)
	u.reading.Store(true)
	b, n, err := a.g.borrow(a.c.sock)
	if err != nil {
		if u.stopped.Load() {
			return false
		}
		u.status, u.reason = 499, "client left within its request"
		if errors.Is(err, os.ErrDeadlineExceeded) && !a.c.left.Load() {
			u.status, u.reason = 408, a.g.cfg.bodyTooLate()
		}
		return false
	}
	defer a.g.giveBack(b)
	u.reading.Store(false)
	got := b.B[:n]
	n, done, err := a.rest.Advance(got)
	if err != nil {
		u.status, u.reason = statusOf(err), err.Error()
		return false
	}
	if a.beyondBound() {
		u.status, u.reason = 413, a.g.cfg.bodyTooLong()
		return false
	}
	a.limitUpstream()
	if to.Write(got[:n], nil) != nil {
		return false // the replica may have answered already: its response decides
	}
	if done {
		u.done = true
		if n < len(got) {
			a.pipelined = append([]byte(nil), got[n:]...)
		}
	}
	return !done
}

// waitUpload gives the upload a moment to end by itself after the response has, as it usually did before that.
// It reports whether the whole body went out.
func (a *attempt) waitUpload(moment time.Duration) bool {
	select {
	case <-a.upload.finished:
		return a.upload.done
	case <-time.After(moment):
		return false
	}
}

// answeredEarly reports whether there is a whole response to a request that is not: the connection then ends with it.
func (a *attempt) answeredEarly() bool { return a.upload != nil && !a.waitUpload(uploadEnding) }

const (
	// uploadGrace is how long a client may go on sending a body that has been answered already.
	uploadGrace = 200 * time.Millisecond
	// uploadEnding is how long an upload may take to notice that it has ended.
	uploadEnding = 5 * time.Millisecond
)

// clientFault reports whether it was the client's doing, not the replica's, that the exchange broke with err. The upload
// then has ended, and its status says what the client did.
func (a *attempt) clientFault(err error) bool {
	u := a.upload
	if u == nil {
		return false
	}
	// When time is up both sides are unblocked; the side that was waited for is late. If that was the client, the
	// upload may not have noticed yet.
	if u.gaveUp.Load() || errors.Is(err, os.ErrDeadlineExceeded) && u.reading.Load() {
		<-u.finished
		return u.status != 0
	}
	return false
}

// stopUpload ends the upload, if there is one, and returns it.
func (a *attempt) stopUpload() *upload {
	u := a.upload
	if u == nil {
		return nil
	}
	select {
	case <-u.finished:
		return u
	default:
	}
	u.stopped.Store(true)
	if a.conn != nil {
		a.conn.Unblock() // it carries nothing after this exchange
	}
	again := time.NewTicker(unblockAgain)
	defer again.Stop()
	for {
		a.c.sock.Unblock()
		select {
		case <-u.finished:
			a.c.sock.Rearm()
			return u
		case <-again.C:
		}
	}
}

// unblockAgain is the time after which a late upload is told again to stop. An upload that begins its next step at
// that very moment undoes the first notice.
const unblockAgain = 50 * time.Millisecond
