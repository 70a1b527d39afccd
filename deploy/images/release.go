package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files of a release, which is a folder that has no sources but images.
const (
	// ManifestFile lists the images; where it lies beside the stack files, nothing is built.
	ManifestFile = "images.json"
	// ArchiveFile holds them, as docker save writes them, compressed.
	ArchiveFile = "images.tar.gz"
)

// Release is what a release says of its images, in ManifestFile.
type Release struct {
	Version string `json:"version"`
	// Architecture is that of the images, as Docker names it: amd64, arm64.
	Architecture string `json:"architecture"`
	// Images are by part and by function.
	Images map[string]Image `json:"images"`
}

// ReadRelease reads the manifest in root; a folder with sources has none, and nil is returned.
func ReadRelease(root string) (*Release, error) {
	text, err := os.ReadFile(filepath.Join(root, ManifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var r Release
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err == nil && (r.Version == "" || r.Architecture == "" || len(r.Images) == 0) {
		err = errors.New("it names no version, architecture or images")
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", ManifestFile, err)
	}
	return &r, nil
}

// load makes sure that the builder's engine has all images of the release.
func (r *Release) load(ctx context.Context, b *Builder) error {
	if b.Registry != "" || b.Version != "" && b.Version != r.Version {
		return fmt.Errorf("this is release %s: REGISTRY and VERSION are of those who build; leave them out", r.Version)
	}
	missing, err := r.missing(ctx, b)
	if err != nil || missing == "" {
		return err
	}
	architecture, err := b.Engine.Run(ctx, "version", "--format", "{{.Server.Arch}}")
	if err != nil {
		return err
	}
	if architecture != r.Architecture {
		return fmt.Errorf("this release is for %s and the engine is %s: take the one for %s", r.Architecture, architecture, architecture)
	}
	b.progress("loading the images of release %s", r.Version)
	if _, err := b.Engine.Run(ctx, "load", "--quiet", "--input", filepath.Join(b.Root, ArchiveFile)); err != nil {
		return fmt.Errorf("loading %s: %w", ArchiveFile, err)
	}
	if missing, err = r.missing(ctx, b); err == nil && missing != "" {
		err = fmt.Errorf("%s does not have %s as %s says: compare SHA256SUMS", ArchiveFile, missing, ManifestFile)
	}
	return err
}

// missing names an image that the engine does not have, or "".
func (r *Release) missing(ctx context.Context, b *Builder) (string, error) {
	for _, image := range r.Images {
		id, err := b.Engine.ImageID(ctx, image.Reference)
		if err != nil {
			return "", fmt.Errorf("looking for %s: %w", image.Reference, err)
		}
		if id != image.ID {
			return image.Reference, nil
		}
	}
	return "", nil
}
