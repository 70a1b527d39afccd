//go:build e2e

// Package operate holds the long tests of a cluster's years, under votes: what an operator does, the loss of managers, and a
// Postgres of others. The first two take every command from docs/operate.md; `make unit` fails for a row of it that no step
// tries. `make operate` runs them; an hour is an estimate.
package operate

import (
	"bytes"
	"context"
	"fmt"
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
	"waggle/deploy/lab/testbed"
	"waggle/deploy/up"
)

// lab is a cluster of three bare machines behind ssh, of which the inventory names as many as the test says. Beside it is the
// machine of an operator, who has a clone of the sources.
type lab struct {
	*cluster.Cluster
	file     string               // the inventory
	all      *inventory.Inventory // with every machine
	home     string               // of passwords and keys, by cluster
	upstream string               // where the sources are pulled from
	sources  string
	asked    int    // the node, from 0, that is asked for what the Swarm does and for results
	builder  string // the engine that images are built on; "" is this machine's
	scratch  string
	page     []row
	rows     []row // that the step follows
	done     map[string]bool
	voters   *voters
}

func start(t *testing.T) *lab {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "waggle").Output()
	if err != nil {
		t.Fatal(err)
	}
	root, dir := strings.TrimSpace(string(out)), t.TempDir()
	l := &lab{
		page: page(t), file: filepath.Join(dir, up.InventoryFile), home: filepath.Join(dir, "state"), scratch: dir,
		upstream: filepath.Join(dir, "upstream"), sources: filepath.Join(dir, "sources"),
	}
	if changes := git(t, root, "status", "--porcelain"); changes != "" {
		t.Fatalf("the operator has what is committed, and this is not:\n%s", changes)
	}
	git(t, root, "clone", "--quiet", "--local", ".", l.upstream)
	git(t, l.upstream, "checkout", "--quiet", "-B", "main")
	git(t, root, "clone", "--quiet", l.upstream, l.sources)

	name := strings.ToLower(t.Name()) + "-" + strconv.Itoa(os.Getpid())
	l.Cluster, err = up.CreateMachines(t.Context(), root, dir, cluster.Config{Name: name, Nodes: 3, Progress: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l.voters != nil {
			_ = l.voters.Process.Kill() // a step has failed before they were judged
		}
		if err := cluster.Delete(context.WithoutCancel(t.Context()), docker.Engine{}, name); err != nil {
			t.Errorf("removing the machines: %v", err)
		}
	})
	if l.all, err = inventory.Read(l.file); err != nil {
		t.Fatal(err)
	}
	l.all.Capture.MaxMemory = "256mb"
	return l
}

type writer struct{ t *testing.T }

func (w writer) Write(p []byte) (int, error) {
	w.t.Log(time.Now().Format("15:04:05 ") + strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// inventory writes the file, with these roles by machine; a machine without roles is not in it.
func (l *lab) inventory(t *testing.T, roles ...[]inventory.Role) {
	t.Helper()
	described := *l.all
	described.Machines = nil
	for i, r := range roles {
		if len(r) > 0 {
			machine := l.all.Machines[i]
			machine.Roles = r
			described.Machines = append(described.Machines, machine)
		}
	}
	text, err := yaml.Marshal(described)
	if err == nil {
		err = os.WriteFile(l.file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// docker asks the engine of a manager.
func (l *lab) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.Nodes[l.asked].Engine.Run(t.Context(), args...)
	if err != nil {
		t.Fatalf("docker %v: %v", args, err)
	}
	return out
}

// database is the container of Postgres.
func (l *lab) database(t *testing.T) string {
	t.Helper()
	return l.docker(t, "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name=waggle_postgres")
}

func (l *lab) dump(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"node", "ls"}, {"service", "ls"}, {"service", "logs", "--tail", "15", "waggle_worker"}, {"service", "logs", "--tail", "15", "waggle_redis"},
		{"service", "logs", "--tail", "15", "waggle_provider"}, {"service", "logs", "--tail", "15", "vote"}} {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		out, err := l.Nodes[l.asked].Engine.Run(ctx, args...)
		cancel()
		t.Logf("docker %v: %v\n%s", args, err, out)
	}
}

// reboot is an orderly one: the engine ends its containers before.
func (l *lab) reboot(t *testing.T, node *cluster.Node) {
	t.Helper()
	if _, err := (docker.Engine{}).Run(t.Context(), "restart", "--time", "60", node.Container); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// whole waits until make status has nothing to say against the system.
func (l *lab) whole(t *testing.T) {
	t.Helper()
	testbed.Eventually(t, 5*time.Minute, func() error {
		said, err := l.try(t, "make status")
		if err != nil {
			return fmt.Errorf("make status: %w\n%s", err, said)
		}
		return nil
	})
}

// voters is the load program; it judges what it did when it is stopped.
type voters struct {
	*exec.Cmd
	out bytes.Buffer
}

// vote begins to load the gateways of the first machines.
func (l *lab) vote(t *testing.T, rate, gateways int) {
	t.Helper()
	binary := filepath.Join(l.scratch, "voters")
	if out, err := exec.Command("go", "build", "-o", binary, "waggle/deploy/lab/voters").CombinedOutput(); err != nil {
		t.Fatalf("building voters: %v\n%s", err, out)
	}
	// Postgres is another container after each restart, and at times on another node.
	psql := "for host in"
	for _, node := range l.Nodes {
		psql += " " + node.Engine.Host
	}
	psql += "; do id=$(docker -H $host ps -qf name=waggle_postgres) && [ -n \"$id\" ] && exec docker -H $host exec -i $id psql -X -q -d waggle; done; exit 1"
	args := []string{
		"-allow-remote", "-results", l.gateway(1) + "/function/results", "-voter-keys", l.state("voter-keys"), "-psql", psql,
		"-voters", "1000000", "-rate", strconv.Itoa(rate), "-concurrency", "4000", "-retries", "60", "-drain-timeout", "3m", "-drain-every", "2s",
	}
	for i := range gateways {
		args = append(args, "-url", l.gateway(i)+"/function/vote")
	}
	v := &voters{Cmd: exec.Command(binary, args...)}
	v.Dir, v.Stdout, v.Stderr = l.upstream, &v.out, &v.out
	if err := v.Start(); err != nil {
		t.Fatal(err)
	}
	l.voters = v
}

// verdict ends the load; every acknowledged vote must be counted, once.
func (l *lab) verdict(t *testing.T) {
	t.Helper()
	v := l.voters
	if v == nil {
		return
	}
	l.voters = nil
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
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.gateway(l.asked)+"/system/functions", nil)
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

// state is the file with a password or key.
func (l *lab) state(name string) string {
	return filepath.Join(l.home, "machines-"+l.Cluster.Name, name)
}

func (l *lab) secret(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(l.state(name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

var (
	everything = []inventory.Role{inventory.Manager, inventory.Edge, inventory.Capture, inventory.Worker, inventory.Store}
	voting     = []inventory.Role{inventory.Edge, inventory.Capture}
)
