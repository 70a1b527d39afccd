package cluster

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
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
		for _, label := range node.Labels {
			args = append(args, "--label-add", label+"=true")
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
			return false, nil
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

// loadsAtOnce bounds the archives that are made at the same time: each costs the outer engine a core.
const loadsAtOnce = 2

// Load copies images of the outer engine to every running node; a node that has the same image under the same name is
// left alone. Nodes that do not run are an error.
func (c *Cluster) Load(ctx context.Context, references ...string) error {
	wanted := map[string]string{}
	for _, reference := range references {
		id, err := c.engine.ImageID(ctx, reference)
		if err != nil {
			return fmt.Errorf("loading %s: %w", reference, err)
		}
		if id == "" {
			return fmt.Errorf("loading %s: %s has no such image", reference, c.engine)
		}
		wanted[reference] = id
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(loadsAtOnce)
	for _, node := range c.Nodes {
		group.Go(func() error {
			var missing []string
			for _, reference := range references {
				id, err := node.Engine.ImageID(groupCtx, reference)
				if err != nil {
					return fmt.Errorf("looking for %s on %s: %w", reference, node.Name, err)
				}
				if id != wanted[reference] {
					missing = append(missing, reference)
				}
			}
			if len(missing) == 0 {
				return nil
			}
			c.progress(fmt.Sprintf("loading %s on %s", strings.Join(missing, " "), node.Name))
			return c.engine.CopyImages(groupCtx, node.Engine, missing...)
		})
	}
	return group.Wait()
}
