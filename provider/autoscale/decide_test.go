package autoscale

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waggle/provider/feed"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func drawPolicy(t *rapid.T) Policy {
	least := rapid.IntRange(1, 6).Draw(t, "min")
	return Policy{
		Scale: feed.Scale{
			Min: uint64(least), Max: uint64(least + rapid.IntRange(0, 60).Draw(t, "more")),
			Type:   rapid.SampledFrom([]feed.ScaleType{feed.ScaleRPS, feed.ScaleCapacity, feed.ScaleCPU, feed.ScaleQueue}).Draw(t, "type"),
			Target: math.Exp(rapid.Float64Range(-2, 7).Draw(t, "ln target")), Proportion: rapid.Float64Range(0.05, 1).Draw(t, "proportion"),
			Zero: rapid.Bool().Draw(t, "zero"), ZeroDuration: time.Minute,
			DownWindow: time.Duration(rapid.SampledFrom([]int{0, 5, 30, 60, 300}).Draw(t, "window")) * time.Second,
		},
		MaxInflight: rapid.SampledFrom([]int{0, 1, 5, 100}).Draw(t, "max_inflight"),
	}
}

func drawSample(t *rapid.T, at time.Time) Sample {
	size := math.Exp(rapid.Float64Range(-2, 7).Draw(t, "ln size"))
	part := func(name string) float64 { return size * rapid.Float64Range(0, 1).Draw(t, name) }
	return Sample{At: at, Arrivals: part("arrivals"), Completed: part("completed"), Inflight: math.Floor(part("inflight")),
		Held: math.Floor(part("held") * float64(rapid.IntRange(0, 1).Draw(t, "holds"))), Due: math.Floor(part("due")),
		CPU: 100 * part("cpu"), Ready: rapid.IntRange(0, 60).Draw(t, "ready")}
}

// drawHistory is any history, however unlikely.
func drawHistory(t *rapid.T, p Policy) *History {
	h := &History{}
	h.Begin(Replicas{Desired: rapid.IntRange(0, int(p.Max)+5).Draw(t, "desired"), Ready: rapid.IntRange(0, 20).Draw(t, "running"),
		Stuck: rapid.IntRange(0, 6).Draw(t, "stuck"), Failed: rapid.IntRange(0, 4).Draw(t, "failed"),
		Updating: rapid.Bool().Draw(t, "updating")}, noon.Add(-time.Duration(rapid.IntRange(0, 120).Draw(t, "age"))*time.Second))
	n := rapid.IntRange(0, maxSamples).Draw(t, "samples")
	for i := range n {
		h.samples.add(drawSample(t, noon.Add(-time.Duration(n-1-i)*time.Second)))
	}
	h.Service, h.PerCall = rapid.Float64Range(0, 8).Draw(t, "service"), rapid.Float64Range(0, 500).Draw(t, "per call")
	h.CPU = rapid.Float64Range(-1, 1).Draw(t, "reads")
	h.Start = time.Duration(rapid.Float64Range(0, 4).Draw(t, "start") * float64(time.Second))
	h.Heard = noon.Add(-time.Duration(rapid.IntRange(0, 4).Draw(t, "heard")) * time.Second)
	h.Removed = noon.Add(-time.Duration(rapid.IntRange(0, 20).Draw(t, "removed")) * time.Second)
	h.Silent = rapid.IntRange(0, 1).Draw(t, "silent")
	if rapid.IntRange(0, 5).Draw(t, "full") == 0 {
		h.FullSince = noon.Add(-10 * time.Second)
	}
	for range rapid.IntRange(0, 4).Draw(t, "answers") {
		h.answers.add(noon.Add(-time.Duration(rapid.IntRange(0, 299).Draw(t, "ago"))*time.Second), rapid.IntRange(0, int(p.Max)).Draw(t, "answer"))
	}
	if rapid.Bool().Draw(t, "urgent") {
		s := drawSample(t, noon)
		h.NoteUrgent(s, s.Arrivals*rapid.Float64Range(0, 1).Draw(t, "steady"))
	}
	return h
}

func TestDesiredStaysInBoundsOrAsItWasFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		h := drawHistory(t, p)
		d := Decide(p, h, noon)
		switch {
		case d.Desired == h.Replicas.Desired:
			kept := map[Reason]bool{Pinned: true, ClusterFull: true, FailToStart: true, NoReports: true}
			if below := d.Desired < int(p.Min) && d.Desired > 0; below && !kept[d.Reason] {
				t.Fatalf("%d replicas are kept below the minimum %d: %s", d.Desired, p.Min, d.Reason)
			}
		case d.Desired == 0:
			if !p.Zero || d.Reason != Idle {
				t.Fatalf("removed all: %s", d.Reason)
			}
		case d.Desired < int(p.Min) || d.Desired > int(p.Max):
			t.Fatalf("%d is not in [%d, %d]: %s", d.Desired, p.Min, p.Max, d.Reason)
		}
		if p.Pinned() && h.Replicas.Desired > 0 && d.Desired != h.Replicas.Desired && d.Reason != Idle {
			t.Fatalf("a pinned function is changed to %d: %s", d.Desired, d.Reason)
		}
		if h.Replicas.Updating && d.Desired < h.Replicas.Desired {
			t.Fatalf("removed during an update: %+v", d)
		}
		if h.Silent > 0 && d.Desired < h.Replicas.Desired {
			t.Fatalf("removed while a gateway is silent: %+v", d)
		}
		if h.urgent && d.Desired < h.Replicas.Desired && d.Reason != Idle {
			t.Fatalf("an urgent report removed replicas: %+v", d)
		}
	})
}

func TestMoreLoadNeverGivesFewer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		p.Zero = false
		h := drawHistory(t, p)
		if h.Replicas.Desired == 0 {
			return // what completes says nothing there
		}
		more := *h
		factor := rapid.Float64Range(1, 4).Draw(t, "factor")
		field := rapid.SampledFrom([]string{"all", "arrivals", "inflight", "held", "due", "cpu"}).Draw(t, "field")
		grow := func(s *Sample) {
			for name, value := range map[string]*float64{"arrivals": &s.Arrivals, "inflight": &s.Inflight, "held": &s.Held, "due": &s.Due, "cpu": &s.CPU} {
				if field == name || field == "all" {
					*value *= factor
				}
			}
		}
		// Of this second, or all along.
		for i := range rapid.SampledFrom([]int{min(1, more.samples.n), more.samples.n}).Draw(t, "seconds") {
			grow(more.samples.last(i))
		}
		grow(&more.fresh)
		if field == "arrivals" || field == "all" {
			more.steady *= factor
		}
		less, greater := Decide(p, h, noon), Decide(p, &more, noon)
		if greater.Desired < less.Desired {
			t.Fatalf("%s × %g: %+v, then %+v", field, factor, less, greater)
		}
	})
}

func TestConstantLoadComesToRest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		p.Zero = false
		s := drawSample(t, noon)
		s.Held = 0
		s.Ready = max(s.Ready, 1)
		h := &History{}
		h.Begin(Replicas{Desired: rapid.IntRange(int(p.Min), int(p.Max)).Draw(t, "desired"), Ready: 1}, noon)
		h.Service, h.PerCall = rapid.Float64Range(0, 8).Draw(t, "service"), rapid.Float64Range(0, 500).Draw(t, "per call")
		changes, last := 0, noon
		for now := noon; now.Before(noon.Add(15 * time.Minute)); now = now.Add(time.Second) {
			s.At, h.Heard = now, now
			h.Note(s)
			d := Decide(p, h, now)
			h.NoteDecision(d, now)
			if d.Desired != h.Replicas.Desired {
				changes, last = changes+1, now
			}
			h.NoteReplicas(Replicas{Desired: d.Desired, Ready: 1}, now)
		}
		if changes > 3 || last.Sub(noon) > p.DownWindow+time.Minute {
			t.Fatalf("%d changes, the last after %s", changes, last.Sub(noon))
		}
	})
}

func TestDecideChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		h := drawHistory(t, p)
		before := *h
		first, second := Decide(p, h, noon), Decide(p, h, noon)
		if first != second || before != *h {
			t.Fatalf("%+v, then %+v", first, second)
		}
	})
}

func TestUpIsNeverDelayedByARemoval(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		h := drawHistory(t, p)
		early := *h
		early.Removed = noon
		if a, b := Decide(p, h, noon), Decide(p, &early, noon); a.Desired > h.Replicas.Desired && a != b {
			t.Fatalf("%+v without a removal, %+v after one", a, b)
		}
	})
}

// TestWhatWaitsForASlowStartAddsNoMore: nine replicas that come will serve 450 requests/s. That is enough for 140, and for the
// thousand that wait.
func TestWhatWaitsForASlowStartAddsNoMore(t *testing.T) {
	t.Parallel()
	p := Policy{Scale: feed.Scale{Min: 1, Max: 20, Type: feed.ScaleRPS, Target: 20, Proportion: 0.9, DownWindow: 30 * time.Second}, MaxInflight: 10}
	for _, test := range []struct{ desired, stuck, held, want int }{{9, 0, 1000, 9}, {9, 0, 1550, 9}, {9, 0, 3000, 20}, {9, 6, 1000, 20}} {
		h := &History{}
		h.Begin(Replicas{Desired: test.desired, Ready: 1, Stuck: test.stuck}, noon)
		h.Service = 0.2
		for i := range 4 {
			at := noon.Add(time.Duration(i) * time.Second)
			h.Note(Sample{At: at, Arrivals: 140, Completed: 50, Inflight: 10, Held: float64(test.held), Ready: 1})
			h.Heard = at
		}
		if d := Decide(p, h, h.Heard); d.Desired != test.want {
			t.Errorf("%+v: %+v", test, d)
		}
	}
}

func BenchmarkRoundOf500(b *testing.B) {
	type one struct {
		p Policy
		h *History
	}
	all := make([]one, 500)
	for i := range all {
		p := rapid.Custom(drawPolicy).Example(i)
		all[i] = one{p, rapid.Custom(func(t *rapid.T) *History { return drawHistory(t, p) }).Example(i)}
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, a := range all {
			Decide(a.p, a.h, noon)
		}
	}
}

func ExampleDecide() {
	p := Policy{Scale: feed.Scale{Min: 1, Max: 20, Type: feed.ScaleRPS, Target: 50, Proportion: 0.9, DownWindow: 30 * time.Second}}
	h := &History{}
	h.Begin(Replicas{Desired: 1, Ready: 1}, noon)
	for i := range 3 {
		at := noon.Add(time.Duration(i) * time.Second)
		h.Note(Sample{At: at, Arrivals: 400, Ready: 1})
		h.Heard = at
	}
	d := Decide(p, h, noon.Add(2*time.Second))
	fmt.Println(d.Desired, d.Reason)
	// Output: 9 burst
}
