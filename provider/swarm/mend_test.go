package swarm_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/types"
	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/feed"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// TestAChangeThatSwarmLosesIsMended: managers say "update out of sequence" in their log, and do nothing further.
func TestAChangeThatSwarmLosesIsMended(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		deploy(t, cluster, "fn", 2)
		within(t, time.Minute)
		for _, change := range []struct {
			replicas  uint64
			meanwhile []feed.State
			mended    []feed.State
		}{
			{0, []feed.State{feed.Draining, feed.Draining}, nil}, // no request goes to what is not wanted
			{3, nil, []feed.State{feed.Ready, feed.Ready, feed.Ready}},
			{1, []feed.State{feed.Ready, feed.Ready, feed.Ready}, []feed.State{feed.Ready}},
		} {
			engine.Lose(1)
			if err := cluster.Scale(t.Context(), "", "fn", change.replicas); err != nil {
				t.Fatal(err)
			}
			within(t, 29*time.Second)
			wantStates(t, seen, "fn", change.meanwhile...)
			within(t, 40*time.Second)
			wantStates(t, seen, "fn", change.mended...)
		}
	})
}

// TestWhatCannotBeMendedIsLeftAlone: a service is not written for ever.
func TestWhatCannotBeMendedIsLeftAlone(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, _ *publications) {
		deploy(t, cluster, "fn", 2)
		within(t, time.Minute)
		engine.Lose(1000)
		if err := cluster.Scale(t.Context(), "", "fn", 0); err != nil {
			t.Fatal(err)
		}
		version := func() uint64 {
			found, err := engine.ServiceList(t.Context(), client.ServiceListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return found.Items[0].Version.Index
		}
		before := version()
		within(t, 24*time.Hour)
		if n := version() - before; n < 5 || n > 40 {
			t.Errorf("it was touched %d times in a day, want more and more seldom, once an hour in the end", n)
		}
	})
}

// TestAnEventThatIsLostCostsSeconds: replicas of a function that was woken past this provider take requests soon.
func TestAnEventThatIsLostCostsSeconds(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		deploy(t, cluster, "fn", 0)
		within(t, time.Minute)
		other, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		engine.MuteServices(true)
		if err := other.Scale(t.Context(), "", "fn", 1); err != nil {
			t.Fatal(err)
		}
		within(t, 11*time.Second)
		wantStates(t, seen, "fn", feed.Ready)
	})
}

// TestARemovalThatSwarmLosesIsMended: no replica outlives its function for long.
func TestARemovalThatSwarmLosesIsMended(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		for _, lost := range []int{1, 2, 3} {
			deploy(t, cluster, "gone", 2)
			within(t, time.Minute)
			engine.Lose(lost)
			if err := cluster.Delete(t.Context(), "", "gone"); err != nil {
				t.Fatal(err)
			}
			if _, err := cluster.Status(t.Context(), "", "gone", false); !errors.Is(err, swarm.ErrNotFound) {
				t.Errorf("after the removal: %v", err)
			}
			within(t, 2*time.Minute)
			if n := len(engine.TaskIDs()); n != 0 {
				t.Errorf("%d changes were lost: %d tasks of the function are left", lost, n)
			}
		}
		deploy(t, cluster, "gone", 2)
		within(t, time.Minute)
		engine.Lose(1000)
		if err := cluster.Delete(t.Context(), "", "gone"); err != nil {
			t.Fatal(err)
		}
		again := types.FunctionDeployment{Service: "gone", Image: testImage}
		if err := cluster.Deploy(t.Context(), again); !errors.Is(err, swarm.ErrUnavailable) {
			t.Errorf("one of its name, while its replicas cannot be stopped: %v", err)
		}
		engine.Lose(0)
		if err := cluster.Deploy(t.Context(), again); err != nil {
			t.Errorf("one of its name: %v", err)
		}
		within(t, time.Minute)
		wantStates(t, seen, "gone", feed.Ready)
	})
}

// TestAServiceOutlivesItsReplicas: a manager that removes it before may crash. Nobody but Swarm sees it meanwhile.
func TestAServiceOutlivesItsReplicas(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		services := func(want int) {
			t.Helper()
			found, err := engine.ServiceList(t.Context(), client.ServiceListOptions{})
			if err != nil || len(found.Items) != want {
				t.Fatalf("%d services are there, %v; want %d", len(found.Items), err, want)
			}
		}
		secret := types.Secret{Name: "key", Value: "one"}
		if err := cluster.CreateSecret(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		function := types.FunctionDeployment{Service: "gone", Image: testImage, Secrets: []string{"key"}}
		remove := func() {
			t.Helper()
			if err := cluster.Deploy(t.Context(), function); err != nil {
				t.Fatal(err)
			}
			within(t, time.Minute)
			engine.Hold() // requests under way keep the replica
			started := time.Now()
			if err := cluster.Delete(t.Context(), "", "gone"); err != nil || time.Since(started) > 2*time.Second {
				t.Fatalf("the removal took %s, %v", time.Since(started), err)
			}
			if list, err := cluster.List(t.Context(), ""); err != nil || len(list) != 0 {
				t.Errorf("functions are %v, %v", list, err)
			}
			within(t, time.Hour)
			services(1)
		}
		remove()
		if err := cluster.DeleteSecret(t.Context(), "", secret.Name); err != nil {
			t.Errorf("removing the secret of a removed function: %v", err)
		}
		engine.Settle()
		within(t, time.Minute)
		services(0)

		function.Secrets = nil
		remove()
		if err := cluster.Deploy(t.Context(), function); err != nil {
			t.Errorf("one of its name: %v", err)
		}
		engine.Settle()
		within(t, time.Hour)
		services(1)
		wantStates(t, seen, "gone", feed.Ready)
	})
}

// TestHistoryDoesNotTellThatManagersHaveActed: they may still have to start the replicas of a change before the removal.
func TestHistoryDoesNotTellThatManagersHaveActed(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, _ *publications) {
		deploy(t, cluster, "gone", 1)
		again := types.FunctionDeployment{Service: "gone", Image: testImage, EnvVars: map[string]string{"changed": "yes"}}
		if err := cluster.Update(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute)
		if err := cluster.Scale(t.Context(), "", "gone", 0); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute)
		if n := len(engine.TaskIDs()); n != 1 {
			t.Fatalf("%d tasks are left, want the one that was replaced", n)
		}
		engine.Delay()
		if err := cluster.Scale(t.Context(), "", "gone", 1); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Delete(t.Context(), "", "gone"); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second)
		found, err := engine.ServiceList(t.Context(), client.ServiceListOptions{})
		if err != nil || len(found.Items) != 1 {
			t.Errorf("%d services are there, %v; want 1", len(found.Items), err)
		}
		engine.Settle()
		within(t, time.Minute)
		if found, err = engine.ServiceList(t.Context(), client.ServiceListOptions{}); err != nil || len(found.Items) != 0 {
			t.Errorf("%d services are left, %v", len(found.Items), err)
		}
	})
}

// TestATakenOverServiceIsNotRetriedForEver: a refusal of the deployment is its answer.
func TestATakenOverServiceIsNotRetriedForEver(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, _ *publications) {
		deploy(t, cluster, "gone", 1)
		within(t, time.Minute)
		engine.Hold()
		if err := cluster.Delete(t.Context(), "", "gone"); err != nil {
			t.Fatal(err)
		}
		engine.Interfere(1000) // somebody else writes the service each time
		started := time.Now()
		err := cluster.Deploy(t.Context(), types.FunctionDeployment{Service: "gone", Image: testImage})
		if err == nil || time.Since(started) > time.Minute {
			t.Errorf("after %s: %v", time.Since(started), err)
		}
	})
}

// TestAnInterruptedRemovalIsFinished by the next provider.
func TestAnInterruptedRemovalIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		deploy(t, cluster, "gone", 2)
		ctx, cancel := context.WithCancel(t.Context())
		engine.Delay() // the managers are busy, so that Delete waits
		go func() { time.Sleep(time.Second); cancel() }()
		if err := cluster.Delete(ctx, "", "gone"); err != nil {
			t.Errorf("a removal whose client left: %v", err)
		}
		engine.Settle()
		time.Sleep(11 * time.Second) // another provider cannot know whether the managers have acted
		if err := cluster.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		found, err := engine.ServiceList(t.Context(), client.ServiceListOptions{})
		if err != nil || len(found.Items) != 0 || len(engine.TaskIDs()) != 0 {
			t.Errorf("%d services and %d tasks are left, %v", len(found.Items), len(engine.TaskIDs()), err)
		}
	})
}

// TestAReplicaWithoutItsFunctionIsNamed: somebody else removes a service at once, and Swarm loses that. Then no service is
// left to touch.
func TestAReplicaWithoutItsFunctionIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		var log bytes.Buffer
		registry := prometheus.NewRegistry()
		watcher, err := swarm.NewWatcher(swarm.WatcherConfig{
			Cluster: cluster, Publisher: &publications{}, Registerer: registry, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- watcher.Run(ctx) }()
		deploy(t, cluster, "gone", 2)
		within(t, time.Minute)
		found, err := engine.ServiceList(t.Context(), client.ServiceListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		engine.Lose(1)
		if _, err := engine.ServiceRemove(t.Context(), found.Items[0].ID, client.ServiceRemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		want := func(orphans float64) {
			t.Helper()
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				if family.GetName() == "provider_watch_orphans" && family.Metric[0].Gauge.GetValue() == orphans {
					return
				}
			}
			t.Errorf("provider_watch_orphans is not %v", orphans)
		}
		within(t, 25*time.Second) // Swarm may still be ending them
		want(0)
		within(t, time.Hour)
		want(2)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "docker rm -f $(docker ps -q -f label=com.docker.swarm.task.id="); n != 2 {
			t.Errorf("the log has %d commands that end a replica, want one for each of 2:\n%s", n, &log)
		}
	})
}
