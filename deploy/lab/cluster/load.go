package cluster

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// loadsAtOnce bounds the nodes that unpack at the same time: each costs the machine a core.
const loadsAtOnce = 2

// Load copies images of the outer engine to every node; a node that has the same image under the same name is left
// alone. A node that does not run is an error.
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
	// Nodes that lack the same images, nearly always all of them, share one archive: to write it costs as much as to
	// read it.
	nodesLacking := map[string][]*Node{}
	for _, node := range c.Nodes {
		missing, err := node.lacks(ctx, wanted)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			key := strings.Join(missing, " ")
			nodesLacking[key] = append(nodesLacking[key], node)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(nodesLacking)) {
		if err := c.load(ctx, strings.Fields(key), nodesLacking[key]); err != nil {
			return err
		}
	}
	return nil
}

// lacks returns which of the wanted images (id by reference) the node does not have, sorted.
func (n *Node) lacks(ctx context.Context, wanted map[string]string) ([]string, error) {
	var missing []string
	for _, reference := range slices.Sorted(maps.Keys(wanted)) {
		id, err := n.Engine.ImageID(ctx, reference)
		if err != nil {
			return nil, fmt.Errorf("looking for %s on %s: %w", reference, n.Name, err)
		}
		if id != wanted[reference] {
			missing = append(missing, reference)
		}
	}
	return missing, nil
}

func (c *Cluster) load(ctx context.Context, references []string, nodes []*Node) error {
	what := strings.Join(references, " ")
	if len(nodes) == 1 {
		c.progress(fmt.Sprintf("loading %s on %s", what, nodes[0].Name))
		return c.engine.CopyImages(ctx, nodes[0].Engine, references...)
	}
	c.progress(fmt.Sprintf("loading %s on %d nodes", what, len(nodes)))
	// Not the usual directory for temporary files, which may be in memory: this is some hundred megabytes.
	dir, err := os.MkdirTemp("/var/tmp", "waggle-images-")
	if err != nil {
		return fmt.Errorf("loading %s: %w", what, err)
	}
	defer os.RemoveAll(dir)
	archive := filepath.Join(dir, "images.tar")
	if _, err := c.engine.Run(ctx, append([]string{"save", "--output", archive}, references...)...); err != nil {
		return fmt.Errorf("loading %s: %w", what, err)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(loadsAtOnce)
	for _, node := range nodes {
		group.Go(func() error {
			if _, err := node.Engine.Run(groupCtx, "load", "--quiet", "--input", archive); err != nil {
				return fmt.Errorf("loading %s on %s: %w", what, node.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
