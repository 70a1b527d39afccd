package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"waggle/deploy/docker"
)

// The images everything else is built from.
const (
	Debian = "debian:bookworm-slim"
	Golang = "golang:1.26-bookworm"
)

// hostBundle is where Debian and its relatives keep the certificates they trust, and where base images look for them.
const hostBundle = "/etc/ssl/certs/ca-certificates.crt"

// hostAnchors are where an administrator puts certificates of a proxy that inspects TLS. When there are any, a pulled
// image does not know them and downloads inside builds fail.
var hostAnchors = []string{
	"/usr/local/share/ca-certificates/*.crt",
	"/etc/pki/ca-trust/source/anchors/*",
}

// EnsureBase makes Debian and Golang available to the engine. An existing image is left alone; otherwise it is
// pulled. Without a registry it is made from Debian's packages and this machine's Go, which needs root and
// debootstrap.
func (b *Builder) EnsureBase(ctx context.Context) error {
	if release, err := ReadRelease(b.Root); err != nil || release != nil {
		return err // nothing is built
	}
	steps := []struct {
		reference string
		assemble  func(context.Context) error
	}{{Debian, b.bootstrapDebian}, {Golang, b.importGo}}
	for _, step := range steps {
		if err := b.ensure(ctx, step.reference, step.assemble); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) ensure(ctx context.Context, reference string, assemble func(context.Context) error) error {
	present, err := b.Engine.HasImage(ctx, reference)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", reference, err)
	}
	if present {
		return nil
	}
	b.progress("pulling %s", reference)
	_, pullErr := b.Engine.Run(ctx, "pull", "--quiet", reference)
	if pullErr == nil {
		return b.trustHost(ctx, reference)
	}
	if ctx.Err() != nil || isUnavailable(pullErr) {
		return pullErr
	}
	b.progress("no registry gives %s, making it from this machine", reference)
	if err := assemble(ctx); err != nil {
		return fmt.Errorf("making %s after no registry gave it (%w): %w", reference, pullErr, err)
	}
	return nil
}

func isUnavailable(err error) bool {
	return errors.Is(err, docker.ErrDaemonDown) || errors.Is(err, docker.ErrNoPermission) || errors.Is(err, docker.ErrNotInstalled)
}

// trustHost adds the certificates that this machine's administrator has added, if any, to a pulled image, under the
// same name. Builds then work behind the same proxy as the machine itself.
func (b *Builder) trustHost(ctx context.Context, reference string) error {
	if !hostHasAnchors() {
		return nil
	}
	return b.addHostBundle(ctx, reference)
}

func (b *Builder) addHostBundle(ctx context.Context, reference string) error {
	bundle, err := os.ReadFile(hostBundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Another kind of system keeps it elsewhere: the image's own certificates have to do.
	}
	if err != nil {
		return fmt.Errorf("reading this machine's certificates: %w", err)
	}
	b.progress("adding this machine's certificates to %s", reference)
	dir, err := os.MkdirTemp("", "waggle-trust-")
	if err != nil {
		return fmt.Errorf("preparing certificates for %s: %w", reference, err)
	}
	defer os.RemoveAll(dir)
	dockerfile := "FROM " + reference + "\nCOPY ca-certificates.crt " + hostBundle + "\n"
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "ca-certificates.crt"), bundle, 0o644),
		os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
	if err != nil {
		return fmt.Errorf("preparing certificates for %s: %w", reference, err)
	}
	_, err = b.Engine.Build(ctx, docker.BuildOptions{Context: dir, Tag: reference})
	return err
}

func hostHasAnchors() bool {
	for _, pattern := range hostAnchors {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return true
		}
	}
	return false
}
