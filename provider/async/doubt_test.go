package async

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"waggle/provider/queued"
)

// mute has Redis remove a call the first time that it is asked to, and then loses the answer.
func (s *system) mute(id string) before {
	var once atomic.Bool
	return func(cmds []redis.Cmder) error {
		args := cmds[0].Args()
		if len(cmds) != removal || args[0] != "zrem" || args[2] != id || !once.CompareAndSwap(false, true) {
			return nil
		}
		s.redis.Do("ZREM", "async:due", id)
		s.redis.Do("ZREM", "async:dead", id)
		s.redis.Do("HDEL", "async:calls", id)
		s.redis.Do("HDEL", "async:state", id)
		return context.DeadlineExceeded
	}
}

// removal is how many commands store.remove sends at once; nothing else sends as many that begin with zrem.
const removal = 5

func (s *system) configured(t *testing.T) *Queue {
	t.Helper()
	q, err := New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// A dead letter whose removal was not confirmed is not there for ever: neither in the count nor in the way of its id.
func TestDeadLetterWhoseRemovalHadNoAnswer(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.MaxRetryAttempts = 0
	s.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	q := s.configured(t)
	q.store.client.AddHook(s.mute("c"))
	life := s.start(q)
	life.enqueue(t, call("c"))
	life.buries(t, 1)
	if status, body := q.Inspect(t.Context(), http.MethodDelete, "/dead/c"); status != http.StatusServiceUnavailable {
		t.Fatalf("the removal without an answer: %d %s", status, body)
	}
	life.buries(t, 0)
	life.enqueue(t, call("c"))
}

// A call whose cancellation was not confirmed has not been lost if Redis has it no more.
func TestCancelledCallThatHadNoAnswerIsNotLost(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.cfg.MaxInflight = 1
	begun, end := make(chan struct{}, 2), make(chan struct{})
	s.serve(func(http.ResponseWriter, *http.Request) { begun <- struct{}{}; <-end })
	q := s.configured(t)
	q.store.client.AddHook(s.mute("waiting"))
	life := s.start(q)
	life.enqueue(t, call("running"))
	<-begun
	life.enqueue(t, call("waiting"))
	if _, err := q.Cancel(t.Context(), "waiting"); err == nil {
		t.Fatal("cancelled without an answer")
	}
	close(end)
	eventually(t, func() error {
		if n := life.index.size(); n > 0 {
			return fmt.Errorf("%d calls are queued", n)
		}
		return nil
	})
	if n := testutil.ToFloat64(q.metrics.lost); n != 0 {
		t.Errorf("%v calls are said to be lost", n)
	}
}

// An answer counts whatever it says about where else to look.
func TestAnswerWithALocationThatIsNone(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	functions := &sink{}
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		functions.note(r)
		w.Header().Set("Location", "/50% off")
		w.WriteHeader(http.StatusSeeOther)
	})
	callbacks, url := newSink(t)
	q := s.run()
	q.enqueue(t, call("c", func(c *queued.Call) { c.Callback = url }))
	got := callbacks.await(t, 1)[0]
	if n := len(functions.all()); n != 1 || got.header.Get("X-Function-Status") != "303" {
		t.Errorf("called %d times, its callback is told %s", n, got.header.Get("X-Function-Status"))
	}
}

// A callback's address may hold the receiver's credentials.
func TestCallbackSendsTheCredentialsOfItsAddress(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	callbacks, url := newSink(t)
	q := s.run()
	q.enqueue(t, call("c", func(c *queued.Call) { c.Callback = strings.Replace(url, "://", "://user:p%40ss@", 1) }))
	r := http.Request{Header: callbacks.await(t, 1)[0].header}
	if user, password, ok := r.BasicAuth(); !ok || user != "user" || password != "p@ss" {
		t.Errorf("it came with %q, %q", user, password)
	}
}

type oom struct{}

func (oom) Error() string { return "OOM command not allowed when used memory > 'maxmemory'." }
func (oom) RedisError()   {}

// What Redis has refused, or was never asked, is as the index has it: reading it again would undo what only the index knows.
func TestOnlyALostAnswerIsDoubtful(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"no answer":   {context.DeadlineExceeded, true},
		"broken off":  {io.EOF, true},
		"refused":     {oom{}, false},
		"never asked": {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, false},
		"pool empty":  {redis.ErrPoolTimeout, false},
	} {
		if got := doubtful(tc.err); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
