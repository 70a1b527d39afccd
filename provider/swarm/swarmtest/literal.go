package swarmtest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"waggle/provider/swarm"
)

// texts are what a layer below could take for a syntax of its own.
var texts = map[string]string{
	"braces": "{{name}}", "node": "{{.Node.Hostname}}", "open": "{{", "close": "}}", "trim": "a {{- 1 -}} b", "three": "{{{x}}}", "comment": "{{/* x */}}",
	"quoted": `{{"{{"}}`, "dollar": "$HOME ${HOME} $(id) $$", "escape": `\n\t\\ \x00 %s %d %%`, "lines": "a\nb\r\n\tc", "spaces": "  a  ", "quotes": `"a" 'b' ` + "`c`",
	"unicode": "ëŁ中\u2028", "empty": "", "equals": "=a=b=", "json": `{"a":["<&>",{"b":{}}]}`, "hash": "# no comment",
}

// literal wants what a user sends to reach the container byte for byte.
func literal(t *testing.T, b *bench) {
	d := b.function(t, "literal")
	d.EnvVars, d.EnvProcess = texts, "/handler {{.Task.Name}} {{"
	d.Labels, d.Annotations = &map[string]string{"a": "{{.Node.ID}}", "{{b": "{{"}, &map[string]string{"a": "{{.Node.ID}}", "com.waggle.volumes": b.prefix + "v:/{{.Node.ID}}"}
	d.Constraints = []string{"node.role == manager"} // whose containers can be looked into
	cluster, err := swarm.New(swarm.Config{Docker: b.Docker, Network: b.Network, AllowedVolumes: []string{b.prefix + "v"}, User: "12000:12000"})
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Deploy(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	task := b.task(t, d.Service)
	env, targets, err := b.Container(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range texts {
		if !slices.Contains(env, key+"="+want) {
			t.Errorf("%s=%q is not in the environment %q", key, want, env)
		}
	}
	if want := "fprocess=" + d.EnvProcess; !slices.Contains(env, want) {
		t.Errorf("%s is not in the environment %q", want, env)
	}
	if !slices.Contains(targets, "/{{.Node.ID}}") {
		t.Errorf("mounts are at %q", targets)
	}
	got := b.status(t, "", d.Service)
	if got.EnvVars["node"] != texts["node"] || got.EnvProcess != d.EnvProcess || (*got.Labels)["a"] != "{{.Node.ID}}" || (*got.Annotations)["a"] != "{{.Node.ID}}" {
		t.Errorf("it is described as %+v", got)
	}
}

// task waits for a replica that runs.
func (b *bench) task(t *testing.T, name string) (task mobyswarm.Task) {
	t.Helper()
	b.reached(t, "a replica of "+name+" runs", func() bool {
		found, err := b.Docker.TaskList(t.Context(), client.TaskListOptions{Filters: make(client.Filters).Add("desired-state", "running")})
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(found.Items, func(task mobyswarm.Task) bool {
			return task.Spec.ContainerSpec != nil && task.Spec.ContainerSpec.Labels["com.openfaas.function"] == name && task.Status.State == mobyswarm.TaskStateRunning
		})
		if at >= 0 {
			task = found.Items[at]
		}
		return at >= 0
	})
	return task
}

// templates is what makes literal necessary: Swarm's own reading of the same fields.
func templates(t *testing.T, b *bench) {
	name := b.prefix + "templates"
	spec := func(value string) mobyswarm.ServiceSpec {
		return mobyswarm.ServiceSpec{
			Annotations: mobyswarm.Annotations{Name: name, Labels: map[string]string{"x": "{{.Service.Name}}"}},
			TaskTemplate: mobyswarm.TaskSpec{
				ContainerSpec: &mobyswarm.ContainerSpec{Image: b.Image, Env: []string{"{{k=" + value, "none"}, Labels: map[string]string{"com.openfaas.function": name},
					Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Target: "/x{{.Service.Name}}"}}},
				Placement: &mobyswarm.Placement{Constraints: []string{"node.role == manager"}},
			},
			Mode: mobyswarm.ServiceMode{Replicated: &mobyswarm.ReplicatedService{Replicas: new(uint64(1))}},
		}
	}
	for _, wrong := range []string{"{{name}}", "{{", "{{.Nobody}}", "{{.Service.Nothing}}"} {
		made, err := b.Docker.ServiceCreate(t.Context(), client.ServiceCreateOptions{Spec: spec(wrong)})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "expanding env") {
			t.Errorf("%s in an environment: %v", wrong, err)
		}
		if err == nil {
			b.dropService(t, made.ID)
		}
	}
	made, err := b.Docker.ServiceCreate(t.Context(), client.ServiceCreateOptions{Spec: spec("{{.Service.Name}}}}")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.dropService(t, made.ID) })
	env, targets, err := b.Container(t.Context(), b.task(t, name))
	if want := "{{k=" + name + "}}"; err != nil || !slices.Contains(env, want) || !slices.Contains(targets, "/x"+name) {
		t.Errorf("environment %q, mounts at %q, %v; want %s and /x%s", env, targets, err, want, name)
	}
}

func (b *bench) dropService(t *testing.T, id string) {
	if _, err := b.Docker.ServiceRemove(context.Background(), id, client.ServiceRemoveOptions{}); err != nil {
		t.Errorf("cleaning up: %v", err)
	}
}
