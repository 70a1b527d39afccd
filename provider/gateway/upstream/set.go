package upstream

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"waggle/provider/feed"
)

// Set is one function: its replicas, what waits for them and what was counted. It outlives tables.
type Set struct {
	registry *Registry
	// Name and Namespace are the function's; Label is name.namespace, as metrics and logs have it.
	Name, Namespace, Label string
	// Stats is what the gateway keeps per function, made once by Config.NewStats.
	Stats any

	// Life is another, and greater, for a function that was removed and is here again.
	Life uint64
	// Started and Completed count invocations; the gateway adds to them.
	Started, Completed atomic.Uint64

	inflight atomic.Int64 // reservations of all replicas

	view atomic.Pointer[view]
	gone atomic.Bool // the function was removed
	// fixed sets have one replica that no table describes; it stays in rotation whatever happens to it.
	fixed bool
	// fromDNS sets were found by DNS; they end when that has nothing more to say, or a table has.
	fromDNS bool

	mu       sync.Mutex
	byID     map[string]*Replica // guarded by mu
	waiters  []*waiter           // guarded by mu; oldest first
	waiting  atomic.Int32        // len(waiters), written under mu
	lastWake time.Time           // guarded by mu; of the last wake asked for
	waking   bool                // guarded by mu
}

// view is what a pick reads. It is immutable.
type view struct {
	fn feed.Function
	// replicas can be picked; those on this node come first.
	replicas []*Replica
	locals   int
	// expected is the number of replicas that should be ready soon or already are: if 0, nobody will come by itself.
	expected int
}

// nodeMargin is how many more requests in flight a replica on this node may have than one elsewhere and still
// be preferred. The network costs a request more than a short queue does, but less than a long one.
const nodeMargin = 3

// scanAll is the number of replicas up to which a pick compares all; beyond, it draws two of each group.
const scanAll = 16

// Function is the function as the newest table has it.
func (s *Set) Function() *feed.Function { return &s.view.Load().fn }

// Ready is the number of replicas that can be picked.
func (s *Set) Ready() int { return len(s.view.Load().replicas) }

// Inflight is the number of requests being forwarded, those on replicas that have left the table included.
func (s *Set) Inflight() int { return int(s.inflight.Load()) }

// Queued is the number of requests waiting for a replica.
func (s *Set) Queued() int { return int(s.waiting.Load()) }

// Pick reserves the best replica that is not among tried, without waiting; nil if there is none.
// The caller must call Release on it exactly once.
func (s *Set) Pick(tried []*Replica) *Replica {
	// A pick can lose its choice to another pick that filled it or to a table that took it out. Each loss means
	// somebody else got on; the bound only keeps a storm from spinning.
	for range 8 {
		v := s.view.Load()
		r := v.best(tried)
		if r == nil {
			return nil
		}
		n := r.inflight.Add(1)
		s.inflight.Add(1)
		// Draining sets out first and reads the reservations afterwards; a pick does the opposite. So one of the two
		// sees the other, and a draining replica is never handed out.
		if !r.out.Load() && n <= r.room.Load() && (v.fn.MaxInflight <= 0 || n <= int64(v.fn.MaxInflight)) {
			return r
		}
		r.Release()
	}
	return nil
}

// best is the replica with the fewest requests in flight, on this node unless that is busier by more than nodeMargin.
func (v *view) best(tried []*Replica) *Replica {
	if len(v.replicas) == 1 {
		if r := v.replicas[0]; v.usable(r, tried) {
			return r
		}
		return nil
	}
	here := v.least(v.replicas[:v.locals], tried)
	there := v.least(v.replicas[v.locals:], tried)
	switch {
	case here == nil:
		return there
	case there == nil || here.inflight.Load() <= there.inflight.Load()+nodeMargin:
		return here
	}
	return there
}

func (v *view) least(group []*Replica, tried []*Replica) *Replica {
	n := uint32(len(group))
	if n == 0 {
		return nil
	}
	at := rand.Uint32N(n) // a random start spreads ties
	if n > scanAll {
		a, b := group[at], group[(at+1+rand.Uint32N(n-1))%n]
		if b.inflight.Load() < a.inflight.Load() {
			a = b
		}
		if v.usable(a, tried) {
			return a
		}
	}
	var best *Replica
	var load int64
	for range n {
		r := group[at]
		if at++; at == n {
			at = 0
		}
		if l := r.inflight.Load(); (best == nil || l < load) && v.usable(r, tried) {
			best, load = r, l
		}
	}
	return best
}

// usable reports whether a request that has tried others may go to r.
func (v *view) usable(r *Replica, tried []*Replica) bool {
	n := r.inflight.Load()
	if r.out.Load() || n >= r.room.Load() || v.fn.MaxInflight > 0 && n >= int64(v.fn.MaxInflight) {
		return false
	}
	for _, t := range tried {
		if t == r {
			return false
		}
	}
	return true
}

// apply takes over a function from a new table.
func (s *Set) apply(fn feed.Function) {
	s.mu.Lock()
	defer s.mu.Unlock()
	listed := make(map[string]bool, len(fn.Replicas))
	for _, f := range fn.Replicas {
		listed[f.ID] = true
		r := s.byID[f.ID]
		if r != nil && r.Address != f.Address {
			s.drop(r)
			r = nil
		}
		if r == nil {
			r = newReplica(s, f.ID, f.Address)
			r.local = f.Node != "" && f.Node == s.registry.cfg.Node
			r.out.Store(true)
			s.byID[f.ID] = r
		}
		r.state = f.State
		s.settle(r)
	}
	for id, r := range s.byID {
		if !listed[id] {
			s.drop(r)
		}
	}
	s.rebuild(&fn)
}

// settle makes what a pick sees of r agree with its state. It requires mu.
func (s *Set) settle(r *Replica) {
	switch {
	case !serves(r.state):
		r.out.Store(true)
		if r.state == feed.Draining {
			r.retire()
		}
	case r.trusted:
		r.reopen()
		r.out.Store(false)
	default:
		r.out.Store(true)
		s.registry.probe(r, 0)
	}
}

// drop forgets r; requests that it is serving finish. It requires mu.
func (s *Set) drop(r *Replica) {
	r.state = feed.Draining
	r.out.Store(true)
	r.retire()
	delete(s.byID, r.id)
}

// rebuild publishes what can be picked and lets every waiter look again. It requires mu. fn is nil to keep the function.
func (s *Set) rebuild(fn *feed.Function) {
	v := &view{}
	if fn != nil {
		v.fn = *fn
	} else {
		v.fn = s.view.Load().fn
	}
	for _, local := range []bool{true, false} {
		for _, f := range v.fn.Replicas {
			if r := s.byID[f.ID]; r != nil && r.local == local && !r.out.Load() {
				v.replicas = append(v.replicas, r)
			}
		}
		if local {
			v.locals = len(v.replicas)
		}
	}
	for _, f := range v.fn.Replicas {
		if f.State != feed.Draining {
			v.expected++
		}
	}
	s.view.Store(v)
	s.wakeAll()
}

// suspicion is why a replica leaves the rotation.
type suspicion string

const (
	refused suspicion = "refused"
	ejected suspicion = "ejected"
)

// suspect takes r out of rotation until a probe succeeds. It requires mu.
func (s *Set) suspect(r *Replica, why suspicion) {
	if s.fixed || !r.trusted || s.byID[r.id] != r {
		return
	}
	r.trusted = false
	r.out.Store(true)
	r.retire()
	s.rebuild(nil)
	s.registry.cfg.Ejected(s, r, string(why))
	s.registry.probe(r, s.registry.cfg.ProbeInterval)
}

// others reports whether the function has another replica that can be picked.
func (s *Set) others(r *Replica) bool {
	for _, o := range s.view.Load().replicas {
		if o != r && !o.out.Load() {
			return true
		}
	}
	return false
}
