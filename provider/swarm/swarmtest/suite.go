package swarmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
	"waggle/provider/swarm"
)

// Target is a Swarm to run the suite against.
type Target struct {
	Docker swarm.Docker
	// TaskEvents are the same Swarm's.
	TaskEvents swarm.TaskEvents
	// Container gives the environment and the mounts' targets of a task's container on the engine's own node.
	Container func(ctx context.Context, task mobyswarm.Task) (env, targets []string, err error)
	// Network is an overlay for functions, Image an image that all nodes have and that serves HTTP on port 8080.
	Network, Image string
	// Patience is how long a state may take to be reached.
	Patience time.Duration
}

// Run checks that a Swarm does everything the rest of the provider relies on. Each part uses names of its own
// and removes what it made. So parts may run in parallel, and on a Swarm in use.
func Run(t *testing.T, target Target) {
	for name, part := range map[string]func(*testing.T, *bench){
		"a function lives and dies":                        lifecycle,
		"a deployment comes back as it was sent":           roundTrip,
		"a repeated request changes nothing":               repeated,
		"an update keeps replicas within the bounds":       keepsReplicas,
		"namespaces keep functions and secrets apart":      namespaces,
		"a secret's update moves functions over":           secretVersions,
		"what is not ours cannot be touched":               foreign,
		"concurrent writers all succeed":                   writers,
		"concurrent writers of a secret all succeed":       secretWriters,
		"the table follows replicas":                       table,
		"events tell of every change of tasks":             taskEvents,
		"what a user sends is no template":                 literal,
		"what Swarm expands":                               templates,
		"logs of an unknown function are an error":         unknownLogs,
		"a touched service stays as it is":                 touched,
		"wake starts a sleeping function and nothing else": wake,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part(t, newBench(t, target))
		})
	}
}

// bench is a cluster, and names for one part of the suite.
type bench struct {
	Target
	*swarm.Cluster
	prefix string
}

func newBench(t *testing.T, target Target) *bench {
	t.Helper()
	cluster, err := swarm.New(swarm.Config{
		Docker: target.Docker, Network: target.Network, User: "12000:12000",
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{Target: target, Cluster: cluster, prefix: fmt.Sprintf("t%08x-", rand.Uint32())}
}

// function gives a deployment with a name of its own, which is removed at the end whatever happens.
func (b *bench) function(t *testing.T, name string) types.FunctionDeployment {
	d := types.FunctionDeployment{Service: b.prefix + name, Image: b.Image}
	t.Cleanup(func() { b.drop(t, "", d.Service) })
	return d
}

func (b *bench) drop(t *testing.T, namespace, name string) {
	if err := b.Delete(context.Background(), namespace, name); err != nil && !errors.Is(err, swarm.ErrNotFound) {
		t.Errorf("cleaning up %s: %v", name, err)
	}
}

func (b *bench) deploy(t *testing.T, d types.FunctionDeployment) {
	t.Helper()
	if err := b.Deploy(t.Context(), d); err != nil {
		t.Fatalf("Deploy(%s): %v", d.Service, err)
	}
}

func (b *bench) status(t *testing.T, namespace, name string) types.FunctionStatus {
	t.Helper()
	status, err := b.Status(t.Context(), namespace, name, false)
	if err != nil {
		t.Fatalf("Status(%s): %v", name, err)
	}
	return status
}

// reached waits for a state of the world outside; a real Swarm takes its time and gives no signal.
func (b *bench) reached(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), b.Patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", b.Patience, what)
		case <-ticker.C:
		}
	}
}

func wantError(t *testing.T, doing string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want an error of kind %q", doing, err, kind)
	}
}

func lifecycle(t *testing.T, b *bench) {
	if err := b.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v", err)
	}
	d := b.function(t, "life")
	_, err := b.Status(t.Context(), "", d.Service, false)
	wantError(t, "Status before", err, swarm.ErrNotFound)
	wantError(t, "Update before", b.Update(t.Context(), d), swarm.ErrNotFound)
	wantError(t, "Scale before", b.Scale(t.Context(), "", d.Service, 1), swarm.ErrNotFound)
	wantError(t, "Delete before", b.Delete(t.Context(), "", d.Service), swarm.ErrNotFound)
	b.deploy(t, d)
	wantError(t, "Deploy again", b.Deploy(t.Context(), d), swarm.ErrExists)
	b.reached(t, "one replica is available", func() bool { return b.status(t, "", d.Service).AvailableReplicas == 1 })
	if err := b.Scale(t.Context(), "openfaas-fn", d.Service, 2); err != nil {
		t.Fatal(err)
	}
	b.reached(t, "two replicas are available", func() bool { return b.status(t, "", d.Service).AvailableReplicas == 2 })
	if err := b.Scale(t.Context(), "", d.Service, 0); err != nil {
		t.Fatal(err)
	}
	b.reached(t, "no replica is available", func() bool { return b.status(t, "", d.Service).AvailableReplicas == 0 })
	list, err := b.List(t.Context(), "")
	if err != nil || !slices.ContainsFunc(list, func(s types.FunctionStatus) bool { return s.Name == d.Service && s.Replicas == 0 }) {
		t.Errorf("List: %v, %v; want %s among them with no replicas", list, err, d.Service)
	}
	if err := b.Delete(t.Context(), "", d.Service); err != nil {
		t.Fatal(err)
	}
	_, err = b.Status(t.Context(), "", d.Service, false)
	wantError(t, "Status after", err, swarm.ErrNotFound)
	b.deploy(t, d) // the name is free at once
}

func roundTrip(t *testing.T, b *bench) {
	d := b.function(t, "trip")
	d.EnvProcess = "/handler -x"
	d.EnvVars = map[string]string{"A": "b=c", "json": `{"a":["<&>",1]}`, "unicode": "ëŁ中"}
	d.Labels = &map[string]string{"com.openfaas.scale.min": "1", "json": `{"x":1}`, "com.docker.stack.namespace": "waggle", "empty": ""}
	d.Annotations = &map[string]string{"topic": "a,b", "com.waggle.stop-grace": "1s"}
	d.Limits = &types.FunctionResources{Memory: "64Mi", CPU: "1500m"}
	d.Requests = &types.FunctionResources{Memory: "8M"}
	d.ReadOnlyRootFilesystem = true
	d.Namespace = "openfaas-fn"
	b.deploy(t, d)
	got := b.status(t, "", d.Service)
	sent := types.FunctionDeployment{
		Service: got.Name, Namespace: got.Namespace, Image: got.Image, EnvProcess: got.EnvProcess, EnvVars: got.EnvVars,
		Constraints: got.Constraints, Secrets: got.Secrets, Labels: got.Labels, Limits: got.Limits,
		Requests: got.Requests, ReadOnlyRootFilesystem: got.ReadOnlyRootFilesystem, Annotations: got.Annotations,
	}
	if got.AvailableReplicas == 0 { // then a description may add why
		delete(*sent.Annotations, "com.waggle.state")
	}
	if !reflect.DeepEqual(sent, d) {
		t.Errorf("sent %+v\ngot  %+v", d, sent)
	}
	if got.CreatedAt.IsZero() {
		t.Error("CreatedAt is zero")
	}
}

// version is the Swarm's own count of changes to a function's service.
func (b *bench) version(t *testing.T, name string) uint64 {
	t.Helper()
	found, err := b.Docker.ServiceList(t.Context(), client.ServiceListOptions{Filters: make(client.Filters).Add("label", "com.openfaas.function="+name)})
	if err != nil || len(found.Items) != 1 {
		t.Fatalf("listing service %s: %d found, %v", name, len(found.Items), err)
	}
	return found.Items[0].Version.Index
}

func repeated(t *testing.T, b *bench) {
	d := b.function(t, "again")
	b.deploy(t, d)
	b.reached(t, "the replica is available", func() bool { return b.status(t, "", d.Service).AvailableReplicas == 1 })
	before := b.version(t, d.Service)
	if err := b.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if after := b.version(t, d.Service); after != before {
		t.Errorf("an identical request moved the service from version %d to %d", before, after)
	}
	d.EnvVars = map[string]string{"changed": "1"}
	if err := b.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if after := b.version(t, d.Service); after == before {
		t.Error("a different request left the service as it was")
	}
}

func keepsReplicas(t *testing.T, b *bench) {
	d := b.function(t, "keep")
	b.deploy(t, d)
	if err := b.Scale(t.Context(), "", d.Service, 3); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		labels map[string]string
		want   uint64
	}{
		{map[string]string{}, 3},
		{map[string]string{"com.openfaas.scale.max": "2"}, 2},
		{map[string]string{"com.openfaas.scale.min": "4"}, 4},
	} {
		d.Labels, d.EnvVars = &step.labels, map[string]string{"step": fmt.Sprint(i)}
		if err := b.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if got := b.status(t, "", d.Service).Replicas; got != step.want {
			t.Errorf("with labels %v: %d replicas, want %d", step.labels, got, step.want)
		}
	}
}

func namespaces(t *testing.T, b *bench) {
	ctx, space := t.Context(), b.prefix+"space"
	d := b.function(t, "twin")
	other := d
	other.Namespace = space
	wantError(t, "Deploy into an unknown namespace", b.Deploy(ctx, other), swarm.ErrInvalid)
	n := types.FunctionNamespace{Name: space, Labels: map[string]string{"openfaas": "1"}}
	if err := b.CreateNamespace(ctx, n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.drop(t, space, d.Service)
		if err := b.DeleteSecret(context.Background(), space, b.prefix+"s"); err != nil && !errors.Is(err, swarm.ErrNotFound) {
			t.Error(err)
		}
		if err := b.DeleteNamespace(context.Background(), space); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	wantError(t, "CreateNamespace again", b.CreateNamespace(ctx, n), swarm.ErrExists)
	n.Labels["x"] = "y"
	if err := b.UpdateNamespace(ctx, n); err != nil {
		t.Fatal(err)
	}
	if got, err := b.GetNamespace(ctx, space); err != nil || !reflect.DeepEqual(got, n) {
		t.Errorf("GetNamespace: %v, %v; want %v", got, err, n)
	}
	if all, err := b.Namespaces(ctx); err != nil || !slices.Contains(all, space) || !slices.Contains(all, "openfaas-fn") {
		t.Errorf("Namespaces: %v, %v", all, err)
	}
	if err := b.CreateSecret(ctx, types.Secret{Name: b.prefix + "s", Namespace: space, Value: "v"}); err != nil {
		t.Fatal(err)
	}
	b.deploy(t, d)
	b.deploy(t, other)
	d.Secrets = []string{b.prefix + "s"}
	wantError(t, "Update with a secret of another namespace", b.Update(ctx, d), swarm.ErrInvalid)
	wantError(t, "DeleteNamespace in use", b.DeleteNamespace(ctx, space), swarm.ErrInUse)
	if err := b.Delete(ctx, space, d.Service); err != nil {
		t.Fatal(err)
	}
	b.status(t, "", d.Service)
}

func secretVersions(t *testing.T, b *bench) {
	ctx, name := t.Context(), b.prefix+"key"
	s := types.Secret{Name: name, Value: "one"}
	wantError(t, "UpdateSecret before", b.UpdateSecret(ctx, s), swarm.ErrNotFound)
	if err := b.CreateSecret(ctx, s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.drop(t, "", b.prefix+"reader")
		if err := b.DeleteSecret(context.Background(), "", name); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	wantError(t, "CreateSecret again", b.CreateSecret(ctx, s), swarm.ErrExists)
	d := b.function(t, "reader")
	d.Secrets = []string{name}
	b.deploy(t, d)
	wantError(t, "DeleteSecret in use", b.DeleteSecret(ctx, "", name), swarm.ErrInUse)
	before := b.version(t, d.Service)
	if err := b.UpdateSecret(ctx, types.Secret{Name: name, RawValue: []byte{0, 1}}); err != nil {
		t.Fatal(err)
	}
	if b.version(t, d.Service) == before {
		t.Error("the function was not moved to the new version")
	}
	b.reached(t, "only the new version is left", func() bool {
		if err := b.Reconcile(ctx); err != nil {
			t.Fatal(err)
		}
		found, err := b.Docker.SecretList(ctx, client.SecretListOptions{Filters: make(client.Filters).Add("label", "com.waggle.secret="+name)})
		return err == nil && len(found.Items) == 1
	})
	if list, err := b.ListSecrets(ctx, ""); err != nil || !slices.Contains(names(list), name) {
		t.Errorf("ListSecrets: %v, %v; want %s once", list, err, name)
	}
}

func names(list []types.Secret) []string {
	var all []string
	for _, s := range list {
		all = append(all, s.Name)
	}
	return all
}

func foreign(t *testing.T, b *bench) {
	ctx, name := t.Context(), b.prefix+"alien"
	one := uint64(1)
	created, err := b.Docker.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: mobyswarm.ServiceSpec{
		// Even with the label that OpenFaaS' own provider used it is not ours.
		Annotations:  mobyswarm.Annotations{Name: name, Labels: map[string]string{"com.openfaas.function": name}},
		TaskTemplate: mobyswarm.TaskSpec{ContainerSpec: &mobyswarm.ContainerSpec{Image: b.Image}},
		Mode:         mobyswarm.ServiceMode{Replicated: &mobyswarm.ReplicatedService{Replicas: &one}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := b.Docker.SecretCreate(ctx, client.SecretCreateOptions{Spec: mobyswarm.SecretSpec{
		Annotations: mobyswarm.Annotations{Name: name, Labels: map[string]string{}}, Data: []byte("x"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := b.Docker.ServiceRemove(context.Background(), created.ID, client.ServiceRemoveOptions{}); err != nil {
			t.Errorf("the foreign service is gone: %v", err)
		}
		if _, err := b.Docker.SecretRemove(context.Background(), secret.ID, client.SecretRemoveOptions{}); err != nil {
			t.Errorf("the foreign secret is gone: %v", err)
		}
	})
	d := types.FunctionDeployment{Service: name, Image: b.Image}
	_, err = b.Status(ctx, "", name, false)
	wantError(t, "Status", err, swarm.ErrNotFound)
	wantError(t, "Deploy over it", b.Deploy(ctx, d), swarm.ErrExists)
	wantError(t, "Update", b.Update(ctx, d), swarm.ErrNotFound)
	wantError(t, "Scale", b.Scale(ctx, "", name, 3), swarm.ErrNotFound)
	wantError(t, "Delete", b.Delete(ctx, "", name), swarm.ErrNotFound)
	wantError(t, "Logs", b.Logs(ctx, logs.Request{Name: name}, nil), swarm.ErrNotFound)
	wantError(t, "Wake", b.Wake(ctx, name, ""), feed.ErrUnknownFunction)
	wantError(t, "UpdateSecret", b.UpdateSecret(ctx, types.Secret{Name: name, Value: "y"}), swarm.ErrNotFound)
	wantError(t, "DeleteSecret", b.DeleteSecret(ctx, "", name), swarm.ErrNotFound)
	thief := b.function(t, "thief")
	thief.Secrets = []string{name}
	wantError(t, "mounting its secret", b.Deploy(ctx, thief), swarm.ErrInvalid)
	thief.Secrets, thief.Annotations = nil, &map[string]string{"com.waggle.networks": "ingress"}
	wantError(t, "joining its network", b.Deploy(ctx, thief), swarm.ErrForbidden)
	thief.Annotations = &map[string]string{"com.waggle.volumes": "data:/data"}
	wantError(t, "mounting its volume", b.Deploy(ctx, thief), swarm.ErrForbidden)
	list, err := b.List(ctx, "")
	if err != nil || slices.ContainsFunc(list, func(s types.FunctionStatus) bool { return s.Name == name }) {
		t.Errorf("List: %v, %v; want it without %s", list, err, name)
	}
}

func writers(t *testing.T, b *bench) {
	d := b.function(t, "busy")
	b.deploy(t, d)
	// A second provider over the same Swarm: its writes are not queued behind ours.
	rival := newBench(t, b.Target)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			cluster, mine := b.Cluster, d
			if i%2 == 1 {
				cluster = rival.Cluster
			}
			mine.EnvVars = map[string]string{"writer": fmt.Sprint(i)}
			if err := cluster.Update(t.Context(), mine); err != nil {
				t.Errorf("Update: %v", err)
			}
			if err := cluster.Scale(t.Context(), "", mine.Service, 2); err != nil {
				t.Errorf("Scale: %v", err)
			}
		})
	}
	group.Wait()
	if got := b.status(t, "", d.Service); got.Replicas != 2 || got.EnvVars["writer"] == "" {
		t.Errorf("after all writers: %d replicas, env %v; want 2 and one writer's env", got.Replicas, got.EnvVars)
	}
}

func secretWriters(t *testing.T, b *bench) {
	name := b.prefix + "contested"
	if err := b.CreateSecret(t.Context(), types.Secret{Name: name, Value: "0"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.DeleteSecret(context.Background(), "", name); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	rival := newBench(t, b.Target)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			cluster := b.Cluster
			if i%2 == 1 {
				cluster = rival.Cluster
			}
			if err := cluster.UpdateSecret(t.Context(), types.Secret{Name: name, Value: fmt.Sprint(i)}); err != nil {
				t.Errorf("UpdateSecret: %v", err)
			}
		})
	}
	group.Wait()
	if err := b.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := b.Docker.SecretList(t.Context(), client.SecretListOptions{Filters: make(client.Filters).Add("label", "com.waggle.secret="+name)})
	if err != nil || len(found.Items) != 1 {
		t.Fatalf("stored are %d versions, %v; want one", len(found.Items), err)
	}
	// No two of the nine values can have had one number, but a number may have been lost to a rival.
	if n, err := strconv.Atoi(found.Items[0].Spec.Labels["com.waggle.secret-version"]); err != nil || n < 9 {
		t.Errorf("left is version %d, %v; want at least the ninth", n, err)
	}
}

// board keeps the newest table.
type board struct {
	mu    sync.Mutex
	table feed.Table
}

func (b *board) Publish(table feed.Table) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.table = table
}

func (b *board) Forget(string, string) {}

func (b *board) function(name string) (feed.Function, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.IndexFunc(b.table.Functions, func(f feed.Function) bool { return f.Name == name })
	if at < 0 {
		return feed.Function{}, false
	}
	return b.table.Functions[at], true
}

func table(t *testing.T, b *bench) {
	var published board
	watcher, err := swarm.NewWatcher(swarm.WatcherConfig{Cluster: b.Cluster, Publisher: &published, TaskEvents: b.TaskEvents})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		if err := watcher.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	defer group.Wait()
	defer cancel()
	d := b.function(t, "seen")
	b.deploy(t, d)
	ready := func(want int) func() bool {
		return func() bool {
			f, found := published.function(d.Service)
			n := 0
			for _, r := range f.Replicas {
				if r.State == feed.Ready && r.Address != "" && r.Node != "" {
					n++
				}
			}
			return found && n == want && f.Desired == uint64(want)
		}
	}
	b.reached(t, "one ready replica in the table", ready(1))
	if err := b.Scale(t.Context(), "", d.Service, 2); err != nil {
		t.Fatal(err)
	}
	b.reached(t, "two ready replicas in the table", ready(2))
	if err := b.Delete(t.Context(), "", d.Service); err != nil {
		t.Fatal(err)
	}
	b.reached(t, "the function is not in the table", func() bool {
		_, found := published.function(d.Service)
		return !found
	})
}

func taskEvents(t *testing.T, b *bench) {
	var mu sync.Mutex
	events := map[string]int{}
	count := func(service string) int {
		mu.Lock()
		defer mu.Unlock()
		return events[service]
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- b.TaskEvents.FollowTasks(ctx, func() { close(begun) }, func(service string) {
			mu.Lock()
			defer mu.Unlock()
			events[service]++
		})
	}()
	select {
	case <-begun:
	case err := <-over:
		t.Fatalf("FollowTasks: %v", err)
	case <-time.After(b.Patience):
		t.Fatal("FollowTasks does not begin")
	}
	d := b.function(t, "told")
	b.deploy(t, d)
	b.reached(t, "the replica is available", func() bool { return b.status(t, "", d.Service).AvailableReplicas == 1 })
	found, err := b.Docker.ServiceList(t.Context(), client.ServiceListOptions{Filters: make(client.Filters).Add("label", "com.openfaas.function="+d.Service)})
	if err != nil || len(found.Items) != 1 {
		t.Fatalf("listing the service: %v, %v", found.Items, err)
	}
	service := found.Items[0].ID
	b.reached(t, "an event of the new function", func() bool { return count(service) > 0 })
	// still gives the count once nothing more comes: an event that is late must not pass for one of the next step.
	still := func() (n int) {
		b.reached(t, "the events end", func() bool {
			n = count(service)
			<-time.After(time.Second)
			return count(service) == n
		})
		return n
	}
	before := still()
	if err := b.Scale(t.Context(), "", d.Service, 2); err != nil {
		t.Fatal(err)
	}
	b.reached(t, "an event of scaling", func() bool { return count(service) > before })
	b.reached(t, "two replicas are available", func() bool { return b.status(t, "", d.Service).AvailableReplicas == 2 })
	before = still()
	if err := b.Delete(t.Context(), "", d.Service); err != nil {
		t.Fatal(err)
	}
	b.reached(t, "an event of the removal", func() bool { return count(service) > before })
	cancel()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Errorf("FollowTasks: %v, want that its context ended", err)
	}
}

func unknownLogs(t *testing.T, b *bench) {
	err := b.Logs(t.Context(), logs.Request{Name: b.prefix + "nobody"}, func(logs.Message) error { return nil })
	wantError(t, "Logs", err, swarm.ErrNotFound)
}
