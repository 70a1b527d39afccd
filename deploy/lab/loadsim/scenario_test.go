package main

import (
	"testing"
	"time"

	"waggle/provider/autoscale"
)

func settingOf(t *testing.T, kind string) setting {
	t.Helper()
	s, err := options{kind: kind, work: "web", runs: 1, start: 1.5}.setting()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// follow plays the step of ten times the load and hands each decision out.
func follow(s setting, a *waggle, decided func(w *world, d autoscale.Decision)) result {
	a.decided = decided
	c := tuned(s.unit())[0]
	return newWorld(s, newTrace(c, s, 1000), 0).run(a)
}

func TestARestartInASpikeRemovesNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rps", "capacity"} {
		for _, at := range []float64{21, 22, 24, 30, 60} {
			before, least := 0, 1<<30
			r := follow(settingOf(t, kind), &waggle{restartAt: at}, func(w *world, d autoscale.Decision) {
				switch {
				case w.now < at:
					before = w.asked
				case w.now < at+30:
					least = min(least, d.Desired)
				}
			})
			if least < before || r.Failed > 0 {
				t.Errorf("%s, restarted at %g s: %d replicas became %d, %d requests failed", kind, at, before, least, r.Failed)
			}
		}
	}
}

func TestASilentGatewayChangesNothingInItsWindow(t *testing.T) {
	t.Parallel()
	before := 0
	follow(settingOf(t, "rps"), &waggle{silentAt: 150}, func(w *world, d autoscale.Decision) {
		if w.now < 150 {
			before = w.asked
		}
		if w.now > 150 && w.now < 250 && d.Desired != before {
			t.Errorf("at %.1f s: %+v instead of %d", w.now, d, before)
		}
	})
}

func TestAFullClusterIsSaidAndLeftAlone(t *testing.T) {
	t.Parallel()
	s := settingOf(t, "rps")
	s.room = 5
	said := 0
	r := follow(s, &waggle{}, func(_ *world, d autoscale.Decision) {
		if d.Reason == autoscale.ClusterFull {
			said++
		}
	})
	if said == 0 || r.Changes > 20 {
		t.Errorf("said %d times, %d changes", said, r.Changes)
	}
}

func TestACrashLoopIsSaidAndBoundsGrowth(t *testing.T) {
	t.Parallel()
	s := settingOf(t, "rps")
	s.crashFrom, s.crashTo = 10, 120
	said, most := 0, 0
	r := follow(s, &waggle{}, func(w *world, d autoscale.Decision) {
		if d.Reason == autoscale.FailToStart {
			said++
		}
		if w.now < 120 {
			most = max(most, d.Desired)
		}
	})
	if said == 0 || most == s.most || r.Changes > 30 {
		t.Errorf("said %d times, up to %d replicas, %d changes", said, most, r.Changes)
	}
}

// The promises that RESULTS.md gives figures for, on the step alone: what breaks them should not wait for somebody to look.
func TestWaggleIsUnderCapacityForLessThanKnativeAndFailsNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rps", "capacity"} {
		for _, work := range []string{"web", "misset"} {
			o := options{kind: kind, work: work, runs: 1, start: 1.5}
			s, err := o.setting()
			if err != nil {
				t.Fatal(err)
			}
			c := tuned(s.unit())[0]
			ours, theirs := o.play(c, s, contender{make: func() algorithm { return &waggle{} }}), o.play(c, s, contender{make: func() algorithm { return &kpa{proportion: 0.7} }})
			if ours.Failed > 0 || ours.Under >= theirs.Under || ours.Waited >= theirs.Waited {
				t.Errorf("%s, %s: %+v, Knative %+v", kind, work, ours, theirs)
			}
		}
	}
}

func TestALongerWindowReversesLess(t *testing.T) {
	t.Parallel()
	s := settingOf(t, "rps")
	c := tuned(s.unit())[5]
	short := newWorld(s, newTrace(c, s, 1000), 0).run(&waggle{window: time.Second})
	long := newWorld(s, newTrace(c, s, 1000), 0).run(&waggle{window: time.Minute})
	if long.Reversals >= short.Reversals {
		t.Errorf("%s: %d reversals with a minute, %d with a second", c.name, long.Reversals, short.Reversals)
	}
}
