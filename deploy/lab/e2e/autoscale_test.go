//go:build e2e

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

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/lab/testbed"
	"waggle/deploy/lab/traffic"
	"waggle/provider/autoscale"
)

// testAutoscale is the part of the autoscaler's suite that every run has: figures_test.go has the whole of it.
func (p *project) testAutoscale(t *testing.T) {
	t.Run("ten times the load, and back", func(t *testing.T) { p.stepUpAndDown(t, byRate(), step{low: 5, high: 50, right: 3}, nil) })
	t.Run("to zero and back", func(t *testing.T) { p.sleepAndWake(t, 3, func(time.Time) {}) })
	t.Run("described", p.testScalingDescribed)
}

// scaled is a probe that follows its load. Its calls take 200 ms and ten are served at once. So one replica
// suffices for 18 calls a second, and ten times the load needs eight.
func (p *project) scaled(name string, labels map[string]string) types.FunctionDeployment {
	d := p.probe(name, map[string]string{"max_inflight": "10"})
	delete(*d.Annotations, "com.waggle.autoscale")
	all := map[string]string{"com.openfaas.scale.down.window": "10s"}
	for key, value := range labels {
		all["com.openfaas.scale."+key] = value
	}
	d.Labels = &all
	return d
}

// byRate and byCapacity are the two types that most functions have.
func byRate() map[string]string { return map[string]string{"type": "rps", "target": "20"} }

func byCapacity() map[string]string { return map[string]string{"type": "capacity", "target": "4"} }

// view asks how a function is scaled.
func (p *project) view(t *testing.T, name string) (v autoscale.View) {
	t.Helper()
	text := p.call(t, http.MethodGet, "/system/autoscale/"+name, nil, http.StatusOK)
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// desired waits until a function is to have a number of replicas that fits.
func (p *project) desired(t *testing.T, name string, within time.Duration, fits func(n int) bool) {
	t.Helper()
	testbed.Eventually(t, within, func() error {
		v := p.view(t, name)
		if !fits(v.Replicas.Desired) {
			return fmt.Errorf("%d replicas are wanted: %s, load %.1f", v.Replicas.Desired, v.Decision.Reason, v.Load)
		}
		return nil
	})
}

// step is a load in calls a second, a higher one, and how many replicas that needs. Slow machines start few at once.
type step struct {
	low, high, right int
}

// wide is the step of the figures.
var wide = step{low: 14, high: 140, right: 8}

// stepFigures is what ten times the load came to, in seconds since the step.
type stepFigures struct{ first, all float64 }

// stepUpAndDown sends a load, ten times of it, and then the first again. Meanwhile is done in the middle of the high load;
// no call may fail, and no replica go, whatever it is.
func (p *project) stepUpAndDown(t *testing.T, labels map[string]string, load step, meanwhile func(types.FunctionDeployment, *traffic.Traffic)) stepFigures {
	d := p.scaled("stepped", labels)
	p.deploy(t, d)
	tr := traffic.Start(t.Context(), traffic.Config{Gateways: p.NodeGateways(), Function: "stepped", Takes: 200 * time.Millisecond, PerSecond: load.low})
	time.Sleep(12 * time.Second) // Not a wait for something: the load before the step is a part of it.
	before := len(tr.Replicas())
	tr.SetRate(load.high)
	began := time.Now()
	var f stepFigures
	testbed.Eventually(t, 2*time.Minute, func() error { // how long it takes is for the figures to judge
		added := tr.Replicas()[before:]
		since := func(n int) float64 {
			if len(added) < n {
				return 0
			}
			return added[n-1].Sub(began).Seconds()
		}
		f = stepFigures{since(1), since(load.right - before)}
		if f.all == 0 {
			v := p.view(t, "stepped")
			return fmt.Errorf("%d replicas of %d have answered: %+v, load %.1f; changes %+v", before+len(added), load.right, v.Replicas, v.Load, v.Changes)
		}
		return nil
	})
	t.Logf("the first added replica answered after %.2f s, all %d after %.2f", f.first, load.right, f.all)
	if meanwhile != nil {
		tr.Unharmed(t, "the high load", func() { meanwhile(d, tr) })
		if n := p.view(t, "stepped").Replicas.Desired; n < load.right {
			t.Errorf("%d replicas are wanted after that, want %d or more", n, load.right)
		}
	}
	tr.SetRate(load.low)
	eased := time.Now()
	p.desired(t, "stepped", time.Minute, func(n int) bool { return n == 1 })
	steps := 0
	for _, c := range p.view(t, "stepped").Changes {
		if c.At.After(eased) && c.To < c.From {
			steps++
		}
	}
	time.Sleep(5 * time.Second) // the removed replicas drain under the load that is left
	calls, failed := tr.Stop()
	t.Logf("back at one replica %.1f s after the load was, in %d steps; %d calls, %d failed", time.Since(eased).Seconds(), steps, calls, len(failed))
	if len(failed) > 0 || steps > 3 {
		t.Errorf("%d failed calls, the first %+v; %d steps down", len(failed), failed[:min(1, len(failed))], steps)
	}
	return f
}

// sleepAndWake lets a function fall asleep again and again, wakes it with one call each time, and with 200 at once at last. Woken is
// told when each of the single calls began.
func (p *project) sleepAndWake(t *testing.T, times int, woken func(began time.Time)) (took []time.Duration) {
	d := p.scaled("drowsy", map[string]string{"zero": "true", "zero-duration": "3s"})
	// It may be asleep before anybody has seen it available.
	p.call(t, http.MethodPost, "/system/functions", d, http.StatusAccepted)
	t.Cleanup(func() { p.remove(t, d.Service) })
	testbed.Eventually(t, time.Minute, func() error {
		status, text, err := p.ask(t, http.MethodGet, "/system/autoscale/drowsy", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, text)
		}
		return err
	})
	asleep := func() {
		p.desired(t, "drowsy", 30*time.Second, func(n int) bool { return n == 0 })
		testbed.Eventually(t, 10*time.Second, func() error {
			if ready := p.metric(t, `gateway_service_ready_count{function_name="drowsy.openfaas-fn"}`); ready != 0 {
				return fmt.Errorf("the gateway has %g replicas", ready)
			}
			return nil
		})
	}
	for range times {
		asleep()
		began := time.Now()
		if err := p.answers("/function/drowsy/x", "GET /x"); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		woken(began)
	}
	slices.Sort(took)
	t.Logf("%d wakes: %v, median %v", times, took, took[times/2])
	asleep()
	before := time.Now()
	p.crowd(t, "drowsy", 200)
	var calls []autoscale.Change
	for _, c := range p.view(t, "drowsy").Changes {
		if c.At.After(before.Add(-time.Second)) && c.To > c.From {
			calls = append(calls, c)
		}
	}
	if len(calls) == 0 || len(calls) > 2 {
		t.Errorf("200 calls at once led to %d scale calls: %+v", len(calls), calls)
	}
	return took
}

// crowd makes n calls at once and wants every one answered.
func (p *project) crowd(t *testing.T, function string, n int) {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	began := time.Now()
	for i := range n {
		group.Go(func() {
			response, err := client.Post(fmt.Sprintf("%s/function/%s/%d", p.NodeGateways()[i%len(p.NodeGateways())], function, i), "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Error(err)
				return
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Errorf("call %d: %s", i, response.Status)
			}
		})
	}
	group.Wait()
	t.Logf("%d calls at once were all answered within %.2f s", n, time.Since(began).Seconds())
}

// testScalingDescribed asks what an operator asks, and has illegal labels refused.
func (p *project) testScalingDescribed(t *testing.T) {
	d := p.scaled("described", map[string]string{"type": "capacity", "target": "4", "min": "2", "max": "5"})
	p.deploy(t, d)
	testbed.Eventually(t, 20*time.Second, func() error {
		status, err := p.status(t, "described")
		if err != nil {
			return err
		}
		said := *status.Annotations
		for key, want := range map[string]string{"type": "capacity", "min": "2", "max": "5", "target": "4 × 0.9 requests at once", "load": "0.0 requests at once",
			"desired": "2", "reason": "enough"} {
			if got := said["com.waggle.scaling."+key]; got != want {
				return fmt.Errorf("scaling.%s is %q, want %q", key, got, want)
			}
		}
		return nil
	})
	if p.cli != "" {
		if out, err := p.run(t, p.empty, p.Credential(t, "basic-auth-password"), "login", "--username", "admin", "--password-stdin"); err != nil {
			t.Fatalf("faas-cli login: %v\n%s", err, out)
		}
		out, err := p.run(t, p.empty, "", "describe", "described")
		if err != nil || !strings.Contains(out, "com.waggle.scaling.reason") {
			t.Errorf("faas-cli describe: %v\n%s", err, out)
		}
	}
	for label, value := range map[string]string{"min": "-1", "max": "0", "factor": "101", "type": "RPS", "target": "NaN", "target-proportion": "90%", "zero": "yes",
		"zero-duration": "1d", "down.window": "6m"} {
		wrong := p.scaled("described", map[string]string{label: value})
		code, text, err := p.ask(t, http.MethodPut, "/system/functions", wrong)
		if err != nil || code != http.StatusBadRequest || !strings.Contains(text, "com.openfaas.scale."+label) || !strings.Contains(text, value) {
			t.Errorf("%s=%s: %d %q, %v", label, value, code, text, err)
		}
	}
}
