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

// TestARemovalThatSwarmLosesIsMended: no replica outlives its function.
func TestARemovalThatSwarmLosesIsMended(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		for _, lost := range []int{1, 2} {
			deploy(t, cluster, "gone", 2)
			within(t, time.Minute)
			engine.Lose(lost)
			if err := cluster.Delete(t.Context(), "", "gone"); err != nil {
				t.Fatal(err)
			}
			if n := len(engine.TaskIDs()); n != 0 {
				t.Errorf("%d changes were lost: %d tasks of the function are left", lost, n)
			}
		}
		deploy(t, cluster, "gone", 2)
		within(t, time.Minute)
		engine.Lose(1000)
		if err := cluster.Delete(t.Context(), "", "gone"); !errors.Is(err, swarm.ErrUnavailable) || !strings.Contains(err.Error(), "remove it again later") {
			t.Errorf("managers that stop nothing: %v", err)
		}
		within(t, time.Second)
		wantStates(t, seen, "gone", feed.Draining, feed.Draining)
		engine.Lose(0)
		within(t, 5*time.Minute)
		wantStates(t, seen, "gone") // the watcher has touched it
		if err := cluster.Delete(t.Context(), "", "gone"); err != nil {
			t.Error(err)
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
