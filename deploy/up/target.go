package up

import (
	"context"
	"fmt"

	"waggle/deploy/docker"
	"waggle/deploy/images"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/machines"
)

// VotersArgs are the arguments with which the load program deploy/lab/voters finds this system and its database.
func (s *System) VotersArgs() []string {
	args := []string{"-results", s.Target.Gateways[0] + "/function/results", "-voter-keys", s.state.path("voter-keys")}
	for _, gateway := range s.Target.Gateways {
		args = append(args, "-url", gateway+"/function/vote")
	}
	for _, node := range s.Target.Nodes {
		args = append(args, "-docker-host", node.Host)
	}
	return args
}

// CreateCluster builds the node image from the repository at root and makes a cluster of it; config.Image is ignored.
func CreateCluster(ctx context.Context, root string, config cluster.Config) (*cluster.Cluster, error) {
	builder := images.Builder{Engine: config.Engine, Root: root, Progress: config.Progress}
	if err := builder.EnsureBase(ctx); err != nil {
		return nil, err
	}
	built, err := builder.Build(ctx, images.Node)
	if err != nil {
		return nil, err
	}
	config.Image = built[images.Node].Reference
	return cluster.Create(ctx, config)
}

// OnCluster targets a Swarm of node containers: images are built on this machine's engine and copied into the nodes.
func OnCluster(c *cluster.Cluster) Target {
	target := Target{
		Builder: docker.Engine{},
		Distribute: func(ctx context.Context, images ...string) error {
			return c.Load(ctx, images...)
		},
	}
	for _, node := range c.Nodes {
		target.Nodes = append(target.Nodes, node.Engine)
		target.Gateways = append(target.Gateways, fmt.Sprintf("http://127.0.0.1:%d", node.Port))
	}
	target.Manager = target.Nodes[0]
	return target
}

// OnMachines targets the machines of an inventory.
func OnMachines(m *machines.Machines) (Target, error) {
	manager, err := m.Manager()
	if err != nil {
		return Target{}, err
	}
	return Target{
		Manager: manager, Builder: docker.Engine{}, Nodes: m.Engines(), Gateways: m.Gateways(),
		Distribute: m.Load, Check: m.Check, Form: m.Form,
	}, nil
}
