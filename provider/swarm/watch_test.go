package swarm_test

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

const testImage = "ours/function:1"

// publications keeps every table that was published, and when.
type publications struct {
	mu        sync.Mutex // Publish runs in the watcher's goroutine; the fields are read alone once that waits
	tables    []feed.Table
	at        []time.Time
	forgotten []string
}

func (p *publications) Publish(table feed.Table) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tables, p.at = append(p.tables, table), append(p.at, time.Now())
}

func (p *publications) Forget(name, _ string) { p.forgotten = append(p.forgotten, name) }

func (p *publications) newest() feed.Table {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tables[len(p.tables)-1]
}

// states gives the states of a function's replicas in the newest table, sorted; nil if it is not in it.
func (p *publications) states(name string) []feed.State {
	for _, f := range p.newest().Functions {
		if f.Name != name {
			continue
		}
		states := []feed.State{}
		for _, r := range f.Replicas {
			states = append(states, r.State)
		}
		slices.Sort(states)
		return states
	}
	return nil
}

// quiet is a logger for tests that provoke failures.
func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newCluster(t testing.TB) (*swarmtest.Engine, *swarm.Cluster) {
	t.Helper()
	engine := swarmtest.NewEngine("waggle-functions")
	engine.AddImage(testImage, "sha256:1")
	cluster, err := swarm.New(swarm.Config{Docker: engine, User: "12000:12000", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return engine, cluster
}

// watched runs a test in a bubble of its own time, beside a watcher: with task events and without.
func watched(t *testing.T, test func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications)) {
	t.Parallel()
	for name, told := range map[string]bool{"task events": true, "polls alone": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, told, test)
		})
	}
}

func bubble(t *testing.T, told bool, test func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications)) {
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		seen := &publications{}
		config := swarm.WatcherConfig{Cluster: cluster, Publisher: seen}
		if told {
			config.TaskEvents = engine
		}
		watcher, err := swarm.NewWatcher(config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- watcher.Run(ctx) }()
		within(t, time.Second)
		test(t, engine, cluster, seen)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// within lets the bubble's clock go on and everything that is then due happen.
func within(t *testing.T, d time.Duration) {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
}

func deploy(t testing.TB, cluster *swarm.Cluster, name string, replicas uint64) {
	t.Helper()
	if err := cluster.Deploy(t.Context(), types.FunctionDeployment{Service: name, Image: testImage}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Scale(t.Context(), "", name, replicas); err != nil {
		t.Fatal(err)
	}
}

func wantStates(t *testing.T, seen *publications, name string, want ...feed.State) {
	t.Helper()
	if got := seen.states(name); !slices.Equal(got, want) {
		t.Errorf("replicas of %s: %v, want %v", name, got, want)
	}
}

func TestWatcherPublishesAnEmptyTableAtOnce(t *testing.T) {
	watched(t, func(t *testing.T, _ *swarmtest.Engine, _ *swarm.Cluster, seen *publications) {
		if len(seen.tables) != 1 || len(seen.newest().Functions) != 0 || seen.newest().Epoch == "" || seen.newest().Revision != 1 {
			t.Errorf("published %+v", seen.tables)
		}
		within(t, time.Hour)
		if len(seen.tables) != 1 {
			t.Errorf("an hour without a change published %d tables", len(seen.tables))
		}
	})
}

func TestWatcherFollowsReplicas(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		engine.Hold()
		deploy(t, cluster, "fn", 1)
		within(t, time.Second)
		wantStates(t, seen, "fn", feed.Starting)
		engine.Settle() // Swarm tells nobody that a health check passed
		within(t, time.Second)
		wantStates(t, seen, "fn", feed.Ready)
		engine.Hold()
		if err := cluster.Scale(t.Context(), "", "fn", 0); err != nil {
			t.Fatal(err)
		}
		within(t, time.Second)
		wantStates(t, seen, "fn", feed.Draining)
		engine.Settle()
		within(t, time.Second)
		wantStates(t, seen, "fn")
		if err := cluster.Delete(t.Context(), "", "fn"); err != nil {
			t.Fatal(err)
		}
		within(t, time.Second)
		if got := seen.states("fn"); got != nil || !slices.Equal(seen.forgotten, []string{"fn"}) {
			t.Errorf("after its removal: replicas %v, forgotten %v", got, seen.forgotten)
		}
		for i, table := range seen.tables {
			if table.Revision != uint64(i+1) || table.Epoch != seen.tables[0].Epoch {
				t.Errorf("table %d has revision %d of epoch %s", i, table.Revision, table.Epoch)
			}
		}
	})
}

// crash ends the first replica of the first function in the table.
func crash(engine *swarmtest.Engine, seen *publications) {
	engine.SetTask(seen.newest().Functions[0].Replicas[0].ID, func(task *mobyswarm.Task) {
		task.Status.State, task.DesiredState = mobyswarm.TaskStateFailed, mobyswarm.TaskStateShutdown
	})
}

// TestWatcherSeesACrashInCalmTimes is of another node, of whose containers there is no event.
func TestWatcherSeesACrashInCalmTimes(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		engine.Elsewhere()
		deploy(t, cluster, "fn", 2)
		within(t, time.Minute)
		wantStates(t, seen, "fn", feed.Ready, feed.Ready)
		crash(engine, seen)
		within(t, time.Second)
		wantStates(t, seen, "fn", feed.Ready)
	})
}

func TestWatcherHearsOfACrashOnItsOwnNode(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		deploy(t, cluster, "fn", 2)
		within(t, time.Minute)
		crash(engine, seen)
		within(t, 50*time.Millisecond)
		wantStates(t, seen, "fn", feed.Ready)
	})
}

// TestWatcherIsNotPutOff has a change every 10 ms for ten seconds: each must not delay the poll that the one before it asked for.
func TestWatcherIsNotPutOff(t *testing.T) {
	watched(t, func(t *testing.T, _ *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		deploy(t, cluster, "fn", 1)
		for n := range 1000 {
			if err := cluster.Scale(t.Context(), "", "fn", uint64(1+n%2)); err != nil {
				t.Fatal(err)
			}
			within(t, 10*time.Millisecond)
			if behind := time.Since(seen.at[len(seen.at)-1]); n > 100 && behind > time.Second {
				t.Fatalf("after %d changes the newest table is %s old", n, behind)
			}
		}
	})
}

func TestWatcherKeepsTheTableWhileDockerIsAway(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		deploy(t, cluster, "fn", 1)
		within(t, time.Second)
		before := len(seen.tables)
		engine.SetAway(true)
		within(t, 10*time.Minute)
		if len(seen.tables) != before {
			t.Errorf("%d tables were published without Docker", len(seen.tables)-before)
		}
		wantStates(t, seen, "fn", feed.Ready)
		engine.SetAway(false)
		deploy(t, cluster, "two", 1)
		within(t, 5*time.Second)
		wantStates(t, seen, "two", feed.Ready)
	})
}

func TestWatcherSurvivesLostEvents(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, _ *swarm.Cluster, seen *publications) {
		// Another provider's changes come without a nudge of ours.
		other, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		engine.DropEvents()
		deploy(t, other, "fn", 1)
		within(t, 3*time.Second)
		wantStates(t, seen, "fn", feed.Ready)
	})
}

func TestWatcherDropsReplicasOfADeadNode(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		deploy(t, cluster, "fn", 2)
		within(t, time.Second)
		engine.SetNodeState(mobyswarm.NodeStateDown)
		within(t, time.Second)
		wantStates(t, seen, "fn")
		engine.SetNodeState(mobyswarm.NodeStateReady)
		within(t, time.Second)
		wantStates(t, seen, "fn", feed.Ready, feed.Ready)
	})
}

// TestWatcherCompletesASecretsUpdate plays a provider that was killed between storing the new value and moving functions.
func TestWatcherCompletesASecretsUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		if err := cluster.CreateSecret(t.Context(), types.Secret{Name: "key", Value: "1"}); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Deploy(t.Context(), types.FunctionDeployment{Service: "fn", Image: testImage, Secrets: []string{"key"}}); err != nil {
			t.Fatal(err)
		}
		engine.KillAfter("SecretCreate")
		if err := cluster.UpdateSecret(t.Context(), types.Secret{Name: "key", Value: "2"}); err == nil {
			engine.SetAway(false) // the call itself may have succeeded: the value is stored
		}
		engine.SetAway(false)
		next, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		watcher, err := swarm.NewWatcher(swarm.WatcherConfig{Cluster: next, Publisher: &publications{}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- watcher.Run(ctx) }()
		within(t, time.Second)
		if got := engine.SecretsOf("fn"); !slices.Equal(got, []string{"openfaas-fn.key.2"}) {
			t.Errorf("the function refers to %v, want the second version", got)
		}
		if got := engine.SecretNames(); !slices.Equal(got, []string{"openfaas-fn.key.2"}) {
			t.Errorf("stored are %v, want the second version alone", got)
		}
		cancel()
		<-done
	})
}

// TestARollBackFindsItsSecret: between the change of a service and its managers' first step nothing shows that
// an update is under way. It may roll back to the secret's old version.
func TestARollBackFindsItsSecret(t *testing.T) {
	t.Parallel()
	engine, cluster := newCluster(t)
	if err := cluster.CreateSecret(t.Context(), types.Secret{Name: "key", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Deploy(t.Context(), types.FunctionDeployment{Service: "fn", Image: testImage, Secrets: []string{"key"}}); err != nil {
		t.Fatal(err)
	}
	engine.Delay()
	if err := cluster.UpdateSecret(t.Context(), types.Secret{Name: "key", Value: "2"}); err != nil {
		t.Fatal(err)
	}
	if got := engine.SecretNames(); !slices.Equal(got, []string{"openfaas-fn.key.1", "openfaas-fn.key.2"}) {
		t.Errorf("before the first step stored are %v, want both versions", got)
	}
	engine.Settle()
	if err := cluster.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := engine.SecretNames(); !slices.Equal(got, []string{"openfaas-fn.key.2"}) {
		t.Errorf("afterwards stored are %v, want the second version alone", got)
	}
}

// TestKilledInTheMiddle stops the provider at each changing call to Docker, for each operation. The next
// provider finds the function as it was or as it was requested.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	old := types.FunctionDeployment{Service: "fn", Image: testImage, EnvVars: map[string]string{"v": "old"}}
	asked := types.FunctionDeployment{Service: "fn", Image: testImage, EnvVars: map[string]string{"v": "new"}}
	for name, operation := range map[string]struct {
		call  string
		do    func(context.Context, *swarm.Cluster) error
		after func(types.FunctionStatus) bool
	}{
		"update": {"ServiceUpdate", func(ctx context.Context, c *swarm.Cluster) error { return c.Update(ctx, asked) }, func(s types.FunctionStatus) bool { return s.EnvVars["v"] == "new" && s.Replicas == 1 }},
		"scale":  {"ServiceUpdate", func(ctx context.Context, c *swarm.Cluster) error { return c.Scale(ctx, "", "fn", 4) }, func(s types.FunctionStatus) bool { return s.EnvVars["v"] == "old" && s.Replicas == 4 }},
	} {
		for _, when := range []string{"before", "after"} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				engine, cluster := newCluster(t)
				if err := cluster.Deploy(t.Context(), old); err != nil {
					t.Fatal(err)
				}
				if when == "before" {
					engine.KillBefore(operation.call)
				} else {
					engine.KillAfter(operation.call)
				}
				if err := operation.do(t.Context(), cluster); err == nil {
					t.Error("the call succeeded although its provider was killed")
				}
				engine.SetAway(false)
				next, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet()})
				if err != nil {
					t.Fatal(err)
				}
				got, err := next.Status(t.Context(), "", "fn", false)
				if err != nil {
					t.Fatal(err)
				}
				unchanged := got.EnvVars["v"] == "old" && got.Replicas == 1
				if when == "before" && !unchanged || when == "after" && !operation.after(got) {
					t.Errorf("found %d replicas, env %v", got.Replicas, got.EnvVars)
				}
			})
		}
	}
}
