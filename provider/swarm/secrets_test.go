package swarm_test

import (
	"errors"
	"testing"

	"github.com/openfaas/faas-provider/types"

	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// TestASecretStaysWhileAnUpdateMayNeedIt: a function that is updated not to need a secret any more needs it when that
// update is rolled back.
func TestASecretStaysWhileAnUpdateMayNeedIt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		under, ends func(*swarmtest.Engine)
		after       error
	}{
		"it is complete at once":       {func(*swarmtest.Engine) {}, nil, nil},
		"under way, then complete":     {(*swarmtest.Engine).Monitor, (*swarmtest.Engine).Settle, nil},
		"under way, then rolled back":  {(*swarmtest.Engine).Monitor, func(e *swarmtest.Engine) { e.FailUpdate("fn") }, swarm.ErrInUse},
		"not yet begun, then complete": {(*swarmtest.Engine).Delay, (*swarmtest.Engine).Settle, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine, cluster := newCluster(t)
			for _, secret := range []string{"key", "other"} {
				if err := cluster.CreateSecret(t.Context(), types.Secret{Name: secret, Value: "1"}); err != nil {
					t.Fatal(err)
				}
			}
			d := types.FunctionDeployment{Service: "fn", Image: testImage, Secrets: []string{"key"}}
			if err := cluster.Deploy(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			test.under(engine)
			d.Secrets = nil
			if err := cluster.Update(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if test.ends != nil {
				if err := cluster.DeleteSecret(t.Context(), "", "key"); !errors.Is(err, swarm.ErrInUse) {
					t.Errorf("removing it during the update: %v, want %v", err, swarm.ErrInUse)
				}
				if err := cluster.DeleteSecret(t.Context(), "", "other"); err != nil {
					t.Errorf("removing another one: %v", err)
				}
				test.ends(engine)
			}
			if err := cluster.DeleteSecret(t.Context(), "", "key"); !errors.Is(err, test.after) {
				t.Errorf("removing it afterwards: %v, want %v", err, test.after)
			}
			if test.after != nil {
				if err := cluster.Scale(t.Context(), "", "fn", 2); err != nil {
					t.Errorf("a further replica: %v", err)
				}
			}
		})
	}
}

// TestASecretGoesWithItsFunction: replicas of a function that was removed may go on with their requests for a while.
func TestASecretGoesWithItsFunction(t *testing.T) {
	t.Parallel()
	engine, cluster := newCluster(t)
	if err := cluster.CreateSecret(t.Context(), types.Secret{Name: "key", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Deploy(t.Context(), types.FunctionDeployment{Service: "fn", Image: testImage, Secrets: []string{"key"}}); err != nil {
		t.Fatal(err)
	}
	engine.Hold()
	if err := cluster.Delete(t.Context(), "", "fn"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.DeleteSecret(t.Context(), "", "key"); err != nil {
		t.Errorf("removing the secret after its function: %v", err)
	}
}
