package swarm

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

// TestTakers: a node counts if it could get a replica.
func TestTakers(t *testing.T) {
	t.Parallel()
	node := swarm.Node{ID: "n1"}
	node.Status.State, node.Spec.Availability, node.Spec.Role = swarm.NodeStateReady, swarm.NodeAvailabilityActive, swarm.NodeRoleWorker
	node.Spec.Labels = map[string]string{"zone": "A", "waggle.capture": "true"}
	node.Description.Hostname, node.Description.Platform = "host1", swarm.Platform{OS: "linux", Architecture: "x86_64"}
	node.Description.Engine.Labels = map[string]string{"disk": "ssd"}
	down, drained := node, node
	down.Status.State, drained.Spec.Availability = swarm.NodeStateDown, swarm.NodeAvailabilityDrain
	nodes := []swarm.Node{node, down, drained}
	for constraint, want := range map[string]int{
		"": 1, "node.id==n1": 1, "node.id == N1": 1, "node.id != n1": 0, "node.hostname==host1": 1, "node.hostname == nowhere": 0, "node.hostname != nowhere": 1,
		"node.role==worker": 1, "node.role != worker": 0, "node.platform.os == linux": 1, "node.platform.arch==x86_64": 1, "node.labels.zone == a": 1,
		"node.labels.zone!=a": 0, "node.labels.waggle.capture == true": 1, "node.labels.none != true": 1, "node.labels.none == true": 0,
		"engine.labels.disk == ssd": 1, "engine.labels.disk == hdd": 0, "node.ip == 10.0.0.1": 0, "nonsense": 0,
	} {
		service := swarm.Service{}
		if constraint != "" {
			service.Spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.id == n1", constraint}}
		}
		if got := takers(service, nodes); got != want {
			t.Errorf("%q: %d nodes, want %d", constraint, got, want)
		}
	}
	for architecture, want := range map[string]int{"amd64": 1, "x86_64": 1, "": 1, "arm64": 0} {
		service := swarm.Service{}
		service.Spec.TaskTemplate.Placement = &swarm.Placement{Platforms: []swarm.Platform{{OS: "windows"}, {OS: "linux", Architecture: architecture}}}
		if got := takers(service, nodes); got != want {
			t.Errorf("platform linux/%s: %d nodes, want %d", architecture, got, want)
		}
	}
}
