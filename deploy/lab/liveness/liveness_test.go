//go:build e2e

// Package liveness holds one long test: what is slow is left alone and what hangs is replaced, on a whole system under
// votes. `make liveness` runs it, about 15 minutes; deploy/images has a short one for each image alone.
package liveness

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
)

const (
	votesPerSecond = 100
	// The node is kept busy so long; and so long its parts are slowed alone, half of it in each of two ways.
	afflicted = 5 * time.Minute
	// replacedWithin is the promise.
	replacedWithin = 2 * time.Minute
)

// victims are the services whose containers are stopped and starved.
var victims = []string{"waggle_gateway", "waggle_provider", "waggle_worker", "vote"}

type node struct {
	*testbed.System
	t *testing.T
}

func TestLiveness(t *testing.T) {
	n := &node{System: testbed.Start(t, 1), t: t}
	before := n.containers()
	t.Run("slow", func(t *testing.T) {
		t.Run("votes", func(t *testing.T) {
			t.Parallel()
			total := int(2 * afflicted.Seconds() * votesPerSecond)
			n.JudgeDirectly(t, "-voters", fmt.Sprint(total), "-rate", fmt.Sprint(votesPerSecond), "-concurrency", "4000", "-retries", "60", "-drain-timeout", "5m")
		})
		t.Run("afflictions", func(t *testing.T) {
			t.Parallel()
			n.stopAgainAndAgain(t, before)
			n.unchanged(t, before)
			n.each(t, before, "update", "--cpus=0.02")
			time.Sleep(afflicted / 2)
			n.each(t, before, "update", "--cpus=2")
			n.unchanged(t, before)
			n.burden(t, afflicted)
			n.unchanged(t, before)
		})
	})
	n.unchanged(t, before)
	t.Run("stopped for good", func(t *testing.T) { n.stopForGood(t, before) })
}

func (n *node) stopAgainAndAgain(t *testing.T, containers map[string]string) {
	for end := time.Now().Add(afflicted / 2); time.Now().Before(end); {
		n.each(t, containers, "kill", "--signal=STOP")
		time.Sleep(20 * time.Second)
		n.each(t, containers, "kill", "--signal=CONT")
		time.Sleep(5 * time.Second)
	}
}

// containers maps each running container of a service to the service's name.
func (n *node) containers() map[string]string {
	n.t.Helper()
	out, err := n.Target.Manager.Run(n.t.Context(), "ps", "--filter", "label=com.docker.swarm.service.name", "--format", `{{.ID}} {{.Label "com.docker.swarm.service.name"}}`)
	if err != nil {
		n.t.Fatal(err)
	}
	found := map[string]string{}
	for _, line := range strings.Split(out, "\n") {
		if id, service, ok := strings.Cut(line, " "); ok {
			found[id] = service
		}
	}
	return found
}

// each runs a command of Docker on every victim's container.
func (n *node) each(t *testing.T, containers map[string]string, command ...string) {
	t.Helper()
	for id, service := range containers {
		if !slices.Contains(victims, service) {
			continue
		}
		if _, err := n.Target.Manager.Run(t.Context(), append(slices.Clone(command), id)...); err != nil {
			t.Errorf("docker %v %s: %v", command, service, err)
		}
	}
}

// unchanged fails unless every container is the one it was; functions may have been scaled up meanwhile.
func (n *node) unchanged(t *testing.T, before map[string]string) {
	t.Helper()
	now := n.containers()
	for id, service := range before {
		if now[id] == "" && service != "waggle_migrate" {
			t.Errorf("%s was replaced", service)
			n.Dump(t)
		}
	}
}

// burden keeps the node busy with image builds, container starts and writers that wait for the disk.
func (n *node) burden(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	image, err := n.Target.Manager.Run(ctx, "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "waggle_postgres")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	var mu sync.Mutex // guards done
	done := map[string]int{}
	repeat := func(name string, input string, args ...string) {
		work.Go(func() {
			for ctx.Err() == nil {
				if _, err := n.Target.Manager.RunInput(ctx, strings.NewReader(input), args...); err == nil {
					mu.Lock()
					done[name]++
					mu.Unlock()
				}
			}
		})
	}
	for i := range 4 {
		repeat("builds", fmt.Sprintf("FROM %s\nUSER 0\nRUN cp -r /usr/share /copy%d && sync\n", image, i), "build", "--no-cache", "-")
		repeat("starts", "", "run", "--rm", "--network=none", "--no-healthcheck", "--entrypoint=true", image)
		repeat("writes", "", "run", "--rm", "--network=none", "--no-healthcheck", "--user=0", "--entrypoint=dd", image, "if=/dev/zero", "of=/written", "bs=4k", "count=5000", "oflag=dsync")
	}
	for range 8 {
		repeat("hogs", "", "run", "--rm", "--network=none", "--no-healthcheck", "--entrypoint=timeout", image, "10", "sh", "-c", "while :; do :; done")
	}
	work.Go(func() {
		for ctx.Err() == nil {
			load, err := os.ReadFile("/proc/loadavg")
			t.Logf("load average: %s %v", load, err)
			select {
			case <-ctx.Done():
			case <-time.After(30 * time.Second):
			}
		}
	})
	work.Wait()
	t.Logf("done beside the votes: %v", done)
	if done["builds"] == 0 || done["starts"] == 0 {
		t.Error("the burden was none")
	}
}

// stopForGood stops one container of each victim and waits until another one has taken its place.
func (n *node) stopForGood(t *testing.T, before map[string]string) {
	stopped := map[string]string{}
	for id, service := range before {
		if slices.Contains(victims, service) {
			stopped[service] = id
		}
	}
	for _, id := range stopped {
		if _, err := n.Target.Manager.Run(t.Context(), "kill", "--signal=STOP", id); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	testbed.Eventually(t, replacedWithin, func() error {
		now := n.containers()
		for service, id := range maps.Clone(stopped) {
			if now[id] != "" {
				continue
			}
			for other, of := range now {
				if _, old := before[other]; !old && of == service && n.healthy(other) {
					t.Logf("%s was replaced after %s", service, time.Since(began).Round(time.Second))
					delete(stopped, service)
				}
			}
		}
		if len(stopped) > 0 {
			return fmt.Errorf("not replaced: %v", stopped)
		}
		return nil
	})
}

func (n *node) healthy(id string) bool {
	health, err := n.Target.Manager.Run(n.t.Context(), "inspect", "--format", "{{.State.Health.Status}}", id)
	return err == nil && health == "healthy"
}
