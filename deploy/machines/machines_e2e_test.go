//go:build e2e

package machines_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/machines"
	"waggle/deploy/up"
)

const root = "../.."

// roles are those of the smallest cluster in which each machine may be lost.
var roles = [][]inventory.Role{
	{inventory.Manager, inventory.Edge},
	{inventory.Manager, inventory.Edge, inventory.Capture},
	{inventory.Manager, inventory.Capture, inventory.Worker, inventory.Store},
}

type lab struct {
	*cluster.Cluster
	file  string
	notes []string
}

// start makes three bare machines with an inventory.
func start(t *testing.T) *lab {
	t.Helper()
	name := "machines-" + strconv.Itoa(os.Getpid())
	dir := t.TempDir()
	made, err := up.CreateMachines(t.Context(), root, dir, cluster.Config{
		Name: name, Nodes: len(roles), Progress: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Delete(context.WithoutCancel(t.Context()), docker.Engine{}, name); err != nil {
			t.Errorf("removing the machines: %v", err)
		}
	})
	return &lab{Cluster: made, file: filepath.Join(dir, up.InventoryFile)}
}

// with opens the machines of the inventory, changed by change if that is not nil.
func (l *lab) with(t *testing.T, change func(*inventory.Inventory), do func(*machines.Machines)) error {
	t.Helper()
	read, err := inventory.Read(l.file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range read.Machines {
		read.Machines[i].Roles = roles[i]
	}
	if change != nil {
		change(read)
	}
	l.notes = nil
	opened, err := machines.Open(t.Context(), machines.Config{
		Inventory: read, Root: root, Note: func(line string) { l.notes = append(l.notes, line) },
	})
	if err != nil {
		return err
	}
	do(opened)
	if err := opened.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	return nil
}

func (l *lab) form(t *testing.T, change func(*inventory.Inventory)) string {
	t.Helper()
	var did string
	err := l.with(t, change, func(m *machines.Machines) {
		found, err := m.Check(t.Context())
		if err != nil {
			t.Fatalf("checking: %v", err)
		}
		if did, err = m.Form(t.Context()); err != nil {
			t.Fatalf("forming: %v", err)
		}
		t.Logf("%s: %s", found, did)
	})
	if err != nil {
		t.Fatal(err)
	}
	return did
}

// refused is what Check says; it changes nothing.
func (l *lab) refused(t *testing.T, change func(*inventory.Inventory)) string {
	t.Helper()
	var refusal error
	if err := l.with(t, change, func(m *machines.Machines) { _, refusal = m.Check(t.Context()) }); err != nil {
		return err.Error()
	}
	if refusal == nil {
		t.Fatal("nothing was found")
	}
	return refusal.Error()
}

func (l *lab) exec(t *testing.T, node int, command string) string {
	t.Helper()
	out, err := docker.Engine{}.Run(t.Context(), "exec", l.Nodes[node-1].Container, "sh", "-c", command)
	if err != nil {
		t.Fatalf("%s on node%d: %v", command, node, err)
	}
	return out
}

func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, part := range want {
		if !strings.Contains(got, part) {
			t.Errorf("got %q\nlacks %q", got, part)
		}
	}
}

// One test, since machines take seconds to make. What hinders is found before anything changes. Then a Swarm is
// formed, left alone by a second run, changed with the inventory, and served with a machine down.
func TestMachines(t *testing.T) {
	l := start(t)

	contains(t, l.refused(t, func(i *inventory.Inventory) {
		i.Machines[1].HostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHbmWm3l4HkFkSWRxWbTPKSxqpzRmNnnZAnqvGDnSGnO"
	}), "node2: it does not have the host key that is expected")
	contains(t, l.refused(t, func(i *inventory.Inventory) { i.Machines[0].Name = "other" }), `other: its host name is "node1"`)
	contains(t, l.refused(t, func(i *inventory.Inventory) { i.Network.Pool = "10.80.0.0/12" }), "overlaps its route to")

	const drop = "iptables -I INPUT -p udp --dport 7946 -j DROP"
	l.exec(t, 2, drop)
	contains(t, l.refused(t, nil), "node1 → node2: port 7946/udp does not answer", "node3 → node2: port 7946/udp")
	l.exec(t, 2, strings.Replace(drop, "-I", "-D", 1))

	const shrink = "iptables -I INPUT -p udp --dport 4789 -m length --length 1301:65535 -j DROP"
	l.exec(t, 3, shrink)
	contains(t, l.refused(t, nil), "node1 → node3: overlay packets of 1450 bytes do not get through. Set network: mtu to 1250")
	l.exec(t, 3, strings.Replace(shrink, "-I", "-D", 1))

	for i := range l.Nodes {
		if state := l.exec(t, i+1, "docker info --format '{{.Swarm.LocalNodeState}}'"); state != "inactive" {
			t.Errorf("a check changed node%d: its Swarm is %s", i+1, state)
		}
	}

	contains(t, l.form(t, nil), "started on node1; joined node2, node3", "labelled node3")
	if did := l.form(t, nil); did != "found" {
		t.Errorf("a second run: %s", did)
	}
	labels := l.exec(t, 1, "docker node inspect node3 --format '{{.Spec.Role}} {{.Spec.Labels}}'")
	if want := "manager map[waggle.capture:true waggle.store:true waggle.worker:true]"; labels != want {
		t.Errorf("node3 is %s, want %s", labels, want)
	}

	did := l.form(t, func(i *inventory.Inventory) {
		i.Machines[1].Roles = []inventory.Role{inventory.Edge, inventory.Worker}
	})
	contains(t, did, "demoted node2", "labelled node2")
	if labels := l.exec(t, 1, "docker node inspect node2 --format '{{.Spec.Role}} {{.Spec.Labels}}'"); labels != "worker map[waggle.edge:true waggle.worker:true]" {
		t.Errorf("node2 is %s", labels)
	}
	contains(t, l.form(t, nil), "promoted node2", "labelled node2")

	if err := l.Nodes[1].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.with(t, nil, func(m *machines.Machines) {
		if _, err := m.Check(t.Context()); err != nil {
			t.Errorf("with a machine down: %v", err)
		}
		if gateways := m.Gateways(); len(gateways) != 1 || len(m.Engines()) != 2 {
			t.Errorf("with a machine down: gateways %v, %d engines", gateways, len(m.Engines()))
		}
	}); err != nil {
		t.Fatal(err)
	}
	contains(t, strings.Join(l.notes, "\n"), "node2 does not answer and is skipped")
}
