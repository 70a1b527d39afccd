package docker

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

// loadsAtOnce bounds the engines that unpack at the same time: each costs a core, and each transfer a share of the network.
const loadsAtOnce = 2

// Node is an engine with a name for messages.
type Node struct {
	Name   string
	Engine Engine
}

// Distribute copies images of this engine to every node, and returns once each has them under the same ids. A node that
// has an image already is left alone. note receives one line for each transfer; nil discards them.
func (e Engine) Distribute(ctx context.Context, nodes []Node, note func(string), references ...string) error {
	if note == nil {
		note = func(string) {}
	}
	wanted := map[string]string{}
	for _, reference := range references {
		id, err := e.ImageID(ctx, reference)
		if err != nil {
			return fmt.Errorf("loading %s: %w", reference, err)
		}
		if id == "" {
			return fmt.Errorf("loading %s: %s has no such image", reference, e)
		}
		wanted[reference] = id
	}
	// Nodes that lack the same images, nearly always all of them, share one archive: to write it costs as much as to
	// read it.
	lacking := map[string][]Node{}
	for _, node := range nodes {
		missing, err := node.lacks(ctx, wanted)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			key := strings.Join(missing, " ")
			lacking[key] = append(lacking[key], node)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(lacking)) {
		if err := e.load(ctx, strings.Fields(key), lacking[key], note); err != nil {
			return err
		}
		for _, node := range lacking[key] {
			missing, err := node.lacks(ctx, wanted)
			if err != nil {
				return err
			}
			if len(missing) > 0 {
				return fmt.Errorf("%s does not have %s although it was loaded", node.Name, strings.Join(missing, " "))
			}
		}
	}
	return nil
}

// lacks returns which of the wanted images (id by reference) the node does not have, sorted.
func (n Node) lacks(ctx context.Context, wanted map[string]string) ([]string, error) {
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

func (e Engine) load(ctx context.Context, references []string, nodes []Node, note func(string)) error {
	what := strings.Join(references, " ")
	if len(nodes) == 1 {
		note(fmt.Sprintf("loading %s on %s", what, nodes[0].Name))
		return e.CopyImages(ctx, nodes[0].Engine, references...)
	}
	note(fmt.Sprintf("loading %s on %d nodes", what, len(nodes)))
	// Not the usual directory for temporary files, which may be in memory: this is some hundred megabytes.
	dir, err := os.MkdirTemp("/var/tmp", "waggle-images-")
	if err != nil {
		return fmt.Errorf("loading %s: %w", what, err)
	}
	defer os.RemoveAll(dir)
	archive := filepath.Join(dir, "images.tar")
	if _, err := e.Run(ctx, append([]string{"save", "--output", archive}, references...)...); err != nil {
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
