package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

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

// InventoryFile is the name of the inventory that CreateMachines writes.
const InventoryFile = "cluster.yml"

// CreateMachines is CreateCluster for nodes that are bare machines, reached over ssh as any others. It writes their
// inventory to dir, and the key that logs in to them.
func CreateMachines(ctx context.Context, root, dir string, config cluster.Config) (*cluster.Cluster, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	identity := filepath.Join(dir, "ssh-key")
	for _, old := range []string{identity, identity + ".pub"} {
		if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("removing an earlier key: %w", err)
		}
	}
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", identity).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making a key: %w: %s", err, oneLine(string(out)))
	}
	public, err := os.ReadFile(identity + ".pub")
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	config.SSHKey = strings.TrimSpace(string(public))
	made, err := CreateCluster(ctx, root, config)
	if err != nil {
		return nil, err
	}
	return made, made.WriteInventory(ctx, filepath.Join(dir, InventoryFile), identity)
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
