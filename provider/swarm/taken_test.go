package swarm_test

import (
	"errors"
	"strings"
	"testing"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/swarm"
)

// TestNamesThatWouldTakeOurOwn: on a network with functions, calls for a part of the system must not reach a function.
func TestNamesThatWouldTakeOurOwn(t *testing.T) {
	t.Parallel()
	engine, cluster := newCluster(t)
	for _, space := range []string{"waggle", "dev"} {
		if err := cluster.CreateNamespace(t.Context(), types.FunctionNamespace{Name: space, Labels: map[string]string{"openfaas": "1"}}); err != nil {
			t.Fatal(err)
		}
	}
	// A service of the operator's, with a second name on the functions' network.
	if _, err := engine.ServiceCreate(t.Context(), client.ServiceCreateOptions{Spec: mobyswarm.ServiceSpec{
		Annotations: mobyswarm.Annotations{Name: "shop_db"},
		TaskTemplate: mobyswarm.TaskSpec{ContainerSpec: &mobyswarm.ContainerSpec{Image: testImage},
			Networks: []mobyswarm.NetworkAttachmentConfig{{Target: "waggle-functions", Aliases: []string{"db", "database"}}}},
	}}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ namespace, name, says string }{
		{"", "gateway", "must be none of gateway, localhost, migrate, postgres, provider, queue, redis, worker"},
		{"", "provider", "gateway, localhost"},
		{"openfaas-fn", "postgres", "gateway, localhost"},
		{"waggle", "gateway", `"waggle_gateway"`},
		{"", "database", "must be none of database, db, to which the Swarm service shop_db answers"},
		{"dev", "gateway", ""}, // its service is dev_gateway
		{"dev", "db", ""},
		{"", "gateway-2", ""},
	} {
		d := types.FunctionDeployment{Service: test.name, Namespace: test.namespace, Image: testImage}
		err := cluster.Deploy(t.Context(), d)
		if test.says == "" {
			if err != nil {
				t.Errorf("%s in %q: %v", test.name, test.namespace, err)
			}
			continue
		}
		if !errors.Is(err, swarm.ErrInvalid) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s in %q: %v, want a refusal that says %s", test.name, test.namespace, err, test.says)
		}
	}
}
