package cluster

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"waggle/deploy/inventory"
)

// form makes the first node a manager, joins the others, and puts the labels on.
func (c *Cluster) form(ctx context.Context) error {
	manager := c.Nodes[0]
	_, err := manager.Engine.Run(ctx, "swarm", "init", "--advertise-addr", manager.Address,
		"--default-addr-pool", overlayPool, "--default-addr-pool-mask-length", overlayMask)
	if err != nil {
		return fmt.Errorf("making %s the manager: %w", manager.Name, err)
	}
	token, err := manager.Engine.Run(ctx, "swarm", "join-token", "--quiet", "worker")
	if err != nil {
		return fmt.Errorf("asking %s for the join token: %w", manager.Name, err)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, node := range c.Nodes[1:] {
		group.Go(func() error {
			_, err := node.Engine.Run(groupCtx, "swarm", "join", "--token", token, "--advertise-addr", node.Address, manager.Address+":2377")
			if err != nil {
				return fmt.Errorf("joining %s: %w", node.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, node := range c.Nodes {
		if err := c.awaitMember(ctx, node); err != nil {
			return err
		}
		args := []string{"node", "update"}
		for _, role := range node.Roles {
			if role != inventory.Manager {
				args = append(args, "--label-add", role.Label()+"=true")
			}
		}
		if _, err := manager.Engine.Run(ctx, append(args, node.Name)...); err != nil {
			return fmt.Errorf("labelling %s: %w", node.Name, err)
		}
	}
	return nil
}

// awaitMember returns when the manager counts the node as ready. While the manager itself is away the node's own
// membership has to do.
func (c *Cluster) awaitMember(ctx context.Context, node *Node) error {
	manager := c.Nodes[0]
	return c.await(ctx, node.Name+" in the Swarm", func(ctx context.Context) (bool, error) {
		state, err := node.Engine.Run(ctx, "info", "--format", "{{.Swarm.LocalNodeState}}")
		if err != nil || state != "active" {
			return false, nil //nolint:nilerr // a joining engine may not answer; await asks again and has the bound
		}
		running, err := c.engine.Run(ctx, "container", "inspect", "--format", "{{.State.Running}} {{.State.Paused}}", manager.Container)
		if err != nil {
			return false, err
		}
		if running != "true false" {
			return true, nil
		}
		// Not an error: right after a start the manager has no leader for a moment.
		status, err := manager.Engine.Run(ctx, "node", "inspect", "--format", "{{.Status.State}}", node.Name)
		return err == nil && status == "ready", nil
	})
}
