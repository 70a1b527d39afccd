package swarm_test

import (
	"testing"
	"time"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"waggle/provider/feed"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// followed is a bubble with task events, in which a function of two replicas, on another node, has come to rest.
func followed(t *testing.T, test func(t *testing.T, engine *swarmtest.Engine, seen *publications)) {
	t.Parallel()
	bubble(t, true, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		engine.Elsewhere()
		deploy(t, cluster, "fn", 2)
		within(t, time.Minute+time.Second) // between two polls
		wantStates(t, seen, "fn", feed.Ready, feed.Ready)
		test(t, engine, seen)
	})
}

// setFirst gives the first task another state.
func setFirst(engine *swarmtest.Engine, seen *publications, state mobyswarm.TaskState) {
	engine.SetTask(seen.newest().Functions[0].Replicas[0].ID, func(task *mobyswarm.Task) { task.Status.State = state })
}

// wantMove changes a replica that is ready back and forth, and wants a table for it within so long. That is time of the
// bubble, in which everything but waiting takes none.
func wantMove(t *testing.T, engine *swarmtest.Engine, seen *publications, limit time.Duration) {
	t.Helper()
	setFirst(engine, seen, mobyswarm.TaskStateStarting)
	within(t, limit)
	wantStates(t, seen, "fn", feed.Ready, feed.Starting)
	setFirst(engine, seen, mobyswarm.TaskStateRunning)
	within(t, time.Minute)
	wantStates(t, seen, "fn", feed.Ready, feed.Ready)
}

const (
	// soon is the time to coalesce events, and some more; aSecond is what a table may take without them.
	soon    = 30 * time.Millisecond
	aSecond = time.Second
)

func TestTaskEventsMakeTheWatcherLook(t *testing.T) {
	followed(t, func(t *testing.T, engine *swarmtest.Engine, seen *publications) {
		wantMove(t, engine, seen, soon)
		before := engine.TaskLists()
		within(t, 10*time.Minute)
		if polls := engine.TaskLists() - before; polls > 10*60/5+2 {
			t.Errorf("in ten minutes of rest there were %d polls, want one in 5 s", polls)
		}
	})
}

func TestForeignTasksAreNoReasonToLook(t *testing.T) {
	followed(t, func(t *testing.T, engine *swarmtest.Engine, _ *publications) {
		before := engine.TaskIDs()
		one := uint64(1)
		if _, err := engine.ServiceCreate(t.Context(), client.ServiceCreateOptions{Spec: mobyswarm.ServiceSpec{
			Annotations:  mobyswarm.Annotations{Name: "alien"},
			TaskTemplate: mobyswarm.TaskSpec{ContainerSpec: &mobyswarm.ContainerSpec{Image: testImage}},
			Mode:         mobyswarm.ServiceMode{Replicated: &mobyswarm.ReplicatedService{Replicas: &one}},
		}}); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute)
		n := engine.TaskLists()
		for range 600 {
			for _, id := range engine.TaskIDs() {
				if id > before[0] && id > before[1] {
					engine.SetTask(id, func(task *mobyswarm.Task) { task.Status.Message = "flaps" })
				}
			}
			within(t, 100*time.Millisecond)
		}
		if polls := engine.TaskLists() - n; polls > 60/5+1 {
			t.Errorf("600 changes of a foreign task in a minute: %d polls, want one in 5 s", polls)
		}
	})
}

func TestWatcherDoesWithoutTaskEventsForAWhile(t *testing.T) {
	followed(t, func(t *testing.T, engine *swarmtest.Engine, seen *publications) {
		engine.MuteTasks(true)
		within(t, time.Minute)
		wantMove(t, engine, seen, aSecond)
		engine.MuteTasks(false)
		within(t, time.Minute)
		wantMove(t, engine, seen, soon)
	})
}

func TestWatcherLooksWhenAStreamEnds(t *testing.T) {
	followed(t, func(t *testing.T, engine *swarmtest.Engine, seen *publications) {
		engine.StallTasks(true)
		setFirst(engine, seen, mobyswarm.TaskStateStarting)
		engine.MuteTasks(true)
		within(t, soon)
		wantStates(t, seen, "fn", feed.Ready, feed.Starting)
	})
}

// TestWatcherLooksWhenAStreamBegins has changes until just before it does.
func TestWatcherLooksWhenAStreamBegins(t *testing.T) {
	followed(t, func(t *testing.T, engine *swarmtest.Engine, seen *publications) {
		engine.MuteTasks(true)
		within(t, time.Minute)
		engine.MuteTasks(false)
		id, n := seen.newest().Functions[0].Replicas[0].ID, 0
		states := []mobyswarm.TaskState{mobyswarm.TaskStateStarting, mobyswarm.TaskStateRunning}
		for ; engine.Followers() == 0; n++ {
			engine.SetTask(id, func(task *mobyswarm.Task) { task.Status.State = states[n%2] })
			within(t, 10*time.Millisecond)
		}
		within(t, soon)
		wantStates(t, seen, "fn", feed.Ready, []feed.State{feed.Ready, feed.Starting}[n%2])
	})
}

// TestAStalledStreamIsNotTrusted: it is open and sends no events, as one of another Swarm would.
func TestAStalledStreamIsNotTrusted(t *testing.T) {
	followed(t, func(t *testing.T, engine *swarmtest.Engine, seen *publications) {
		engine.StallTasks(true)
		setFirst(engine, seen, mobyswarm.TaskStateStarting)
		for n := 0; engine.Followers() > 0; n++ {
			if within(t, 100*time.Millisecond); n > 100 {
				t.Fatal("after ten seconds the stream is still followed")
			}
		}
		wantStates(t, seen, "fn", feed.Ready, feed.Starting)
		setFirst(engine, seen, mobyswarm.TaskStateRunning)
		within(t, aSecond)
		wantStates(t, seen, "fn", feed.Ready, feed.Ready)
		// The streams that are opened from here on are as silent, and nobody waits for what they tell.
		for range 10 {
			within(t, 37*time.Second)
			wantMove(t, engine, seen, aSecond)
		}
		engine.StallTasks(false)
		within(t, time.Minute)
		wantMove(t, engine, seen, aSecond) // tells that changes are told of again
		wantMove(t, engine, seen, soon)
	})
}

// TestALostEventOfANodeIsNotTheStreamsFault: what the list after it finds is not held against the stream.
func TestALostEventOfANodeIsNotTheStreamsFault(t *testing.T) {
	followed(t, func(t *testing.T, engine *swarmtest.Engine, seen *publications) {
		before := engine.Followed()
		engine.LoseNode()
		within(t, time.Minute)
		if got := len(seen.newest().Functions[0].Replicas); got != 0 {
			t.Errorf("%d replicas on a node that is down", got)
		}
		if n := engine.Followed(); n != before {
			t.Errorf("the stream was opened %d times more", n-before)
		}
	})
}

func TestWatcherFollowsAgainAfterARestart(t *testing.T) {
	followed(t, func(t *testing.T, engine *swarmtest.Engine, seen *publications) {
		engine.SetAway(true)
		within(t, 10*time.Minute)
		engine.SetAway(false)
		within(t, time.Minute)
		wantMove(t, engine, seen, soon)
	})
}
