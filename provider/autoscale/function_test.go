package autoscale

import (
	"context"
	"testing"

	"waggle/provider/feed"
)

// obedient is a cluster that accepts every scale call.
type obedient struct{}

func (obedient) ScaleFrom(context.Context, string, string, uint64, uint64) error { return nil }
func (obedient) Wake(context.Context, string, string) error                      { return nil }

// TestATableThatIsBehindIsNobodysHand: three calls within milliseconds reach the table one after the other.
func TestATableThatIsBehindIsNobodysHand(t *testing.T) {
	t.Parallel()
	s, err := New(Config{Cluster: obedient{}, Usages: &feed.UsageBook{}, Namespace: "openfaas-fn"})
	if err != nil {
		t.Fatal(err)
	}
	s.ctx = t.Context()
	revision := uint64(0)
	show := func(desired uint64) {
		revision++
		s.Follow(feed.Table{Epoch: "e", Revision: revision, Functions: []feed.Function{{Name: "f", Namespace: "openfaas-fn", Desired: desired}}})
	}
	show(1)
	f := s.functions[key{"openfaas-fn", "f"}]
	for _, step := range []struct{ from, to int }{{1, 2}, {2, 4}, {4, 8}} {
		s.mu.Lock()
		f.call(step.from, step.to, Held)
		s.mu.Unlock()
		s.calls.Wait()
	}
	for _, n := range []uint64{2, 4, 8, 5} {
		show(n)
	}
	v, _ := s.View("", "f")
	var reasons []Reason
	for _, c := range v.Changes {
		reasons = append(reasons, c.Reason)
	}
	if len(reasons) != 4 || reasons[2] != Held || reasons[3] != ByHand {
		t.Errorf("changes are %v, want three of ours and the last by hand", reasons)
	}
}
