package gateway

import (
	"errors"
	"io"
	"os"
	"time"

	"waggle/provider/gateway/http1"
)

// What follows when an attempt brings no response. The kernel says whether a request was delivered; "harmless" is a
// method that may be repeated (RFC 9110 §9.2.2) or a function that says so.
//
//	what happened                                 what follows
//	no connection could be made                   another replica: nothing was sent
//	a kept connection broke, not delivered        a fresh connection to the same replica
//	a kept connection broke, perhaps delivered    if harmless, the same; if that is refused, the replica has ended
//	a fresh connection broke: the replica may     if harmless, another replica, once, while two are known to be alive;
//	have ended by this request                    else 502
//	the watchdog had no room (429)                whichever replica has, within hold_timeout
//	503                                           if harmless, another replica if there is one
//	part of a response, nonsense, or silence      502 or 504
//	silence, or the client left after a second    a probe tells whether the replica hangs, if there is another

// verdict is what to do about an exchange that broke before a response.
type verdict uint8

const (
	hopeless verdict = iota
	sameReplica
	otherReplica
)

// judge says whether the request can be sent again. It can if the replica provably has not received it, whatever it
// is. It also can if twice is harmless, by its method (RFC 9110 §9.2.2) or because the function says so.
func (a *attempt) judge(err error) verdict {
	var malformed *http1.Error
	timedOut := errors.Is(err, os.ErrDeadlineExceeded)
	atFault := a.clientFault(err)
	if !atFault && a.c.left.Load() && time.Since(a.started) >= longWait {
		a.replica.Deserted()
	}
	if atFault || a.c.left.Load() || a.control && !a.conn.Reused {
		return hopeless
	}
	switch {
	case timedOut:
		a.replica.Late()
	case !a.conn.Reused:
		a.replica.Broke()
	}
	switch {
	case timedOut, errors.As(err, &malformed), !a.complete, a.uw > a.ur, a.repeats == maxRepeats, a.tries == maxTries-1:
		return hopeless
	case a.conn.Reused && a.neverArrived(err):
		return sameReplica
	case !a.harmless():
		return hopeless
	case a.conn.Reused:
		a.repeats, a.unsure = a.repeats+1, true
		return sameReplica
	case a.mayHaveEnded():
		return hopeless
	}
	a.repeats++
	return otherReplica
}

// longWait is how long a client must have waited before its end is a reason to look at the replica. Browsers that leave
// pages at once are none.
const longWait = time.Second

// neverArrived asks the kernel. A peer that closed the connection as we wrote answers the data with a reset, which may
// be a round trip away.
func (a *attempt) neverArrived(ended error) bool {
	for range 10 {
		certain, pending := a.conn.NeverArrived(a.sentBefore, ended)
		if certain || !pending {
			return certain
		}
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // the kernel tells nobody when a reset arrives; 20 ms in all
	}
	return false
}

// harmless reports whether processing the request twice does no harm.
func (a *attempt) harmless() bool {
	switch string(a.req.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return !a.control && a.set.Function().Idempotent
}

// turnedAway reports whether the replica had no room for the request, and prepares for another try. The try goes to
// another replica, or here once a place is free. No room is a 429 from infrastructure, so the function never saw the
// request. It happens although this gateway bounds its requests in flight, because other gateways fill replicas as
// well.
func (a *attempt) turnedAway() bool {
	if a.control || a.resp.Status != 429 || !a.resp.Has[http1.Internal] || !a.complete || a.passedOn() {
		return false
	}
	a.replica.TurnedAway()
	if a.hold(); a.g.cfg.HoldTimeout == 0 {
		return false // nothing is waited for: this is the answer
	}
	a.noRoom = !time.Now().Before(a.holdBy)
	a.discard()
	a.replica.Release()
	a.replica = nil
	return true
}

// passedOn reports whether the answer is some other part's of the system, not this replica's. The function got it
// through a gateway while it worked on the request, and passes it on.
func (a *attempt) passedOn() bool {
	fields := a.resp.All()
	for i := range fields {
		if f := &fields[i]; f.Kind == http1.Internal && http1.EqualFold(a.resp.Value(f), "gateway") {
			return true
		}
	}
	return false
}

// askAnother reports whether another replica should be asked, and prepares for that. It is if this one cannot serve
// at the moment (503) and the request may be repeated. There must be another one; otherwise this is the answer.
func (a *attempt) askAnother() bool {
	if a.control || a.resp.Status != 503 {
		return false
	}
	a.replica.Unwell()
	if !a.complete || a.repeats == maxRepeats || a.tries >= maxTries-1 || !a.harmless() {
		return false
	}
	a.tried[a.tries] = a.replica
	other := a.set.Pick(a.tried[:a.tries+1])
	if other == nil {
		a.tried[a.tries] = nil
		return false
	}
	other.Release()
	a.repeats++
	a.discard()
	a.giveUp() // never the last try: see above
	return true
}

// fail ends an exchange that broke before a response and answers the client.
func (a *attempt) fail(err error) (status int, keep bool) {
	a.discard()
	up := a.stopUpload()
	if a.replica != nil {
		a.replica.Release()
		a.replica = nil
	}
	if up != nil && up.status != 0 {
		status = up.status
	} else if a.c.left.Load() {
		status = 499
	} else {
		status = statusOf(err)
	}
	var why string
	switch {
	case up != nil && up.status != 0:
		why = up.reason
	case status == 504:
		why = a.tooLate()
	case a.control && status == 502:
		status, why = 503, "the connection to the provider broke: whether it has done what it was asked to do is not known"
	default:
		why = "the function's connection broke: " + reason(err)
	}
	keep = a.refuse(status, why)
	return a.status, keep
}

// reason is an error's text without addresses, which are nobody's business outside.
func reason(err error) string {
	var malformed *http1.Error
	switch {
	case errors.As(err, &malformed):
		return malformed.Reason
	case err == io.EOF, errors.Is(err, errTruncated):
		return "it closed before it answered"
	}
	return "it was reset"
}

// maxDeaths is how many replicas may end within one request that can be repeated. One can be chance.
const maxDeaths = 2

const endedReplicas = "the function's replicas broke the connection, one after the other"

// mayHaveEnded notes that the replica seems to have ended by this request, and reports whether that were too many. One
// that was told to stop does not count.
func (a *attempt) mayHaveEnded() bool {
	if !a.replica.Leaving() {
		a.deaths++
	}
	return a.deaths == maxDeaths
}
