package autoscale

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"waggle/provider/feed"
)

// twoNodes is a Swarm of nodes a and b, and a function whose replicas are on them. Like a real one it starts replicas
// where there are fewest, unless b is full, and ends them where there are most.
type twoNodes struct {
	a, b  int
	full  bool
	calls []string
}

func (n *twoNodes) Wake(context.Context, string, string) error { return nil }

func (n *twoNodes) ScaleFrom(_ context.Context, _, _ string, from, to uint64) error {
	n.calls = append(n.calls, fmt.Sprintf("%d to %d", from, to))
	for ; from < to; from++ {
		if n.b < n.a && !n.full {
			n.b++
		} else {
			n.a++
		}
	}
	for ; from > to; from-- {
		if n.b > n.a {
			n.b--
		} else {
			n.a--
		}
	}
	return nil
}

// run shows the function to a scaler once a second.
func (n *twoNodes) run(t *testing.T, d time.Duration, change func(*feed.Function)) {
	s, err := New(Config{Cluster: n, Usages: &feed.UsageBook{}, Namespace: "openfaas-fn"})
	if err != nil {
		t.Fatal(err)
	}
	for second := range uint64(d / time.Second) {
		fn := feed.Function{Name: "f", Namespace: "openfaas-fn", Desired: uint64(n.a + n.b), Nodes: 2,
			Scale: feed.Scale{Min: 2, Max: 10, Type: feed.ScaleRPS, Target: 50, Proportion: 0.9, DownWindow: 5 * time.Minute}}
		for i := range n.a + n.b {
			r := feed.Replica{ID: fmt.Sprint(i), Node: "a", State: feed.Ready}
			if i >= n.a {
				r.Node = "b"
			}
			fn.Replicas = append(fn.Replicas, r)
		}
		change(&fn)
		s.Follow(feed.Table{Epoch: "e", Revision: second + 1, Functions: []feed.Function{fn}})
		s.Round(feed.Loads{Gateways: []feed.GatewayLoad{{Gateway: "g", Epoch: "e", Arrived: time.Now(),
			Functions: []feed.Load{{Name: "f", Namespace: "openfaas-fn"}}}}})
		time.Sleep(time.Second)
		synctest.Wait()
	}
	s.end()
}

// TestReplicasReturnToANodeThatWasAway, and no further one stays.
func TestReplicasReturnToANodeThatWasAway(t *testing.T) {
	t.Parallel()
	asItIs := func(*feed.Function) {}
	for name, test := range map[string]struct {
		nodes  twoNodes
		change func(*feed.Function)
		want   string
	}{
		"both on one node":          {twoNodes{a: 2}, asItIs, "1 1 [2 to 3 3 to 2]"},
		"on both":                   {twoNodes{a: 1, b: 1}, asItIs, "1 1 []"},
		"the other node is down":    {twoNodes{a: 2}, func(fn *feed.Function) { fn.Nodes = 1 }, "2 0 []"},
		"asleep":                    {twoNodes{}, asItIs, "0 0 []"},
		"pinned":                    {twoNodes{a: 2}, func(fn *feed.Function) { fn.Scale.Max = 2 }, "2 0 []"},
		"not scaled":                {twoNodes{a: 2}, func(fn *feed.Function) { fn.Unscaled = true }, "2 0 []"},
		"an update is under way":    {twoNodes{a: 2}, func(fn *feed.Function) { fn.Updating = true }, "2 0 []"},
		"a replica does not answer": {twoNodes{a: 2}, func(fn *feed.Function) { fn.Replicas[0].State = feed.Starting }, "2 0 []"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				test.nodes.run(t, 20*time.Minute, test.change)
				if got := fmt.Sprint(test.nodes.a, test.nodes.b, test.nodes.calls); got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
			})
		})
	}
}

// TestANodeWithoutRoomIsNotTriedForEver: each attempt costs a replica for the down window.
func TestANodeWithoutRoomIsNotTriedForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nodes := twoNodes{a: 2, full: true}
		nodes.run(t, 24*time.Hour, func(*feed.Function) {})
		if n := len(nodes.calls); n < 10 || n > 80 {
			t.Errorf("%d scale calls in a day, want about one up and one down an hour", n)
		}
	})
}
