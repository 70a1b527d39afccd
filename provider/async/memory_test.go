package async

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waggle/provider/queued"
)

func TestFullRedisRefusesAndDrains(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.change(false, nil) // so that calls stay
	q := s.run()
	s.redis.Do("CONFIG", "SET", "maxmemory", "8mb")
	body := make([]byte, 256<<10)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = q.Enqueue(t.Context(), call(fmt.Sprint(n), func(c *queued.Call) { c.Body = body }))
	}
	var r *refusal
	if !errors.As(err, &r) || r.status != 429 || !strings.Contains(r.reason, "memory") {
		t.Fatalf("after %d calls: %v", n, err)
	}
	if got := s.contents(); got != [5]int64{int64(n - 1), int64(n - 1), 0, int64(n - 1), 0} {
		t.Errorf("redis holds %v after %d calls", got, n-1)
	}
	s.change(true, nil)
	s.holds([5]int64{})
	eventually(t, func() error { return q.Enqueue(t.Context(), call("again")) })
}

// TestReceiverThatIsDownDoesNotFillRedis: the results that wait for it leave room for outcomes. So no call is
// made twice, and none is lost once the receiver is back.
func TestReceiverThatIsDownDoesNotFillRedis(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.MaxRetryAttempts = 1000
	s.cfg.MaxRetryWait = time.Second
	var up atomic.Bool
	functions, delivered := &sink{}, &sink{}
	answer := make([]byte, 256<<10)
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		functions.note(r)
		_, _ = w.Write(answer)
	})
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		delivered.note(r)
	}))
	defer receiver.Close()
	s.change(false, nil) // so that calls stay
	q := s.run()
	s.redis.Do("CONFIG", "SET", "maxmemory", "8mb")
	const calls = 80
	for n := range calls {
		q.enqueue(t, call(fmt.Sprint(n), func(c *queued.Call) { c.Callback = receiver.URL }))
	}
	roomIs := func(what string, right func(int64) bool) {
		t.Helper()
		eventually(t, func() error {
			if room := q.room.Load(); !right(room) {
				return fmt.Errorf("there is room for %d bytes of results, want %s", room, what)
			}
			return nil
		})
	}
	roomIs("what the poll has found", func(n int64) bool { return n < 8<<20 })
	s.change(true, nil)
	roomIs("none", func(n int64) bool { return n <= 0 })
	up.Store(true)
	s.holds([5]int64{})
	if made := len(functions.all()); made != calls {
		t.Errorf("%d calls were made %d times", calls, made)
	}
	whole, told := 0, 0
	for _, d := range delivered.all() {
		switch {
		case len(d.body) == len(answer):
			whole++
		case d.header.Get("X-Result-Omitted") != "":
			told++
		}
	}
	if whole == 0 || whole+told != calls {
		t.Errorf("%d whole results and %d without body for %d calls", whole, told, calls)
	}
}

// TestFailuresCountWithoutMemory: attempts end although Redis can store none of them.
func TestFailuresCountWithoutMemory(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	functions := &sink{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if functions.note(r) == 1 {
			s.redis.Do("CONFIG", "SET", "maxmemory", "1")
		}
		w.WriteHeader(http.StatusInternalServerError)
	})
	q := s.run()
	q.enqueue(t, call("c"))
	functions.await(t, s.cfg.MaxRetryAttempts+1)
	s.redis.Do("CONFIG", "SET", "maxmemory", "0")
	q.buries(t, 1)
	if got := functions.all(); len(got) > s.cfg.MaxRetryAttempts+2 {
		t.Errorf("%d attempts, legal are %d and one after the pause", len(got), s.cfg.MaxRetryAttempts+1)
	}
}
