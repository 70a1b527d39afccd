// Package vagrant has tests alone: of the inventory, the Vagrantfile and the scripts beside it.
package vagrant

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waggle/deploy/inventory"
)

func TestTheFiveMachinesHaveTheirNamesAddressesAndRoles(t *testing.T) {
	t.Parallel()
	cluster, err := inventory.Read("cluster.yml")
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		role    inventory.Role
		address string
	}{
		{inventory.Manager, "192.168.33.11"}, {inventory.Edge, "192.168.33.12"}, {inventory.Capture, "192.168.33.20"},
		{inventory.Worker, "192.168.33.200"}, {inventory.Store, "192.168.33.250"},
	}
	if len(cluster.Machines) != len(want) {
		t.Fatalf("%d machines, want %d", len(cluster.Machines), len(want))
	}
	for i, machine := range cluster.Machines {
		w := want[i]
		if machine.Name != string(w.role) || machine.Address != w.address || !slices.Equal(machine.Roles, []inventory.Role{w.role}) {
			t.Errorf("machine %d is %s at %s with %v; want %s at %s", i, machine.Name, machine.Address, machine.Roles, w.role, w.address)
		}
		// What up.sh collects is where the inventory looks for it.
		if machine.SSH != "vagrant@"+w.address || !strings.HasSuffix(machine.IdentityFile, "/deploy/vagrant/.vagrant/waggle/"+machine.Name) {
			t.Errorf("machine %s: ssh %s with %s", machine.Name, machine.SSH, machine.IdentityFile)
		}
	}
	if cluster.Edge.Port != 80 || cluster.Edge.TLSPort != 443 {
		t.Errorf("edge ports %d and %d, want 80 and 443", cluster.Edge.Port, cluster.Edge.TLSPort)
	}
	if !strings.HasSuffix(cluster.KnownHosts, "/deploy/vagrant/.vagrant/waggle/known_hosts") {
		t.Errorf("host keys are looked for in %s", cluster.KnownHosts)
	}
}

// The Vagrantfile has no machines of its own; what it names has to be there.
func TestTheVagrantfileMakesWhatTheInventoryDescribes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("Vagrantfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`YAML.load_file(File.join(__dir__, "cluster.yml"))["machines"]`,
		`config.vm.box = "debian/bookworm64"`,
		`%w[virtualbox libvirt].each`,
		`machine.vm.hostname = described["name"]`,
		`machine.vm.network "private_network", ip: described["address"]`,
		`next unless described == machines.last`,
		`machine.trigger.after :up`,
		`trigger.run = { path: "up.sh"`,
		`config.vm.provision "shell", path: "../machines/prepare.sh"`,
		`ENV["VAGRANT_NO_PARALLEL"] = "yes"`,
	} {
		if !strings.Contains(string(text), part) {
			t.Errorf("the Vagrantfile lacks %s", part)
		}
	}
	if strings.Contains(string(text), "192.168.") {
		t.Error("the Vagrantfile has an address: those of the inventory alone count")
	}
	for _, script := range []string{"up.sh", "../machines/prepare.sh"} {
		if info, err := os.Stat(script); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be run: %v", script, err)
		}
	}
}

func TestScriptsPassShellcheck(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), "shellcheck", "up.sh", "../machines/prepare.sh").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// copied is a folder like this one below a repository of its own, in which nothing has been made yet.
func copied(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "deploy", "vagrant")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"up.sh", "cluster.yml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func putFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestAMachineThatIsNotThereIsNamed(t *testing.T) {
	t.Parallel()
	dir := copied(t)
	run := func() string {
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "up.sh"), "edge=127.0.0.99").CombinedOutput()
		if err == nil {
			t.Fatalf("it went on: %s", out)
		}
		return string(out)
	}
	if got, want := run(), "there is no key for edge below .vagrant/machines. Run: vagrant up edge"; !strings.Contains(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
	putFile(t, filepath.Join(dir, ".vagrant/machines/edge/libvirt/private_key"), "key", 0o600)
	if got, want := run(), "edge does not answer at 127.0.0.99"; !strings.Contains(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
