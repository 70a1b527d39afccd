package async

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"waggle/provider/feed"
)

// table is a Gateway that nobody dials.
type table struct {
	Gateway
	functions map[string]feed.Function
	unknown   bool
}

func (t *table) Function(label string) (feed.Function, bool, bool) {
	fn, found := t.functions[label]
	return fn, found, !t.unknown
}

// newDispatcher is a queue whose Redis is never asked.
func newDispatcher(gateway Gateway, b bounds) *Queue {
	q := &Queue{index: newIndex(b), gateway: gateway, clock: newClock(), cfg: Config{MaxInflightPerFunction: b.running[invocation], MaxCallbacks: b.running[callback]}}
	q.health.Store(&health{connected: true, owner: true})
	return q
}

func (q *Queue) queueAt(t rapid.TB, id, function string, p phase, due time.Time) *entry {
	t.Helper()
	e, err := q.index.reserve(id, function)
	if err != nil {
		t.Fatal(err)
	}
	q.index.admit(e, state{Function: function, Phase: p}, due.UnixMilli())
	return e
}

func TestCallsStartWhenTheyAreDueAndPlacesAreFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newDispatcher(&table{unknown: true}, bounds{queued: 100, queuedEach: 100, running: [kinds]int{2, 1}})
		begin := time.Now()
		var log []string
		started := make(chan *entry, 100)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- q.dispatch(ctx, func(e *entry) {
				log = append(log, fmt.Sprintf("%s@%s", e.id, time.Since(begin)))
				started <- e
			})
		}()
		for i, after := range []time.Duration{time.Minute, 0, 10 * time.Second, 0, 0} {
			q.queueAt(t, fmt.Sprint("c", i), "f.ns", invoking, begin.Add(after))
		}
		q.queueAt(t, "cb", "f.ns", delivering, begin)
		synctest.Wait()
		time.Sleep(2 * time.Second)
		for range 3 { // c1 fails and is due again in 3 s, whoever started then is done
			e := <-started
			if e.id == "c1" {
				q.index.requeue(e, e.state, time.Now().Add(3*time.Second).UnixMilli())
			} else {
				q.index.drop(e)
			}
		}
		for range 3 {
			q.index.drop(<-started)
		}
		q.index.drop(<-started)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got, want := fmt.Sprint(log), "[c1@0s c3@0s cb@0s c4@2s c1@5s c2@10s c0@1m0s]"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestNothingStartsWithoutRedisOrOwnership(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newDispatcher(&table{unknown: true}, bounds{queued: 10, queuedEach: 10, running: [kinds]int{1, 1}})
		q.health.Store(&health{connected: true})
		started := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- q.dispatch(ctx, func(*entry) { started++ }) }()
		q.queueAt(t, "c", "f.ns", invoking, time.Now())
		time.Sleep(time.Minute)
		synctest.Wait()
		if started != 0 {
			t.Error("a call was started by a process that does not own the queue")
		}
		q.health.Store(&health{connected: true, owner: true})
		q.index.signal()
		synctest.Wait()
		cancel()
		if <-done; started != 1 {
			t.Errorf("%d calls were started", started)
		}
	})
}

func TestRemovedFunctionHasAGrace(t *testing.T) {
	t.Parallel()
	gateway := &table{functions: map[string]feed.Function{"f.ns": {MaxInflight: 2, Replicas: replicas(2)}}}
	q := newDispatcher(gateway, bounds{queued: 10, queuedEach: 10, running: [kinds]int{9, 9}})
	a := &account{function: "f.ns"}
	t0 := time.Unix(1_700_000_000, 0)
	at := func(after time.Duration, want int) {
		t.Helper()
		if got := q.limit(a, invocation, t0.Add(after)); got != want {
			t.Errorf("after %s the limit is %d, want %d", after, got, want)
		}
	}
	at(0, 4)
	gateway.functions = nil
	at(time.Second, 0)
	at(30*time.Second, 0)
	gateway.functions = map[string]feed.Function{"f.ns": {}}
	at(40*time.Second, 9) // replaced
	gateway.functions = map[string]feed.Function{"f.ns": {MaxInflight: math.MaxInt, Replicas: replicas(2)}}
	at(45*time.Second, 9)
	gateway.functions = nil
	at(50*time.Second, 0)
	gateway.unknown = true // the provider is gone: nobody can tell
	at(55*time.Second, 9)
	gateway.unknown = false
	at(60*time.Second, 0)
	at(60*time.Second+removedGrace, 9) // to be given up
	if got := q.limit(a, callback, t0); got != 4 {
		t.Errorf("%d callbacks at once, want half of them", got)
	}
}

// A call that waits for a later retry does not see its function come back. The next removal begins a grace of its own.
func TestGraceBeginsAnewWithEachRemoval(t *testing.T) {
	t.Parallel()
	gateway := &table{}
	q := newDispatcher(gateway, bounds{queued: 10, queuedEach: 10, running: [kinds]int{9, 9}})
	t0 := time.Unix(1_700_000_000, 0)
	a := q.queueAt(t, "c", "f.ns", invoking, t0.Add(time.Hour)).account
	q.observe(t0)
	gateway.functions = map[string]feed.Function{"f.ns": {}}
	q.observe(t0.Add(time.Second))
	gateway.functions = nil
	if got := q.limit(a, invocation, t0.Add(time.Hour)); got != 0 {
		t.Errorf("the limit is %d: the call would fail for a function that has just gone", got)
	}
}

// However calls come, end, fail and are cancelled: bounds hold, and each function's calls start in the order in
// which they are due. No function waits for ever, and the counts are right.
func TestIndexKeepsItsBoundsAndItsOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := &indexModel{rt: rt, x: newIndex(bounds{queued: 12, queuedEach: 6, running: [kinds]int{3, 2}}), now: 1000, live: map[string]bool{}}
		steps := map[string]func(){"add": m.add, "claim": m.claim, "end": m.end, "cancel": m.cancel, "exhume": m.exhume, "regain": m.regain, "time": m.pass}
		for range rapid.IntRange(1, 120).Draw(rt, "steps") {
			steps[rapid.SampledFrom([]string{"add", "add", "claim", "claim", "end", "end", "end", "cancel", "exhume", "regain", "time"}).Draw(rt, "step")]()
			m.check()
		}
		m.drain()
	})
}

// indexModel is an index and what it should hold.
type indexModel struct {
	rt      *rapid.T
	x       *index
	now     int64
	added   int
	running []*entry
	live    map[string]bool
}

func two(*account, kind) int { return 2 }

func (m *indexModel) add() {
	m.added++
	id, function := fmt.Sprint("c", m.added), rapid.SampledFrom([]string{"f", "g", "h"}).Draw(m.rt, "function")
	if e, err := m.x.reserve(id, function); err == nil {
		m.x.admit(e, state{Function: function, Phase: invoking, Accepted: m.now}, m.now)
		m.live[id] = true
	}
}

func (m *indexModel) claim() {
	e, _ := m.x.claim(m.now, two)
	if e == nil {
		return
	}
	if e.due > m.now {
		m.rt.Fatalf("%s is due at %d, now is %d", e.id, e.due, m.now)
	}
	for _, other := range e.account.lanes[e.kind] {
		if other.due < e.due || other.due == e.due && other.order < e.order {
			m.rt.Fatalf("%s started before %s", e.id, other.id)
		}
	}
	m.running = append(m.running, e)
}

// end ends an attempt: in success, in another attempt of either kind, or in a dead letter.
func (m *indexModel) end() {
	if len(m.running) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.running)-1).Draw(m.rt, "which")
	e := m.running[i]
	m.running = append(m.running[:i], m.running[i+1:]...)
	st := e.state
	st.Phase = rapid.SampledFrom([]phase{invoking, delivering, buried, ""}).Draw(m.rt, "becomes")
	kept := false
	switch st.Phase {
	case "":
	case buried:
		kept = m.x.bury(e, st)
	default:
		kept = m.x.requeue(e, st, m.now+rapid.Int64Range(0, 50).Draw(m.rt, "wait"))
	}
	if !kept { // done, or cancelled meanwhile
		m.x.drop(e)
		delete(m.live, e.id)
	}
}

func (m *indexModel) anyID() string {
	return fmt.Sprint("c", rapid.IntRange(1, m.added+1).Draw(m.rt, "id"))
}

func (m *indexModel) cancel() {
	if e, _, _ := m.x.cancel(m.anyID()); e != nil {
		m.x.drop(e)
		delete(m.live, e.id)
	}
}

func (m *indexModel) exhume() {
	if e := m.x.exhume(m.anyID()); e != nil {
		m.x.admit(e, state{Function: e.account.function, Phase: invoking, Accepted: m.now}, m.now)
	}
}

// regain is when another process has been the owner: some of what waited or was dead is gone, the rest may be either.
func (m *indexModel) regain() {
	m.x.outdate()
	for _, id := range slices.Sorted(maps.Keys(m.live)) {
		if e := m.x.byID[id]; e.life != waiting && e.life != resting {
			continue
		}
		if now := rapid.SampledFrom([]phase{invoking, delivering, buried, ""}).Draw(m.rt, "is now"); now != "" {
			m.x.found(id, state{Function: m.x.byID[id].account.function, Phase: now, Accepted: m.now}, m.now)
		} else {
			delete(m.live, id)
		}
	}
	m.x.forgetOutdated()
}

func (m *indexModel) pass() { m.now += rapid.Int64Range(1, 60).Draw(m.rt, "passes") }

// drain lets whatever is left start and end.
func (m *indexModel) drain() {
	for range 10_000 {
		e, _ := m.x.claim(m.now+1_000_000, two)
		if e != nil {
			m.running = append(m.running, e)
		}
		if len(m.running) > 0 && (e == nil || len(m.running) > 2) {
			m.x.drop(m.running[0])
			m.running = m.running[1:]
		} else if e == nil {
			break
		}
	}
	if x := m.x; x.size() != 0 || len(x.accounts) != 0 || len(x.turns) != 0 || len(x.byID) != x.dead {
		m.rt.Fatalf("left are %d calls, %d functions, %d turns, %d ids of %d dead letters", x.size(), len(x.accounts), len(x.turns), len(x.byID), x.dead)
	}
}

func (m *indexModel) check() {
	x, rt, live, running := m.x, m.rt, len(m.live), len(m.running)
	if len(x.byID) != live || x.queued+x.dead != live {
		rt.Fatalf("%d ids, %d queued and %d dead, want %d", len(x.byID), x.queued, x.dead, live)
	}
	if x.running[invocation]+x.running[callback] != running || x.running[invocation] > x.bounds.running[invocation] || x.running[callback] > x.bounds.running[callback] {
		rt.Fatalf("%v run, want %d", x.running, running)
	}
	queued := 0
	for name, a := range x.accounts {
		if queued += a.queued; a.queued == 0 || a.running[invocation] > 2 || a.running[callback] > 2 || a.function != name {
			rt.Fatalf("account %s: %+v", name, a)
		}
	}
	if queued != x.queued || len(x.turns) != len(x.accounts) {
		rt.Fatalf("%d queued by function, %d in all; %d turns", queued, x.queued, len(x.turns))
	}
}
