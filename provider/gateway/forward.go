package gateway

import (
	"errors"
	"fmt"
	"io"
	"time"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/upstream"
)

// errTruncated is a message that is not whole.
var errTruncated = errors.New("connection ended within a response")

// acquire reserves a replica, waiting if it has to.
func (a *attempt) acquire() error {
	if a.noRoom {
		return upstream.ErrBusy
	}
	if a.deaths > 0 {
		return a.acquireSpare()
	}
	if a.replica = a.set.Pick(a.tried[:a.tries]); a.replica != nil {
		return nil
	}
	if a.control {
		return upstream.ErrNotReady
	}
	// A replica that failed this request is still better than none, as long as it is in rotation.
	if a.tries > 0 {
		if a.replica = a.set.Pick(nil); a.replica != nil {
			return nil
		}
	}
	a.hold()
	a.c.limit(0) // Wait has its own deadline
	until := a.pageBy()
	var err error
	a.replica, err = a.set.Wait(a.tried[:a.tries], until, a.c.leaving())
	if errors.Is(err, upstream.ErrBusy) && until.Before(a.holdBy) {
		// The page is for a function that starts. A busy one answers sooner if the request keeps its place.
		a.replica, err = a.set.Wait(a.tried[:a.tries], a.holdBy, a.c.leaving())
	}
	return err
}

// pageBy is until when the request waits for a function that starts: a browser gets the waiting page before holdBy.
func (a *attempt) pageBy() time.Time {
	page := time.Now().Add(a.g.cfg.WaitingPageAfter)
	if page.Before(a.holdBy) && !a.set.Function().HoldBrowsers && a.isBrowser() {
		return page
	}
	return a.holdBy
}

// acquireSpare reserves a replica for a request of which another one may have ended: never the last.
func (a *attempt) acquireSpare() error {
	a.hold()
	a.c.limit(0) // WaitSpare has its own deadline
	var err error
	a.replica, err = a.set.WaitSpare(a.tried[:a.tries], a.holdBy, a.c.leaving())
	return err
}

// timeoutMargin is what a function's own timeout is given beyond it, so that its own answer to a call that took too long
// arrives.
const timeoutMargin = 2 * time.Second

// silence is how long the upstream may let this request wait for bytes, and by which setting. 0 means no bound: an
// inner caller keeps the time itself (async_run_timeout, async_callback_timeout).
func (a *attempt) silence() (most time.Duration, setting string) {
	cfg := &a.g.cfg
	if a.c.inner {
		return 0, ""
	}
	most, setting = cfg.UpstreamTimeout, "the gateway's upstream_timeout"
	if a.control {
		return most, setting
	}
	fn := a.set.Function()
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
func (a *attempt) limitUpstream() {
	most, _ := a.silence()
	a.c.limit(most)
}

// tooLate says which setting ended the wait.
func (a *attempt) tooLate() string {
	who := "the function"
	if a.control {
		who = "the provider"
	}
	most, setting := a.silence()
	return fmt.Sprintf("%s sent nothing for %s: that is %s", who, most, setting)
}

// hold begins the time for which the request may wait, unless it has begun.
func (a *attempt) hold() {
	if a.holdBy.IsZero() {
		if a.g.cfg.HoldTimeout > 0 {
			a.g.metrics.happened(a.g.metrics.held, a.set.Label)
		}
		a.holdBy = time.Now().Add(a.g.cfg.HoldTimeout)
	}
}

// giveUp releases the replica, notes that it was tried, and reports whether there is nothing left to try.
func (a *attempt) giveUp() bool {
	r := a.replica
	a.replica = nil
	if a.tries < len(a.tried) {
		a.tried[a.tries] = r
		a.tries++
	}
	r.Release()
	return a.control || a.tries == len(a.tried)
}

func (a *attempt) retried(why string) {
	if !a.control {
		a.g.metrics.happened(a.g.metrics.retries, a.set.Label, why)
	}
}

// smallBody fits into the receive buffer of any peer.
const smallBody = 16 << 10

// send writes the head and what there is of the body, and leaves the rest to an upload.
func (a *attempt) send() error {
	if !a.complete || a.body-a.head > smallBody {
		a.conn.Patient()
	}
	head := a.requestHead(a.replica.Address)
	err := a.conn.Write(head, a.in.B[a.head:a.body])
	a.dropOut()
	if err == nil && !a.complete {
		a.startUpload()
	}
	return err
}

// readHead reads the head of the final response. Interim ones go to the client, which may be waiting for one.
func (a *attempt) readHead() error {
	toHEAD := string(a.req.Method) == "HEAD"
	for {
		if a.uw > a.ur {
			n, perr := a.resp.Parse(a.up.B[a.ur:a.uw], toHEAD)
			switch {
			case n > a.g.cfg.MaxResponseHeader:
				return a.headTooLong()
			case perr != nil:
				return perr
			case n > 0 && a.resp.Status >= 200, n > 0 && a.resp.Status == 101:
				a.ur += n
				return nil
			case n > 0:
				if err := a.relayInterim(a.up.B[a.ur : a.ur+n]); err != nil {
					return err
				}
				a.ur += n
				continue
			}
		}
		if err := a.readUp(); err != nil {
			return err
		}
	}
}

// readUp reads more from the replica, behind what is there.
func (a *attempt) readUp() error {
	if a.ur == a.uw {
		a.dropUp()
		b, n, err := a.g.borrow(a.conn.Conn)
		a.up, a.ur, a.uw = b, 0, n
		return err
	}
	if a.ur > 0 {
		a.uw = copy(a.up.B, a.up.B[a.ur:a.uw])
		a.ur = 0
	}
	most := a.g.cfg.MaxResponseHeader
	if a.uw >= most {
		return a.headTooLong()
	}
	if a.uw == len(a.up.B) {
		a.up = a.g.widen(a.up, min(2*len(a.up.B), most))
	}
	n, err := a.conn.Read(a.up.B[a.uw:min(most, len(a.up.B))])
	a.uw += n
	if err == io.EOF {
		err = errTruncated
	}
	return err
}

func (a *attempt) headTooLong() error {
	return &http1.Error{Status: 502, Reason: fmt.Sprintf("response head is too long: legal are %d bytes, the gateway's max_response_header_bytes",
		a.g.cfg.MaxResponseHeader)}
}

// relayInterim passes a 1xx response on, to clients that know them.
func (a *attempt) relayInterim(head []byte) error {
	if a.req.Minor == 0 || a.resp.Status == 100 && !a.req.Expect {
		return nil
	}
	b := append(make([]byte, 0, len(head)+16), "HTTP/1.1 "...)
	b = append(b, a.resp.Line...)
	b = append(b, "\r\n"...)
	b = a.resp.AppendKept(b)
	b = append(b, "\r\n"...)
	if err := a.c.sock.Write(b, nil); err != nil {
		a.c.left.Store(true)
		return err
	}
	return nil
}
