package upstream

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"waggle/provider/feed"
)

func TestUnwellReplicaLeavesOnlyIfItsHealthSaysSo(t *testing.T) {
	w := &town{}
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		s := trusted(t, g, fn(0, "a ready"))
		r := s.replicas()[0]
		r.Unwell()
		synctest.Wait()
		if s.Ready() != 1 {
			t.Error("a well replica left")
		}
		w.set("a:8080", 503)
		r.Unwell()
		synctest.Wait()
		if s.Ready() != 0 {
			t.Error("an unwell replica stayed")
		}
	})
}

// A replica that is suspected while a check of it runs comes back as any other does.
func TestReplicaSuspectedDuringItsCheckReturns(t *testing.T) {
	w := &town{}
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		s := trusted(t, g, fn(0, "a ready", "b ready"))
		r := s.byID["a"]
		w.set("a:8080", 503)
		r.Unwell()
		r.Refused(syscall.ECONNREFUSED)
		synctest.Wait()
		if s.Ready() != 1 {
			t.Fatalf("%d in rotation, want b alone", s.Ready())
		}
		w.set("a:8080", 200)
		time.Sleep(2 * time.Second)
		if s.Ready() != 2 {
			t.Error("the replica is well again, and not in rotation")
		}
		if w.mu.Lock(); w.probes > 5 { // two fresh ones, the check, and one or two to come back
			t.Errorf("%d probes: more than one at a time", w.probes)
		}
		w.mu.Unlock()
	})
}

// One that left the table meanwhile is not asked again.
func TestReplicaThatLeavesDuringItsCheckIsNotProbed(t *testing.T) {
	for name, left := range map[string][]string{"removed": {"b ready"}, "draining": {"a draining", "b ready"}} {
		t.Run(name, func(t *testing.T) {
			w := &town{}
			bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
				s := trusted(t, g, fn(0, "a ready", "b ready"))
				r := s.byID["a"]
				w.set("a:8080", 503)
				r.Unwell()
				r.Refused(syscall.ECONNREFUSED)
				apply(g, fn(0, left...))
				synctest.Wait()
				w.mu.Lock()
				before := w.probes
				w.mu.Unlock()
				time.Sleep(5 * time.Second)
				if w.mu.Lock(); w.probes != before {
					t.Errorf("%d probes of a replica that is to get no requests", w.probes-before)
				}
				w.mu.Unlock()
			})
		})
	}
}

// Replicas that hang, however many, keep none that is well out of rotation.
func TestHangingProbesHoldNobodyUp(t *testing.T) {
	w := &town{}
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		hanging := feed.Function{Name: "hanging", Namespace: "fn"}
		for i := range 4 * maxProbes {
			id := fmt.Sprint(i)
			hanging.Replicas = append(hanging.Replicas, feed.Replica{ID: id, Address: id + ":8080", State: feed.Ready})
			w.set(id+":8080", hangs)
		}
		apply(g, hanging)
		time.Sleep(10 * time.Second)
		begun := time.Now()
		s := apply(g, hanging, fn(0, "a ready"))
		for s.Ready() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("a replica that is well was in rotation after %s", took)
		}
	})
}

// A replica that runs and does not answer is reported. Requests stop waiting for it once that has lasted as
// long as they would wait.
func TestReplicaThatRunsAndDoesNotAnswer(t *testing.T) {
	w := &town{}
	w.set("a:8080", 0)
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		s := apply(g, fn(0, "a ready"))
		begun := time.Now()
		wait := func() error {
			_, err := s.Wait(nil, time.Now().Add(10*time.Minute), nil)
			return err
		}
		var unreachable *UnreachableError
		if err := wait(); !errors.As(err, &unreachable) || err.Error() != "replica a does not answer GET /_/health on :8080: connection refused" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took < 30*time.Second || took > 33*time.Second {
			t.Errorf("it was waited for %s, want 30 s", took)
		}
		begun = time.Now()
		if err := wait(); !errors.As(err, &unreachable) || time.Since(begun) > 0 {
			t.Errorf("got %v after %s, want the same at once", err, time.Since(begun))
		}
		if all := g.Unreachable(); len(all) != 1 || all[0].ID != "a" || all[0].Reason != unreachable.Reason {
			t.Errorf("reported %v", all)
		}
		// Another one starts: that is worth waiting for.
		w.set("b:8080", 200)
		apply(g, fn(0, "a ready", "b starting"))
		go func() { time.Sleep(time.Second); apply(g, fn(0, "a ready", "b ready")) }()
		if err := wait(); err != nil {
			t.Errorf("with another one that starts: %v", err)
		}
		w.set("a:8080", 200)
		time.Sleep(2 * time.Second)
		if all := g.Unreachable(); len(all) != 0 || s.Ready() != 2 {
			t.Errorf("it is well again; reported %v, %d in rotation", all, s.Ready())
		}
	})
}

// A replica that takes a moment to listen is not reported.
func TestReplicaThatStartsIsNotReported(t *testing.T) {
	w := &town{}
	w.set("a:8080", 0)
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		apply(g, fn(0, "a ready"))
		time.Sleep(4 * time.Second)
		if all := g.Unreachable(); len(all) != 0 {
			t.Errorf("reported %v", all)
		}
	})
}

// A request that may have ended a replica gets another one only while the function can spare it.
func TestSpareReplicas(t *testing.T) {
	w := &town{}
	bubble(t, Config{Dial: w.dial}, func(t *testing.T, g *Registry) {
		s := trusted(t, g, fn(0, "a ready", "b ready"))
		broke := func(r *Replica, status int) []*Replica {
			w.set(r.Address, status)
			r.Broke()
			return []*Replica{r}
		}
		a := s.byID["a"]
		if r, err := s.WaitSpare(broke(a, 200), time.Now().Add(time.Second), nil); err != nil || r == a {
			t.Fatalf("the first is alive: got %v, %v, want the second", r, err)
		} else {
			r.Release()
		}
		tried := broke(a, 0)
		if _, err := s.WaitSpare(tried, time.Now().Add(time.Second), nil); !errors.Is(err, ErrBusy) {
			t.Errorf("the first is dead: got %v, want no replica, since the second is the last", err)
		}
		go func() { time.Sleep(time.Second); apply(g, fn(0, "a ready", "b ready", "c ready")) }()
		if r, err := s.WaitSpare(tried, time.Now().Add(10*time.Second), nil); err != nil {
			t.Errorf("with a third: %v", err)
		} else {
			r.Release()
		}
		s = apply(g, fn(0, "b ready"))
		if _, err := s.WaitSpare(nil, time.Now().Add(time.Hour), nil); !errors.Is(err, ErrNoSpare) {
			t.Errorf("of one: got %v", err)
		}
	})
}
