package async

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
)

func (s *system) sweep(q *Queue, suspects map[string]string) map[string]string {
	s.t.Helper()
	suspects, err := q.sweep(s.t.Context(), suspects)
	if err != nil {
		s.t.Fatal(err)
	}
	return suspects
}

// Times do not count: that of a call is when its body began to come, and clocks are put right.
func TestSweepSparesWhatMayStillBeAccepted(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	const old = `{"fn":"f.openfaas-fn","at":1,"phase":"invoke"}`
	s.put("orphan", old)
	s.put("changing", old)
	s.put("queued by another process", old, "due")
	s.put("dead in another process", old, "dead")
	s.put("rubbish", "rubbish")
	for _, id := range []string{"orphan", "rubbish", "changing"} {
		s.redis.Do("HSET", "async:calls", id, "record")
		s.redis.Do("HSET", "async:results", id, "result")
	}
	q := s.unstarted()
	suspects := s.sweep(q, nil)
	s.holds([5]int64{3, 5, 3, 1, 1}) // whoever is storing any of these has the time until the next sweep
	s.put("changing", strings.Replace(old, "1", "2", 1))
	s.put("new", old)
	suspects = s.sweep(q, suspects)
	s.holds([5]int64{1, 4, 1, 1, 1})
	s.sweep(q, suspects)
	s.holds([5]int64{0, 2, 0, 1, 1})
}

// The id of what was never accepted is a good one for the client's next attempt, even while the rest of the first is swept.
func TestSweepSparesWhatIsStoredMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.put("again", `{"fn":"f.openfaas-fn","at":1,"phase":"invoke"}`)
	q := s.unstarted()
	suspects := s.sweep(q, nil)
	var stored atomic.Bool
	q.store.client.AddHook(before(func(cmds []redis.Cmder) error {
		if name := cmds[0].Name(); (name == "zrem" || name == "hdel" || strings.HasPrefix(name, "eval")) && stored.CompareAndSwap(false, true) {
			return q.Enqueue(t.Context(), call("again"))
		}
		return nil
	}))
	s.sweep(q, suspects)
	if got := s.contents(); !stored.Load() || got != [5]int64{1, 1, 0, 1, 0} {
		t.Errorf("redis holds %v", got)
	}
}

// 409 tells a client that its call is safe, which is not so before it is on disk.
func TestConflictOnlyWithWhatIsStored(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	q := s.unstarted()
	storing, fail := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	q.store.client.AddHook(before(func(cmds []redis.Cmder) error {
		if cmds[0].Name() != "hset" || !first.CompareAndSwap(false, true) {
			return nil
		}
		close(storing)
		<-fail
		return errKilled
	}))
	var group sync.WaitGroup
	group.Go(func() {
		if err := q.Enqueue(t.Context(), call("c")); err == nil {
			t.Error("the first was accepted although it could not be stored")
		}
	})
	<-storing
	var r *refusal
	if err := q.Enqueue(t.Context(), call("c")); !errors.As(err, &r) || r.status != 503 {
		t.Errorf("while the first is being stored: %v", err)
	}
	close(fail)
	group.Wait()
	if err := q.Enqueue(t.Context(), call("c")); err != nil {
		t.Errorf("after the first has failed: %v", err)
	}
	if err := q.Enqueue(t.Context(), call("c")); !errors.As(err, &r) || r.status != 409 {
		t.Errorf("after one was stored: %v", err)
	}
}
