//go:build e2e

package operate

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/images"
	"waggle/deploy/inventory"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/up"
)

// TestExternalPostgres counts in a database outside of the Swarm: a container beside the node, found by the second of two
// addresses. The stack has no Postgres then. Its passwords are rotated like all others.
func TestExternalPostgres(t *testing.T) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "waggle").Output()
	if err != nil {
		t.Fatal(err)
	}
	ctx, machine := t.Context(), docker.Engine{}
	name, dir := "outside-"+strconv.Itoa(os.Getpid()), t.TempDir()
	config := up.Config{
		Root: strings.TrimSpace(string(root)), StateDir: filepath.Join(dir, "state"), Version: "0.0.0-testbed", Port: up.DefaultPort, Workers: 1,
		RedisMaxMemory: "64mb", QueueMaxMemory: "64mb", Out: writer{t},
	}
	made, err := up.CreateCluster(ctx, config.Root, cluster.Config{Engine: machine, Name: name, Nodes: 1, Progress: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Delete(context.WithoutCancel(ctx), machine, name); err != nil {
			t.Errorf("removing the cluster: %v", err)
		}
	})
	address := outside(t, config, name)
	config.Target = up.OnCluster(made)
	config.Postgres = inventory.Postgres{Hosts: []string{"10.255.255.1", address}, Port: 5432, SSLMode: "disable"}
	system, err := up.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := system.Up(ctx); err != nil {
		t.Fatal(err)
	}
	if services, err := system.Target.Manager.Run(ctx, "service", "ls", "--format", "{{.Name}}"); err != nil || strings.Contains(services, "postgres") {
		t.Errorf("services are %s, %v", services, err)
	}
	vote := func() {
		t.Helper()
		args := []string{"run", "waggle/deploy/lab/voters", "-psql", "docker exec -i " + name + "-postgres psql -X -q -d waggle", "-voters", "2000", "-rate", "200", "-retries", "60"}
		command := exec.CommandContext(ctx, "go", append(args, system.VotersArgs()...)...)
		command.Dir = config.Root
		out, err := command.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Errorf("voters: %v", err)
		}
	}
	vote()

	enters := func(role, password string) bool {
		_, err := machine.Run(ctx, "exec", "--env=PGPASSWORD="+password, name+"-postgres", "psql", "-X", "-h", address, "-U", "waggle_"+role, "-d", "waggle", "-c", "SELECT 1")
		return err == nil
	}
	password := func(role string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(config.StateDir, "postgres-"+role))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	before := map[string]string{"admin": "", "drain": "", "results": ""}
	for role := range before {
		before[role] = password(role)
	}
	if err := system.Rotate(ctx, "all"); err != nil {
		t.Fatal(err)
	}
	for role, old := range before {
		if now := password(role); !enters(role, now) || enters(role, old) {
			t.Errorf("waggle_%s logs in with the new password: %t, with the old one: %t", role, enters(role, now), enters(role, old))
		}
	}
	vote()
}

// outside runs Postgres in the nodes' network, with the passwords that the system is going to have, and returns its address.
func outside(t *testing.T, config up.Config, name string) string {
	t.Helper()
	ctx, machine := t.Context(), docker.Engine{}
	if err := up.PrintRoles(io.Discard, config.StateDir); err != nil {
		t.Fatal(err)
	}
	builder := images.Builder{Engine: machine, Root: config.Root, Version: config.Version}
	if err := builder.EnsureBase(ctx); err != nil {
		t.Fatal(err)
	}
	built, err := builder.Build(ctx, images.Postgres)
	if err != nil {
		t.Fatal(err)
	}
	network, err := machine.Run(ctx, "network", "ls", "--filter", "label=waggle.cluster="+name, "--format", "{{.Name}}")
	if err != nil {
		t.Fatal(err)
	}
	container := name + "-postgres"
	args := []string{"run", "--detach", "--name", container, "--network", network}
	for _, secret := range []string{"postgres-admin", "postgres-drain", "postgres-results"} {
		password, err := os.ReadFile(filepath.Join(config.StateDir, secret))
		copied := filepath.Join(t.TempDir(), secret)
		if err == nil {
			err = os.WriteFile(copied, password, 0o644)
		}
		if err == nil {
			err = os.Chmod(filepath.Dir(copied), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "--volume", copied+":/run/secrets/"+secret+":ro")
	}
	t.Cleanup(func() {
		if _, err := machine.Run(context.WithoutCancel(ctx), "rm", "--force", "--volumes", container); err != nil {
			t.Errorf("removing Postgres: %v", err)
		}
	})
	if _, err := machine.Run(ctx, append(args, built[images.Postgres].Reference)...); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		health, err := machine.Run(ctx, "inspect", "--format", "{{.State.Health.Status}}", container)
		if err == nil && health == "healthy" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Postgres is %s, %v", health, err)
		}
	}
	address, err := machine.Run(ctx, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)
	if err != nil {
		t.Fatal(err)
	}
	return address
}
