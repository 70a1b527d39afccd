package cluster

import (
	"context"

	"waggle/deploy/docker"
)

// Load copies images of the outer engine to every node; a node that has the same image under the same name is left
// alone. A node that does not run is an error.
func (c *Cluster) Load(ctx context.Context, references ...string) error {
	nodes := make([]docker.Node, len(c.Nodes))
	for i, node := range c.Nodes {
		nodes[i] = docker.Node{Name: node.Name, Engine: node.Engine}
	}
	return c.engine.Distribute(ctx, nodes, c.progress, references...)
}
