package gateway

import (
	"sync"
	"time"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
	"waggle/provider/gateway/upstream"
)

const (
	// maxTries bounds how many replicas one request is offered to, counting those that refuse the connection.
	maxTries = 8
	// maxRepeats bounds how often one request is sent again after a replica may have seen it.
	maxRepeats = 2
)

// attempt is an attempt to have a request answered by a replica: the one under way, and what must be remembered of
// those before it. It uses the request to read on and to answer. The request knows nothing of it.
type attempt struct {
	*request

	// The attempt under way.
	replica    *upstream.Replica // reserved
	conn       *upstream.Conn
	sentBefore uint64       // conn.Written before this request
	out        *sock.Buffer // the head being written, either way
	up         *sock.Buffer // bytes from the replica: [ur:uw] unread
	ur, uw     int
	resp       http1.Response
	upload     *upload
	headSent   bool // a final response head has gone to the client, or part of one
	eof        bool // the replica has ended a body that only the end of its connection ends

	// What is remembered.
	tried   [maxTries]*upstream.Replica
	tries   int       // replicas in tried
	repeats int       // how often the request was sent again that a replica may have seen
	unsure  bool      // a kept connection broke after the request went out on it: closed before that, or by its replica's end
	deaths  int       // replicas that may have ended by this request
	noRoom  bool      // it was turned away for want of room until its time was up
	holdBy  time.Time // how long the request may wait for a replica, however often; zero: it has not waited

	over bool // run has returned, and not panicked
}

var attempts = sync.Pool{New: func() any { return new(attempt) }}

// forward has a replica answer the request. It returns the status for the metrics, sent or not, and whether the client's
// connection can go on.
func (rq *request) forward() (status int, keep bool) {
	a := attempts.Get().(*attempt)
	a.request = rq
	defer a.end()
	status, keep = a.run()
	a.over = true
	return status, keep
}

// end frees what is left. After a panic nobody knows what state the buffers are in, so they are left to the collector.
func (a *attempt) end() {
	if !a.over {
		if a.conn != nil {
			a.c.upstream.Store(nil)
			_ = a.conn.Close()
		}
		if a.replica != nil {
			a.replica.Release()
		}
		if a.up != nil {
			a.g.relayBudget.Give(int64(len(a.up.B)))
		}
		return
	}
	a.request.tries = a.tries + a.repeats + 1
	a.dropUp()
	a.dropOut()
	a.request, a.replica, a.conn, a.upload = nil, nil, nil, nil
	clear(a.tried[:])
	a.tries, a.repeats, a.deaths, a.holdBy = 0, 0, 0, time.Time{}
	a.noRoom, a.unsure, a.headSent, a.eof, a.over = false, false, false, false, false
	attempts.Put(a)
}

// run sends the request to a replica, and to another one where that is safe, and relays the response.
func (a *attempt) run() (status int, keep bool) {
	// A body that is still to come cannot be sent twice, so it does not go over a connection that may be stale.
	fresh := !a.complete
	for {
		if a.replica == nil {
			if err := a.acquire(); err != nil {
				keep := a.refuseSaying(statusOf(err), a.g.cfg.unserved(err), a.waitingText(err))
				return a.status, keep
			}
			fresh = !a.complete
		}
		conn, err := a.replica.Connect(fresh)
		if err != nil {
			if status, keep, ended := a.unconnected(err); ended {
				return status, keep
			}
			continue
		}
		switch err := a.exchange(conn); {
		case err == nil && a.turnedAway():
			a.retried("turned away")
		case err == nil && a.askAnother():
			a.retried("unwell")
		case err == nil:
			return a.relay()
		default:
			switch a.judge(err) {
			case sameReplica:
				a.retried("stale connection")
				a.discard()
				fresh = true
			case otherReplica:
				a.retried("broken connection")
				a.discard()
				if a.giveUp() {
					return 502, a.refuse(502, "the function's connection broke")
				}
			default:
				return a.fail(err)
			}
		}
	}
}

// unconnected goes on after a connection could not be made: nothing was sent. ended says that the client has been answered.
func (a *attempt) unconnected(err error) (status int, keep, ended bool) {
	a.replica.Refused(err)
	if a.unsure && a.mayHaveEnded() {
		a.giveUp()
		return 502, a.refuse(502, endedReplicas), true
	}
	a.unsure = false
	if a.giveUp() {
		return 503, a.refuse(503, "no connection could be made"), true
	}
	a.retried("refused")
	return 0, false, false
}

// exchange sends the request over a connection and reads the head of the response.
func (a *attempt) exchange(conn *upstream.Conn) error {
	a.conn, a.sentBefore = conn, conn.Written
	a.c.upstream.Store(conn)
	a.limitUpstream()
	if err := a.send(); err != nil {
		return err
	}
	return a.readHead()
}

// discard closes the upstream connection, which cannot be used again.
func (a *attempt) discard() {
	a.c.detach(a.conn, a.g.cfg.UpstreamTimeout)
	_ = a.conn.Close()
	a.conn = nil
	a.dropUp()
}

func (a *attempt) dropUp() {
	if a.up != nil {
		a.g.giveBack(a.up)
	}
	a.up, a.ur, a.uw = nil, 0, 0
}

func (a *attempt) dropOut() {
	putBuffer(a.out)
	a.out = nil
}

// takeOut makes a.out a buffer of at least size bytes.
func (a *attempt) takeOut(size int) {
	if a.out != nil && len(a.out.B) >= size {
		return
	}
	a.dropOut()
	a.out = poolOf(size).Get().(*sock.Buffer)
}
