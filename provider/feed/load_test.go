package feed

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// names gives the gateways of loads, silent ones in brackets.
func names(loads Loads) []string {
	var list []string
	for _, g := range loads.Gateways {
		name := g.Gateway + g.Epoch
		if g.Silent {
			name = "(" + name + ")"
		}
		list = append(list, name)
	}
	return list
}

// TestLoadsAreOfEachProcess: whoever makes a rate of counters must not take a gateway's restart, or its silence, for a
// change of the load.
func TestLoadsAreOfEachProcess(t *testing.T) {
	t.Parallel()
	start := time.Unix(1000, 0)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	type report struct {
		second float64
		Report
	}
	of := func(second float64, gateway, epoch, node string, functions ...Load) report {
		return report{second, Report{Gateway: gateway, Epoch: epoch, Node: node, Functions: functions}}
	}
	leaving := func(r report) report { r.Leaving = true; return r }
	f := Load{Name: "f", Started: 9, Completed: 7, Inflight: 2, Queued: 1, Pending: 5, Due: 3}
	for name, test := range map[string]struct {
		reports           []report
		down              []string
		now               float64
		want              []string
		reporting, silent int
	}{
		"two that report":                {reports: []report{of(0, "a", "1", "n"), of(1, "b", "1", "m")}, now: 2, want: []string{"a1", "b1"}, reporting: 2},
		"one is silent":                  {reports: []report{of(0, "a", "1", "n", f), of(3, "b", "1", "m")}, now: 3.1, want: []string{"(a1)", "b1"}, reporting: 1, silent: 1},
		"it reports again":               {reports: []report{of(0, "a", "1", "n"), of(9, "a", "1", "n")}, now: 10, want: []string{"a1"}, reporting: 1},
		"it said goodbye":                {reports: []report{of(0, "a", "1", "n"), leaving(of(1, "a", "1", "n"))}, now: 1},
		"a report that goodbye overtook": {reports: []report{leaving(of(0, "a", "1", "n")), of(1, "a", "1", "n")}, now: 1},
		"replaced within its container":  {reports: []report{of(0, "a", "1", ""), of(4, "a", "2", "")}, now: 5, want: []string{"a2"}, reporting: 1},
		"replaced on its node":           {reports: []report{of(0, "a", "1", "n"), of(4, "b", "1", "n")}, now: 5, want: []string{"b1"}, reporting: 1},
		"two on one node":                {reports: []report{of(0, "a", "1", "n"), of(1, "b", "1", "n"), of(2, "a", "1", "n")}, now: 3, want: []string{"a1", "b1"}, reporting: 2},
		"the elder of two is silent":     {reports: []report{of(0, "a", "1", "n"), of(1, "b", "1", "n"), of(5, "a", "1", "n")}, now: 6, want: []string{"a1", "(b1)"}, reporting: 1, silent: 1},
		"nodes that nobody knows":        {reports: []report{of(0, "a", "1", ""), of(4, "b", "1", "")}, now: 5, want: []string{"(a1)", "b1"}, reporting: 1, silent: 1},
		"its node is down":               {reports: []report{of(0, "a", "1", "n"), of(4, "b", "1", "m")}, down: []string{"n"}, now: 5, want: []string{"b1"}, reporting: 1},
		"down in error, for it reports":  {reports: []report{of(4, "a", "1", "n")}, down: []string{"n"}, now: 5, want: []string{"a1"}, reporting: 1},
		"silent for five minutes":        {reports: []report{of(0, "a", "1", "n")}, now: 301},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b loadBook
			b.init()
			for _, r := range test.reports {
				b.add(r.Report, at(r.second))
			}
			b.published(Table{Down: test.down})
			got := b.all(at(test.now))
			if !slices.Equal(names(got), test.want) || got.Reporting != test.reporting || got.Silent != test.silent {
				t.Errorf("got %v, %d reporting, %d silent; want %v, %d, %d", names(got), got.Reporting, got.Silent, test.want, test.reporting, test.silent)
			}
		})
	}
	// The last figures of a silent one stay, those of a function that a report leaves out are its counters.
	var b loadBook
	b.init()
	b.add(of(0, "a", "1", "n", f).Report, at(0))
	if got := b.all(at(100)).Gateways[0]; fmt.Sprint(got.Functions) != fmt.Sprint([]Load{f}) || got.Arrived != at(0) || got.Node != "n" {
		t.Errorf("a silent gateway's load is %+v", got)
	}
	b.add(of(1, "a", "1", "n").Report, at(1))
	if got := b.all(at(1)).Gateways[0].Functions; fmt.Sprint(got) != fmt.Sprint([]Load{{Name: "f", Started: 9, Completed: 7}}) {
		t.Errorf("an idle function's load is %+v", got)
	}
}

// A gateway that ends in order is no gateway that fell silent.
func TestGatewaySaysGoodbye(t *testing.T) {
	t.Parallel()
	h := newHub(t, noWaker)
	h.Publish(Table{Epoch: "e", Revision: 1})
	s := newServer(t, h.Handler())
	t.Run("while it runs", func(t *testing.T) {
		c := start(t, ClientConfig{URL: s.URL, ReportEvery: 5 * time.Millisecond, Report: func() Report { return Report{Gateway: "g", Epoch: "e"} }})
		await(t, c, revision(1))
		for h.Loads().Reporting != 1 {
			if t.Context().Err() != nil {
				t.Fatal("it never reported")
			}
		}
	})
	if got := h.Loads(); len(got.Gateways) != 0 {
		t.Errorf("after its end there is %v", names(got))
	}
}

// TestAReportOutOfTurnSaysNothingOfWhatItLeavesOut: whole reports call what they leave out idle, and tell that their gateway
// lives.
func TestAReportOutOfTurnSaysNothingOfWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	var book loadBook
	book.init()
	start := time.Unix(1000, 0)
	report := func(second float64, partial bool, loads ...Load) {
		book.add(Report{Gateway: "a", Epoch: "1", Partial: partial, Functions: loads}, start.Add(time.Duration(second*float64(time.Second))))
	}
	report(0, false, Load{Name: "f", Completed: 1, Inflight: 3}, Load{Name: "g", Completed: 5, Inflight: 4})
	report(0.5, true, Load{Name: "f", Completed: 9, Inflight: 30, Queued: 2})
	report(0.6, true, Load{Name: "f", Completed: 8}) // overtaken
	got := book.all(start.Add(3100 * time.Millisecond))
	if got.Silent != 1 || got.Gateways[0].Arrived != start {
		t.Errorf("it counts as a whole report: %+v", got)
	}
	if f, g := got.Gateways[0].Functions[0], got.Gateways[0].Functions[1]; f.Inflight != 30 || f.Queued != 2 || g.Inflight != 4 {
		t.Errorf("f is %+v, g %+v", f, g)
	}
	if n := book.invocations(key{name: "f"}); n != 9 {
		t.Errorf("f was called %d times, want 9", n)
	}
	report(4, false, Load{Name: "f", Completed: 10})
	if n := book.invocations(key{name: "f"}); n != 10 {
		t.Errorf("f was called %d times, want 10", n)
	}
}
