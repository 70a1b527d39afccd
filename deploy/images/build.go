// Package images makes the container images of the system, on one Docker engine.
//
// In: the repository's Dockerfiles and, where no registry is reachable, this machine's Debian packages and Go. Out:
// images whose tags follow from their content, so that a stack that names them changes only when an image did.
// It stands between the deploy program and the engine; nothing of the running system imports it.
package images

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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

// NoRegistry begins the names of images that no registry has. Swarm asks the registry in an image's name before it
// uses a local image. So the name must be one that nobody can answer for.
const NoRegistry = "localhost/waggle"

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
	// Registry begins the images' names: a registry's host and a path in it, such as registry.example.com/waggle;
	// "" is [NoRegistry].
	Registry string
	// Version is the operator's name for these sources; "" takes one from git, see [Stamp].
	Version string
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
	// Reference is <registry>/<name>:<first 12 digits of the id>, so that a name never means another content.
	Reference string `json:"reference"`
	// ID is the engine's id, "sha256:…".
	ID string `json:"id"`
}

// Build builds the named images (constants above) one after the other and returns them by name. EnsureBase must have
// been called on this engine before. An image whose files did not change keeps its reference. In a release they are not
// built but loaded.
func (b *Builder) Build(ctx context.Context, names ...string) (map[string]Image, error) {
	release, err := ReadRelease(b.Root)
	if err != nil {
		return nil, err
	}
	if release != nil {
		for _, name := range names {
			if _, has := release.Images[name]; !has {
				return nil, fmt.Errorf("release %s has no image of %s: it takes the sources to make one", release.Version, name)
			}
		}
		return release.Images, release.load(ctx, b)
	}
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

// BuildFunction builds a function from a build context as faas-cli lays it out. Sources are the files and folders of the
// repository that it was laid out from. Arguments are the function's own, over those by which builds reach modules.
func (b *Builder) BuildFunction(ctx context.Context, name, buildContext string, arguments map[string]string, sources ...string) (Image, error) {
	args, err := BuildArgs(ctx)
	if err != nil {
		return Image{}, err
	}
	maps.Copy(args, arguments)
	return b.stamped(ctx, name, docker.BuildOptions{Context: buildContext, BuildArgs: args}, sources)
}

func (b *Builder) build(ctx context.Context, name string, r recipe, args map[string]string) (Image, error) {
	options := docker.BuildOptions{Context: filepath.Join(b.Root, filepath.FromSlash(r.context)), BuildArgs: args}
	if r.dockerfile != "" {
		options.Dockerfile = filepath.Join(b.Root, filepath.FromSlash(r.dockerfile))
	}
	if _, err := os.Stat(options.Context); err != nil {
		return Image{}, fmt.Errorf("building waggle/%s: %w", name, err)
	}
	sources, err := r.sources(b.Root)
	if err != nil {
		return Image{}, fmt.Errorf("building waggle/%s: %w", name, err)
	}
	return b.stamped(ctx, name, options, sources)
}

// stamped builds an image with the stamp of its sources and names it by its content.
func (b *Builder) stamped(ctx context.Context, name string, options docker.BuildOptions, sources []string) (Image, error) {
	stamp, err := ReadStamp(ctx, b.Root, b.Version, sources...)
	if err != nil {
		return Image{}, fmt.Errorf("building waggle/%s: %w", name, err)
	}
	repository := cmp.Or(b.Registry, NoRegistry) + "/" + name
	options.Tag, options.BuildArgs, options.Labels = repository+":latest", stamp.args(options.BuildArgs), stamp.Labels()
	id, err := b.Engine.Build(ctx, options)
	if err != nil {
		return Image{}, err
	}
	digits := strings.TrimPrefix(id, "sha256:")
	image := Image{ID: id, Reference: repository + ":" + digits[:min(12, len(digits))]}
	if _, err := b.Engine.Run(ctx, "tag", id, image.Reference); err != nil {
		return Image{}, fmt.Errorf("tagging %s: %w", image.Reference, err)
	}
	return image, nil
}
