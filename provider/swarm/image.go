package swarm

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// registryTimeout bounds the question to a registry; without a network its name often just times out.
const registryTimeout = 15 * time.Second

const legalImage = "the name of an image such as ghcr.io/owner/name:tag"

// resolveImage finds out what runs under a name. So a misspelt name fails the request and not the tasks later,
// and new content under an old name is noticed.
//
// A registry decides if the name has a host, if the image came from a registry, or if the engine lacks the image. Its
// answer is pinned by digest, so that every node runs the same. An image that was built or loaded here belongs to no
// registry. All nodes must have been given it, and its id on this engine identifies its content.
func (c *Cluster) resolveImage(ctx context.Context, name string) (image, error) {
	if strings.TrimSpace(name) == "" {
		return image{}, failf(ErrInvalid, "image is missing: must be "+legalImage)
	}
	if strings.ContainsAny(name, " \t\r\n?#%\\") || len(name) > 1024 {
		return image{}, failf(ErrInvalid, "image is %q: must be "+legalImage, shorten(name))
	}
	local, localErr := c.docker.ImageInspect(ctx, name)
	if errdefs.IsInvalidArgument(localErr) {
		return image{}, failf(ErrInvalid, "image is %q: must be "+legalImage+" (%s)", shorten(name), daemonText(localErr))
	}
	if localErr != nil && !errdefs.IsNotFound(localErr) {
		return image{}, dockerError("finding the image", localErr)
	}
	host := registryHost(name)
	if localErr == nil && host == "" && len(local.RepoDigests) == 0 {
		return image{Ref: name, Identity: local.ID}, nil
	}
	remote, remoteErr := c.askRegistry(ctx, name, host)
	if remoteErr == nil {
		return remote, nil
	}
	if localErr == nil {
		return image{Ref: name, Identity: local.ID}, nil
	}
	if ctx.Err() != nil {
		return image{}, dockerError("asking the registry", ctx.Err())
	}
	return image{}, failf(ErrInvalid, "image is %q, which is not on the manager's engine, and %s", name, c.refusal(host, remoteErr))
}

// refusal says why a registry gave nothing: its own words, if it was reached.
func (c *Cluster) refusal(host string, err error) string {
	text := daemonText(err)
	for _, mark := range []string{"dial tcp", "timeout", "deadline exceeded", "TLS handshake", "x509:", "EOF"} {
		if strings.Contains(text, mark) {
			return "its registry cannot be reached: " + text
		}
	}
	if c.cfg.RegistryAuth(host) == "" {
		return "the registry said: " + text + "; it was asked without credentials, of which the provider has none for it"
	}
	return "the registry said: " + text + "; it was asked with the provider's credentials"
}

func (c *Cluster) askRegistry(ctx context.Context, name, host string) (image, error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	found, err := c.docker.DistributionInspect(ctx, name, client.DistributionInspectOptions{EncodedRegistryAuth: c.cfg.RegistryAuth(host)})
	if err != nil {
		return image{}, err
	}
	digest := found.Descriptor.Digest.String()
	resolved := image{Ref: name, Identity: digest}
	if !strings.Contains(name, "@") {
		resolved.Ref = name + "@" + digest
	}
	for _, p := range found.Platforms {
		// Manifest lists carry attestations of no platform; and nodes call arm by names with the variant in it, which no
		// manifest has.
		if p.OS == "unknown" || p.Architecture == "unknown" || strings.EqualFold(p.Architecture, "arm") {
			continue
		}
		resolved.Platforms = append(resolved.Platforms, swarm.Platform{OS: p.OS, Architecture: p.Architecture})
	}
	return resolved, nil
}

// registryHost is the part of an image's name that names its registry; "" means none is named.
func registryHost(name string) string {
	host, _, found := strings.Cut(name, "/")
	if found && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return ""
}

// resolvedImage reads back from a service what its image was resolved to.
func resolvedImage(service swarm.Service) image {
	template := service.Spec.TaskTemplate
	img := image{Ref: template.ContainerSpec.Image, Identity: template.ContainerSpec.Labels[labelImage]}
	if template.Placement != nil {
		img.Platforms = template.Placement.Platforms
	}
	return img
}
