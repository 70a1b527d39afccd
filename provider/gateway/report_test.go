package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"waggle/provider/feed"
)

// TestWhatCannotWaitIsReportedOutOfTurn drives the reporter by hand beside a gateway that holds requests.
func TestWhatCannotWaitIsReportedOutOfTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		coming := feed.Replica{ID: "a", Address: "a:8080", State: feed.Preparing}
		g, err := New(Config{Table: &feed.Table{Epoch: "e", Functions: []feed.Function{function("held", coming), function("quiet")}}, FunctionNamespace: "openfaas-fn"})
		if err != nil {
			t.Fatal(err)
		}
		r := &g.reports
		if whole := r.whole(); len(whole.Functions) != 2 || whole.Partial {
			t.Fatalf("the whole report is %+v", whole)
		}
		set := g.registry.Lookup([]byte("held"))
		none := func(when string) {
			t.Helper()
			if report, moved := r.urgent(); moved {
				t.Errorf("%s there is nothing urgent, and yet: %+v", when, report)
			}
		}
		none("at rest")
		left := make(chan struct{})
		wait := func() { _, _ = set.Wait(nil, time.Now().Add(time.Minute), left) }
		for range 3 {
			go wait()
		}
		synctest.Wait()
		report, moved := r.urgent()
		if !moved || !report.Partial || len(report.Functions) != 1 || report.Functions[0].Name != "held" || report.Functions[0].Queued != 3 {
			t.Fatalf("three are held: %v, %+v", moved, report)
		}
		go wait()
		synctest.Wait()
		none("within 0.3 s of the last")
		time.Sleep(urgentEvery)
		if report, moved := r.urgent(); !moved || report.Functions[0].Queued != 4 {
			t.Errorf("the one that follows: %v, %+v", moved, report)
		}
		time.Sleep(urgentEvery)
		none("after that, with no more held,")
		close(left)
		synctest.Wait()
		none("once nobody waits")
		g.registry.Apply(feed.Table{})
		if whole := r.whole(); len(whole.Functions) != 0 || len(r.said) != 0 {
			t.Errorf("removed functions are reported: %+v", whole)
		}
	})
}
