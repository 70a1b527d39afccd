package async

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"
)

// kind is what an attempt does; each has its own lanes and its own bound.
type kind uint8

const (
	invocation kind = iota
	callback
	kinds
)

func (s state) kind() kind {
	if s.Phase == delivering {
		return callback
	}
	return invocation
}

// life is where an entry stands in this process. Redis has a call from the end of storing on.
//
//	from      to        by
//	-         storing   reserve: a client waits for Redis
//	storing   waiting   admit: Redis has it, the client is told 202
//	storing   -         drop: Redis refused it
//	waiting   running   claim: it is due, and the bounds allow it
//	running   waiting   requeue: another attempt, or the delivery of the result
//	running   resting   bury: a dead letter
//	running   -         drop: it has succeeded, or was cancelled
//	waiting   running   cancel: it is being removed, without a place among those that run
//	resting   storing   exhume: an operator queues it again, or removes it
//
// What waits or rests is outdated while another process may have changed it in Redis; then it is read again.
type life uint8

const (
	storing life = iota // Redis has not confirmed it
	waiting             // in its lane
	running             // an attempt, or its removal, is under way
	resting             // a dead letter
)

// entry is one call as the index knows it. The bodies stay in Redis. Everything but id and account is guarded by the
// index; whoever runs it may read the rest.
type entry struct {
	id      string
	account *account
	state   state
	due     int64 // Unix ms
	order   uint64
	at      int // in its lane; -1: nowhere
	life    life
	// round is the index's when state and due were set.
	round uint64

	kind      kind // of the attempt under way
	slot      bool // it counts as running
	cancelled bool
	doomed    bool                    // cancelled once, and perhaps removed from Redis
	stop      context.CancelCauseFunc // of the attempt under way; nil at first
	over      chan struct{}           // closed at its end
}

// lane is what waits for one kind of attempt of one function, soonest first.
type lane []*entry

func (l lane) Len() int { return len(l) }
func (l lane) Less(i, j int) bool {
	return l[i].due < l[j].due || l[i].due == l[j].due && l[i].order < l[j].order
}
func (l lane) Swap(i, j int) { l[i], l[j] = l[j], l[i]; l[i].at, l[j].at = i, j }

// Push implements heap.Interface.
func (l *lane) Push(x any) { e := x.(*entry); e.at = len(*l); *l = append(*l, e) }

// Pop implements heap.Interface.
func (l *lane) Pop() any {
	last := len(*l) - 1
	e := (*l)[last]
	(*l)[last], e.at = nil, -1
	*l = (*l)[:last]
	return e
}

// account is one function's.
type account struct {
	function string
	queued   int // all but dead letters
	lanes    [kinds]lane
	running  [kinds]int
	// missing is since when the replica table has had no such function; zero: it has.
	missing time.Time
}

type bounds struct {
	queued, queuedEach int
	running            [kinds]int
}

// index is every call of this queue by id, and what is due next. It is for concurrent use.
type index struct {
	bounds bounds
	// wake has a value whenever something may have become claimable.
	wake chan struct{}

	mu       sync.Mutex
	byID     map[string]*entry
	accounts map[string]*account
	turns    []*account // every account; claims go round
	turn     int
	queued   int // all but dead letters
	dead     int
	running  [kinds]int
	left     uint64 // how many have ever stopped being queued
	orders   uint64
	round    uint64 // goes up when what waits and rests may have been changed in Redis by another process
	// named holds the functions that have had calls, for whoever keeps something about them; true: gone gave it once.
	named map[string]bool
}

func newIndex(b bounds) *index {
	return &index{bounds: b, wake: make(chan struct{}, 1), byID: make(map[string]*entry), accounts: make(map[string]*account),
		named: make(map[string]bool)}
}

func (x *index) signal() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// reserve makes room for a call that is about to be stored, or says which bound forbids it.
func (x *index) reserve(id, function string) (*entry, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.byID[id]; e != nil && e.life == storing {
		return nil, refuse(503, "a call with X-Call-Id %s is being stored at this moment: whether it will be accepted is not known yet", id)
	} else if e != nil {
		return nil, refuse(409, "X-Call-Id %s is the id of another call that is queued, running or a dead letter", id)
	}
	if x.queued >= x.bounds.queued {
		return nil, refuse(429, "the queue is full: legal are %d calls (async_max_queued)", x.bounds.queued)
	}
	if a := x.accounts[function]; a != nil && a.queued >= x.bounds.queuedEach {
		return nil, refuse(429, "the queue of %s is full: legal are %d calls of one function (async_max_queued_per_function)", function, x.bounds.queuedEach)
	}
	return x.add(id, function), nil
}

// add requires mu.
func (x *index) add(id, function string) *entry {
	a := x.accounts[function]
	if a == nil {
		a = &account{function: function}
		x.accounts[function] = a
		x.named[function] = false
		x.turns = append(x.turns, a)
	}
	x.orders++
	e := &entry{id: id, account: a, at: -1, order: x.orders}
	a.queued++
	x.queued++
	x.byID[id] = e
	return e
}

// admit lets a call that is stored wait. It serves the new and the ones that load finds.
func (x *index) admit(e *entry, st state, due int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.enter(e, st, due)
}

// enter requires mu.
func (x *index) enter(e *entry, st state, due int64) {
	e.state, e.due, e.life, e.round = st, due, waiting, x.round
	heap.Push(&e.account.lanes[st.kind()], e)
	x.signal()
}

// found adds what Redis holds and the index does not.
func (x *index) found(id string, st state, due int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.isUnknown(id) {
		return
	}
	if e := x.byID[id]; e != nil {
		x.forget(e)
	}
	e := x.add(id, st.Function)
	if st.Phase == buried {
		x.rest(e, st)
		return
	}
	x.enter(e, st, due)
}

// unknown gives those of ids that the index does not have, or only as they may no longer be.
func (x *index) unknown(ids []string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !x.isUnknown(id) })
}

// isUnknown requires mu.
func (x *index) isUnknown(id string) bool {
	e := x.byID[id]
	return e == nil || x.outdated(e)
}

// outdated requires mu. What is being stored, attempted or removed here is known best here.
func (x *index) outdated(e *entry) bool {
	return e.round != x.round && (e.life == waiting || e.life == resting)
}

// outdate makes everything that waits, or is a dead letter, unknown until it is found again. Its ids stay in use meanwhile.
func (x *index) outdate() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.round++
}

// forgetOutdated forgets what was not found again.
func (x *index) forgetOutdated() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.byID {
		if x.outdated(e) {
			x.forget(e)
		}
	}
}

// forget takes out what waits, or is a dead letter. It requires mu.
func (x *index) forget(e *entry) {
	if e.life == waiting {
		heap.Remove(&e.account.lanes[e.state.kind()], e.at)
		x.leave(e)
	} else {
		x.dead--
	}
	delete(x.byID, e.id)
}

// claim takes the next entry that is due and that the bounds allow to run, going round the functions. Without one it
// says when the next will be due, 0 for never; a place that becomes free signals by itself.
func (x *index) claim(now int64, limit func(*account, kind) int) (e *entry, next int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range x.turns {
		a := x.turns[(x.turn+i)%len(x.turns)]
		for k := range kinds {
			switch {
			case len(a.lanes[k]) == 0:
			case a.lanes[k][0].due > now:
				if due := a.lanes[k][0].due; next == 0 || due < next {
					next = due
				}
			case x.running[k] < x.bounds.running[k] && a.running[k] < limit(a, k):
				x.turn = (x.turn + i + 1) % len(x.turns)
				e := heap.Pop(&a.lanes[k]).(*entry)
				x.begin(e, k, true)
				return e, 0
			}
		}
	}
	return nil, next
}

// begin requires mu.
func (x *index) begin(e *entry, k kind, slot bool) {
	e.life, e.kind, e.slot, e.over, e.stop = running, k, slot, make(chan struct{}), nil
	if slot {
		e.account.running[k]++
		x.running[k]++
	}
}

// end requires mu.
func (x *index) end(e *entry) {
	if e.slot {
		e.account.running[e.kind]--
		x.running[e.kind]--
	}
	e.slot, e.cancelled, e.stop = false, false, nil
	if e.over != nil {
		close(e.over)
		e.over = nil
	}
	x.signal()
}

// missing is for how long the replica table has had no function of e's.
func (x *index) missing(e *entry, now time.Time) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.account.missing.IsZero() {
		return 0
	}
	return now.Sub(e.account.missing)
}

// eachAccount calls f, which must not use the index, for every function that has calls.
func (x *index) eachAccount(f func(*account)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, a := range x.turns {
		f(a)
	}
}

// attempted gives the attempt under way the means to stop it, and uses it if the call was cancelled before.
func (x *index) attempted(e *entry, stop context.CancelCauseFunc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.stop = stop
	if e.cancelled {
		stop(errCancelled)
	}
}

// requeue ends an attempt of a call that is to have another. It reports false, and does nothing, for one that was
// cancelled meanwhile: that is to be removed.
func (x *index) requeue(e *entry, st state, due int64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.cancelled {
		return false
	}
	x.end(e)
	x.enter(e, st, due)
	return true
}

// keep is requeue for a cancelled call that could not be removed.
func (x *index) keep(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.end(e)
	e.doomed = true
	x.enter(e, e.state, e.due)
}

// bury ends an attempt of a call that is a dead letter now. For one that was cancelled it does as requeue does.
func (x *index) bury(e *entry, st state) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.cancelled {
		return false
	}
	x.end(e)
	x.rest(e, st)
	return true
}

// rest requires mu.
func (x *index) rest(e *entry, st state) {
	e.state, e.life, e.round = st, resting, x.round
	x.dead++
	x.leave(e)
}

// leave takes e out of what is queued. It requires mu.
func (x *index) leave(e *entry) {
	a := e.account
	x.queued--
	x.left++
	if a.queued--; a.queued == 0 {
		delete(x.accounts, a.function)
		x.turns = slices.DeleteFunc(x.turns, func(other *account) bool { return other == a })
	}
}

// drop forgets a call: a new one that could not be stored, or one that is done with. It is no dead letter.
func (x *index) drop(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.end(e)
	x.leave(e)
	delete(x.byID, e.id)
}

// cancel begins the removal of a call. If an attempt is under way, over is closed at its end, and whoever ends
// it removes the call; otherwise the caller removes e. If both are nil there is no such call, or (known) it is
// a dead letter.
func (x *index) cancel(id string) (e *entry, over <-chan struct{}, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := x.byID[id]
	if found == nil || found.life == storing {
		return nil, nil, false
	}
	switch found.life {
	case waiting:
		k := found.state.kind()
		heap.Remove(&found.account.lanes[k], found.at)
		x.begin(found, k, false)
		found.cancelled = true
		return found, nil, true
	case running:
		found.cancelled = true
		if found.stop != nil {
			found.stop(errCancelled)
		}
		return nil, found.over, true
	}
	return nil, nil, true
}

func (x *index) isCancelled(e *entry) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return e.cancelled
}

// exhume takes a dead letter out, to be queued again or removed; nil if there is no such one.
func (x *index) exhume(id string) *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.byID[id]
	if e == nil || e.life != resting {
		return nil
	}
	x.dead--
	delete(x.byID, id)
	again := x.add(id, e.state.Function)
	again.state = e.state
	return again
}

// relapse undoes exhume. The call's state in Redis is unknown: it may be read as another one.
func (x *index) relapse(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.rest(e, e.state)
	e.round--
}
