package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"waggle/deploy/inventory"
)

// WriteInventory writes cluster.yml for nodes that were made with an SSHKey whose private half is the file identity.
// The nodes' Roles may be changed before, the file afterwards like any other inventory.
func (c *Cluster) WriteInventory(ctx context.Context, path, identity string) error {
	absolute, err := filepath.Abs(identity)
	if err != nil {
		return fmt.Errorf("writing the inventory: %w", err)
	}
	described := inventory.Inventory{Name: c.Name, Edge: inventory.EdgeConfig{Port: gatewayPort}}
	for _, node := range c.Nodes {
		key, err := c.engine.Run(ctx, "exec", node.Container, "cat", "/etc/ssh/waggle_host_key.pub")
		if err != nil {
			return fmt.Errorf("reading the host key of %s: %w", node.Name, err)
		}
		described.Machines = append(described.Machines, inventory.Machine{
			Name: node.Name, SSH: "root@" + node.Address, HostKey: strings.TrimSpace(key), IdentityFile: absolute,
			Address: node.Address, Roles: node.Roles,
		})
	}
	text, err := yaml.Marshal(described)
	if err != nil {
		return fmt.Errorf("writing the inventory: %w", err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("writing the inventory: %w", err)
	}
	return nil
}
