package swarm

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/types"
)

var update = flag.Bool("update", false, "write the golden files anew")

func goldenConfig() Config {
	return Config{
		Namespace: "openfaas-fn", Network: "waggle-functions", User: "12000:12000",
		AllowedNetworks: []string{"waggle-drain"}, AllowedVolumes: []string{"waggle-votes-socket", "data"},
	}
}

var goldenImage = image{Ref: "ghcr.io/a/b:1@sha256:abc", Identity: "sha256:abc", Platforms: []swarm.Platform{{OS: "linux", Architecture: "amd64"}}}

var goldenSecrets = map[string]secretVersion{
	"s1": {ID: "id1", Name: "openfaas-fn.s1.1", Number: 1}, "s2": {ID: "id2", Name: "openfaas-fn.s2.7", Number: 7},
}

func ptr(pairs ...string) *map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return &m
}

// goldenDeployments are requests as clients send them.
func goldenDeployments() map[string]types.FunctionDeployment {
	resources := func(memory, cpu string) *types.FunctionResources {
		return &types.FunctionResources{Memory: memory, CPU: cpu}
	}
	return map[string]types.FunctionDeployment{
		"minimal":               {},
		"empty-maps":            {Labels: ptr(), Annotations: ptr()},
		"process":               {EnvProcess: "cat -"},
		"process-beats-env":     {EnvProcess: "cat", EnvVars: map[string]string{"fprocess": "wc"}},
		"env":                   {EnvVars: map[string]string{"B": "2", "A": "1=1", "EMPTY": ""}},
		"env-overrides-ours":    {EnvVars: map[string]string{"OPENFAAS_NAME": "x"}},
		"env-json":              {EnvVars: map[string]string{"J": `{"a":["<b>&\"c\""]}`}},
		"env-unicode":           {EnvVars: map[string]string{"U": "ëŁ中\n\t"}},
		"constraints":           {Constraints: []string{"node.role == worker", "node.labels.a==b"}},
		"secrets":               {Secrets: []string{"s1", "s2"}},
		"secrets-order":         {Secrets: []string{"s2", "s1"}},
		"secrets-twice":         {Secrets: []string{"s1", "s1"}},
		"labels":                {Labels: ptr("a", "b", "c", "")},
		"labels-json":           {Labels: ptr("j", `{"x":[1,"<&>"]}`, "ключ", "значение")},
		"labels-forged":         {Labels: ptr("com.openfaas.function", "other", "com.waggle.namespace", "x", "com.docker.stack.namespace", "waggle", "ok", "1")},
		"annotations":           {Annotations: ptr("topic", "a,b", "x", "{}")},
		"scale-bounds":          {Labels: ptr("com.openfaas.scale.min", "2", "com.openfaas.scale.max", "9")},
		"scale-zero":            {Labels: ptr("com.openfaas.scale.zero", "true", "com.openfaas.scale.zero-duration", "5m")},
		"limits-kubernetes":     {Limits: resources("128Mi", "100m")},
		"limits-docker":         {Limits: resources("128m", "0.5")},
		"limits-decimal":        {Limits: resources("1G", "2")},
		"limits-memory-alone":   {Limits: resources("64Mi", "")},
		"limits-empty":          {Limits: resources("", "")},
		"requests":              {Requests: resources("20Mi", "50m")},
		"limits-and-requests":   {Limits: resources("128Mi", "1"), Requests: resources("64Mi", "0.25")},
		"read-only":             {ReadOnlyRootFilesystem: true},
		"read-only-with-volume": {ReadOnlyRootFilesystem: true, Annotations: ptr(annotationVolumes, "data:/tmp")},
		"namespace":             {Namespace: "dev"},
		"namespace-long":        {Namespace: strings.Repeat("n", 63), Service: strings.Repeat("f", 63)},
		"volumes":               {Annotations: ptr(annotationVolumes, "waggle-votes-socket:/run/votes,data:/data:ro")},
		"networks":              {Annotations: ptr(annotationNetworks, "waggle-drain,waggle-functions")},
		"per-node":              {Annotations: ptr(annotationPerNode, "1")},
		"stop-grace":            {Annotations: ptr(annotationStopGrace, "90s")},
		"timeouts":              {EnvVars: map[string]string{"write_timeout": "10s", "healthcheck_interval": "5s", "max_inflight": "100"}},
		"health-path":           {Annotations: ptr(annotationHealthPath, "/up", annotationIdempotent, "true")},
		"waiting":               {Annotations: ptr(annotationWaitingPage, "false", annotationWaitingText, "Coming.")},
		"retries": {Annotations: ptr(annotationRetryAttempts, "30", annotationRetryCodes, "429,503", annotationRetryMinWait, "5s",
			annotationRetryMaxWait, "1m")},
		"everything": {
			EnvProcess: "./h", EnvVars: map[string]string{"A": "1"}, Constraints: []string{"node.role == worker"}, Secrets: []string{"s1"},
			Labels: ptr("com.openfaas.scale.min", "2"), Annotations: ptr("topic", "t", annotationPerNode, "2"),
			Limits: resources("128Mi", "100m"), Requests: resources("20Mi", ""), ReadOnlyRootFilesystem: true,
		},
	}
}

// TestGolden follows each request to the service that is made of it, and back to what the API says and gateways get.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, d := range goldenDeployments() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d.Service == "" {
				d.Service = "fn"
			}
			if d.Namespace == "" {
				d.Namespace = "openfaas-fn"
			}
			d.Image = "ghcr.io/a/b:1"
			c := goldenConfig()
			spec, err := c.serviceSpec(&d, goldenImage, goldenSecrets)
			if err != nil {
				t.Fatal(err)
			}
			spec.Mode.Replicated.Replicas = new(uint64(2))
			service := swarm.Service{ID: "s", Spec: spec, Meta: swarm.Meta{CreatedAt: time.Unix(1e9, 0).UTC()}}
			tasks := []swarm.Task{goldenTask("t1", swarm.TaskStateRunning), goldenTask("t2", swarm.TaskStateStarting)}
			status := functionStatus(service, tasks, nil)
			checkReturned(t, d, status)
			declared := declare([]swarm.Service{service}, nil)
			table := c.functions(view{declared: declared, tasks: map[string][]swarm.Task{service.ID: tasks}})
			compareGolden(t, name, map[string]any{"spec": spec, "status": status, "table": table})
		})
	}
}

func goldenTask(id string, state swarm.TaskState) swarm.Task {
	return swarm.Task{
		ID: id, ServiceID: "s", NodeID: "n1", DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: state},
		NetworksAttachments: []swarm.NetworkAttachment{{
			Network:   swarm.Network{Spec: swarm.NetworkSpec{Annotations: swarm.Annotations{Name: "waggle-functions"}}},
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.5/24")},
		}},
	}
}

// checkReturned wants what was sent, exactly: the CLI's diff shows any difference as drift.
func checkReturned(t *testing.T, d types.FunctionDeployment, s types.FunctionStatus) {
	t.Helper()
	if d.Labels == nil {
		d.Labels = ptr()
	}
	if d.Annotations == nil {
		d.Annotations = ptr()
	}
	got := types.FunctionDeployment{
		Service: s.Name, Namespace: s.Namespace, Image: s.Image, EnvProcess: s.EnvProcess, EnvVars: s.EnvVars,
		Constraints: s.Constraints, Secrets: s.Secrets, Labels: s.Labels, Annotations: s.Annotations, Limits: s.Limits,
		Requests: s.Requests, ReadOnlyRootFilesystem: s.ReadOnlyRootFilesystem,
	}
	if !reflect.DeepEqual(got, d) {
		t.Errorf("sent %+v\ngot  %+v", d, got)
	}
}

func compareGolden(t *testing.T, name string, value any) {
	t.Helper()
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "golden", name+".json")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, text.Bytes()) {
		t.Errorf("%s differs; if that is meant, run the test with -update.\ngot %s", file, text.Bytes())
	}
}

func TestRefusedDeployments(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*types.FunctionDeployment)
		kind   error
		names  string
	}{
		"name":                     {func(d *types.FunctionDeployment) { d.Service = "A" }, ErrInvalid, "service"},
		"limit":                    {func(d *types.FunctionDeployment) { d.Limits = &types.FunctionResources{CPU: "x"} }, ErrInvalid, "limits.cpu"},
		"request":                  {func(d *types.FunctionDeployment) { d.Requests = &types.FunctionResources{Memory: "much"} }, ErrInvalid, "requests.memory"},
		"GPU":                      {func(d *types.FunctionDeployment) { d.Limits = &types.FunctionResources{NvidiaGPU: "1"} }, ErrInvalid, "limits.nvidia.com/gpu"},
		"secret":                   {func(d *types.FunctionDeployment) { d.Secrets = []string{"none"} }, ErrInvalid, "secrets"},
		"env name":                 {func(d *types.FunctionDeployment) { d.EnvVars = map[string]string{"a=b": "c"} }, ErrInvalid, "envVars"},
		"constraint of Kubernetes": {func(d *types.FunctionDeployment) { d.Constraints = []string{"zone=a"} }, ErrInvalid, "constraints"},
		"constraint without value": {func(d *types.FunctionDeployment) { d.Constraints = []string{"node.role == "} }, ErrInvalid, "constraints"},
		"too large": {func(d *types.FunctionDeployment) {
			d.EnvVars = map[string]string{"a": strings.Repeat("x", maxDeployment)}
		}, ErrInvalid, "deployment"},
		"env zero byte":     {func(d *types.FunctionDeployment) { d.EnvVars = map[string]string{"a": "b\x00"} }, ErrInvalid, "envVars"},
		"volume not listed": {func(d *types.FunctionDeployment) { d.Annotations = ptr(annotationVolumes, "other:/x") }, ErrForbidden, "waggle-votes-socket, data"},
		"network unlisted":  {func(d *types.FunctionDeployment) { d.Annotations = ptr(annotationNetworks, "host") }, ErrForbidden, "waggle-drain"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := types.FunctionDeployment{Service: "fn", Namespace: "openfaas-fn", Image: "a/b"}
			test.change(&d)
			_, err := goldenConfig().serviceSpec(&d, goldenImage, goldenSecrets)
			if !errors.Is(err, test.kind) || !strings.Contains(fmt.Sprint(err), test.names) {
				t.Errorf("got %v; want an error of kind %q that names %s", err, test.kind, test.names)
			}
		})
	}
}

func FuzzConstraints(f *testing.F) {
	for _, text := range []string{"node.role == worker", "node.labels.a!=b c", "a=b", "==", "node.hostname == a == b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if checkConstraints([]string{text}) == nil && strings.Count(text, "==")+strings.Count(text, "!=") != 1 {
			t.Errorf("%q is let through", text)
		}
	})
}

// FuzzDeploymentLabel replaces the label that we wrote by anything, as whoever has the Swarm's credentials can.
// A service with an unreadable label is served and listed like the others.
func FuzzDeploymentLabel(f *testing.F) {
	f.Add(`{"service":"fn","image":"a","namespace":"openfaas-fn"}`)
	f.Add(`{"labels":{"com.openfaas.scale.min":"x"}}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, label string) {
		c := goldenConfig()
		sound, err := c.serviceSpec(&types.FunctionDeployment{Service: "sound", Namespace: "openfaas-fn", Image: "a"}, goldenImage, nil)
		if err != nil {
			t.Fatal(err)
		}
		broken := sound
		broken.Labels = map[string]string{labelFunction: "broken", labelNamespace: "openfaas-fn", labelDeployment: label}
		declared := declare([]swarm.Service{{ID: "a", Spec: sound}, {ID: "b", Spec: broken}}, nil)
		table := c.functions(view{declared: declared})
		names := []string{table[0].Name, table[1].Name}
		slices.Sort(names)
		if !slices.Equal(names, []string{"broken", "sound"}) {
			t.Errorf("%q: table %v", label, table)
		}
		if status := functionStatus(swarm.Service{Spec: broken}, nil, nil); status.Name != "broken" || status.Labels == nil || status.Annotations == nil {
			t.Errorf("%q: %+v", label, status)
		}
	})
}
