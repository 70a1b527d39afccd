package images

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// repository is a git repository with two folders, made for one test.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) repository {
	t.Helper()
	r := repository{t, t.TempDir()}
	r.git("init", "--quiet")
	r.commit("a/file", "1", "2024-02-03T04:05:06+01:00")
	r.commit("b/file", "1", "2024-02-03T05:05:06+01:00")
	return r
}

func (r repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", append([]string{"-C", r.dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repository) write(file, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r repository) commit(file, text, at string) string {
	r.t.Helper()
	r.write(file, text)
	r.git("add", "--all")
	r.t.Setenv("GIT_COMMITTER_DATE", at)
	r.git("commit", "--quiet", "--message", file)
	return r.git("rev-parse", "HEAD")
}

func (r repository) stamp(version string, sources ...string) Stamp {
	r.t.Helper()
	stamp, err := ReadStamp(r.t.Context(), r.dir, version, sources...)
	if err != nil {
		r.t.Fatal(err)
	}
	return stamp
}

// The environment of git is the process's own: these tests do not run in parallel.
func TestStampFollowsFromTheSources(t *testing.T) {
	r := newRepository(t)
	second, first := r.git("rev-parse", "HEAD"), r.git("rev-parse", "HEAD~")
	if got, want := r.stamp("", "a"), (Stamp{"dev", first, "2024-02-03T03:05:06Z", ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := r.stamp("1.2.3", "."), (Stamp{"1.2.3", second, "2024-02-03T04:05:06Z", ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	r.write("b/new", "x")
	if got := r.stamp("", "b").Revision; got != second+"-dirty" {
		t.Errorf("with a new file %s", got)
	}
	if got := r.stamp("", "a").Revision; got != first {
		t.Errorf("with a new file elsewhere %s", got)
	}
	r.git("tag", "v1.0.0", first)
	r.git("tag", "other")
	if a, b := r.stamp("", "a").Version, r.stamp("", "b").Version; a != "1.0.0" || b != "1.0.0-1-g"+second[:7] {
		t.Errorf("versions %s and %s", a, b)
	}
	r.git("remote", "add", "origin", "https://me:hunter2@example.com/team/waggle.git")
	want := map[string]string{
		"org.opencontainers.image.version": "1.0.0", "org.opencontainers.image.revision": first, "org.opencontainers.image.created": "2024-02-03T03:05:06Z",
		"org.opencontainers.image.source": "https://example.com/team/waggle", "org.opencontainers.image.licenses": "Apache-2.0",
	}
	if got := r.stamp("", "a").Labels(); !maps.Equal(got, want) {
		t.Errorf("labels %v, want %v", got, want)
	}
}

func TestSourcesWithoutGitHaveAStamp(t *testing.T) {
	r := newRepository(t)
	r.write("inner/file", "x")
	outside := repository{t, t.TempDir()}
	for name, r := range map[string]repository{"no repository": outside, "somebody else's": {t, filepath.Join(r.dir, "inner")}} {
		if got, want := r.stamp("", "."), (Stamp{Version: "dev", Revision: "unknown"}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestSourceURL(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"https://example.com/team/waggle.git":     "https://example.com/team/waggle",
		"https://me:pw@example.com/team/waggle":   "https://example.com/team/waggle",
		"git@example.com:team/waggle.git":         "https://example.com/team/waggle",
		"ssh://git@example.com:2222/team/waggle/": "https://example.com/team/waggle",
		"/srv/git/waggle.git":                     "",
		"../waggle":                               "",
		"file:///srv/git/waggle":                  "",
	} {
		if got := sourceURL(remote); got != want {
			t.Errorf("%s is %q, want %q", remote, got, want)
		}
	}
}

// Whoever adds a package to a program's image adds it to its stamp by that.
func TestSourcesAreWhatDockerfilesCopy(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{
		Provider: {"provider/Dockerfile", "go.mod", "go.sum", "provider"},
		Worker:   {"worker/Dockerfile", "worker", "provider/settings"},
		Redis:    {"deploy/images/redis/server.sh"},
	} {
		got, err := recipes[name].sources("../..")
		if err != nil {
			t.Fatal(err)
		}
		for _, source := range want {
			if !slices.Contains(got, source) {
				t.Errorf("%s is made of %q, want %s among it", name, got, source)
			}
		}
		for _, source := range got {
			if _, err := os.Stat(filepath.Join("../..", source)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
