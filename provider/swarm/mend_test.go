package swarm_test

import (
	"testing"
	"time"

	"github.com/moby/moby/client"

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
