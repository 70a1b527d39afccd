package async

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"waggle/provider/queued"
)

// put writes what some process, interrupted or mistaken, may have left.
func (s *system) put(id, st string, sets ...string) {
	s.t.Helper()
	if st != "" {
		s.redis.Do("HSET", "async:state", id, st)
	}
	for _, set := range sets {
		s.redis.Do("ZADD", "async:"+set, "1000", id)
	}
}

func TestWhatWasInterruptedBetweenTheSetsIsFinished(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.serve(func(http.ResponseWriter, *http.Request) {})
	c := call("x")
	record, err := encodeCall(&c)
	if err != nil {
		t.Fatal(err)
	}
	const queued, dead = `{"fn":"f.openfaas-fn","at":1,"phase":"invoke"}`, `{"fn":"f.openfaas-fn","at":1,"phase":"dead","reason":"r"}`
	for id, st := range map[string]string{"dying": dead, "dead": dead, "reviving": queued, "revived": queued} {
		s.redis.Do("HSET", "async:calls", id, string(record))
		s.put(id, st)
	}
	s.put("dying", "", "due")
	s.put("dead", "", "due", "dead")
	s.put("reviving", "", "dead")
	s.put("revived", "", "due", "dead")
	s.put("nobody", "", "due")             // a due call without a state
	s.put("garbage", `{"phase":1}`, "due") // or with another's
	q := s.run()
	s.holds([5]int64{2, 2, 0, 0, 2})
	q.buries(t, 2)
	if n := testutil.ToFloat64(q.metrics.lost); n != 2 {
		t.Errorf("%g calls are reported lost, want those without a state", n)
	}
}

// A process before this one may have had a clock that was far ahead.
func TestCallThatWasNeverTriedIsDueAtOnce(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	c := call("c")
	record, err := encodeCall(&c)
	if err != nil {
		t.Fatal(err)
	}
	s.put("c", `{"fn":"f.openfaas-fn","at":1,"phase":"invoke"}`)
	s.redis.Do("HSET", "async:calls", "c", string(record))
	s.redis.Do("ZADD", "async:due", "99999999999999", "c")
	s.redis.Do("HSET", "async:state", "tried", `{"fn":"f.openfaas-fn","at":1,"phase":"invoke","tries":1}`)
	s.redis.Do("ZADD", "async:due", "99999999999999", "tried")
	q := s.run()
	s.holds([5]int64{0, 1, 0, 1, 0})
	q.index.mu.Lock()
	defer q.index.mu.Unlock()
	if e := q.index.byID["tried"]; e == nil || e.due > time.Now().Add(maxWait).UnixMilli() {
		t.Errorf("a call that failed once is %+v", e)
	}
}

// The process before this one finishes what it has begun while this one reads the queue.
func TestCallThatIsDoneWithMeanwhileIsNotLost(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.put("c", `{"fn":"f.openfaas-fn","at":1,"phase":"invoke"}`, "due")
	q := s.unstarted()
	q.store.client.AddHook(before(func(cmds []redis.Cmder) error {
		if cmds[0].Name() == "hmget" {
			s.redis.Do("ZREM", "async:due", "c")
			s.redis.Do("HDEL", "async:state", "c")
		}
		return nil
	}))
	if err := q.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(q.metrics.lost); n != 0 || q.index.size() != 0 {
		t.Errorf("%g calls are reported lost, %d are queued", n, q.index.size())
	}
}

func TestLostAndUnreadableCallsAreReported(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.change(false, nil) // so that nothing is made yet
	q := s.run()
	for _, id := range []string{"lost", "unreadable", "other version"} {
		q.enqueue(t, call(strings.ReplaceAll(id, " ", "-")))
	}
	s.redis.Do("HDEL", "async:calls", "lost")
	s.redis.Do("HSET", "async:calls", "unreadable", "no record")
	s.redis.Do("HSET", "async:calls", "other-version", `{"v":2}`+"\n")
	s.change(true, nil)
	s.holds([5]int64{2, 2, 0, 0, 2})
	if n := testutil.ToFloat64(q.metrics.lost); n != 1 {
		t.Errorf("%g calls are reported lost, want 1", n)
	}
	_, body := q.Inspect(t.Context(), "GET", "/dead")
	if !strings.Contains(string(body), "unreadable: a record without a first line") || !strings.Contains(string(body), "record version 2: known is 1") {
		t.Errorf("the dead letters are %s", body)
	}
}

// A process that lost the queue while a call ran must not bring the call back after the next one has finished it.
func TestLateOutcomeOfAnOlderProcessRevivesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	release := make(chan struct{})
	var runs atomic.Int32
	s.serve(func(w http.ResponseWriter, _ *http.Request) {
		if runs.Add(1) == 1 {
			<-release
			w.WriteHeader(500)
		}
	})
	old := s.run()
	old.enqueue(t, call("c"))
	eventually(t, func() error {
		if runs.Load() == 0 {
			return fmt.Errorf("not begun")
		}
		return nil
	})
	s.run()
	eventually(t, func() error {
		if h := old.health.Load(); h.owner || runs.Load() < 2 {
			return fmt.Errorf("%+v after %d runs", *h, runs.Load())
		}
		return nil
	})
	s.holds([5]int64{})
	close(release) // the first run fails only now
	old.stop()
	if got := s.contents(); got[3] != 0 || got[4] != 0 {
		t.Errorf("redis holds %v", got)
	}
	last := s.run()
	s.holds([5]int64{0, 1, 0, 0, 0}) // a state that the sweep takes once it is old enough
	s.sweep(last.Queue, s.sweep(last.Queue, nil))
	s.holds([5]int64{})
	if runs.Load() != 2 {
		t.Errorf("%d runs", runs.Load())
	}
}

func TestRemovedFunctionsCallsAreDeadLetters(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	callbacks, url := newSink(t)
	s.change(false, nil)
	q := s.run()
	q.enqueue(t, call("c", func(c *queued.Call) { c.Callback = url }))
	q.enqueue(t, call("plain"))
	eventually(t, func() error {
		q.index.mu.Lock()
		defer q.index.mu.Unlock()
		a := q.index.accounts["f.openfaas-fn"]
		if a.missing.IsZero() {
			return fmt.Errorf("not missed yet")
		}
		a.missing = a.missing.Add(-removedGrace)
		return nil
	})
	s.holds([5]int64{2, 2, 0, 0, 2})
	got := callbacks.await(t, 1)[0]
	if got.header.Get("X-Function-Status") != "503" || got.body != "" {
		t.Errorf("the callback was told %v %q", got.header, got.body)
	}
	if _, body := q.Inspect(t.Context(), "GET", "/dead"); strings.Count(string(body), "the function was removed") != 2 {
		t.Errorf("the dead letters are %s", body)
	}
}

func TestFullRedisCanBeTakenOver(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.change(false, nil)
	q := s.run()
	q.enqueue(t, call("c"))
	q.stop()
	s.redis.Do("CONFIG", "SET", "maxmemory", "1")
	s.change(true, nil)
	q = s.run() // cannot even say that it is the owner
	s.holds([5]int64{})
	if err := q.Enqueue(t.Context(), call("d")); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("enqueuing gives %v", err)
	}
	s.redis.Do("CONFIG", "SET", "maxmemory", "100mb")
	eventually(t, func() error { return q.Enqueue(t.Context(), call("d")) })
	eventually(t, func() error {
		if owner := s.redis.Do("GET", "async:owner"); owner != q.epoch {
			return fmt.Errorf("the owner is %q", owner)
		}
		return nil
	})
}

func TestDeadLettersAreBounded(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.MaxRetryAttempts, s.cfg.MaxDead = 0, 3
	s.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	q := s.run()
	for i := range 5 {
		q.enqueue(t, call(fmt.Sprint("c", i)))
		q.buries(t, i+1)
	}
	prune := func() {
		t.Helper()
		l, err := q.store.read(t.Context())
		if err == nil {
			err = q.prune(t.Context(), l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	prune()
	s.holds([5]int64{3, 3, 0, 0, 3})
	if _, body := q.Inspect(t.Context(), "GET", "/dead"); strings.Contains(string(body), `"c1"`) || !strings.Contains(string(body), `"c2"`) {
		t.Errorf("not the oldest were dropped: %s", body)
	}
	s.redis.Do("ZADD", "async:dead", "XX", "1", "c3") // it is old now
	prune()
	s.holds([5]int64{2, 2, 0, 0, 2})
	q.health.Store(&health{connected: true, owner: true, full: true})
	prune()
	s.holds([5]int64{})
	if n := testutil.ToFloat64(q.metrics.deadDropped); n != 5 {
		t.Errorf("%g dropped", n)
	}
}

func TestOperatorsHandleDeadLetters(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.MaxRetryAttempts = 0
	var broken atomic.Bool
	broken.Store(true)
	s.serve(func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(500)
		}
	})
	q := s.run()
	for _, id := range []string{"a", "b"} {
		q.enqueue(t, call(id))
	}
	s.holds([5]int64{2, 2, 0, 0, 2})
	q.buries(t, 2)
	if known, err := q.Cancel(t.Context(), "a"); !known || err != nil {
		t.Errorf("cancelling a dead letter: %v %v", known, err)
	}
	broken.Store(false)
	for _, tc := range []struct {
		method, target string
		status         int
		says           string
	}{
		{"GET", "", 200, `"dead":2,"oldest_seconds":0,"functions":[]`},
		{"GET", "?x", 200, `"queue":"faas-request","connected":true,"owner":true`},
		{"POST", "", 405, "legal methods: GET"},
		{"GET", "/dead", 200, `"reason":"status 500 after 0 retries"`},
		{"GET", "/dead?limit=1", 200, `"call_id":"`},
		{"GET", "/dead?limit=0", 400, "limit: legal is 1 to 1000"},
		{"GET", "/dead?limit=x", 400, "limit: legal is 1 to 1000"},
		{"GET", "/dead?limit=%", 400, "limit: legal is 1 to 1000"},
		{"DELETE", "/dead", 405, "legal methods: GET"},
		{"POST", "/dead/nobody", 404, "no such dead letter"},
		{"DELETE", "/dead/nobody", 404, "no such dead letter"},
		{"GET", "/dead/a", 405, "POST to queue it again"},
		{"POST", "/dead/a/b", 400, "1 to 128 letters"},
		{"GET", "/other", 404, "legal paths"},
		{"POST", "/dead/a", 202, `{"call_id":"a"}`},
		{"DELETE", "/dead/b", 202, `{"call_id":"b"}`},
		{"DELETE", "/dead/b", 404, "no such dead letter"},
	} {
		status, body := q.Inspect(t.Context(), tc.method, tc.target)
		if status != tc.status || !strings.Contains(string(body), tc.says) {
			t.Errorf("%s %q: %d %s, want %d %s", tc.method, tc.target, status, body, tc.status, tc.says)
		}
	}
	s.holds([5]int64{})
}

// An operator who is told that it is not certain whether a dead letter was queued again need not do more for it.
func TestDeadLetterThatWasQueuedWithoutAnAnswerIsMade(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.MaxRetryAttempts = 0
	functions := &sink{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if functions.note(r) == 1 {
			w.WriteHeader(500)
		}
	})
	q, err := New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	var queued atomic.Bool
	q.store.client.AddHook(before(func(cmds []redis.Cmder) error {
		if args := cmds[0].Args(); len(cmds) > 1 || args[0] != "zadd" || args[1] != "async:due" || !queued.CompareAndSwap(false, true) {
			return nil
		}
		s.redis.Do("ZADD", "async:due", "1", "c")
		return context.DeadlineExceeded
	}))
	life := s.start(q)
	life.enqueue(t, call("c"))
	life.buries(t, 1)
	if code, body := q.Inspect(t.Context(), "POST", "/dead/c"); code != 503 || !strings.Contains(string(body), "may have been changed") {
		t.Fatalf("queueing it again: %d %s", code, body)
	}
	functions.await(t, 2)
	s.holds([5]int64{})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	release := make(chan struct{})
	s.serve(func(http.ResponseWriter, *http.Request) { <-release })
	s.change(true, nil)
	s.cfg.MaxInflightPerFunction = 1
	q := s.run()
	for i := range 3 {
		q.enqueue(t, call(fmt.Sprint(i)))
	}
	want := `
# HELP queue_worker_function_invocation_inflight Asynchronous calls being made.
# TYPE queue_worker_function_invocation_inflight gauge
queue_worker_function_invocation_inflight{function_name="f.openfaas-fn",queue_name="faas-request"} 1
# HELP queue_worker_messages_submitted_total Asynchronous calls accepted.
# TYPE queue_worker_messages_submitted_total counter
queue_worker_messages_submitted_total{function_name="f.openfaas-fn",queue_name="faas-request"} 3
# HELP queue_worker_pending_messages Asynchronous calls that wait, those of a later retry included.
# TYPE queue_worker_pending_messages gauge
queue_worker_pending_messages{function_name="f.openfaas-fn",queue_name="faas-request"} 2
`
	eventually(t, func() error {
		return testutil.GatherAndCompare(q.registry(), strings.NewReader(want), "queue_worker_function_invocation_inflight", "queue_worker_messages_submitted_total", "queue_worker_pending_messages")
	})
	if n, due := q.Pending("f.openfaas-fn"); n != 2 || due != 2 {
		t.Errorf("%d are pending", n)
	}
	close(release)
	s.holds([5]int64{})
	eventually(t, func() error {
		if n := testutil.ToFloat64(q.metrics.processed.WithLabelValues(queueName, "f.openfaas-fn")); n != 3 {
			return fmt.Errorf("%g were processed", n)
		}
		return nil
	})
	s.change(false, nil)
	q.metrics.forgetRemoved(q.Queue)
	if n := testutil.CollectAndCount(q.metrics.processed); n != 0 {
		t.Errorf("%d series of a removed function are left", n)
	}
	// Whoever ended its last call may count that only now.
	q.metrics.processed.WithLabelValues(queueName, "f.openfaas-fn").Inc()
	q.metrics.forgetRemoved(q.Queue)
	if n := testutil.CollectAndCount(q.metrics.processed); n != 0 {
		t.Errorf("%d series of a removed function have come back", n)
	}
}

// submit has four clients make calls until stop, which gives those that were accepted.
func submit(t *testing.T, q *queue, callback string) (stop func() map[string]bool) {
	var mu sync.Mutex
	accepted := map[string]bool{}
	var clients sync.WaitGroup
	stopped := make(chan struct{})
	for client := range 4 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stopped:
					return
				default:
				}
				id := fmt.Sprintf("c%d-%d", client, i)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if q.Enqueue(ctx, call(id, func(c *queued.Call) { c.Callback = callback })) == nil {
					mu.Lock()
					accepted[id] = true
					mu.Unlock()
				}
				cancel()
			}
		})
	}
	return func() map[string]bool {
		close(stopped)
		clients.Wait()
		return accepted
	}
}

// Redis dies again and again while calls come, run and fail: nothing that was accepted is lost.
func TestKilledRedisLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	var mu sync.Mutex
	runs := map[string]int{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("X-Call-Id")
		if runs[id]++; runs[id] == 1 && strings.HasSuffix(id, "1") {
			w.WriteHeader(500)
		}
		io.WriteString(w, "x")
	})
	callbacks, url := newSink(t)
	q := s.run()
	<-q.loaded
	stop := submit(t, q, url)
	for range 3 {
		before := len(callbacks.all())
		eventually(t, func() error {
			if n := len(callbacks.all()) - before; n < 50 {
				return fmt.Errorf("%d callbacks since the last kill", n)
			}
			return nil
		})
		s.redis.Restart()
	}
	accepted := stop()
	s.holds([5]int64{})
	told := map[string]bool{}
	for _, c := range callbacks.all() {
		told[c.header.Get("X-Call-Id")] = true
	}
	for id := range accepted {
		if runs[id] == 0 || !told[id] || strings.HasSuffix(id, "1") && runs[id] < 2 {
			t.Errorf("%s ran %d times, callback: %v", id, runs[id], told[id])
		}
	}
	t.Logf("%d calls were accepted, %d callbacks came", len(accepted), len(callbacks.all()))
}

// BenchmarkEnqueue is what a client waits for: a call of 256 bytes until it is on disk, one at a time and 64 at once.
func BenchmarkEnqueue(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			s := newSystem(b)
			s.change(false, nil) // nothing is made of them meanwhile
			s.cfg.MaxQueued, s.cfg.MaxQueuedPerFunction = 10_000_000, 10_000_000
			q := s.run()
			<-q.loaded
			body := make([]byte, 256)
			header := []byte("Content-Type: application/json\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n")
			var n atomic.Int64
			b.ReportAllocs()
			if clients == 1 {
				for b.Loop() {
					q.enqueue(b, queued.Call{ID: fmt.Sprint(n.Add(1)), Address: "f", Function: "f.openfaas-fn", Target: "/", Header: header, Body: body, Accepted: time.Now()})
				}
				return
			}
			b.SetParallelism(clients)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := q.Enqueue(context.Background(), queued.Call{ID: fmt.Sprint(n.Add(1)), Address: "f", Function: "f.openfaas-fn", Target: "/", Header: header, Body: body, Accepted: time.Now()}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
