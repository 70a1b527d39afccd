package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"waggle/deploy/docker"
)

func TestManifestOfARelease(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, wrong string }{
		"whole":      {`{"version":"1.2.3","architecture":"amd64","images":{"redis":{"reference":"a/b:c","id":"sha256:d"}}}`, ""},
		"no JSON":    {"x", "reading images.json"},
		"no images":  {`{"version":"1.2.3","architecture":"amd64"}`, "names no version, architecture or images"},
		"no version": {`{"architecture":"amd64","images":{"redis":{"reference":"a/b:c","id":"sha256:d"}}}`, "names no version"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ManifestFile), []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := ReadRelease(dir)
		if test.wrong == "" && (err != nil || got.Images[Redis] != Image{"a/b:c", "sha256:d"}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)) {
			t.Errorf("%s: %v, want %s", name, err, test.wrong)
		}
	}
	if got, err := ReadRelease(t.TempDir()); got != nil || err != nil {
		t.Errorf("a folder with sources: %+v, %v", got, err)
	}
}

// A release of another architecture, or one that lacks an image, is told before anything is deployed. The docker command
// is a script here; the end-to-end tests load a real release.
func TestReleasesThatCannotBeUsed(t *testing.T) {
	for name, test := range map[string]struct{ version, registry, image, wrong string }{
		"other architecture": {"", "", Redis, "this release is for amd64 and the engine is arm64: take the one for arm64"},
		"other version":      {"2.0.0", "", Redis, "VERSION are of those who build"},
		"a registry":         {"", "r.example.com/x", Redis, "REGISTRY and VERSION"},
		"no such image":      {"", "", Node, "release 1.2.3 has no image of node"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text := `{"version":"1.2.3","architecture":"amd64","images":{"redis":{"reference":"a/b:c","id":"sha256:d"}}}`
			script := "#!/bin/sh\ncase $1 in version) echo arm64;; *) echo 'Error: No such image' >&2; exit 1;; esac\n"
			if err := os.WriteFile(filepath.Join(dir, ManifestFile), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			b := Builder{Engine: docker.Engine{}, Root: dir, Version: test.version, Registry: test.registry}
			if err := b.EnsureBase(t.Context()); err != nil {
				t.Errorf("a release needs base images: %v", err)
			}
			if _, err := b.Build(t.Context(), test.image); err == nil || !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("got %v, want %s", err, test.wrong)
			}
		})
	}
}
