package gateway

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
	"waggle/provider/gateway/upstream"
)

const (
	// maxTries bounds how many replicas one request is offered to, counting those that refuse the connection.
	maxTries = 8
	// maxRepeats bounds how often one request is sent again after a replica may have seen it. It is small because a
	// request that kills its replica should not go on to kill them all.
	maxRepeats = 2
)

// errTruncated is a message that is not whole.
var errTruncated = errors.New("connection ended within a response")

// forward sends the request to a replica, and to another one where that is safe, and relays the response.
// It returns the status for the metrics, sent or not, and whether the client's connection can go on.
func (ex *exchange) forward() (status int, keep bool) {
	for {
		if err := ex.acquire(); err != nil {
			keep := ex.refuse(statusOf(err), err.Error())
			return ex.status, keep
		}
		// A body that is still to come cannot be sent twice, so it does not go over a connection that may be stale.
		fresh := !ex.complete
	again:
		ex.before = 0
		conn, err := ex.replica.Connect(fresh)
		if err != nil {
			ex.replica.Refused(err)
			if ex.unsure && ex.mayHaveEnded() {
				ex.giveUp()
				return 502, ex.refuse(502, endedReplicas)
			}
			ex.unsure = false
			if ex.giveUp() {
				return 503, ex.refuse(503, "no connection could be made")
			}
			ex.retried("refused")
			continue
		}
		ex.conn, ex.before = conn, conn.Written
		ex.c.upstream.Store(conn)
		ex.limitUpstream()
		err = ex.send()
		if err == nil {
			err = ex.readHead()
		}
		if err == nil {
			if ex.turnedAway() {
				ex.retried("turned away")
				continue
			}
			if ex.askAnother() {
				ex.retried("unwell")
				continue
			}
			return ex.relay()
		}
		switch ex.judge(err) {
		case sameReplica:
			ex.retried("stale connection")
			ex.discard()
			fresh = true
			goto again
		case otherReplica:
			ex.retried("broken connection")
			ex.discard()
			if ex.giveUp() {
				return 502, ex.refuse(502, "the function's connection broke")
			}
			continue
		}
		return ex.fail(err)
	}
}

// acquire reserves a replica, waiting if it has to.
func (ex *exchange) acquire() error {
	if ex.deaths > 0 {
		return ex.acquireSpare()
	}
	if ex.replica = ex.set.Pick(ex.tried[:ex.tries]); ex.replica != nil {
		return nil
	}
	if ex.control {
		return upstream.ErrNotReady
	}
	// A replica that failed this request is still better than none, as long as it is in rotation.
	if ex.tries > 0 {
		if ex.replica = ex.set.Pick(nil); ex.replica != nil {
			return nil
		}
	}
	ex.hold()
	ex.c.limit(0) // Wait has its own deadline
	var err error
	ex.replica, err = ex.set.Wait(ex.tried[:ex.tries], ex.holdBy, ex.c.leaving())
	return err
}

// acquireSpare reserves a replica for a request of which another one may have ended: never the last.
func (ex *exchange) acquireSpare() error {
	ex.hold()
	ex.c.limit(0) // WaitSpare has its own deadline
	var err error
	ex.replica, err = ex.set.WaitSpare(ex.tried[:ex.tries], ex.holdBy, ex.c.leaving())
	return err
}

// maxDeaths is how many replicas may end within one request that can be repeated. One can be chance.
const maxDeaths = 2

const endedReplicas = "the function's replicas broke the connection, one after the other"

// mayHaveEnded notes that the replica seems to have ended by this request, and reports whether that were too many. One
// that was told to stop does not count.
func (ex *exchange) mayHaveEnded() bool {
	if !ex.replica.Leaving() {
		ex.deaths++
	}
	return ex.deaths == maxDeaths
}

// timeoutMargin is what a function's own timeout is given beyond it, so that its own answer to a call that took too long
// arrives.
const timeoutMargin = 2 * time.Second

// silence is how long the upstream may let this request wait for bytes, and by which setting; 0: as long as it likes,
// since an inner caller keeps the time itself (async_run_timeout, async_callback_timeout).
func (ex *exchange) silence() (most Duration, setting string) {
	cfg := &ex.g.cfg
	if ex.c.inner {
		return 0, ""
	}
	most, setting = cfg.UpstreamTimeout, "the gateway's upstream_timeout"
	if ex.control {
		return most, setting
	}
	fn := ex.set.Function()
	for _, own := range [...]struct {
		value time.Duration
		name  string
	}{{fn.ExecTimeout, "its own exec_timeout"}, {fn.WriteTimeout, "its own write_timeout"}} {
		raised, by := own.value+timeoutMargin, own.name
		if raised > cfg.MaxUpstreamTimeout {
			raised, by = cfg.MaxUpstreamTimeout, "the gateway's max_upstream_timeout"
		}
		if own.value > 0 && raised > most {
			most, setting = raised, by
		}
	}
	return most, setting
}

// limitUpstream gives the upstream the time for its next bytes.
func (ex *exchange) limitUpstream() {
	most, _ := ex.silence()
	ex.c.limit(most)
}

// tooLate says which setting ended the wait.
func (ex *exchange) tooLate() string {
	who := "the function"
	if ex.control {
		who = "the provider"
	}
	most, setting := ex.silence()
	return fmt.Sprintf("%s sent nothing for %s: that is %s", who, most, setting)
}

// hold begins the time for which the request may wait, unless it has begun.
func (ex *exchange) hold() {
	if ex.holdBy.IsZero() {
		if ex.g.cfg.HoldTimeout > 0 {
			ex.g.metrics.happened(ex.g.metrics.held, ex.set.Label)
		}
		ex.holdBy = time.Now().Add(time.Duration(ex.g.cfg.HoldTimeout))
	}
}

// giveUp releases the replica, notes that it was tried, and reports whether there is nothing left to try.
func (ex *exchange) giveUp() bool {
	r := ex.replica
	ex.replica = nil
	if ex.tries < len(ex.tried) {
		ex.tried[ex.tries] = r
		ex.tries++
	}
	r.Release()
	return ex.control || ex.tries == len(ex.tried)
}

func (ex *exchange) retried(why string) {
	if !ex.control {
		ex.g.metrics.happened(ex.g.metrics.retries, ex.set.Label, why)
	}
}

// discard closes the upstream connection, which cannot be used again.
func (ex *exchange) discard() {
	ex.c.detach(ex.conn, ex.g.cfg.UpstreamTimeout)
	_ = ex.conn.Close()
	ex.conn = nil
	ex.dropUp()
}

// smallBody fits into the receive buffer of any peer.
const smallBody = 16 << 10

// send writes the head and what there is of the body, and leaves the rest to an upload.
func (ex *exchange) send() error {
	if !ex.complete || ex.body-ex.head > smallBody {
		ex.conn.Patient()
	}
	head := ex.requestHead(ex.replica.Address)
	err := ex.conn.Write(head, ex.in.B[ex.head:ex.body])
	ex.dropOut()
	if err == nil && !ex.complete {
		ex.startUpload()
	}
	return err
}

// readHead reads the head of the final response. Interim ones go to the client, which may be waiting for one.
func (ex *exchange) readHead() error {
	toHEAD := string(ex.req.Method) == "HEAD"
	for {
		if ex.uw > ex.ur {
			n, perr := ex.resp.Parse(ex.up.B[ex.ur:ex.uw], toHEAD)
			switch {
			case n > ex.g.cfg.MaxResponseHeader:
				return ex.headTooLong()
			case perr != nil:
				return perr
			case n > 0 && ex.resp.Status >= 200, n > 0 && ex.resp.Status == 101:
				ex.ur += n
				return nil
			case n > 0:
				if err := ex.relayInterim(ex.up.B[ex.ur : ex.ur+n]); err != nil {
					return err
				}
				ex.ur += n
				continue
			}
		}
		if err := ex.readUp(); err != nil {
			return err
		}
	}
}

// readUp reads more from the replica, behind what is there.
func (ex *exchange) readUp() error {
	if ex.ur == ex.uw {
		ex.dropUp()
		b, n, err := ex.g.borrow(ex.conn.Conn)
		ex.up, ex.ur, ex.uw = b, 0, n
		return err
	}
	if ex.ur > 0 {
		ex.uw = copy(ex.up.B, ex.up.B[ex.ur:ex.uw])
		ex.ur = 0
	}
	most := ex.g.cfg.MaxResponseHeader
	if ex.uw >= most {
		return ex.headTooLong()
	}
	if ex.uw == len(ex.up.B) {
		wider := poolOf(min(2*len(ex.up.B), most)).Get().(*sock.Buffer)
		copy(wider.B, ex.up.B)
		putBuffer(ex.up)
		ex.up = wider
	}
	n, err := ex.conn.Read(ex.up.B[ex.uw:min(most, len(ex.up.B))])
	ex.uw += n
	if err == io.EOF {
		err = errTruncated
	}
	return err
}

func (ex *exchange) headTooLong() error {
	return &http1.Error{Status: 502, Reason: fmt.Sprintf("response head is too long: legal are %d bytes, the gateway's max_response_header_bytes",
		ex.g.cfg.MaxResponseHeader)}
}

// relayInterim passes a 1xx response on, to clients that know them.
func (ex *exchange) relayInterim(head []byte) error {
	if ex.req.Minor == 0 || ex.resp.Status == 100 && !ex.req.Expect {
		return nil
	}
	b := append(make([]byte, 0, len(head)+16), "HTTP/1.1 "...)
	b = append(b, ex.resp.Line...)
	b = append(b, "\r\n"...)
	b = ex.resp.AppendKept(b)
	b = append(b, "\r\n"...)
	if err := ex.c.sock.Write(b, nil); err != nil {
		ex.c.left.Store(true)
		return err
	}
	return nil
}

// verdict is what to do about an exchange that broke before a response.
type verdict uint8

const (
	hopeless verdict = iota
	sameReplica
	otherReplica
)

// judge says whether the request can be sent again. It can if the replica provably has not received it, whatever it
// asks for; and if twice is harmless: by its method (RFC 9110 §9.2.2) or because the function says so.
func (ex *exchange) judge(err error) verdict {
	var malformed *http1.Error
	timedOut := errors.Is(err, os.ErrDeadlineExceeded)
	if ex.clientFault(err) || ex.c.left.Load() || ex.control && !ex.conn.Reused {
		return hopeless
	}
	switch {
	case timedOut:
		ex.replica.Failed()
	case !ex.conn.Reused:
		ex.replica.Broke()
	}
	switch {
	case timedOut, errors.As(err, &malformed), !ex.complete, ex.uw > ex.ur, ex.repeats == maxRepeats, ex.tries == maxTries-1:
		return hopeless
	case ex.conn.Reused && ex.neverArrived(err):
		return sameReplica
	case !ex.harmless():
		return hopeless
	case ex.conn.Reused:
		ex.repeats, ex.unsure = ex.repeats+1, true
		return sameReplica
	case ex.mayHaveEnded():
		return hopeless
	}
	ex.repeats++
	return otherReplica
}

// neverArrived asks the kernel. A peer that closed the connection as we wrote answers the data with a reset, which may
// be a round trip away.
func (ex *exchange) neverArrived(ended error) bool {
	for range 10 {
		certain, pending := ex.conn.NeverArrived(ex.before, ended)
		if certain || !pending {
			return certain
		}
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // the kernel tells nobody when a reset arrives; 20 ms in all
	}
	return false
}

// harmless reports whether processing the request twice does no harm.
func (ex *exchange) harmless() bool {
	switch string(ex.req.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return !ex.control && ex.set.Function().Idempotent
}

// turnedAway reports whether the replica had no room for the request (429 from infrastructure, so the function never saw
// it), and prepares for another try: at another replica, or here once a place is free. Other gateways fill replicas as
// well, so the bound on requests in flight that this one keeps to does not rule that out.
func (ex *exchange) turnedAway() bool {
	if ex.control || ex.resp.Status != 429 || !ex.resp.Has[http1.Internal] || !ex.complete || ex.passedOn() {
		return false
	}
	ex.replica.TurnedAway()
	if ex.hold(); !time.Now().Before(ex.holdBy) {
		return false
	}
	ex.discard()
	ex.replica.Release()
	ex.replica = nil
	return true
}

// passedOn reports whether a part of the system has answered, but not this replica's: the function got that answer through
// a gateway, while it worked on the request, and passes it on.
func (ex *exchange) passedOn() bool {
	fields := ex.resp.All()
	for i := range fields {
		if f := &fields[i]; f.Kind == http1.Internal && http1.EqualFold(ex.resp.Value(f), "gateway") {
			return true
		}
	}
	return false
}

// askAnother reports whether another replica should be asked, since this one cannot serve at the moment (503) and the
// request may be repeated, and prepares for that. There must be another one; otherwise this is the answer.
func (ex *exchange) askAnother() bool {
	if ex.control || ex.resp.Status != 503 {
		return false
	}
	ex.replica.Unwell()
	if !ex.complete || ex.repeats == maxRepeats || ex.tries >= maxTries-1 || !ex.harmless() {
		return false
	}
	ex.tried[ex.tries] = ex.replica
	other := ex.set.Pick(ex.tried[:ex.tries+1])
	if other == nil {
		ex.tried[ex.tries] = nil
		return false
	}
	other.Release()
	ex.repeats++
	ex.discard()
	ex.giveUp() // never the last try: see above
	return true
}

// fail ends an exchange that broke before a response and answers the client.
func (ex *exchange) fail(err error) (status int, keep bool) {
	ex.discard()
	up := ex.stopUpload()
	if ex.replica != nil {
		ex.replica.Release()
		ex.replica = nil
	}
	if up != nil && up.status != 0 {
		status = up.status
	} else if ex.c.left.Load() {
		status = 499
	} else {
		status = statusOf(err)
	}
	var why string
	switch {
	case up != nil && up.status != 0:
		why = up.reason
	case status == 504:
		why = ex.tooLate()
	case ex.control && status == 502:
		status, why = 503, "the connection to the provider broke: whether it has done what it was asked to do is not known"
	default:
		why = "the function's connection broke: " + reason(err)
	}
	keep = ex.refuse(status, why)
	return ex.status, keep
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

// lastChunk ends a chunked body.
var lastChunk = []byte("0\r\n\r\n")

var crlf = []byte("\r\n")
