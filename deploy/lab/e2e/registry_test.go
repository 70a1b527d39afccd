//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/docker"
	"waggle/deploy/lab/testbed"
)

const (
	// openRegistry and privateRegistry serve the same images at the node's own loopback, where engines ask for no TLS.
	openRegistry    = "127.0.0.1:5000"
	privateRegistry = "127.0.0.1:5001"
	awayRegistry    = "127.0.0.1:5002"
	registryUser    = "me"
	registrySecret  = "s3cret"
	// registryHash is that password as the registry's file of users has it (bcrypt).
	registryHash = "$2y$05$89GcVFNESfrGiTt5OMRFiuXqOdh6svrjgZEHXF3wE1uvmpanQU2vm"
)

// testRegistries deploys from a real registry, one half of which asks for a password.
func (p *project) testRegistries(t *testing.T) {
	p.startRegistries(t)
	push := func(image, as string) {
		t.Helper()
		for _, args := range [][]string{{"tag", image, openRegistry + as}, {"push", "--quiet", openRegistry + as}, {"image", "rm", "--force", openRegistry + as}} {
			if _, err := p.Target.Manager.Run(t.Context(), args...); err != nil {
				t.Fatal(err)
			}
		}
	}
	push(p.image, "/me/probe:1")
	l := p.newLab(t)
	auths := func(password string) string {
		file := filepath.Join(t.TempDir(), "config.json")
		p.write(t, file, `{"auths":{"`+privateRegistry+`":{"auth":"`+base64.StdEncoding.EncodeToString([]byte(registryUser+":"+password))+`"}}}`)
		return "registry_config=" + file
	}
	without, wrong, right := l.start(t, nil), l.start(t, nil, auths("wrong")), l.start(t, nil, auths(registrySecret))

	for name, test := range map[string]struct {
		provider *child
		image    string
		says     []string
	}{
		"no such tag":          {without, openRegistry + "/me/probe:2", []string{"the registry said: manifest unknown"}},
		"no such image":        {without, openRegistry + "/me/none", []string{"the registry said: manifest unknown"}},
		"without credentials":  {without, privateRegistry + "/me/probe:1", []string{"the registry said", "no basic auth credentials", "provider has none"}},
		"with wrong ones":      {wrong, privateRegistry + "/me/probe:1", []string{"the registry said", "unauthorized"}},
		"a registry away":      {without, awayRegistry + "/me/probe:1", []string{"cannot be reached", "connection refused"}},
		"a name that is none":  {without, "UPPER/case", []string{`image is "UPPER/case"`, "such as ghcr.io/owner/name:tag", "lowercase"}},
		"a digest of nothing":  {without, openRegistry + "/me/probe@sha256:" + strings.Repeat("0", 64), []string{"manifest unknown"}},
		"a digest in mid-word": {without, "me/probe@sha256:12", []string{`image is "me/probe@sha256:12"`, "invalid reference format"}},
	} {
		d := p.probe("pulled", nil)
		d.Image = test.image
		status, text := test.provider.do(t, request{"POST", "/system/functions", d, 400})
		for _, part := range test.says {
			if status != 400 || !strings.Contains(text, part) {
				t.Errorf("%s: status %d, %q; want 400 with %q", name, status, text, part)
			}
		}
	}

	d := p.probe("pulled", nil)
	d.Image = privateRegistry + "/me/probe:1"
	right.accepted(t, request{"POST", "/system/functions", d, 202})
	t.Cleanup(func() { p.remove(t, "pulled") })
	first := p.runs(t, "pulled")
	if !strings.HasPrefix(first, d.Image+"@sha256:") {
		t.Errorf("the service runs %q, want the image with its digest", first)
	}
	p.available(t, "pulled", 1)
	right.accepted(t, request{"PUT", "/system/functions", d, 202})
	if got := p.runs(t, "pulled"); got != first {
		t.Errorf("the same request again made the service run %q, before %q", got, first)
	}
	push(p.runs(t, "results"), "/me/probe:1")
	d.Constraints = []string{"node.hostname == nowhere"} // what runs there is not of interest
	right.accepted(t, request{"PUT", "/system/functions", d, 202})
	if got := p.runs(t, "pulled"); got == first || !strings.HasPrefix(got, d.Image+"@sha256:") {
		t.Errorf("with new content under the tag the service runs %q, want another digest than %q", got, first)
	}
	var status types.FunctionStatus
	right.read(t, "/system/function/pulled", &status)
	if status.Image != d.Image {
		t.Errorf("described is image %q, want %q as it was sent", status.Image, d.Image)
	}
}

// startRegistries runs two registries over the same files on the node, until the cluster ends.
func (p *project) startRegistries(t *testing.T) {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Fatal("docker-registry is not installed. Run: apt-get install docker-registry")
	}
	dir := t.TempDir()
	const storage = "version: 0.1\nstorage: { filesystem: { rootdirectory: /var/lib/registry } }\nlog: { level: error }\n"
	for name, text := range map[string]string{
		"users":       registryUser + ":" + registryHash + "\n",
		"open.yml":    storage + "http: { addr: " + openRegistry + " }\n",
		"private.yml": storage + "http: { addr: " + privateRegistry + " }\nauth: { htpasswd: { realm: private, path: /opt/registry/users } }\n",
	} {
		p.write(t, filepath.Join(dir, name), text)
	}
	machine, node := docker.Engine{}, p.Cluster.Nodes[0].Container
	for from, to := range map[string]string{dir: "/opt/registry", program: "/usr/local/bin/docker-registry"} {
		if _, err := machine.Run(t.Context(), "cp", from, node+":"+to); err != nil {
			t.Fatal(err)
		}
	}
	for _, config := range []string{"open.yml", "private.yml"} {
		if _, err := machine.Run(t.Context(), "exec", "--detach", node, "docker-registry", "serve", "/opt/registry/"+config); err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{openRegistry, privateRegistry} {
		testbed.Eventually(t, 10*time.Second, func() error {
			_, err := machine.Run(t.Context(), "exec", node, "bash", "-c", "exec 3<>/dev/tcp/"+strings.Replace(address, ":", "/", 1))
			return err
		})
	}
}

// runs is the image that a service is told to run.
func (p *project) runs(t *testing.T, service string) string {
	t.Helper()
	image, err := p.Target.Manager.Run(t.Context(), "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", service)
	if err != nil {
		t.Fatal(fmt.Errorf("looking at %s: %w", service, err))
	}
	return image
}
