package swarm

import (
	"strings"

	"github.com/moby/moby/api/types/swarm"
)

// takers counts the nodes that may get a replica of a service. Nodes without room for one count, too.
func takers(service swarm.Service, nodes []swarm.Node) (n int) {
	var placement swarm.Placement
	if p := service.Spec.TaskTemplate.Placement; p != nil {
		placement = *p
	}
	for _, node := range nodes {
		if node.Status.State == swarm.NodeStateReady && node.Spec.Availability == swarm.NodeAvailabilityActive && suits(node, placement) {
			n++
		}
	}
	return n
}

// suits reports whether a node is as all constraints and one of the platforms want it.
func suits(node swarm.Node, placement swarm.Placement) bool {
	for _, constraint := range placement.Constraints {
		if !meets(node, constraint) {
			return false
		}
	}
	for _, p := range placement.Platforms {
		has := node.Description.Platform
		if (p.OS == "" || p.OS == has.OS) && (p.Architecture == "" || architecture(p.Architecture) == architecture(has.Architecture)) {
			return true
		}
	}
	return len(placement.Platforms) == 0
}

// architecture gives the name of the two that nodes and images have for one.
func architecture(name string) string {
	switch name {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return name
}

// meets reports whether a node is as a constraint wants it. That is "key == value" or "key != value", and case does not
// matter (docker service create --constraint). A key that is not known here is met by no node.
func meets(node swarm.Node, constraint string) bool {
	key, want, equal := strings.Cut(constraint, "==")
	if !equal {
		var found bool
		if key, want, found = strings.Cut(constraint, "!="); !found {
			return false
		}
	}
	has, known := attribute(node, strings.TrimSpace(key))
	return known && strings.EqualFold(has, strings.TrimSpace(want)) == equal
}

// attribute is what a node has of what constraints ask for. A label that it lacks is empty.
func attribute(node swarm.Node, key string) (value string, known bool) {
	lower := strings.ToLower(key)
	switch lower {
	case "node.id":
		return node.ID, true
	case "node.hostname":
		return node.Description.Hostname, true
	case "node.role":
		return string(node.Spec.Role), true
	case "node.platform.os":
		return node.Description.Platform.OS, true
	case "node.platform.arch":
		return node.Description.Platform.Architecture, true
	}
	for prefix, labels := range map[string]map[string]string{"node.labels.": node.Spec.Labels, "engine.labels.": node.Description.Engine.Labels} {
		if strings.HasPrefix(lower, prefix) {
			return labels[key[len(prefix):]], true
		}
	}
	return "", false
}
