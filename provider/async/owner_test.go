package async

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
)

// owns waits until a queue makes the calls of its Redis, or does so no longer.
func (q *queue) owns(t *testing.T, want bool) {
	t.Helper()
	eventually(t, func() error {
		if h := q.health.Load(); !h.connected || h.owner != want {
			return fmt.Errorf("the process is %+v", *h)
		}
		return nil
	})
}

// A dead process has left its name: it was killed, or Redis has come back with an older state.
func TestQueueOfAProcessThatIsNoMoreIsTakenOver(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	functions := &sink{}
	s.serve(functions.ServeHTTP)
	q := s.run()
	<-q.loaded
	s.redis.Do("SET", "async:owner", "killed")
	q.owns(t, false)
	q.enqueue(t, call("c"))
	s.redis.Do("PEXPIRE", "async:owner", "1") // its lease has run out
	q.owns(t, true)
	functions.await(t, 1)
	s.holds([5]int64{})
	eventually(t, func() error {
		if owner := s.redis.Do("GET", "async:owner"); owner != q.epoch {
			return fmt.Errorf("the owner is %q", owner)
		}
		return nil
	})
	// While it lives, its own name stays.
	s.redis.Do("PEXPIRE", "async:owner", "6000")
	eventually(t, func() error {
		if ms, _ := strconv.Atoi(s.redis.Do("PTTL", "async:owner")); ms <= 6000 {
			return fmt.Errorf("the name is kept for %d ms", ms)
		}
		return nil
	})
}

// What another process has done while it was the owner, the older one knows when it is the owner again.
func TestOlderProcessGoesOnWhereTheNewerOneEnded(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.MaxRetryAttempts = 0
	var mu sync.Mutex
	runs := map[string]int{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("X-Call-Id")
		if runs[id]++; strings.HasPrefix(id, "bad") {
			w.WriteHeader(500)
		}
	})
	s.change(false, nil) // so that calls stay
	old := s.run()
	for _, id := range []string{"done", "bad"} {
		old.enqueue(t, call(id))
	}
	newer := s.run()
	old.owns(t, false)
	s.change(true, nil)
	s.holds([5]int64{1, 1, 0, 0, 1})
	newer.buries(t, 1)
	s.change(false, nil)
	newer.enqueue(t, call("left"))
	newer.stop()
	old.owns(t, true)
	if size, dead := old.index.size(), old.index.deadLetters(); size != 1 || dead != 1 {
		t.Errorf("the older process knows of %d calls and %d dead letters", size, dead)
	}
	if code, body := old.Inspect(t.Context(), "DELETE", "/dead/bad"); code != 202 {
		t.Errorf("dropping the dead letter: %d %s", code, body)
	}
	s.change(true, nil)
	s.holds([5]int64{})
	if n := testutil.ToFloat64(old.metrics.lost); n != 0 {
		t.Errorf("%g calls are reported lost", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := fmt.Sprint(runs); got != "map[bad:1 done:1 left:1]" {
		t.Errorf("the functions ran %s", got)
	}
}

// What another process has given up is a dead letter for this one too, and stays.
func TestDeadLetterOfAnotherProcessIsKept(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.change(false, nil) // so that the call stays
	q := s.run()
	q.enqueue(t, call("c"))
	other := s.unstarted()
	if code, body := other.Inspect(t.Context(), "DELETE", "/dead/c"); code != 503 || !strings.Contains(string(body), "does not make the calls") {
		t.Errorf("a process that is not the owner: %d %s", code, body)
	}
	st := state{Function: "f.openfaas-fn", Phase: buried, Reason: "status 500 after 3 retries"}
	if err := other.store.bury(t.Context(), "c", st, 1); err != nil {
		t.Fatal(err)
	}
	s.change(true, nil)
	q.buries(t, 1)
	s.holds([5]int64{1, 1, 0, 0, 1})
	if n := testutil.ToFloat64(q.metrics.lost); n != 0 {
		t.Errorf("%g calls are reported lost", n)
	}
	if code, body := q.Inspect(t.Context(), "POST", "/dead/c"); code != 202 {
		t.Errorf("queueing it again: %d %s", code, body)
	}
	s.holds([5]int64{})
}

// Where a full Redis does not take the newer one's name, the older one is the owner as long as it lives.
func TestFullRedisHasOneOwner(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	old := s.run()
	<-old.loaded
	s.redis.Do("CONFIG", "SET", "maxmemory", "1")
	q, err := New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1000)
	q.store.client.AddHook(before(func(cmds []redis.Cmder) error {
		if cmds[0].Name() == "set" {
			asked <- struct{}{}
		}
		return nil
	}))
	newer := s.start(q)
	<-asked
	<-asked
	select {
	case <-newer.loaded:
		t.Error("there are two owners")
	default:
	}
	old.stop()
	newer.owns(t, true)
}
