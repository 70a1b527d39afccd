//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"
	"github.com/openfaas/go-sdk/builder"

	"waggle/deploy/docker"
	"waggle/deploy/lab/testbed"
)

// newcomer is a developer with an empty folder, the address of this repository, and the client if there is one.
type newcomer struct {
	*project
	dir string
}

// testTemplates makes a function with each template as its README says: pull, new, build, deploy, invoke. The sample's
// test runs in the build, and one that fails stops it.
func (p *project) testTemplates(t *testing.T) {
	repository := t.TempDir()
	if err := os.CopyFS(filepath.Join(repository, "template"), os.DirFS("../../../template")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "templates"}} {
		if out, err := exec.Command("git", append([]string{"-C", repository}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	for language, broken := range map[string]struct{ file, text string }{
		"go-http":      {"broken_test.go", "package function\n\nimport \"testing\"\n\nfunc TestBroken(t *testing.T) { t.Error(\"broken\") }\n"},
		"python3-http": {"broken_test.py", "raise SystemExit('broken')\n"},
		"shell":        {"broken_test.sh", "#!/bin/sh\necho broken\nexit 1\n"},
	} {
		t.Run(language, func(t *testing.T) {
			n := &newcomer{project: p, dir: t.TempDir()}
			name := "from-" + strings.TrimSuffix(language, "-http")
			image := n.create(t, repository, language, name)
			if out, err := n.make(t, language, name, image); err != nil {
				t.Fatalf("building: %v\n%s", err, out)
			}
			t.Cleanup(func() { _, _ = docker.Engine{}.Run(p.background, "rmi", image) })
			if err := p.Cluster.Load(t.Context(), image); err != nil {
				t.Fatal(err)
			}
			p.deploy(t, types.FunctionDeployment{Service: name, Image: image, EnvVars: map[string]string{"healthcheck_interval": "500ms"},
				EnvProcess: map[string]string{"shell": "/function/handler.sh"}[language], ReadOnlyRootFilesystem: true})
			testbed.Eventually(t, 30*time.Second, func() error {
				if body := p.call(t, "POST", "/function/"+name, "bee", 200); body != "Hello! You said: bee\n" {
					return fmt.Errorf("the function says %q", body)
				}
				return nil
			})
			p.write(t, filepath.Join(n.dir, name, broken.file), broken.text)
			if err := os.Chmod(filepath.Join(n.dir, name, broken.file), 0o755); err != nil {
				t.Fatal(err)
			}
			if out, err := n.make(t, language, name, image); err == nil || !strings.Contains(out+err.Error(), "broken") {
				t.Errorf("with a test that fails, the build ended with %v:\n%s", err, out)
			}
		})
	}
}

// testBase asks a function for zones, a user, a place for files and certificates. It does so with a writable root
// file system and with a read-only one.
func (p *project) testBase(t *testing.T) {
	for name, readOnly := range map[string]bool{"base": false, "base-read-only": true} {
		d := p.probe(name, map[string]string{"TZ": "Europe/Berlin"})
		d.ReadOnlyRootFilesystem = readOnly
		p.deploy(t, d)
		testbed.Eventually(t, time.Minute, func() error { return p.answers("/function/"+name+"/x", "GET /x") })
		if status, text, err := p.ask(t, "GET", "/function/"+name+"/base", nil); err != nil || status != 200 || text != "whole\n" {
			t.Errorf("%s: %d %q, %v", name, status, text, err)
		}
	}
}

// create is faas-cli template pull and faas-cli new. It returns the image's name.
func (n *newcomer) create(t *testing.T, repository, language, name string) string {
	t.Helper()
	image := "localhost/" + name + ":latest"
	if n.cli == "" {
		if err := errors.Join(os.CopyFS(filepath.Join(n.dir, "template"), os.DirFS(filepath.Join(repository, "template"))),
			os.CopyFS(filepath.Join(n.dir, name), os.DirFS(filepath.Join(repository, "template", language, "function")))); err != nil {
			t.Fatal(err)
		}
		return image
	}
	for _, args := range [][]string{{"template", "pull", repository}, {"new", "--lang", language, "--prefix", "localhost", name}} {
		if out, err := n.run(t, n.dir, "", args...); err != nil {
			t.Fatalf("faas-cli %v: %v\n%s", args, err, out)
		}
	}
	return image
}

// make is faas-cli build.
func (n *newcomer) make(t *testing.T, language, name, image string) (string, error) {
	t.Helper()
	if n.cli != "" {
		files, err := filepath.Glob(filepath.Join(n.dir, "*.y*ml")) // stack.yaml, or NAME.yml by older clients
		if err != nil || len(files) != 1 {
			t.Fatalf("faas-cli new wrote %v (%v), want one stack file", files, err)
		}
		return n.run(t, n.dir, "", "build", "-f", filepath.Base(files[0]))
	}
	t.Chdir(n.dir)
	files, err := builder.CreateBuildContext(name, name, language, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = docker.Engine{}.Build(t.Context(), docker.BuildOptions{Context: files, Tag: image})
	return "", err
}
