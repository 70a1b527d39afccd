package swarm_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// updating gives a function of two replicas whose update is under way, from env v=good to v=bad, as engine lets it be.
func updating(t *testing.T, under func(*swarmtest.Engine)) (*swarmtest.Engine, *swarm.Cluster) {
	t.Helper()
	engine, cluster := newCluster(t)
	if err := cluster.CreateSecret(t.Context(), types.Secret{Name: "key", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	d := types.FunctionDeployment{Service: "fn", Image: testImage, EnvVars: map[string]string{"v": "good"}, Secrets: []string{"key"}}
	if err := cluster.Deploy(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Scale(t.Context(), "", "fn", 2); err != nil {
		t.Fatal(err)
	}
	under(engine)
	d.EnvVars = map[string]string{"v": "bad"}
	if err := cluster.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return engine, cluster
}

func wantFunction(t *testing.T, cluster *swarm.Cluster, v string, replicas uint64) {
	t.Helper()
	got, err := cluster.Status(t.Context(), "", "fn", false)
	if err != nil || got.EnvVars["v"] != v || got.Replicas != replicas {
		t.Errorf("%d replicas of v=%s, %v; want %d of v=%s", got.Replicas, got.EnvVars["v"], err, replicas, v)
	}
}

// TestScalingLeavesAnUpdateItsWayBack: after any change Swarm would roll back to what the change found.
func TestScalingLeavesAnUpdateItsWayBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		under, end func(*swarmtest.Engine)
		want       string
	}{
		"under way":     {(*swarmtest.Engine).Monitor, func(e *swarmtest.Engine) { e.FailUpdate("fn") }, "good"},
		"not yet begun": {(*swarmtest.Engine).Delay, (*swarmtest.Engine).Settle, "bad"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				engine, cluster := updating(t, test.under)
				began := time.Now()
				time.AfterFunc(time.Second, func() { test.end(engine) })
				if err := cluster.Scale(t.Context(), "", "fn", 4); err != nil {
					t.Errorf("scaling: %v", err)
				}
				if took := time.Since(began); took < time.Second || took > 2*time.Second {
					t.Errorf("scaling took %s, want the update's end after 1s to be awaited", took)
				}
				wantFunction(t, cluster, test.want, 4)
			})
		})
	}
}

func TestScalingIsHeldNoLongerThanNeeded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		meanwhile func(*swarmtest.Engine)
		replicas  uint64
		within    time.Duration
	}{
		"the update is complete":         {func(e *swarmtest.Engine) { e.Settle() }, 4, 0},
		"a new replica has proven sound": {func(*swarmtest.Engine) { time.Sleep(11 * time.Second) }, 4, 0},
		"it completes while we wait":     {func(e *swarmtest.Engine) { time.AfterFunc(time.Second, e.Settle) }, 4, 2 * time.Second},
		"to no replicas at all":          {func(*swarmtest.Engine) {}, 0, 0},
		"to as many as there are":        {func(*swarmtest.Engine) {}, 2, 0},
		"it takes too long": {func(e *swarmtest.Engine) {
			for _, id := range e.TaskIDs() {
				e.SetTask(id, func(t *mobyswarm.Task) { t.Status.State = mobyswarm.TaskStateStarting })
			}
		}, 4, 16 * time.Second},
		"the update stands still": {func(e *swarmtest.Engine) {
			for _, id := range e.TaskIDs() {
				e.SetTask(id, func(t *mobyswarm.Task) { t.Status.State = mobyswarm.TaskStateStarting })
			}
			time.Sleep(6 * time.Minute)
		}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				engine, cluster := updating(t, (*swarmtest.Engine).Monitor)
				test.meanwhile(engine)
				began := time.Now()
				err := cluster.Scale(t.Context(), "", "fn", test.replicas)
				if took := time.Since(began); err != nil || took > test.within {
					t.Errorf("scaling to %d: %v after %s, want it within %s", test.replicas, err, took, test.within)
				}
				wantFunction(t, cluster, "bad", test.replicas)
			})
		})
	}
}

func TestAHeldScaleEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, cluster := updating(t, (*swarmtest.Engine).Monitor)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := cluster.Scale(ctx, "", "fn", 4); !errors.Is(err, swarm.ErrUnavailable) || time.Since(began) > time.Second {
			t.Errorf("scaling: %v after %s", err, time.Since(began))
		}
	})
}

// TestASleeperWakesAfterItsUpdate: an update that finds no replica to replace never ends in Swarm's eyes.
func TestASleeperWakesAfterItsUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, cluster := newCluster(t)
		deploy(t, cluster, "fn", 0)
		for v, wake := range map[string]func() error{
			"one": func() error { return cluster.Wake(t.Context(), "fn", "") },
			"two": func() error { return cluster.Scale(t.Context(), "", "fn", 1) },
		} {
			if err := cluster.Scale(t.Context(), "", "fn", 0); err != nil {
				t.Fatal(err)
			}
			// Without the label for it an update wakes a function, and only then differs from the spec before in both.
			for _, labels := range []map[string]string{{"com.openfaas.scale.zero": "true"}, {}} {
				d := types.FunctionDeployment{Service: "fn", Image: testImage, Labels: &labels, EnvVars: map[string]string{"v": v + labels["com.openfaas.scale.zero"]}}
				if err := cluster.Update(t.Context(), d); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			if err := errors.Join(wake(), cluster.Scale(t.Context(), "", "fn", 3)); err != nil || time.Since(began) > 0 {
				t.Errorf("waking and scaling took %s, %v", time.Since(began), err)
			}
			wantFunction(t, cluster, v, 3)
		}
	})
}

// TestASecretsChangeLeavesAnUpdateItsWayBack: the function is moved once its update is complete.
func TestASecretsChangeLeavesAnUpdateItsWayBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, fails := range []bool{true, false} {
			engine, cluster := updating(t, (*swarmtest.Engine).Monitor)
			if err := cluster.UpdateSecret(t.Context(), types.Secret{Name: "key", Value: "2"}); err != nil {
				t.Fatal(err)
			}
			if got := engine.SecretsOf("fn"); !slices.Equal(got, []string{"openfaas-fn.key.1"}) {
				t.Errorf("during its update the function has %v", got)
			}
			if fails {
				engine.FailUpdate("fn")
				wantFunction(t, cluster, "good", 2)
				continue
			}
			engine.Settle()
			if err := cluster.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := engine.SecretsOf("fn"); !slices.Equal(got, []string{"openfaas-fn.key.2"}) {
				t.Errorf("after its update the function has %v", got)
			}
			wantFunction(t, cluster, "bad", 2)
		}
	})
}
