package release

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waggle/deploy/images"
)

func TestReleasesAreMadeOfCommitsAndHaveVersions(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"", "1", "1.2", "v1.2.3", "1.2.3 ", "01.2.3", "1.2.3+x"} {
		if _, err := Make(t.Context(), Config{Root: ".", Version: version}); err == nil || !strings.Contains(err.Error(), "must be a version such as 1.2.3") {
			t.Errorf("version %q: %v", version, err)
		}
	}
	// A folder without git has no commit.
	if _, err := Make(t.Context(), Config{Root: t.TempDir(), Version: "1.2.3-rc.1"}); err == nil || !strings.Contains(err.Error(), "must be a commit without changes") {
		t.Errorf("without a commit: %v", err)
	}
}

func TestArchivesHaveChecksumsAndDependOnTheirContentAlone(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)
	var archives [2][]byte
	for i := range archives {
		dir, archive := t.TempDir(), filepath.Join(t.TempDir(), "a.tar")
		for _, file := range []string{"b", "a/c", "a/b"} {
			if err := write(dir, file, []byte("text of "+file)); err != nil {
				t.Fatal(err)
			}
		}
		sums, err := checksums(dir)
		if err != nil {
			t.Fatal(err)
		}
		check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict")
		check.Dir, check.Stdin = dir, bytes.NewReader(sums)
		if out, err := check.CombinedOutput(); err != nil || strings.Count(string(out), ": OK") != 3 {
			t.Errorf("sha256sum: %v: %s", err, out)
		}
		if err := pack(archive, "top", dir, at); err != nil {
			t.Fatal(err)
		}
		if archives[i], err = os.ReadFile(archive); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of the same files differ")
	}
	var names []string
	in := tar.NewReader(bytes.NewReader(archives[0]))
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		names = append(names, header.Name)
		if want := "text of " + strings.TrimPrefix(header.Name, "top/"); err != nil || string(text) != want || !header.ModTime.Equal(at) {
			t.Errorf("%s of %s holds %q, %v", header.Name, header.ModTime, text, err)
		}
	}
	if got := strings.Join(names, " "); got != "top/a/b top/a/c top/b" {
		t.Errorf("the archive has %s", got)
	}
}

func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	components := append(goModules("waggle \nb.example/m v1.0.0\na.example/m v2.0.0\nb.example/m v1.0.0\n\n"), component{"libc6", "2.36-9+deb12u1", "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64"})
	stamp := images.Stamp{Revision: "abc", Created: "2024-02-03T04:05:06Z"}
	text, err := spdx("1.2.3", "amd64", stamp, components)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		SPDXVersion   string `json:"spdxVersion"`
		Packages      []spdxPackage
		Relationships []spdxRelation
		CreationInfo  struct{ Created string }
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range got.Packages {
		names = append(names, p.Name+" "+p.Version)
	}
	if want := "waggle 1.2.3, libc6 2.36-9+deb12u1, a.example/m v2.0.0, b.example/m v1.0.0"; strings.Join(names, ", ") != want {
		t.Errorf("packages are %s, want %s", strings.Join(names, ", "), want)
	}
	if got.SPDXVersion != "SPDX-2.3" || got.CreationInfo.Created != stamp.Created || len(got.Relationships) != len(got.Packages) {
		t.Errorf("got %s", text)
	}
}

// What `up` reads is in a release: all stack files, and none is named that is not there.
func TestEveryStackFileIsShipped(t *testing.T) {
	t.Parallel()
	for _, file := range shipped {
		if _, err := os.Stat(filepath.Join("../..", file)); err != nil {
			t.Errorf("shipped is what is not there: %v", err)
		}
	}
	stacks, err := filepath.Glob("../*.yml")
	if err != nil || len(stacks) < 3 {
		t.Fatalf("found %q, %v", stacks, err)
	}
	for _, file := range stacks {
		if !strings.Contains(strings.Join(shipped, " "), "deploy/"+filepath.Base(file)) {
			t.Errorf("%s is not shipped", file)
		}
	}
}
