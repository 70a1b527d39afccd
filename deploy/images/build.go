// Package images makes the container images of the system, on one Docker engine.
//
// In: the repository's Dockerfiles and, where no registry is reachable, this machine's Debian packages and Go. Out:
// images whose tags follow from their content, so that a stack that names them changes only when an image did.
// It stands between the deploy program and the engine; nothing of the running system imports it.
package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"waggle/deploy/docker"
)

// The images Build knows.
const (
	Redis    = "redis"
	Postgres = "postgres"
	Provider = "provider"
	Worker   = "worker"
	// Node is a Swarm node that is a container, for package cluster.
	Node = "node"
)

// prefix names a registry that does not exist: Swarm asks the one in an image's name before it uses a local image of
// that name, and nobody must be able to answer for ours.
const prefix = "localhost/waggle/"

// All is what a running system needs.
var All = []string{Redis, Postgres, Provider, Worker}

// recipe says where an image's Dockerfile and context are, relative to the repository.
type recipe struct {
	dockerfile, context string
}

// All but the node see the repository, less .dockerignore.
var recipes = map[string]recipe{
	Redis:    {context: ".", dockerfile: "deploy/images/redis/Dockerfile"},
	Postgres: {context: ".", dockerfile: "deploy/images/postgres/Dockerfile"},
	Node:     {context: "deploy/images/node"},
	Provider: {context: ".", dockerfile: "provider/Dockerfile"},
	Worker:   {context: ".", dockerfile: "worker/Dockerfile"},
}

// Builder makes images. Its methods may be called one at a time.
type Builder struct {
	// Engine is where the images are built and kept.
	Engine docker.Engine
	// Root is the repository's directory.
	Root string
	// Progress receives one line per step that takes time; nil discards them.
	Progress func(line string)
}

func (b *Builder) progress(format string, args ...any) {
	if b.Progress != nil {
		b.Progress(fmt.Sprintf(format, args...))
	}
}

// Image is an image that was built.
type Image struct {
	// Reference is localhost/waggle/<name>:<first 12 digits of the id>.
	Reference string
	// ID is the engine's id, "sha256:…".
	ID string
}

// Build builds the named images (constants above) one after the other and returns them by name. EnsureBase must have
// been called on this engine before. An image whose files did not change keeps its reference.
func (b *Builder) Build(ctx context.Context, names ...string) (map[string]Image, error) {
	args, err := BuildArgs(ctx)
	if err != nil {
		return nil, err
	}
	built := map[string]Image{}
	for _, name := range names {
		recipe, known := recipes[name]
		if !known {
			return nil, fmt.Errorf("building image %q: it must be one of %s", name, strings.Join(append(slices.Clone(All), Node), ", "))
		}
		b.progress("building waggle/%s", name)
		image, err := b.build(ctx, name, recipe, args)
		if err != nil {
			return nil, err
		}
		built[name] = image
	}
	return built, nil
}

func (b *Builder) build(ctx context.Context, name string, r recipe, args map[string]string) (Image, error) {
	options := docker.BuildOptions{
		Context: filepath.Join(b.Root, filepath.FromSlash(r.context)), Tag: prefix + name + ":latest", BuildArgs: args,
	}
	if r.dockerfile != "" {
		options.Dockerfile = filepath.Join(b.Root, filepath.FromSlash(r.dockerfile))
	}
	for _, path := range []string{options.Context, options.Dockerfile} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return Image{}, fmt.Errorf("building waggle/%s: %w", name, err)
		}
	}
	id, err := b.Engine.Build(ctx, options)
	if err != nil {
		return Image{}, err
	}
	digits := strings.TrimPrefix(id, "sha256:")
	image := Image{ID: id, Reference: prefix + name + ":" + digits[:min(12, len(digits))]}
	if _, err := b.Engine.Run(ctx, "tag", id, image.Reference); err != nil {
		return Image{}, fmt.Errorf("tagging %s: %w", image.Reference, err)
	}
	return image, nil
}
