//go:build e2e && figures

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/docker"
	"waggle/deploy/lab/testbed"
	"waggle/deploy/lab/traffic"
)

// TestAutoscaleFigures measures what deploy/lab/loadsim/RESULTS.md says of real Swarms: ten minutes and more.
func TestAutoscaleFigures(t *testing.T) {
	s := start(t, 3)
	p := s.newProject(t)
	t.Run("rps", func(t *testing.T) { p.fiveSteps(t, byRate()) })
	t.Run("wakes", func(t *testing.T) {
		p.sleepAndWake(t, 20, func(began time.Time) { p.partsOfWake(t, "drowsy", began, time.Now()) })
	})
	t.Run("updated meanwhile", func(t *testing.T) {
		p.stepUpAndDown(t, byRate(), wide, func(d types.FunctionDeployment, _ *traffic.Traffic) {
			d.EnvVars["round"] = "1"
			p.call(t, http.MethodPut, "/system/functions", d, http.StatusAccepted)
			p.updated(t, "stepped")
		})
	})
	t.Run("a gateway is killed meanwhile", func(t *testing.T) {
		p.stepUpAndDown(t, byRate(), wide, func(_ types.FunctionDeployment, tr *traffic.Traffic) {
			before := time.Now()
			after := p.killed(t, 1, "waggle_gateway")
			n := tr.Excuse(func(f traffic.Failure) bool {
				return f.Gateway == p.NodeGateways()[1] && f.Begun.Before(after) && f.Ended.After(before)
			})
			t.Logf("%d calls were under way on the killed gateway", n)
		})
	})
	t.Run("the provider is killed meanwhile", func(t *testing.T) {
		p.stepUpAndDown(t, byRate(), wide, func(types.FunctionDeployment, *traffic.Traffic) { p.killed(t, 0, "waggle_provider") })
	})
	t.Run("a queue of 5,000 calls", p.testQueueDrained)
	t.Run("capacity", func(t *testing.T) { p.fiveSteps(t, byCapacity()) })
	t.Run("a node is lost meanwhile", p.testNodeLost)
}

// fiveSteps gives the medians of five runs.
func (p *project) fiveSteps(t *testing.T, labels map[string]string) {
	var first, all []float64
	for i := range 5 {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			f := p.stepUpAndDown(t, labels, wide, nil)
			first, all = append(first, f.first), append(all, f.all)
		})
	}
	slices.Sort(first)
	slices.Sort(all)
	t.Logf("the first added replica answered after %.2f s at the median (%.2f at worst), all after %.2f (%.2f)", first[2], first[4], all[2], all[4])
	if first[2] > 3 || first[4] > 5 || all[4] > 15 {
		t.Errorf("that is more than 3 s at the median, or 5 s or 15 s at worst")
	}
}

// partsOfWake logs where the time of a wake went: our decision, Swarm's task, the engine's container, its start, the answer.
func (p *project) partsOfWake(t *testing.T, function string, began, answered time.Time) {
	t.Helper()
	changes := p.view(t, function).Changes
	ids, err := p.Target.Manager.Run(t.Context(), "service", "ps", "--quiet", "--no-trunc", "--filter", "desired-state=running", function)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Target.Manager.Run(t.Context(), append([]string{"inspect", "--type", "task"}, strings.Fields(ids)...)...)
	if err != nil {
		t.Fatal(err)
	}
	var tasks []swarm.Task
	if err := json.Unmarshal([]byte(out), &tasks); err != nil || len(tasks) == 0 || len(changes) == 0 {
		t.Fatalf("%d changes, the tasks %v %s", len(changes), err, out)
	}
	id := tasks[0].Status.ContainerStatus.ContainerID
	var container []struct {
		Created time.Time
		State   struct{ StartedAt time.Time }
	}
	for _, node := range p.Cluster.Nodes {
		if out, err := node.Engine.Run(t.Context(), "inspect", "--type", "container", id); err == nil {
			if err := json.Unmarshal([]byte(out), &container); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(container) == 0 {
		t.Fatalf("no node has container %q", id)
	}
	text, last := "", began
	for _, part := range []struct {
		name string
		at   time.Time
	}{
		{"decided", changes[len(changes)-1].At}, {"task", tasks[0].CreatedAt}, {"container", container[0].Created},
		{"started", container[0].State.StartedAt}, {"answered", answered},
	} {
		text += fmt.Sprintf("  %s %d ms", part.name, part.at.Sub(last).Milliseconds())
		last = part.at
	}
	t.Log(text)
}

// killed ends a service's process on a node with -9 and waits for what follows. It returns when the process had ended.
func (p *project) killed(t *testing.T, node int, service string) (at time.Time) {
	run := func(args ...string) (string, error) {
		return docker.Engine{}.Run(t.Context(), append([]string{"exec", p.Cluster.Nodes[node].Container, "docker"}, args...)...)
	}
	out, err := run("ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+service)
	if err != nil || strings.TrimSpace(out) == "" {
		t.Fatalf("looking for %s on node %d: %v %q", service, node, err, out)
	}
	if _, err := run("kill", strings.Fields(out)[0]); err != nil {
		t.Fatal(err)
	}
	at = time.Now()
	time.Sleep(20 * time.Second) // what would come of it comes in this time
	return at
}

// testQueueDrained stores 5,000 asynchronous calls of 200 ms for a function that serves five at once.
func (p *project) testQueueDrained(t *testing.T) {
	const calls, most = 5000, 6
	d := p.scaled("queued", map[string]string{"type": "queue", "target": "10", "max": fmt.Sprint(most)})
	d.EnvVars["max_inflight"] = "5"
	p.deploy(t, d)
	p.available(t, "queued", 1)
	began := time.Now()
	var group sync.WaitGroup
	for client := range 20 {
		group.Go(func() {
			for n := range calls / 20 {
				p.submit(t, fmt.Sprintf("figures-%d-%d", client, n), "queued/slow?for=200ms&n=1", "")
			}
		})
	}
	group.Wait()
	stored := time.Since(began)
	testbed.Eventually(t, 5*time.Minute, func() error {
		v := p.view(t, "queued")
		if v.Load > 0 {
			return fmt.Errorf("%.0f calls are left, %d replicas", v.Load, v.Replicas.Desired)
		}
		return nil
	})
	took, ideal := time.Since(began).Seconds(), float64(calls)*0.2/5/most
	t.Logf("%d calls stored in %.1f s, made within %.1f s: %.2f times the ideal at %d replicas", calls, stored.Seconds(), took, took/ideal, most)
	if took > 1.3*ideal {
		t.Errorf("that is more than 1.3 times")
	}
}

// testNodeLost takes the power from a node in the middle of a high load. Calls under way on it are lost; replicas never
// become fewer because of it.
func (p *project) testNodeLost(t *testing.T) {
	d := p.scaled("spiked", byRate())
	p.deploy(t, d)
	tr := traffic.Start(t.Context(), traffic.Config{Gateways: p.NodeGateways(), Function: "spiked", Takes: 200 * time.Millisecond, PerSecond: 140})
	p.desired(t, "spiked", 30*time.Second, func(n int) bool { return n >= 8 })
	time.Sleep(15 * time.Second) // until the load and its replicas have settled
	before := p.view(t, "spiked").Replicas.Desired
	node := p.Cluster.Nodes[2]
	if err := node.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	least := before
	for stop := time.Now().Add(45 * time.Second); time.Now().Before(stop); {
		least = min(least, p.view(t, "spiked").Replicas.Desired)
		time.Sleep(200 * time.Millisecond)
	}
	calls, failed := tr.Stop()
	t.Logf("%d replicas before, %d at least; %d calls, %d failed", before, least, calls, len(failed))
	if least < before {
		t.Errorf("replicas were removed because a node was lost")
	}
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
