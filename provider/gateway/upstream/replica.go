package upstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"waggle/provider/feed"
	"waggle/provider/gateway/sock"
)

// Replica is one place that answers for a function. Its state outlives tables: a table names it by its task's id.
type Replica struct {
	set     *Set
	id      string
	Address string
	local   bool // on this gateway's node

	inflight atomic.Int64
	// room is how many requests this gateway may have on the replica, apart from the function's max_inflight. See TurnedAway.
	room atomic.Int64
	// out is set while the replica must not be picked: draining, gone, or not (or no longer) trusted.
	out atomic.Bool
	// doubtful is set when a connection broke after a request was delivered on it, until the replica has answered a probe.
	doubtful atomic.Bool
	// failures counts failed exchanges in a row.
	failures atomic.Int32

	// Guarded by set.mu.
	state   feed.State
	trusted bool
	probing bool // a probe decides whether the replica can be trusted
	// silentSince is when the first of the probes failed that have all failed since, silence why the last one did.
	silentSince time.Time
	silence     string

	mu     sync.Mutex
	idle   []*Conn // guarded by mu; newest last
	closed bool    // guarded by mu; retired: connections are closed instead of kept
}

func newReplica(s *Set, id, address string) *Replica {
	r := &Replica{set: s, id: id, Address: address}
	r.room.Store(unlimited)
	return r
}

// Conn is a connection to a replica, owned by one exchange at a time.
type Conn struct {
	*sock.Conn
	idleSince time.Time
	// Reused is set once the connection has carried an exchange before.
	Reused  bool
	patient bool
}

// Patient lifts the limit on silence, for a body that may not fit into the peer's buffers. To the kernel, a
// function that reads it slowly looks like a dead host.
func (c *Conn) Patient() {
	if !c.patient {
		c.patient = true
		c.LimitSilence(0)
	}
}

// Release ends one reservation made by a pick and lets a waiting request have the place.
func (r *Replica) Release() {
	r.inflight.Add(-1)
	r.set.inflight.Add(-1)
	if r.set.waiting.Load() > 0 {
		r.set.wakeOne()
	}
}

// Inflight is the number of reservations.
func (r *Replica) Inflight() int64 { return r.inflight.Load() }

// ID names the replica in logs and metrics.
func (r *Replica) ID() string { return r.id }

// silence is how long a peer's kernel may leave bytes unacknowledged. It says nothing about how long a function may
// think: a kernel acknowledges at once.
const silence = 5 * time.Second

// Connect takes an idle connection, or dials if there is none or fresh is set. The error is always that of a dial:
// nothing was sent. A connection is checked before it is used again. Its replica may have closed it, or sent more
// than its last response (a body to HEAD). Such bytes must not become the answer to another request.
func (r *Replica) Connect(fresh bool) (*Conn, error) {
	for !fresh {
		c := r.takeIdle()
		if c == nil {
			break
		}
		if c.Quiet() {
			return c, nil
		}
		_ = c.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.set.registry.cfg.DialTimeout)
	defer cancel()
	nc, err := r.set.registry.cfg.Dial(ctx, r.Address)
	if err != nil {
		return nil, fmt.Errorf("connecting to replica %s: %w", r.id, err)
	}
	if tcp, ok := nc.(*net.TCPConn); ok {
		// A peer that vanished is noticed by its silence, not by our waiting. TCP's probes find it on an idle
		// connection, unacknowledged bytes where a request was sent.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3})
	}
	c := &Conn{Conn: sock.New(nc)}
	c.LimitSilence(silence)
	return c, nil
}

func (r *Replica) takeIdle() *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.idle)
	if n == 0 {
		return nil
	}
	c := r.idle[n-1]
	r.idle[n-1] = nil
	r.idle = r.idle[:n-1]
	return c
}

// Keep gives a connection back whose exchange ended in order, for the next one.
func (r *Replica) Keep(c *Conn) {
	if c.patient {
		c.patient = false
		c.LimitSilence(silence)
	}
	c.Reused = true
	c.idleSince = time.Now()
	r.mu.Lock()
	keep := !r.closed && len(r.idle) < r.set.registry.cfg.MaxIdlePerReplica
	if keep {
		r.idle = append(r.idle, c)
	}
	r.mu.Unlock()
	if !keep {
		_ = c.Close()
	}
}

// retire closes the idle connections, now and whenever one comes back; reopen ends that.
func (r *Replica) retire() {
	r.mu.Lock()
	idle := r.idle
	r.idle, r.closed = nil, true
	r.mu.Unlock()
	for _, c := range idle {
		_ = c.Close()
	}
}

func (r *Replica) reopen() {
	r.mu.Lock()
	r.closed = false
	r.mu.Unlock()
}

// sweep closes connections that have been idle for longer than limit or that the replica has closed.
func (r *Replica) sweep(now time.Time, limit time.Duration) {
	r.mu.Lock()
	var drop []*Conn
	kept := r.idle[:0]
	for _, c := range r.idle {
		if now.Sub(c.idleSince) > limit || !c.Quiet() {
			drop = append(drop, c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(r.idle[len(kept):])
	r.idle = kept
	r.mu.Unlock()
	for _, c := range drop {
		_ = c.Close()
	}
}

// Broke notes that a connection broke after a request was delivered on it, as when the replica dies of the
// request. A probe decides whether it stays in rotation.
func (r *Replica) Broke() {
	r.doubtful.Store(true)
	r.Failed()
	r.set.check(r)
}

// Leaving reports whether the replica is no longer meant to run, so that its end is nobody's fault.
func (r *Replica) Leaving() bool {
	r.set.mu.Lock()
	defer r.set.mu.Unlock()
	return r.state != feed.Ready || r.set.byID[r.id] != r
}

// Failed notes that an exchange failed after it was sent, so that the replica may be at fault. The third in a row takes
// it out of rotation until a probe succeeds, unless it is the function's last: a doubtful replica beats none.
func (r *Replica) Failed() {
	if r.failures.Add(1) >= maxFailures && r.set.others(r) {
		r.set.mu.Lock()
		r.set.suspect(r, ejected)
		r.set.mu.Unlock()
	}
}

// Late notes that a request waited in vain for an answer. A probe tells at once whether the replica hangs, if the function
// has another one. Otherwise three requests in a row would have to wait in vain.
func (r *Replica) Late() {
	r.Failed()
	r.Deserted()
}

// Deserted notes that a client gave up its wait for an answer. That says nothing of a replica by itself: a probe decides,
// if the function has another one.
func (r *Replica) Deserted() {
	if r.set.others(r) {
		r.set.check(r)
	}
}

// Answered notes that the replica gave an answer.
func (r *Replica) Answered() {
	if r.failures.Load() != 0 {
		r.failures.Store(0)
	}
}

// Refused notes that no connection could be made, and why: the replica leaves the rotation at once, unless the fault
// is on this side.
func (r *Replica) Refused(err error) {
	for _, ours := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, ours) {
			return
		}
	}
	r.set.mu.Lock()
	r.set.suspect(r, refused)
	r.set.mu.Unlock()
}

// TurnedAway notes that the replica refused a request for want of room, which other gateways use as well. It must be
// called before the request's Release. This gateway keeps to what it has there by then: further requests wait for the end
// of one of those. As long as some wait, it tries twice as many each growEvery.
func (r *Replica) TurnedAway() {
	if r.room.Swap(max(r.inflight.Load()-1, 0)) == unlimited {
		time.AfterFunc(growEvery, r.grow)
	}
}

func (r *Replica) grow() {
	room := r.room.Load()
	more := 2*room + 1
	if r.set.waiting.Load() == 0 || more > maxRoom {
		more = unlimited
	}
	// One that was turned away meanwhile knows better.
	if !r.room.CompareAndSwap(room, more) || more != unlimited {
		time.AfterFunc(growEvery, r.grow)
	}
	r.set.mu.Lock()
	r.set.wakeAll()
	r.set.mu.Unlock()
}

const (
	// growEvery is some round trips to a replica that answers quickly.
	growEvery = 50 * time.Millisecond
	// maxRoom is more than a replica ever serves at once.
	maxRoom   = 1 << 20
	unlimited = math.MaxInt64
)

// Unwell notes that the replica said it cannot serve (503): a probe decides whether it stays in rotation.
func (r *Replica) Unwell() { r.set.check(r) }

// maxFailures is low because each costs a client an error; two can be chance.
const maxFailures = 3
