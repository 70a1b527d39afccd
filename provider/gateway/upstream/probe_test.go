package upstream

import (
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
