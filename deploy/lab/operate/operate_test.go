//go:build e2e

// Package operate holds one long test: what an operator does to a running cluster in its years, each under votes. `make
// operate` runs it, about 7 minutes.
package operate

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/machines"
	"waggle/deploy/up"
)

const votesPerSecond = 300

// lab is a cluster of three bare machines behind ssh, of which the inventory names as many as the test says.
type lab struct {
	*cluster.Cluster
	t      *testing.T
	file   string // the inventory
	root   string
	config up.Config
	log    bytes.Buffer
}

func start(t *testing.T) *lab {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "waggle").Output()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, root: strings.TrimSpace(string(out))}
	name, dir := "operate-"+strconv.Itoa(os.Getpid()), t.TempDir()
	l.Cluster, err = up.CreateMachines(t.Context(), l.root, dir, cluster.Config{Name: name, Nodes: 3, Progress: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Delete(context.WithoutCancel(t.Context()), docker.Engine{}, name); err != nil {
			t.Errorf("removing the machines: %v", err)
		}
	})
	l.file = filepath.Join(dir, up.InventoryFile)
	l.config = up.Config{
		Root: l.root, StateDir: filepath.Join(dir, "state"), Version: "0.0.0-testbed", Port: up.DefaultPort, Workers: 1,
		RedisMaxMemory: "256mb", QueueMaxMemory: "128mb", Out: io.MultiWriter(&l.log, writer{t}),
	}
	return l
}

type writer struct{ t *testing.T }

func (w writer) Write(p []byte) (int, error) {
	w.t.Log(time.Now().Format("15:04:05 ") + strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// inventory changes the file's roles by machine; a machine without roles is taken out of it.
func (l *lab) inventory(roles ...[]inventory.Role) {
	l.t.Helper()
	all, err := inventory.Read(l.file + ".all")
	if os.IsNotExist(err) || err != nil {
		text, readErr := os.ReadFile(l.file)
		if readErr == nil {
			readErr = os.WriteFile(l.file+".all", text, 0o600)
		}
		if readErr != nil {
			l.t.Fatal(readErr)
		}
		if all, err = inventory.Read(l.file); err != nil {
			l.t.Fatal(err)
		}
	}
	machines := all.Machines
	all.Machines = nil
	for i, r := range roles {
		if len(r) > 0 {
			machines[i].Roles = r
			all.Machines = append(all.Machines, machines[i])
		}
	}
	text, err := yaml.Marshal(all)
	if err == nil {
		err = os.WriteFile(l.file, text, 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// do runs what a command of make runs on the machines of the inventory, and returns what it printed.
func (l *lab) do(t *testing.T, what string, do func(*up.System, context.Context) error) string {
	t.Helper()
	said, err := l.try(t, do)
	if err != nil {
		l.dump(t)
		t.Fatalf("make %s: %v", what, err)
	}
	return said
}

func (l *lab) try(t *testing.T, do func(*up.System, context.Context) error) (string, error) {
	t.Helper()
	began := time.Now()
	l.log.Reset()
	described, err := inventory.Read(l.file)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := machines.Open(t.Context(), machines.Config{Inventory: described, Root: l.root, Note: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	config := l.config
	if config.Target, err = up.OnMachines(opened); err != nil {
		t.Fatal(err)
	}
	config.NetworkMTU = described.Network.MTU
	system, err := up.New(config)
	if err != nil {
		t.Fatal(err)
	}
	err = do(system, t.Context())
	t.Logf("took %s", time.Since(began).Round(time.Second))
	return l.log.String(), err
}

func (l *lab) up(t *testing.T) string { t.Helper(); return l.do(t, "up", (*up.System).Up) }

func onNode(do func(*up.System, context.Context, string) error, name string) func(*up.System, context.Context) error {
	return func(s *up.System, ctx context.Context) error { return do(s, ctx, name) }
}

// docker asks the first machine's engine.
func (l *lab) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.Nodes[0].Engine.Run(t.Context(), args...)
	if err != nil {
		t.Fatalf("docker %v: %v", args, err)
	}
	return out
}

func (l *lab) dump(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"node", "ls"}, {"service", "ls"}, {"service", "logs", "--tail", "15", "waggle_worker"}, {"service", "logs", "--tail", "15", "waggle_redis"},
		{"service", "logs", "--tail", "15", "waggle_provider"}, {"service", "logs", "--tail", "15", "vote"}} {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		out, err := l.Nodes[0].Engine.Run(ctx, args...)
		cancel()
		t.Logf("docker %v: %v\n%s", args, err, out)
	}
}

// voters is the load program; it judges what it did when it is stopped.
type voters struct {
	*exec.Cmd
	out bytes.Buffer
}

func (l *lab) vote(t *testing.T) *voters {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "voters")
	if out, err := exec.Command("go", "build", "-o", binary, "waggle/deploy/lab/voters").CombinedOutput(); err != nil {
		t.Fatalf("building voters: %v\n%s", err, out)
	}
	// Postgres is another container after each restart. The first two machines are there from the first to the last moment.
	host := l.Nodes[0].Engine.Host
	args := []string{
		"-allow-remote", "-results", l.gateway(0) + "/function/results", "-voter-keys", filepath.Join(l.config.StateDir, "voter-keys"),
		"-psql", "docker -H " + host + " exec -i $(docker -H " + host + " ps -qf name=waggle_postgres) psql -X -q -d waggle", "-voters", "1000000", "-rate", strconv.Itoa(votesPerSecond), "-concurrency", "4000",
		"-retries", "60", "-drain-timeout", "3m", "-drain-every", "2s",
	}
	for i := range 2 {
		args = append(args, "-url", l.gateway(i)+"/function/vote")
	}
	v := &voters{Cmd: exec.Command(binary, args...)}
	v.Dir, v.Stdout, v.Stderr = l.root, &v.out, &v.out
	if err := v.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Process.Kill() }) // it has ended, unless the test failed
	return v
}

// verdict ends the load; every acknowledged vote must be counted, once.
func (v *voters) verdict(t *testing.T) {
	t.Helper()
	if err := v.Process.Signal(os.Interrupt); err != nil {
		t.Fatalf("the voters have ended before: %v\n%s", err, v.out.String())
	}
	err := v.Wait()
	t.Logf("%s", v.out.String())
	if err != nil {
		t.Errorf("voters: %v", err)
	}
}

func (l *lab) gateway(i int) string { return "http://" + l.Nodes[i].Address + ":8080" }

// status is what the API answers to a password.
func (l *lab) status(t *testing.T, password string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.gateway(0)+"/system/functions", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("admin", password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func (l *lab) state(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(l.config.StateDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

var (
	everything = []inventory.Role{inventory.Manager, inventory.Edge, inventory.Capture, inventory.Worker, inventory.Store}
	voting     = []inventory.Role{inventory.Edge, inventory.Capture}
)

func TestOperate(t *testing.T) {
	l := start(t)
	l.inventory(everything, voting)
	l.up(t)
	if said := l.up(t); !strings.Contains(said, "nothing changed") {
		t.Errorf("a second run: %s", said)
	}
	v := l.vote(t)
	for _, operation := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"the price of a vote", l.testPrice},
		{"rotating every secret", l.testRotate},
		{"rolling back", l.testRollback},
		{"adding a machine", l.testAdd},
		{"restoring a backup", l.testRestore},
		{"draining a capture node and removing it", l.testRemove},
	} {
		if !t.Run(operation.name, operation.do) {
			break
		}
	}
	v.verdict(t)
	l.do(t, "status", (*up.System).Status)
}

func (l *lab) testRotate(t *testing.T) {
	names := []string{"basic-auth-password", "redis-capture", "redis-copies", "redis-drain", "redis-queue", "postgres-admin", "postgres-drain", "postgres-results", "voter-keys"}
	before := map[string]string{}
	for _, name := range names {
		before[name] = l.state(t, name)
	}
	l.do(t, "rotate", onNode((*up.System).Rotate, "all"))
	for _, name := range names {
		if l.state(t, name) == before[name] {
			t.Errorf("%s is what it was", name)
		}
	}
	if now, then := l.status(t, l.state(t, "basic-auth-password")), l.status(t, before["basic-auth-password"]); now != 200 || then != 401 {
		t.Errorf("the new password is answered by %d, the old one by %d", now, then)
	}
	if left := l.docker(t, "secret", "ls", "--quiet", "--filter", "label=com.waggle.credential=redis-drain"); len(strings.Fields(left)) != 1 {
		t.Errorf("secrets of redis-drain that are left: %s", left)
	}
	if said := l.up(t); !strings.Contains(said, "nothing changed") {
		t.Errorf("make up after a rotation: %s", said)
	}
}

// testRollback deploys another version of one part, and goes back.
func (l *lab) testRollback(t *testing.T) {
	image := func() string {
		return l.docker(t, "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "waggle_postgres")
	}
	first := image()
	next := filepath.Join(t.TempDir(), "next")
	if out, err := exec.Command("git", "clone", "--quiet", "--local", l.root, next).CombinedOutput(); err != nil {
		t.Fatalf("copying the sources: %v: %s", err, out)
	}
	// Images say where their sources are found: both versions come from the same place.
	origin := []string{"-C", next, "remote", "remove", "origin"}
	if url, err := exec.Command("git", "-C", l.root, "config", "remote.origin.url").Output(); err == nil {
		origin = []string{"-C", next, "remote", "set-url", "origin", strings.TrimSpace(string(url))}
	}
	if out, err := exec.Command("git", origin...).CombinedOutput(); err != nil {
		t.Fatalf("copying the sources: %v: %s", err, out)
	}
	hba := filepath.Join(next, "deploy/images/postgres/pg_hba.conf")
	text, err := os.ReadFile(hba)
	if err == nil {
		err = os.WriteFile(hba, append([]byte("# Another version.\n"), text...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.config.Root = next
	l.up(t)
	l.config.Root = l.root
	second := image()
	if second == first {
		t.Fatalf("both versions have %s", first)
	}
	l.do(t, "rollback", (*up.System).Rollback)
	if got := image(); got != first {
		t.Errorf("rolled back to %s, want %s", got, first)
	}
	l.do(t, "prune", func(s *up.System, ctx context.Context) error {
		s.Target.Builder = s.Target.Manager // this machine's own images are not the test's
		return s.Prune(ctx)
	})
	for _, kept := range []string{first, second} {
		if has, err := l.Nodes[0].Engine.HasImage(t.Context(), kept); err != nil || !has {
			t.Errorf("%s was pruned, %v", kept, err)
		}
	}
}

func (l *lab) testAdd(t *testing.T) {
	l.inventory(everything, voting, voting)
	l.up(t)
	replicas := l.docker(t, "service", "ps", "--filter", "desired-state=running", "--format", "{{.Node}}", "vote")
	for _, node := range l.Nodes {
		if !strings.Contains(replicas, node.Name) {
			t.Errorf("%s has no ballot: %q", node.Name, replicas)
		}
	}
}

// testRestore takes the votes back to a backup while voting goes on: Redis still holds what came after it.
func (l *lab) testRestore(t *testing.T) {
	out, passphrase := t.TempDir(), "a passphrase of the test"
	l.do(t, "backup", func(s *up.System, ctx context.Context) error { return s.Backup(ctx, out, passphrase) })
	folders, err := os.ReadDir(out)
	if err != nil || len(folders) != 1 {
		t.Fatalf("OUT has %v, %v", folders, err)
	}
	from := filepath.Join(out, folders[0].Name())
	l.do(t, "restore", func(s *up.System, ctx context.Context) error { return s.RestoreVotes(ctx, from, passphrase) })

	// Another operator's machine takes over.
	elsewhere := filepath.Join(t.TempDir(), "state")
	if err := up.RestoreState(elsewhere, from, passphrase); err != nil {
		t.Fatal(err)
	}
	was := l.config.StateDir
	l.config.StateDir = elsewhere
	defer func() { l.config.StateDir = was }()
	if said := l.up(t); !strings.Contains(said, "nothing changed") {
		t.Errorf("make up with the restored state: %s", said)
	}
}

func (l *lab) testRemove(t *testing.T) {
	if _, err := l.try(t, onNode((*up.System).Remove, "node1")); err == nil || !strings.Contains(err.Error(), "node1 holds Postgres") {
		t.Errorf("removing the store: %v", err)
	}
	l.do(t, "remove", onNode((*up.System).Remove, "node3"))
	if left := l.docker(t, "node", "ls", "--format", "{{.Hostname}}"); strings.Contains(left, "node3") {
		t.Errorf("members are %q", left)
	}
	l.inventory(everything, voting)
	if said := l.do(t, "status", (*up.System).Status); strings.Contains(said, "gap") || strings.Contains(said, "cannot be accounted for") {
		t.Errorf("a drained node leaves %s", said)
	}
}
