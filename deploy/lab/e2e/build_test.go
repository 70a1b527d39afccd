//go:build e2e

package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"waggle/deploy/images"
	"waggle/deploy/lab/testbed"
	"waggle/deploy/release"
	"waggle/deploy/up"
)

// testBuild asks each part of which sources it was made.
func (s *system) testBuild(t *testing.T) {
	sources, err := images.Sources(s.Root, images.Provider)
	if err != nil {
		t.Fatal(err)
	}
	want, err := images.ReadStamp(t.Context(), s.Root, testbed.Version, sources...)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Gateway+"/system/info", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", s.Authorization(t))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	var info struct{ Version struct{ Release, SHA string } }
	if err != nil || json.Unmarshal(body, &info) != nil || info.Version.Release != want.Version || info.Version.SHA != want.Revision {
		t.Errorf("info is %s, %v; want version %s and revision %s", body, err, want.Version, want.Revision)
	}
	page, err := http.Get(s.Gateway + "/nothing")
	if err != nil {
		t.Fatal(err)
	}
	page.Body.Close()
	if got := page.Header.Get("X-Served-By"); got != "waggle/"+want.Version+"+"+want.Revision {
		t.Errorf("served by %q", got)
	}
	if _, err := exec.LookPath("faas-cli"); err == nil {
		s.testClientVersion(t, want.Revision)
	}
	for _, service := range []string{"waggle_gateway", "waggle_worker", "waggle_redis", "waggle_postgres", "vote", "results"} {
		image, err := s.Target.Manager.Run(t.Context(), "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", service)
		if err != nil {
			t.Fatal(err)
		}
		labels, err := s.Target.Builder.Run(t.Context(), "image", "inspect", "--format", "{{json .Config.Labels}}", image)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"version", "revision", "created", "licenses"} {
			if !strings.Contains(labels, `"org.opencontainers.image.`+name+`":"`) {
				t.Errorf("the image %s of %s has labels %s, want a %s", image, service, labels, name)
			}
		}
		if strings.HasSuffix(image, ":latest") {
			t.Errorf("%s runs %s, which is not named by its content", service, image)
		}
	}
}

// testClientVersion asks the official client, which shows what the API says of itself.
func (s *system) testClientVersion(t *testing.T, revision string) {
	t.Helper()
	login := exec.CommandContext(t.Context(), "faas-cli", "login", "-g", s.Gateway, "--password-stdin")
	login.Stdin = strings.NewReader(s.Credential(t, "basic-auth-password"))
	login.Env = append(login.Environ(), "HOME="+t.TempDir())
	version := exec.CommandContext(t.Context(), "faas-cli", "version", "--warn-update=false", "-g", s.Gateway)
	version.Env = login.Env
	if out, err := login.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := version.CombinedOutput(); err != nil || !strings.Contains(string(out), revision) {
		t.Errorf("faas-cli version: %v: %s", err, out)
	}
}

// testRelease makes a release and brings the system up from it, as an operator would who has nothing else. The second
// time nothing may change.
func (s *system) testRelease(t *testing.T) {
	config := release.Config{Engine: s.Target.Builder, Root: committed(t, s.Root), Out: t.TempDir(), Version: testbed.Version, Progress: func(line string) { t.Log(line) }}
	archive, err := release.Make(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	unpack := exec.CommandContext(t.Context(), "bash", "-c", `tar --strip-components=1 -xf "$0" && sha256sum --check --quiet SHA256SUMS && ls`, archive)
	unpack.Dir = dir
	if out, err := unpack.CombinedOutput(); err != nil || !strings.Contains(string(out), "sbom.spdx.json") {
		t.Fatalf("unpacking: %v: %s", err, out)
	}
	var printed strings.Builder
	operator := s.Config
	operator.Root, operator.Version, operator.Out = dir, "", &printed
	unpacked, err := up.New(operator)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := unpacked.Up(t.Context()); err != nil {
			t.Fatalf("%v, it said:\n%s", err, &printed)
		}
	}
	if said := printed.String(); strings.Contains(said, "building") || !strings.Contains(said, "nothing changed") {
		t.Errorf("it said:\n%s", said)
	}
	help := exec.CommandContext(t.Context(), filepath.Join(dir, "waggle"), "none")
	if out, err := help.CombinedOutput(); err == nil || !strings.Contains(string(out), "legal are") {
		t.Errorf("the program in it says %s, %v", out, err)
	}
}

// committed is the root itself if it is a commit without changes, and otherwise a copy of it that is one.
// Releases are made of such commits only, and sources also come as an archive.
func committed(t *testing.T, root string) string {
	t.Helper()
	stamp, err := images.ReadStamp(t.Context(), root, "", ".")
	if err != nil {
		t.Fatal(err)
	}
	if stamp.Created != "" && !strings.HasSuffix(stamp.Revision, "-dirty") {
		return root
	}
	dir := t.TempDir()
	script := `tar -C "$0" --exclude=./.git -c . | tar -x && git init -q && git add -A && git -c user.name=test -c user.email=test@example.org commit -qm sources`
	copying := exec.CommandContext(t.Context(), "bash", "-c", script, root)
	copying.Dir = dir
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("copying the sources at revision %s: %v: %s", stamp.Revision, err, out)
	}
	return dir
}
