package swarm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// TestAReplicaThatDoesNotAnswerIsNotReady: Swarm calls it running, and each call of it would wait for nothing.
func TestAReplicaThatDoesNotAnswerIsNotReady(t *testing.T) {
	t.Parallel()
	engine := swarmtest.NewEngine("waggle-functions")
	engine.AddImage(testImage, "sha256:1")
	silent := map[string]feed.Unreachable{}
	cluster, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet(), Unreachable: func() map[string]feed.Unreachable { return silent }})
	if err != nil {
		t.Fatal(err)
	}
	deploy(t, cluster, "fn", 2)
	ready := func(want uint64, state string) {
		t.Helper()
		status, err := cluster.Status(t.Context(), "", "fn", false)
		if got := (*status.Annotations)["com.waggle.state"]; err != nil || status.AvailableReplicas != want || got != state {
			t.Errorf("%d are available, %q, %v; want %d, %q", status.AvailableReplicas, got, err, want, state)
		}
		list, err := cluster.List(t.Context(), "")
		if err != nil || len(list) != 1 || list[0].AvailableReplicas != want {
			t.Errorf("listed as %+v, %v; want %d available", list, err, want)
		}
	}
	ready(2, "")
	id := tasksOf(t, engine)[0]
	silent[id] = feed.Unreachable{ID: id, Reason: "does not answer GET /_/health on 10.0.1.5:8080: connection refused", Since: time.Unix(1e9, 0)}
	ready(1, "replica "+id+" does not answer GET /_/health on 10.0.1.5:8080: connection refused, since 2001-09-09T01:46:40Z")
}

// TestAFunctionWhoseLabelIsSpoiledIsStillThere: what a list or a table leaves out does not exist for whoever reads it.
func TestAFunctionWhoseLabelIsSpoiledIsStillThere(t *testing.T) {
	watched(t, func(t *testing.T, engine *swarmtest.Engine, cluster *swarm.Cluster, seen *publications) {
		deploy(t, cluster, "fn", 1)
		found, err := engine.ServiceList(t.Context(), client.ServiceListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		service := found.Items[0]
		service.Spec.Labels["com.waggle.deployment"] = "{"
		if _, err := engine.ServiceUpdate(t.Context(), service.ID, client.ServiceUpdateOptions{Version: service.Version, Spec: service.Spec}); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute)
		wantStates(t, seen, "fn", feed.Ready)
		list, err := cluster.List(t.Context(), "")
		if err != nil || len(list) != 1 || !strings.Contains((*list[0].Annotations)["com.waggle.state"], "deploy the function again") {
			t.Errorf("listed as %+v, %v", list, err)
		}
		if err := cluster.Scale(t.Context(), "", "fn", 0); err != nil {
			t.Error(err)
		}
		if err := cluster.Wake(t.Context(), "fn", ""); err != nil {
			t.Error(err)
		}
		if err := cluster.Delete(t.Context(), "", "fn"); err != nil {
			t.Error(err)
		}
	})
}

// TestFunctionLabel: each function's description has it, and a client that sends it back changes nothing.
func TestFunctionLabel(t *testing.T) {
	t.Parallel()
	for _, wanted := range []bool{false, true} {
		engine := swarmtest.NewEngine("waggle-functions")
		engine.AddImage(testImage, "sha256:1")
		cluster, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet(), FunctionLabel: wanted})
		if err != nil {
			t.Fatal(err)
		}
		deploy(t, cluster, "fn", 1)
		status, err := cluster.Status(t.Context(), "", "fn", false)
		list, listErr := cluster.List(t.Context(), "")
		if err != nil || listErr != nil {
			t.Fatal(err, listErr)
		}
		for _, labels := range []map[string]string{*status.Labels, *list[0].Labels} {
			if label, found := labels["faas_function"]; found != wanted || wanted && label != "fn" {
				t.Errorf("labels are %v with the option %t", labels, wanted)
			}
		}
		if err := cluster.Update(t.Context(), types.FunctionDeployment{Service: "fn", Image: testImage, Labels: status.Labels, Annotations: &map[string]string{}}); err != nil {
			t.Fatal(err)
		}
		status, err = cluster.Status(t.Context(), "", "fn", false)
		if _, found := (*status.Labels)["faas_function"]; err != nil || found != wanted {
			t.Errorf("sent back, labels are %v, %v with the option %t", *status.Labels, err, wanted)
		}
	}
}
