package machines

import (
	"context"

	"waggle/deploy/docker"
)

// Load brings images from the builder to every machine that answers. Docker's own registry is not asked: nothing is
// deployed before all of them have the same images.
func (m *Machines) Load(ctx context.Context, references ...string) error {
	nodes := make([]docker.Node, len(m.present))
	for i, machine := range m.present {
		nodes[i] = docker.Node{Name: machine.Name, Engine: machine.Engine}
	}
	return m.builder.Distribute(ctx, nodes, m.note, references...)
}
