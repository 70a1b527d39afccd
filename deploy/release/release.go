// Package release makes what an operator without sources needs: `make release VERSION=1.2.3`.
//
// In: the sources, committed, and an engine. Out: one archive for that engine's architecture, with the images, the
// deploy program, the stack files, a bill of materials and checksums. Unpacked, `./waggle up` does what `make up`
// does with sources, and takes the images from the archive.
//
// Made twice of the same commit, every file but the images' archive is the same to the byte. The images have the same
// ids as long as their base images are the same.
package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/images"
	"waggle/deploy/up"
)

// Config says what is made, and where.
type Config struct {
	Engine docker.Engine
	// Root is the repository's root directory.
	Root string
	// Out is the folder that archives are put into; it is made if it is missing.
	Out string
	// Version is the release's, such as 1.2.3 or 1.2.3-rc.1 (semver.org).
	Version string
	// Progress receives a line per step; nil discards them.
	Progress func(line string)
}

var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

// shipped are the files that `up` reads besides the images.
var shipped = []string{"deploy/stack.yml", "deploy/tls.yml", "deploy/taskevents.yml", "deploy/encrypted.yml", "deploy/postgres.yml", "deploy/archive.yml", "deploy/external.yml", "deploy/external-ca.yml",
	"stack.yml", "functions/polls.json", "LICENSE", "CHANGELOG.md", "deploy/README.md", "docs/operate.md",
	"deploy/machines/prepare.sh", "deploy/aws/HOWTO.md", "deploy/aws/template.yml", "deploy/aws/common.sh", "deploy/aws/boot.sh", "deploy/aws/fetch.sh", "deploy/aws/tend.sh", "deploy/aws/publish.sh"}

// Make builds everything and returns the path of the archive.
func Make(ctx context.Context, c Config) (archive string, err error) {
	if !semver.MatchString(c.Version) {
		return "", fmt.Errorf("VERSION is %q: must be a version such as 1.2.3 or 1.2.3-rc.1", c.Version)
	}
	stamp, err := images.ReadStamp(ctx, c.Root, c.Version, ".")
	if err != nil {
		return "", err
	}
	if stamp.Created == "" || strings.HasSuffix(stamp.Revision, "-dirty") {
		return "", fmt.Errorf("the sources are at revision %s: must be a commit without changes, so that others can make the same", stamp.Revision)
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	built, err := build(ctx, c)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("waggle-%s-linux-%s", c.Version, built.Architecture)
	dir, err := os.MkdirTemp("", "waggle-release-")
	if err != nil {
		return "", fmt.Errorf("preparing a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := fill(ctx, c, dir, built, stamp); err != nil {
		return "", err
	}
	created, err := time.Parse(time.RFC3339, stamp.Created)
	if err != nil {
		return "", fmt.Errorf("reading the commit's time: %w", err)
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return "", fmt.Errorf("making %s: %w", c.Out, err)
	}
	archive = filepath.Join(c.Out, name+".tar")
	return archive, pack(archive, name, dir, created)
}

// build makes the images, as `up` would.
func build(ctx context.Context, c Config) (images.Release, error) {
	r := images.Release{Version: c.Version, Images: map[string]images.Image{}}
	var err error
	if r.Architecture, err = c.Engine.Run(ctx, "version", "--format", "{{.Server.Arch}}"); err != nil {
		return r, err
	}
	builder := images.Builder{Engine: c.Engine, Root: c.Root, Version: c.Version, Progress: c.Progress}
	if err := builder.EnsureBase(ctx); err != nil {
		return r, err
	}
	parts, err := builder.Build(ctx, images.All...)
	if err != nil {
		return r, err
	}
	functions, err := up.BuildFunctions(ctx, builder)
	if err != nil {
		return r, err
	}
	maps.Copy(r.Images, parts)
	maps.Copy(r.Images, functions)
	return r, nil
}

// fill lays the release out in dir.
func fill(ctx context.Context, c Config, dir string, built images.Release, stamp images.Stamp) error {
	for _, file := range shipped {
		text, err := os.ReadFile(filepath.Join(c.Root, file))
		if err != nil {
			return fmt.Errorf("taking a file into the release: %w", err)
		}
		if err := write(dir, file, text); err != nil {
			return err
		}
		if path.Ext(file) == ".sh" {
			if err := os.Chmod(filepath.Join(dir, filepath.FromSlash(file)), 0o755); err != nil {
				return fmt.Errorf("taking a file into the release: %w", err)
			}
		}
	}
	manifest, err := json.MarshalIndent(built, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", images.ManifestFile, err)
	}
	if err := write(dir, images.ManifestFile, append(manifest, '\n')); err != nil {
		return err
	}
	c.Progress("compiling the deploy program")
	program := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, "waggle"), "./deploy")
	program.Dir, program.Env = c.Root, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+built.Architecture)
	if out, err := program.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling the deploy program: %w: %s", err, out)
	}
	c.Progress("listing what is in it")
	bill, err := materials(ctx, c, built, stamp)
	if err != nil {
		return err
	}
	if err := write(dir, "sbom.spdx.json", bill); err != nil {
		return err
	}
	c.Progress("saving the images")
	if err := save(ctx, c.Engine, filepath.Join(dir, images.ArchiveFile), built); err != nil {
		return err
	}
	sums, err := checksums(dir)
	if err != nil {
		return err
	}
	return write(dir, "SHA256SUMS", sums)
}

func write(dir, file string, text []byte) error {
	path := filepath.Join(dir, filepath.FromSlash(file))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// save writes all images into one archive, in which layers that several share stand once.
func save(ctx context.Context, engine docker.Engine, path string, built images.Release) error {
	args := []string{"save"}
	for _, name := range slices.Sorted(maps.Keys(built.Images)) {
		args = append(args, built.Images[name].Reference)
	}
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("saving the images: %w", err)
	}
	packed := gzip.NewWriter(file)
	if err := errors.Join(engine.Stream(ctx, nil, packed, args...), packed.Close(), file.Close()); err != nil {
		return fmt.Errorf("saving the images: %w", err)
	}
	return nil
}

// checksums has a line for each file in dir, as `sha256sum --check` reads them.
func checksums(dir string) ([]byte, error) {
	var sums bytes.Buffer
	err := walk(dir, func(name, path string, _ fs.FileInfo) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		sum := sha256.New()
		if _, err := io.Copy(sum, file); err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sum.Sum(nil), name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("adding files up: %w", err)
	}
	return sums.Bytes(), nil
}

// pack writes the folder as an archive in which names stand below top, and times are that of the commit.
func pack(archive, top, dir string, at time.Time) error {
	file, err := os.Create(archive)
	if err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	out := tar.NewWriter(file)
	err = walk(dir, func(name, path string, info fs.FileInfo) error {
		header := &tar.Header{Name: top + "/" + name, Size: info.Size(), Mode: int64(info.Mode().Perm()), ModTime: at, Format: tar.FormatPAX}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		content, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = content.Close() }()
		_, err = io.Copy(out, content)
		return err
	})
	if err = errors.Join(err, out.Close(), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing the archive: %w", err), os.Remove(archive))
	}
	return nil
}

// walk visits the files of dir in the order of their names.
func walk(dir string, visit func(name, path string, info fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return visit(filepath.ToSlash(name), path, info)
	})
}
