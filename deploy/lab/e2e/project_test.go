//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"
	"github.com/openfaas/go-sdk/builder"
	"github.com/openfaas/go-sdk/stack"

	"waggle/deploy/docker"
	"waggle/deploy/lab/testbed"
)

// project is a developer's directory on a running system, with a function that is built: the probe of testdata.
type project struct {
	*system
	// dir holds the stack file. The client takes one that it finds before the flags, so flags are used in empty.
	dir, empty string
	// cli is the official client, "" where there is none on PATH: then its calls are made here.
	cli   string
	image string
	// background outlives a test, for what must be removed after it.
	background context.Context
}

// testControlPlane tests the API with unmodified clients, impatient ones and a killed provider.
func (s *system) testControlPlane(t *testing.T) {
	p := s.newProject(t)
	t.Run("every command of a client", p.testCommands)
	t.Run("a newcomer's first function", p.testTemplates)
	t.Run("an image has what handlers expect", p.testBase)
	t.Run("what is not ours cannot be touched", p.testOwnership)
	t.Run("log lines of every length arrive whole", p.testLogLines)
	t.Run("logs follow replicas that come and go", p.testFollow)
	t.Run("a ready replica is in the gateway's table", p.testTable)
	t.Run("a function is called as soon as its deploy is accepted", p.testCalledAtOnce)
	t.Run("500 calls at once wake a function", p.testCrowdAtZero)
	t.Run("names of functions that do not exist", p.testStrangeNames)
	t.Run("clients that send a byte at a time", p.testTricklers)
	t.Run("images of registries", p.testRegistries)
	t.Run("the conformance suite", p.testConformance)
	t.Run("a function is scaled while its update fails", p.testFailingUpdate)
	t.Run("asynchronous calls", p.testAsync)
	t.Run("a storm of writers", p.testStorm)
	t.Run("the provider is killed", p.testProviderKilled)
	t.Run("the provider is killed at each failpoint", p.testFailpoints)
}

func (s *system) newProject(t *testing.T) *project {
	t.Helper()
	tag := fmt.Sprintf("e2e-%d", os.Getpid())
	t.Setenv("TAG", tag)
	p := &project{system: s, dir: t.TempDir(), empty: t.TempDir(), image: "localhost/waggle/probe:" + tag, background: context.WithoutCancel(t.Context())}
	p.cli, _ = exec.LookPath("faas-cli")
	for from, to := range map[string]string{"testdata/project": ".", "../../../template/go-http": "template/go-http"} {
		if err := os.CopyFS(filepath.Join(p.dir, to), os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join("..", "..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		p.write(t, filepath.Join(p.dir, file), string(content))
	}
	p.build(t)
	t.Cleanup(func() {
		if out, err := exec.Command("docker", "image", "rm", p.image).CombinedOutput(); err != nil {
			t.Errorf("removing %s: %v: %s", p.image, err, out)
		}
	})
	if err := s.Cluster.Load(t.Context(), p.image); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *project) write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// build makes the probe's image, with the client where there is one.
func (p *project) build(t *testing.T) {
	t.Helper()
	if p.cli != "" {
		if out, err := p.run(t, p.dir, "", "build", "-f", "stack.yml"); err != nil {
			t.Fatalf("faas-cli build: %v\n%s", err, out)
		}
		return
	}
	was, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chdir(p.dir); err != nil { // what is copied must lie inside the working directory
		t.Fatal(err)
	}
	context, err := builder.CreateBuildContext("probe", "./probe", "go-http", []string{"go.mod", "go.sum"})
	if err == nil {
		_, err = docker.Engine{}.Build(t.Context(), docker.BuildOptions{Context: context, Tag: p.image})
	}
	if err := os.Chdir(was); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// command prepares the client so that it knows nothing of this machine's user.
func (p *project) command(t *testing.T, dir, stdin string, args ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), p.cli, args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "OPENFAAS_URL="+p.Gateway, "OPENFAAS_CONFIG="+filepath.Join(p.empty, ".openfaas"), "HOME="+p.empty)
	command.Stdin = strings.NewReader(stdin)
	return command
}

func (p *project) run(t *testing.T, dir, stdin string, args ...string) (string, error) {
	t.Helper()
	out, err := p.command(t, dir, stdin, args...).CombinedOutput()
	return string(out), err
}

// declared is the deployment that the stack file asks for, as the client sends it.
func (p *project) declared(t *testing.T) types.FunctionDeployment {
	t.Helper()
	services, err := stack.ParseYAMLFile(filepath.Join(p.dir, "stack.yml"), "", "", true)
	if err != nil {
		t.Fatal(err)
	}
	f := services.Functions["probe"]
	return types.FunctionDeployment{
		Service: "probe", Image: f.Image, EnvProcess: "/handler", EnvVars: f.Environment, Constraints: *f.Constraints, Secrets: f.Secrets,
		Labels: f.Labels, Annotations: f.Annotations, ReadOnlyRootFilesystem: f.ReadOnlyRootFilesystem,
		Limits:   &types.FunctionResources{Memory: f.Limits.Memory, CPU: f.Limits.CPU},
		Requests: &types.FunctionResources{Memory: f.Requests.Memory, CPU: f.Requests.CPU},
	}
}

// probe is a small deployment under a name of its own that ends fast, and whose number of replicas tests alone set.
func (p *project) probe(name string, env map[string]string) types.FunctionDeployment {
	all := map[string]string{"write_timeout": "5s", "healthcheck_interval": "500ms"}
	maps.Copy(all, env)
	return types.FunctionDeployment{
		Service: name, Image: p.image, EnvVars: all, Labels: &map[string]string{},
		Annotations: &map[string]string{"com.waggle.stop-grace": "3s", "com.waggle.idempotent": "true", "com.waggle.autoscale": "false"},
	}
}

// deploy creates a function, which is removed when the test ends, and waits until as many replicas as it begins with are
// available.
func (p *project) deploy(t *testing.T, d types.FunctionDeployment) {
	t.Helper()
	p.call(t, http.MethodPost, "/system/functions", d, http.StatusAccepted)
	t.Cleanup(func() { p.remove(t, d.Service) })
	least := uint64(1)
	if d.Labels != nil && (*d.Labels)["com.openfaas.scale.min"] != "" {
		var err error
		if least, err = strconv.ParseUint((*d.Labels)["com.openfaas.scale.min"], 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	p.available(t, d.Service, least)
}

// remove deletes a function also after the test's own context has ended.
func (p *project) remove(t *testing.T, name string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodDelete, p.Gateway+"/system/functions", strings.NewReader(`{"functionName":"`+name+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("admin", p.Credential(t, "basic-auth-password"))
	response, err := callers.Do(request)
	if err != nil {
		t.Errorf("removing %s: %v", name, err)
		return
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted && response.StatusCode != http.StatusNotFound {
		text, _ := io.ReadAll(response.Body)
		t.Errorf("removing %s: %s: %s", name, response.Status, text)
	}
}

func (p *project) status(t *testing.T, name string) (types.FunctionStatus, error) {
	t.Helper()
	var status types.FunctionStatus
	code, text, err := p.ask(t, http.MethodGet, "/system/function/"+name, nil)
	if err != nil {
		return status, err
	}
	if code != http.StatusOK {
		return status, fmt.Errorf("describing %s: status %d: %s", name, code, text)
	}
	return status, json.Unmarshal([]byte(text), &status)
}

// available waits until a function has exactly so many replicas that serve.
func (p *project) available(t *testing.T, name string, replicas uint64) {
	t.Helper()
	testbed.Eventually(t, time.Minute, func() error {
		status, err := p.status(t, name)
		if err == nil && (status.AvailableReplicas != replicas || status.Replicas != replicas) {
			err = fmt.Errorf("%s has %d of %d replicas, want %d: %v", name, status.AvailableReplicas, status.Replicas, replicas, *status.Annotations)
		}
		return err
	})
}

func (p *project) scaleTo(t *testing.T, name string, replicas uint64) {
	t.Helper()
	p.call(t, http.MethodPost, "/system/scale-function/"+name, types.ScaleServiceRequest{ServiceName: name, Replicas: replicas}, http.StatusAccepted)
}

// functionNames lists what the API shows in the default namespace, sorted.
func (p *project) functionNames(t *testing.T) []string {
	t.Helper()
	var list []types.FunctionStatus
	if err := json.Unmarshal([]byte(p.call(t, http.MethodGet, "/system/functions", nil, http.StatusOK)), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range list {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return names
}

// serviceNames lists what Docker shows that carries our label, sorted.
func (p *project) serviceNames(t *testing.T) []string {
	t.Helper()
	list := func(label string) []string {
		out, err := p.Target.Manager.Run(t.Context(), "service", "ls", "--filter", "label="+label, "--format", "{{.Name}}")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(out)
	}
	removed := list("com.waggle.removed")
	names := slices.DeleteFunc(list("com.waggle.namespace=openfaas-fn"), func(name string) bool { return slices.Contains(removed, name) })
	slices.Sort(names)
	return names
}
