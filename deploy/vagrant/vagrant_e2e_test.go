//go:build e2e

package vagrant

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/machines"
	"waggle/deploy/up"
)

// Node containers stand in for the virtual machines: they are prepared as Vagrant prepares those, and up.sh collects their
// keys. The inventory, with their addresses in place of its own, makes a Swarm of them with its roles.
func TestTheMachinesBecomeACluster(t *testing.T) {
	described, err := inventory.Read("cluster.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := copied(t)
	nodes := prepared(t, dir, described)
	runUp(t, dir, nodes)

	for i := range described.Machines {
		machine := &described.Machines[i]
		machine.Address, machine.SSH = nodes[i].Address, "vagrant@"+nodes[i].Address
		machine.IdentityFile = filepath.Join(dir, ".vagrant/waggle", machine.Name)
	}
	described.KnownHosts = filepath.Join(dir, ".vagrant/waggle/known_hosts")
	opened, err := machines.Open(t.Context(), machines.Config{Inventory: described, Root: "../..", Note: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if _, err := opened.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	did, err := opened.Form(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(did)
	labels, err := nodes[0].Engine.Run(t.Context(), "node", "inspect", "--format", "{{.Description.Hostname}} {{.Spec.Role}} {{.Spec.Labels}}",
		"manager", "edge", "capture", "worker", "store")
	if err != nil {
		t.Fatal(err)
	}
	want := `manager manager map[]
edge worker map[waggle.edge:true]
capture worker map[waggle.capture:true]
worker worker map[waggle.worker:true]
store worker map[waggle.store:true]`
	if labels != want {
		t.Errorf("got\n%s\nwant\n%s", labels, want)
	}
}

// prepared makes five nodes with the machines' host names and user vagrant, whose key is where Vagrant would put it. It runs
// prepare.sh on each, twice.
func prepared(t *testing.T, dir string, described *inventory.Inventory) []*cluster.Node {
	t.Helper()
	name := "vagrant-" + strconv.Itoa(os.Getpid())
	state := t.TempDir()
	made, err := up.CreateMachines(t.Context(), "../..", state, cluster.Config{
		Name: name, Nodes: len(described.Machines), Progress: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Delete(context.WithoutCancel(t.Context()), docker.Engine{}, name); err != nil {
			t.Errorf("removing the machines: %v", err)
		}
	})
	key, err := os.ReadFile(filepath.Join(state, "ssh-key"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("../machines/prepare.sh")
	if err != nil {
		t.Fatal(err)
	}
	for i, machine := range described.Machines {
		putFile(t, filepath.Join(dir, ".vagrant/machines", machine.Name, "libvirt/private_key"), string(key), 0o600)
		inside := func(input string, command ...string) string {
			out, err := docker.Engine{}.RunInput(t.Context(), strings.NewReader(input),
				append([]string{"exec", "--interactive", made.Nodes[i].Container}, command...)...)
			if err != nil {
				t.Fatalf("%s: %v", machine.Name, err)
			}
			return out
		}
		inside("", "sh", "-c", `hostname `+machine.Name+` && useradd --create-home --shell /bin/bash vagrant &&
			install -d -o vagrant -m 700 /home/vagrant/.ssh && install -o vagrant -m 600 /root/.ssh/authorized_keys /home/vagrant/.ssh/`)
		if i == 0 {
			// A user who does not exist is named, and a time service is installed where there is none.
			if out := inside(string(script), "sh", "-c", "cat >/tmp/prepare.sh; bash /tmp/prepare.sh nobody-here 2>&1 || true"); !strings.Contains(out, "user 'nobody-here' does not exist") {
				t.Errorf("prepare.sh for an unknown user: %s", out)
			}
		}
		for range 2 {
			if out := inside(string(script), "bash", "-s", "vagrant"); !strings.Contains(out, "ready: Docker Engine ") {
				t.Errorf("prepare.sh: %s", out)
			}
		}
		// A node container's engine gives its socket to another group than Debian's.
		inside("", "chgrp", "docker", "/var/run/docker.sock")
		if groups := inside("", "id", "-nG", "vagrant"); !slices.Contains(strings.Fields(groups), "docker") {
			t.Errorf("vagrant is in groups %s", groups)
		}
		if held := inside("", "apt-mark", "showhold"); !strings.Contains(held, "docker.io") {
			t.Errorf("held packages: %s", held)
		}
	}
	return made.Nodes
}

// runUp runs up.sh with a make that writes down its arguments.
func runUp(t *testing.T, dir string, nodes []*cluster.Node) {
	t.Helper()
	described, err := inventory.Read("cluster.yml")
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for i, machine := range described.Machines {
		args = append(args, machine.Name+"="+nodes[i].Address)
	}
	bin := t.TempDir()
	putFile(t, filepath.Join(bin, "make"), "#!/bin/sh\necho \"make $*\"\n", 0o755)
	command := exec.CommandContext(t.Context(), filepath.Join(dir, "up.sh"), args...)
	command.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := command.CombinedOutput()
	if want := "make --no-print-directory -C ../.. up INVENTORY=deploy/vagrant/cluster.yml\n"; err != nil || string(out) != want {
		t.Fatalf("up.sh: %v\ngot %s\nwant %s", err, out, want)
	}
}
