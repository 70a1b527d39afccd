package async

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waggle/provider/feed"
	"waggle/provider/queued"
)

func TestCallReachesItsFunctionAsSent(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	functions := &sink{}
	s.serve(functions.ServeHTTP)
	q := s.run()
	q.enqueue(t, call("c1", func(c *queued.Call) {
		c.Target, c.Body = "/a//b%2Fc?x=1&y=%20", []byte("\x00body\xff")
		c.Header = []byte("X-Call-Id: c1\r\nAuthorization: Bearer t\r\nX-Two: 1\r\nX-Two: 2\r\nX-Odd: \xff\r\n")
	}))
	got := functions.await(t, 1)[0]
	if got.method != "POST" || got.uri != "/function/f/a//b%2Fc?x=1&y=%20" || got.body != "\x00body\xff" {
		t.Errorf("the function got %s %s %q", got.method, got.uri, got.body)
	}
	want := http.Header{"X-Call-Id": {"c1"}, "Authorization": {"Bearer t"}, "X-Two": {"1", "2"}, "X-Odd": {"\xff"}, "User-Agent": {"waggle"}, "Content-Length": {"6"}}
	if fmt.Sprint(got.header) != fmt.Sprint(want) {
		t.Errorf("the function got %v\nwant %v", got.header, want)
	}
	s.holds([5]int64{})
}

// delivery is what a function does, and what the callback is told of it.
type delivery struct {
	function http.HandlerFunc
	want     http.Header // of the callback; nil: there is none
	body     string
	dead     bool
	runs     int
}

func deliveries() map[string]delivery {
	return map[string]delivery{

		"success": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Duration-Seconds", "0.5")
			w.Header().Set("Content-Type", "text/x")
			w.WriteHeader(201)
			io.WriteString(w, "done")
		}, http.Header{"X-Function-Status": {"201"}, "X-Duration-Seconds": {"0.5"}, "Content-Type": {"text/x"}, "X-Function-Name": {"f"}, "X-Call-Id": {"c"},
			"X-Retry": {"0"}, "X-Retry-Max": {"3"}, "X-Result-Omitted": nil}, "done", false, 1},
		"a mistake of the caller is an answer": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 400) },
			http.Header{"X-Function-Status": {"400"}, "X-Retry": {"0"}}, "no\n", false, 1},
		"final failure": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", 500) },
			http.Header{"X-Function-Status": {"500"}, "X-Retry": {"3"}, "X-Retry-Max": {"3"}}, "broken\n", true, 4},
		"what a part of the system answers is repeated": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-OpenFaaS-Internal", "gateway")
			w.WriteHeader(404)
		}, http.Header{"X-Function-Status": {"404"}, "X-Retry": {"3"}}, "", true, 4},
		"no answer": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			http.Header{"X-Function-Status": {"503"}, "X-Retry": {"3"}}, "", true, 4},
		"an answer that breaks off is none": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, http.Header{"X-Function-Status": {"503"}, "X-Retry": {"3"}}, "", true, 4},
		"too long a body": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 1001)) },
			http.Header{"X-Function-Status": {"200"}, "X-Result-Omitted": {"longer than 1000 bytes, async_max_result_bytes"}}, "", false, 1},
		"just not too long a body": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 1000)) },
			http.Header{"X-Function-Status": {"200"}, "X-Result-Omitted": nil}, strings.Repeat("x", 1000), false, 1},
		"redirects are not followed": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
			http.Header{"X-Function-Status": {"302"}, "Location": {"/elsewhere"}}, "", false, 1},
	}
}

func TestResultReachesItsCallback(t *testing.T) {
	t.Parallel()
	for name, tc := range deliveries() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.cfg.MaxResult = 1000
			callbacks, url := newSink(t)
			var runs atomic.Int32
			s.serve(func(w http.ResponseWriter, r *http.Request) { runs.Add(1); tc.function(w, r) })
			q := s.run()
			q.enqueue(t, call("c", func(c *queued.Call) { c.Callback = url + "/take?it" }))
			got := callbacks.await(t, 1)[0]
			if got.method != "POST" || got.uri != "/take?it" || got.body != tc.body {
				t.Errorf("the callback was %s %s %.50q, want %.50q", got.method, got.uri, got.body, tc.body)
			}
			for name, values := range tc.want {
				if fmt.Sprint(got.header[name]) != fmt.Sprint(values) {
					t.Errorf("%s is %q, want %q", name, got.header[name], values)
				}
			}
			if got.header.Get("X-Duration-Seconds") == "" {
				t.Error("no X-Duration-Seconds")
			}
			if tc.dead {
				s.holds([5]int64{1, 1, 0, 0, 1})
			} else {
				s.holds([5]int64{})
			}
			if n := len(callbacks.all()); n != 1 || int(runs.Load()) != tc.runs {
				t.Errorf("%d callbacks of %d runs, want 1 of %d", n, runs.Load(), tc.runs)
			}
		})
	}
}

func TestRetriesEndInSuccess(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	callbacks, url := newSink(t)
	functions := &sink{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if functions.note(r) < 3 {
			w.WriteHeader(503)
		}
	})
	q := s.run()
	q.enqueue(t, call("c", func(c *queued.Call) { c.Callback, c.Body = url, []byte("same") }))
	got := callbacks.await(t, 1)[0]
	if got.header.Get("X-Retry") != "2" || got.header.Get("X-Function-Status") != "200" {
		t.Errorf("the callback has %v", got.header)
	}
	for _, run := range functions.all() {
		if run.body != "same" {
			t.Errorf("a run got %q", run.body)
		}
	}
	s.holds([5]int64{})
}

func TestFunctionsOwnWishesForRetries(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	functions := &sink{}
	s.serve(func(w http.ResponseWriter, r *http.Request) { functions.note(r); w.WriteHeader(418) })
	s.change(true, func(fn *feed.Function) {
		fn.Retry = &feed.Retry{Attempts: new(5), Codes: []int{418}, MinWait: new(time.Duration(0)), MaxWait: new(time.Millisecond)}
	})
	s.run().enqueue(t, call("c"))
	s.holds([5]int64{1, 1, 0, 0, 1})
	if n := len(functions.all()); n != 6 {
		t.Errorf("the function ran %d times, want 6", n)
	}
}

func TestCallbackIsTriedAgainAndThenKept(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	var status atomic.Int32
	callbacks := &sink{}
	functions := &sink{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/function/f") {
			functions.note(r)
			io.WriteString(w, "result")
			return
		}
		callbacks.note(r)
		w.WriteHeader(int(status.Load()))
	})
	status.Store(302)
	q := s.run()
	q.enqueue(t, call("c", func(c *queued.Call) { c.Callback = "http://gateway.openfaas:8080/function/taker/x" }))
	s.holds([5]int64{1, 1, 1, 0, 1})
	if n := len(callbacks.await(t, 4)); n != 4 {
		t.Errorf("%d callbacks, want 4", n)
	}
	if _, body := q.Inspect(t.Context(), "GET", "/dead"); !strings.Contains(string(body), `"callback_only":true`) || !strings.Contains(string(body), "callback: status 302") {
		t.Errorf("the dead letter is %s", body)
	}
	// Another process delivers it when it is queued again, and does not call the function.
	q.stop()
	q = s.run()
	status.Store(200)
	for !q.health.Load().owner && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if code, body := q.Inspect(t.Context(), "POST", "/dead/c"); code != 202 {
		t.Fatalf("queueing it again: %d %s", code, body)
	}
	s.holds([5]int64{})
	if got := callbacks.all(); len(got) != 5 || got[4].body != "result" || got[4].uri != "/function/taker/x" || len(functions.all()) != 1 {
		t.Errorf("%d callbacks, %d runs, the last %+v", len(got), len(functions.all()), got[len(got)-1])
	}
}

func TestCallbackToAnotherAsynchronousFunction(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	chained := &sink{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/async-function/next") {
			if chained.note(r) == 1 {
				w.WriteHeader(502) // as if the answer were lost
				return
			}
			w.WriteHeader(409)
		}
	})
	q := s.run()
	q.enqueue(t, call("parent", func(c *queued.Call) { c.Callback = "http://gateway:8080/async-function/next" }))
	s.holds([5]int64{})
	got := chained.all()
	if len(got) != 2 || !feed.ValidCallID(got[0].header.Get("X-Call-Id")) || got[0].header.Get("X-Call-Id") == "parent" || got[0].header.Get("X-Call-Id") != got[1].header.Get("X-Call-Id") {
		t.Errorf("the next function was queued by %+v", got)
	}
	// A later call may have the same id, while the child of this one still waits.
	later := call("parent", func(c *queued.Call) {
		c.Callback, c.Accepted = "http://gateway:8080/async-function/next", c.Accepted.Add(time.Second)
	})
	eventually(t, func() error { return q.Enqueue(t.Context(), later) }) // Redis is done with the first one before the index is
	if third := chained.await(t, 3)[2]; third.header.Get("X-Call-Id") == got[0].header.Get("X-Call-Id") {
		t.Errorf("a later call's callback was queued as the earlier one's: %+v", third)
	}
	s.holds([5]int64{})
}

func TestForbiddenCallbackIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.CallbackNetworks = nil
	q := s.run()
	q.enqueue(t, call("c", func(c *queued.Call) { c.Callback = "http://localhost:1/" }))
	s.holds([5]int64{1, 1, 1, 0, 1})
	if _, body := q.Inspect(t.Context(), "GET", "/dead?limit=1"); !strings.Contains(string(body), "not allowed for callbacks") {
		t.Errorf("the dead letter is %s", body)
	}
}

func TestBoundsAreNamed(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	release := make(chan struct{})
	s.serve(func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	s.cfg.MaxQueued, s.cfg.MaxQueuedPerFunction = 3, 2
	q := s.run()
	q.enqueue(t, call("a"))
	q.enqueue(t, call("b"))
	other := func(c *queued.Call) { c.Function, c.Address = "g.openfaas-fn", "g" }
	for _, tc := range []struct {
		call   queued.Call
		status int
		says   string
	}{
		{call("a"), 409, "is the id of another call"},
		{call("c"), 429, "legal are 2 calls of one function (async_max_queued_per_function)"},
		{call("d", other), 0, ""},
		{call("e", other), 429, "legal are 3 calls (async_max_queued)"},
		{call("a b"), 400, "1 to 128 letters"},
		{call("x", func(c *queued.Call) { c.Callback = "ftp://h/" }), 400, "no http or https"},
		{call("x", func(c *queued.Call) { c.Callback = "/relative" }), 400, "absolute http and https"},
		{call("x", func(c *queued.Call) { c.Callback = "http:///path" }), 400, "no host"},
		{call("x", func(c *queued.Call) { c.Callback = "http://h/\x7f" }), 400, "malformed"},
		{call("x", func(c *queued.Call) { c.Callback = "http://h/\xff" }), 400, "malformed"},
		{call("x", func(c *queued.Call) { c.Callback = "http://h/" + strings.Repeat("x", 2048) }), 400, "too long"},
		{call("x", func(c *queued.Call) { c.Callback = "http://[fe80::1]/" }), 400, "not allowed"},
		{call("x", func(c *queued.Call) { c.Callback = "http://h:0/" }), 400, "no such port"},
		{call("x", func(c *queued.Call) { c.Callback = "http://h:65536/" }), 400, "no such port"},
		{call("x", func(c *queued.Call) { c.Callback = "http://a<b/" }), 400, "no such host"},
		{call("x", func(c *queued.Call) { c.Callback = "http://xn--\u00fc/" }), 400, "no such host"},
	} {
		err := q.Enqueue(t.Context(), tc.call)
		status := 0
		if err != nil {
			var r *refusal
			if !errors.As(err, &r) {
				t.Fatal(err)
			}
			status = r.HTTPStatus()
		}
		if status != tc.status || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %d %v, want %d %q", tc.call.ID, status, err, tc.status, tc.says)
		}
	}
	if n, _ := q.Pending("g.openfaas-fn"); n > 1 {
		t.Errorf("%d calls of g wait", n)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	began, left := make(chan struct{}, 10), make(chan struct{}, 10)
	callbacks, url := newSink(t)
	s.serve(func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	})
	s.change(true, func(fn *feed.Function) { fn.MaxInflight = 1 })
	q := s.run()
	withCallback := func(c *queued.Call) { c.Callback = url }
	q.enqueue(t, call("running", withCallback))
	<-began
	q.enqueue(t, call("waiting", withCallback))
	for _, id := range []string{"waiting", "running"} {
		if known, err := q.Cancel(t.Context(), id); !known || err != nil {
			t.Errorf("cancelling %s: %v, %v", id, known, err)
		}
		if known, err := q.Cancel(t.Context(), id); known || err != nil {
			t.Errorf("cancelling %s again: %v, %v", id, known, err)
		}
	}
	<-left // the function was told
	s.holds([5]int64{})
	q.stop()
	if n := len(callbacks.all()); n != 0 || len(began) != 0 {
		t.Errorf("%d callbacks and %d more runs after cancelling", n, len(began))
	}
}

func TestManyCancelOneCall(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	q := s.run()
	for round := range 20 {
		id := fmt.Sprint("c", round)
		q.enqueue(t, call(id))
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if _, err := q.Cancel(t.Context(), id); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			})
		}
		group.Wait()
	}
	if got := s.contents(); got != [5]int64{} {
		t.Errorf("redis holds %v", got)
	}
}

func TestConcurrencyFollowsTheFunctionsOwnLimit(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fn   func(*feed.Function)
		want int32
	}{
		"none of its own":      {nil, 4},
		"two replicas of one":  {func(fn *feed.Function) { fn.MaxInflight = 1; fn.Replicas = replicas(2) }, 2},
		"more than the system": {func(fn *feed.Function) { fn.MaxInflight = 9; fn.Replicas = replicas(3) }, 4},
		"asleep":               {func(fn *feed.Function) { fn.MaxInflight = 1 }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.cfg.MaxInflightPerFunction = 4
			s.change(true, tc.fn)
			var now, most atomic.Int32
			s.serve(func(http.ResponseWriter, *http.Request) {
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(2 * time.Millisecond) // so that others come meanwhile
				now.Add(-1)
			})
			q := s.run()
			for i := range 60 {
				q.enqueue(t, call(fmt.Sprint(i)))
			}
			s.holds([5]int64{})
			if most.Load() > tc.want || tc.want > 1 && most.Load() < 2 {
				t.Errorf("%d ran at once, want %d", most.Load(), tc.want)
			}
		})
	}
}

func replicas(n int) (all []feed.Replica) {
	for range n {
		all = append(all, feed.Replica{State: feed.Ready})
	}
	return append(all, feed.Replica{State: feed.Starting})
}

func TestStopLetsRunningCallsFinishAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.change(true, func(fn *feed.Function) { fn.MaxInflight = 1 })
	began, release := make(chan struct{}, 10), make(chan struct{})
	s.serve(func(http.ResponseWriter, *http.Request) { began <- struct{}{}; <-release })
	q := s.run()
	q.enqueue(t, call("first"))
	q.enqueue(t, call("second"))
	<-began
	stopped := make(chan struct{})
	go func() { q.stop(); close(stopped) }()
	<-q.stopping
	close(release)
	<-stopped
	s.holds([5]int64{1, 1, 0, 1, 0})
	s.run()
	<-began
	s.holds([5]int64{})
}

func TestStopCutsWhatLastsTooLongWithoutCountingIt(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.StopTimeout = 0
	began := make(chan struct{}, 10)
	s.serve(func(_ http.ResponseWriter, r *http.Request) { began <- struct{}{}; <-r.Context().Done() })
	q := s.run()
	q.enqueue(t, call("c"))
	<-began
	q.stop()
	if st := s.redis.Do("HGET", "async:state", "c"); strings.Contains(st, "tries") {
		t.Errorf("the attempt counts: %s", st)
	}
	s.holds([5]int64{1, 1, 0, 1, 0})
}

func TestOnlyTheNewestProcessMakesCalls(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	functions := &sink{}
	s.serve(functions.ServeHTTP)
	old := s.run()
	<-old.loaded
	owner := s.run()
	old.owns(t, false)
	old.enqueue(t, call("left")) // accepted by the older process, made by the newer one, which finds it
	functions.await(t, 1)
	if n := owner.index.size() + old.index.size(); n > 2 {
		t.Errorf("%d calls are known", n)
	}
	s.holds([5]int64{})
}

func TestAwayRedisRefusesAndComesBack(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	functions := &sink{}
	s.serve(functions.ServeHTTP)
	s.redis.Kill()
	q := s.run()
	refused := func(want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it gives up by itself
		defer cancel()
		err := q.Enqueue(ctx, call("c"))
		var r *refusal
		if !errors.As(err, &r) || r.status != 503 || !strings.Contains(r.reason, want) || ctx.Err() != nil {
			t.Errorf("got %v, want 503 with %q", err, want)
		}
	}
	refused("not ready")
	s.redis.Restart()
	<-q.loaded
	q.enqueue(t, call("early"))
	functions.await(t, 1)
	s.redis.Kill()
	refused("nothing was changed")
	s.redis.Restart()
	q.enqueue(t, call("late"))
	functions.await(t, 2)
	s.holds([5]int64{})
}

func TestFrozenRedisIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	q := s.run()
	q.enqueue(t, call("first"))
	s.holds([5]int64{})
	s.redis.Stop()
	defer s.redis.Cont()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it gives up by itself
	defer cancel()
	if err := q.Enqueue(ctx, call("c")); err == nil || !strings.Contains(err.Error(), "did not confirm") || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

func TestFunctionThatIsReplacedWithinAnAttemptIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.MaxRetryAttempts = 0
	functions := &sink{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		s.change(false, nil)
		functions.note(r)
		w.Header().Set("X-OpenFaaS-Internal", "gateway")
		w.WriteHeader(404)
	})
	q := s.run()
	q.enqueue(t, call("c"))
	functions.await(t, 1)
	eventually(t, func() error {
		if waiting, _ := q.Pending("f.openfaas-fn"); waiting == 0 && q.index.deadLetters() == 0 {
			return fmt.Errorf("the attempt is under way")
		}
		return nil
	})
	s.serve(functions.ServeHTTP)
	s.change(true, nil)
	s.holds([5]int64{})
	if n := len(functions.all()); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
}

func TestFunctionThatIsUnknownForNowIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.edge.unknown = true
	functions := &sink{}
	var known atomic.Bool
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		functions.note(r)
		if !known.Load() {
			w.Header().Set("X-OpenFaaS-Internal", "gateway")
			w.WriteHeader(404)
		}
	})
	q := s.run()
	q.enqueue(t, call("c"))
	functions.await(t, 2) // more often than once, and none of them counts
	if st := s.redis.Do("HGET", "async:state", "c"); strings.Contains(st, "tries") {
		t.Errorf("attempts count: %s", st)
	}
	known.Store(true)
	s.holds([5]int64{})
}
