//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/lab/testbed"
	"waggle/deploy/lab/traffic"
)

// testInvocations changes everything about a function, and about what serves it, while 500 calls a second go on.
func (p *project) testInvocations(t *testing.T) {
	d := p.probe("target", map[string]string{"round": "0", "max_inflight": "200"})
	delete(*d.Annotations, "com.waggle.idempotent") // nothing here may depend on repeating what was processed
	d.Labels = &map[string]string{"com.openfaas.scale.max": "8"}
	p.deploy(t, d)
	p.scaleTo(t, "target", 4)
	p.available(t, "target", 4)
	tr := traffic.Start(t.Context(), traffic.Config{Gateways: p.NodeGateways(), Function: "target", PerSecond: 500})

	tr.Unharmed(t, "three rolling updates", func() {
		for round := 1; round <= 3; round++ {
			d.EnvVars["round"] = fmt.Sprint(round)
			p.call(t, http.MethodPut, "/system/functions", d, http.StatusAccepted)
			p.updated(t, "target")
		}
	})
	tr.Unharmed(t, "scaling from 4 to 1 to 4, five times", func() {
		for range 5 {
			for _, replicas := range []uint64{1, 4} {
				p.scaleTo(t, "target", replicas)
				p.available(t, "target", replicas)
			}
		}
	})
	tr.Unharmed(t, "draining a node", func() { p.drainNode(t, p.Cluster.Nodes[2]) })
	tr.Unharmed(t, "the provider away for two minutes", func() { p.withoutProvider(t, 2*time.Minute) })
	calls, failed := tr.Stop()
	t.Logf("%d calls in all, %d failed", calls, len(failed))
}

// updated waits until Swarm says that the function's last update is complete.
func (p *project) updated(t *testing.T, name string) {
	t.Helper()
	testbed.Eventually(t, 2*time.Minute, func() error {
		state, err := p.Target.Manager.Run(t.Context(), "service", "inspect", "--format", "{{.UpdateStatus.State}}", name)
		if err == nil && state != "completed" {
			err = fmt.Errorf("the update of %s is %s", name, state)
		}
		return err
	})
}

// drainNode moves everything off a node, its gateway and capture node included, and lets it come back. What a
// node hears of others as it rejoins a network is lost, as sometimes happens. Until the next exchange, 30 s
// later, its gateway finds neither the provider nor any function.
func (p *project) drainNode(t *testing.T, node *cluster.Node) {
	t.Helper()
	availability := func(value string) {
		t.Helper()
		if _, err := p.Target.Manager.Run(t.Context(), "node", "update", "--availability", value, node.Name); err != nil {
			t.Fatal(err)
		}
	}
	availability("drain")
	testbed.Eventually(t, 2*time.Minute, func() error {
		left, err := node.Engine.Run(t.Context(), "ps", "--quiet")
		if err == nil && left != "" {
			err = fmt.Errorf("%d containers are left on %s", len(strings.Fields(left)), node.Name)
		}
		return err
	})
	p.available(t, "target", 4)
	exchange := func(flag string) {
		t.Helper()
		for _, chain := range []string{"INPUT", "OUTPUT"} {
			if _, err := (docker.Engine{}).Run(t.Context(), "exec", node.Container, "iptables", flag, chain, "-p", "tcp", "--dport", "7946",
				"-j", "REJECT", "--reject-with", "tcp-reset"); err != nil {
				t.Fatal(err)
			}
		}
	}
	health := func(want string) {
		t.Helper()
		testbed.Eventually(t, 2*time.Minute, func() error {
			response, err := http.Get("http://" + node.Address + ":8080/healthz")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			if got := fmt.Sprintf("%d %s", response.StatusCode, text); err == nil && !strings.HasPrefix(got, want) {
				err = fmt.Errorf("healthz says %s, want %s", got, want)
			}
			return err
		})
	}
	exchange("-I")
	availability("active")
	health(`503 {"status":"starting"`)
	exchange("-D")
	health(`200 {"status":"ok"`)
}

// withoutProvider stops the provider. Gateways serve what they know, and refuse with a reason what needs the
// provider. When it is back, they can.
func (p *project) withoutProvider(t *testing.T, long time.Duration) {
	t.Helper()
	p.deploy(t, p.probe("asleep", nil))
	p.scaleTo(t, "asleep", 0)
	health := func() string {
		_, text, err := p.ask(t, http.MethodGet, "/healthz", nil)
		if err != nil {
			t.Error(err)
		}
		return text
	}
	// The gateway must know of it before its provider goes.
	testbed.Eventually(t, 30*time.Second, func() error {
		left, err := p.Target.Manager.Run(t.Context(), "service", "ps", "--quiet", "--filter", "desired-state=running", "asleep")
		if err == nil && left != "" {
			err = fmt.Errorf("replicas of asleep: %s", left)
		}
		return err
	})
	p.scale(t, "waggle_provider", 0)
	away := time.Now()
	testbed.Eventually(t, 30*time.Second, func() error {
		if text := health(); !strings.Contains(text, `"status":"degraded"`) || !strings.Contains(text, `"provider":"gone"`) {
			return fmt.Errorf("healthz says %s", text)
		}
		return nil
	})
	if status, text, err := p.ask(t, http.MethodGet, "/function/asleep", nil); err != nil || status != http.StatusServiceUnavailable ||
		!strings.Contains(text, "provider cannot be reached") {
		t.Errorf("a function without replicas: %d %q, %v", status, text, err)
	}
	if status, text, err := p.ask(t, http.MethodGet, "/system/functions", nil); err != nil || status < 500 {
		t.Errorf("the API without a provider: %d %q, %v", status, text, err)
	}
	time.Sleep(time.Until(away.Add(long))) // Not a wait for something: the fault's length.
	p.scale(t, "waggle_provider", 1)
	testbed.Eventually(t, time.Minute, func() error {
		if text := health(); !strings.Contains(text, `"status":"ok"`) {
			return fmt.Errorf("healthz says %s", text)
		}
		return nil
	})
	testbed.Eventually(t, time.Minute, func() error { return p.answers("/function/asleep/x", "GET /x") })
}

// testReplicasKilled kills a replica every five seconds under traffic. Nobody notices if the function is
// idempotent; of another one, only callers whom the killed replica was serving.
func (p *project) testReplicasKilled(t *testing.T) {
	safe, unsafe := p.probe("safe", nil), p.probe("unsafe", nil)
	delete(*unsafe.Annotations, "com.waggle.idempotent")
	p.deploy(t, safe)
	p.deploy(t, unsafe)
	var all []*traffic.Traffic
	for _, name := range []string{"safe", "unsafe"} {
		p.scaleTo(t, name, 4)
	}
	for _, name := range []string{"safe", "unsafe"} {
		p.available(t, name, 4)
		all = append(all, traffic.Start(t.Context(), traffic.Config{Gateways: p.NodeGateways(), Function: name, PerSecond: 250}))
	}
	var kills []killing
	for round := range 6 {
		next := time.Now().Add(5 * time.Second)
		for _, name := range []string{"safe", "unsafe"} {
			kills = append(kills, p.killReplica(t, name, round))
		}
		time.Sleep(time.Until(next)) // Not a wait for something: the pace of the fault.
	}
	calls, failed := all[0].Stop()
	t.Logf("idempotent: %d calls, %d failed", calls, len(failed))
	for _, f := range failed {
		t.Errorf("a call that may be repeated failed from %s to %s: %s", f.Begun.Format("05.000"), f.Ended.Format("05.000"), f.Why)
	}
	calls, failed = all[1].Stop()
	t.Logf("not idempotent: %d calls, %d failed", calls, len(failed))
	for _, f := range failed {
		if !underWay(f, kills) {
			t.Errorf("a call failed from %s to %s, when nothing was killed: %s", f.Begun.Format("05.000"), f.Ended.Format("05.000"), f.Why)
		}
	}
	// Two or three are under way in a replica at any moment.
	if most := 15 * len(kills) / 2; len(failed) > most {
		t.Errorf("%d calls failed in %d kills, want only those under way", len(failed), len(kills)/2)
	}
}

// killing is when a replica was killed, as far as can be seen from outside.
type killing struct{ from, to time.Time }

// killReplica ends the container of one of a function's replicas without a chance to say anything.
func (p *project) killReplica(t *testing.T, name string, round int) killing {
	t.Helper()
	for i := range p.Cluster.Nodes {
		node := p.Cluster.Nodes[(round+i)%len(p.Cluster.Nodes)]
		ids, err := node.Engine.Run(t.Context(), "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+name)
		if err != nil {
			t.Fatal(err)
		}
		if ids == "" {
			continue
		}
		from := time.Now()
		if _, err := node.Engine.Run(t.Context(), "kill", "--signal", "KILL", strings.Fields(ids)[0]); err != nil {
			t.Logf("killing a replica of %s: %v", name, err) // it was about to end by itself
		}
		return killing{from, time.Now()}
	}
	t.Fatalf("no node has a replica of %s", name)
	return killing{}
}

// underWay reports whether a call was being served while something was killed.
func underWay(f traffic.Failure, kills []killing) bool {
	for _, k := range kills {
		if f.Begun.Before(k.to) && f.Ended.After(k.from) {
			return true
		}
	}
	return false
}
