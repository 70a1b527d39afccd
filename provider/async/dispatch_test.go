package async

import (
	"context"
	"fmt"
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
	q := &Queue{index: newIndex(b), gateway: gateway, cfg: Config{MaxInflightPerFunction: b.running[invocation], MaxCallbacks: b.running[callback]}}
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

// However calls come, end, fail and are cancelled: bounds hold, each function's calls start in the order in which they
// are due, no function waits for ever, and the counts are right.
func TestIndexKeepsItsBoundsAndItsOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		b := bounds{queued: 12, queuedEach: 6, running: [kinds]int{3, 2}}
		q := newDispatcher(&table{unknown: true}, b)
		x := q.index
		now := int64(1000)
		var running []*entry
		live := map[string]bool{}
		n := 0
		for range rapid.IntRange(1, 120).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"add", "add", "claim", "claim", "end", "fail", "bury", "cancel", "exhume", "time"}).Draw(rt, "step") {
			case "add":
				n++
				id, function := fmt.Sprint("c", n), rapid.SampledFrom([]string{"f", "g", "h"}).Draw(rt, "function")
				if e, err := x.reserve(id, function); err == nil {
					x.admit(e, state{Function: function, Phase: invoking, Accepted: now}, now)
					live[id] = true
				}
			case "claim":
				e, _ := x.claim(now, func(*account, kind) int { return 2 })
				if e == nil {
					continue
				}
				if e.due > now {
					rt.Fatalf("%s is due at %d, now is %d", e.id, e.due, now)
				}
				for _, other := range e.account.lanes[e.kind] {
					if other.due < e.due || other.due == e.due && other.order < e.order {
						rt.Fatalf("%s started before %s", e.id, other.id)
					}
				}
				running = append(running, e)
			case "end", "fail", "bury":
				if len(running) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(running)-1).Draw(rt, "which")
				e := running[i]
				running = append(running[:i], running[i+1:]...)
				st := e.state
				how := rapid.SampledFrom([]phase{invoking, delivering, buried, ""}).Draw(rt, "becomes")
				st.Phase = how
				kept := how != "" && (how == buried && x.bury(e, st) || how != buried && x.requeue(e, st, now+rapid.Int64Range(0, 50).Draw(rt, "wait")))
				if !kept { // done, or cancelled meanwhile
					x.drop(e)
					delete(live, e.id)
				}
			case "cancel":
				id := fmt.Sprint("c", rapid.IntRange(1, n+1).Draw(rt, "id"))
				if e, _, _ := x.cancel(id); e != nil {
					x.drop(e)
					delete(live, id)
				}
			case "exhume":
				if e := x.exhume(fmt.Sprint("c", rapid.IntRange(1, n+1).Draw(rt, "id"))); e != nil {
					x.admit(e, state{Function: e.account.function, Phase: invoking, Accepted: now}, now)
				}
			case "time":
				now += rapid.Int64Range(1, 60).Draw(rt, "passes")
			}
			checkIndex(rt, x, len(live), len(running))
		}
		// Whatever is left starts and ends.
		for range 10_000 {
			e, _ := x.claim(now+1_000_000, func(*account, kind) int { return 2 })
			if e != nil {
				running = append(running, e)
			}
			if len(running) > 0 && (e == nil || len(running) > 2) {
				x.drop(running[0])
				running = running[1:]
			} else if e == nil {
				break
			}
		}
		if x.size() != 0 || len(x.accounts) != 0 || len(x.turns) != 0 || len(x.byID) != x.dead {
			rt.Fatalf("left are %d calls, %d functions, %d turns, %d ids of %d dead letters", x.size(), len(x.accounts), len(x.turns), len(x.byID), x.dead)
		}
	})
}

func checkIndex(rt *rapid.T, x *index, live, running int) {
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
