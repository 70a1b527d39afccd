package swarm_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// TestUsage: gateways report the replicas that they could read, 7 thousandths and 3 MiB each. The engine
// measures the others of its own node, 100 thousandths and 5 MiB each. Unless all replicas are known, nothing
// is told.
func TestUsage(t *testing.T) {
	t.Parallel()
	const megabyte = 1 << 20
	reported := func(ids ...string) feed.UsageReport {
		var r feed.UsageReport
		for _, id := range ids {
			r.Replicas = append(r.Replicas, feed.Usage{ID: id, CPU: 7, Memory: 3 * megabyte})
		}
		return r
	}
	for name, test := range map[string]struct {
		here, elsewhere uint64
		// own and report are how many of the replicas here and elsewhere a gateway has read, age is how long ago.
		own, report int
		age         time.Duration
		want        *types.FunctionUsage
	}{
		"on the own node":           {here: 2, want: &types.FunctionUsage{CPU: 200, TotalMemoryBytes: 10 * megabyte}},
		"on the own node, read":     {here: 2, own: 2, want: &types.FunctionUsage{CPU: 14, TotalMemoryBytes: 6 * megabyte}},
		"on another":                {elsewhere: 2, report: 2, want: &types.FunctionUsage{CPU: 14, TotalMemoryBytes: 6 * megabyte}},
		"on both":                   {here: 1, elsewhere: 1, report: 1, want: &types.FunctionUsage{CPU: 107, TotalMemoryBytes: 8 * megabyte}},
		"one of them not read yet":  {here: 1, elsewhere: 2, report: 1},
		"read too long ago":         {elsewhere: 1, report: 1, age: time.Minute},
		"too many to be measured":   {here: 65},
		"none of them can be read":  {elsewhere: 2},
		"without a replica running": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				engine := swarmtest.NewEngine("waggle-functions")
				engine.AddImage(testImage, "sha256:1")
				var usages feed.UsageBook
				cluster, err := swarm.New(swarm.Config{Docker: engine, Usages: &usages, Logger: quiet()})
				if err != nil {
					t.Fatal(err)
				}
				deploy(t, cluster, "fn", test.here)
				own := engine.TaskIDs()
				engine.Elsewhere()
				if err := cluster.Scale(t.Context(), "", "fn", test.here+test.elsewhere); err != nil {
					t.Fatal(err)
				}
				usages.Add(reported(difference(engine.TaskIDs(), own)[:test.report]...), time.Now())
				usages.Add(reported(own[:test.own]...), time.Now())
				time.Sleep(test.age)
				status, err := cluster.Status(t.Context(), "", "fn", true)
				if err != nil {
					t.Fatal(err)
				}
				switch got := status.Usage; {
				case (got == nil) != (test.want == nil):
					t.Errorf("got %+v, want %+v", got, test.want)
				case got != nil && (got.CPU < test.want.CPU-1 || got.CPU > test.want.CPU+1 || got.TotalMemoryBytes != test.want.TotalMemoryBytes):
					t.Errorf("got %+v, want %+v", *got, *test.want)
				}
			})
		})
	}
}

// difference gives what of all is not in some.
func difference(all, some []string) []string {
	known := map[string]bool{}
	for _, id := range some {
		known[id] = true
	}
	var rest []string
	for _, id := range all {
		if !known[id] {
			rest = append(rest, id)
		}
	}
	return rest
}
