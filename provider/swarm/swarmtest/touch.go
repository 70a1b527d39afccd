package swarmtest

import (
	"testing"

	"github.com/moby/moby/client"
)

// touched writes a service as it is, which makes managers check it again and replaces no replica.
func touched(t *testing.T, b *bench) {
	d := b.function(t, "touched")
	b.deploy(t, d)
	before := b.task(t, d.Service)
	for range 2 {
		found, err := b.Docker.ServiceList(t.Context(), client.ServiceListOptions{Filters: make(client.Filters).Add("label", "com.openfaas.function="+d.Service)})
		if err != nil || len(found.Items) != 1 {
			t.Fatalf("listing the service: %d found, %v", len(found.Items), err)
		}
		service := found.Items[0]
		if _, err := b.Docker.ServiceUpdate(t.Context(), service.ID, client.ServiceUpdateOptions{Version: service.Version, Spec: service.Spec}); err != nil {
			t.Fatal(err)
		}
		if after := b.version(t, d.Service); after <= service.Version.Index {
			t.Errorf("its version is %d, was %d", after, service.Version.Index)
		}
	}
	if err := b.Scale(t.Context(), "", d.Service, 2); err != nil { // the managers have acted on what came before
		t.Fatal(err)
	}
	b.reached(t, "two replicas are available", func() bool { return b.status(t, "", d.Service).AvailableReplicas == 2 })
	all, err := b.Docker.TaskList(t.Context(), client.TaskListOptions{Filters: make(client.Filters).Add("service", before.ServiceID)})
	if err != nil || len(all.Items) != 2 {
		t.Errorf("%d tasks, %v; want the one there was, and another", len(all.Items), err)
	}
	if after := b.task(t, d.Service); len(all.Items) == 2 && all.Items[0].ID != before.ID && all.Items[1].ID != before.ID {
		t.Errorf("the replica is %s, was %s", after.ID, before.ID)
	}
}
