//go:build e2e

package aws

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"waggle/deploy/docker"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/up"
)

// lab is a stack of node containers: each runs the user data of its role against the test's account.
type lab struct {
	*account
	t        *testing.T
	nodes    map[string]*cluster.Node // by role; the second manager is manager2
	settings string
	archives int
}

var machineRoles = []string{"manager", "manager2", "edge", "capture", "worker", "store"}

func start(t *testing.T) *lab {
	t.Helper()
	l := &lab{account: newAccount(t), t: t, nodes: map[string]*cluster.Node{}}
	name := "aws-" + strconv.Itoa(os.Getpid())
	made, err := up.CreateMachines(t.Context(), "../..", t.TempDir(), cluster.Config{
		Name: name, Nodes: len(machineRoles), Progress: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		// The loop device is the machine's: it does not go with the container.
		_, _ = docker.Engine{}.Run(ctx, "exec", l.nodes["store"].Container, "sh", "-c", "umount -l /var/lib/docker/volumes; losetup -D")
		if err := cluster.Delete(ctx, docker.Engine{}, name); err != nil {
			t.Errorf("removing the machines: %v", err)
		}
	})
	gateway := made.Nodes[0].Address[:strings.LastIndexByte(made.Nodes[0].Address, '.')] + ".1"
	listener, err := net.Listen("tcp", gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: l.account, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })

	for i, role := range machineRoles {
		node := made.Nodes[i]
		l.nodes[role] = node
		l.machines[node.Address] = &instance{
			id: fmt.Sprintf("i-0a%d", i), role: strings.TrimSuffix(role, "2"), address: node.Address, life: "InService",
		}
		l.prepare(role, listener.Addr().String())
	}
	l.settings = newResolver(t, nil).resources()["Settings"].properties["Value"].(string)
	l.settings = strings.NewReplacer("ref:StoreVolume", "vol-0store", "ref:State", "state").Replace(l.settings)
	l.publish("1.2.3")
	return l
}

// prepare leads the addresses of AWS, and of a gateway, to the test, and puts the stubs in their places.
func (l *lab) prepare(role, server string) {
	l.t.Helper()
	for name, file := range map[string]string{"aws": "testdata/aws"} {
		l.put(role, "/usr/local/bin/"+name, text(l.t, file))
	}
	// A container has no systemd. The agent for people who log in is said to run already.
	l.put(role, "/usr/local/bin/systemctl", "#!/bin/sh\necho \"$*\" >>/tmp/systemctl.log\n")
	l.run(role, "iptables -t nat -I OUTPUT -d 169.254.169.254 -p tcp --dport 80 -j DNAT --to-destination "+server)
	if role == "edge" {
		l.run(role, "iptables -t nat -I PREROUTING -p tcp --dport 80 -j DNAT --to-destination "+server+
			" && iptables -t nat -I POSTROUTING -p tcp -d "+server[:strings.LastIndexByte(server, ':')]+" -j MASQUERADE && sysctl -qw net.ipv4.ip_forward=1")
	}
}

func (l *lab) run(role, command string) string {
	l.t.Helper()
	out, err := l.try(role, command)
	if err != nil {
		l.t.Fatalf("%s: %s: %v\n%s", role, command, err, out)
	}
	return out
}

func (l *lab) try(role, command string) (string, error) {
	return docker.Engine{}.Run(l.t.Context(), "exec", l.nodes[role].Container, "bash", "-c", command)
}

func (l *lab) put(role, file, content string) {
	l.t.Helper()
	_, err := docker.Engine{}.RunInput(l.t.Context(), strings.NewReader(content), "exec", "--interactive", l.nodes[role].Container,
		"sh", "-c", "mkdir -p "+path.Dir(file)+" && cat >"+file+" && chmod 755 "+file)
	if err != nil {
		l.t.Fatal(err)
	}
}

// publish puts a release into the bucket, with the real scripts, and names it in the settings.
func (l *lab) publish(version string) {
	l.t.Helper()
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	add := func(name string, content []byte) {
		if err := out.WriteHeader(&tar.Header{Name: "waggle-" + version + "/" + name, Size: int64(len(content)), Mode: 0o755}); err != nil {
			l.t.Fatal(err)
		}
		if _, err := out.Write(content); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, name := range []string{"common.sh", "boot.sh", "fetch.sh", "tend.sh"} {
		add("deploy/aws/"+name, []byte(text(l.t, name)))
	}
	add("deploy/machines/prepare.sh", []byte(text(l.t, "../machines/prepare.sh")))
	add("functions/polls.json", []byte("{}"))
	add("waggle", []byte(text(l.t, "testdata/waggle")))
	images, id, reference := l.images()
	add("images.tar.gz", images)
	manifest, err := json.Marshal(map[string]any{"version": version, "images": map[string]any{"provider": map[string]string{"reference": reference, "id": id}}})
	if err != nil {
		l.t.Fatal(err)
	}
	add("images.json", manifest)
	if err := out.Close(); err != nil {
		l.t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(archive.Bytes()))
	l.change(func() {
		l.objects["releases/waggle-1.2.3-linux-amd64.tar"] = archive.Bytes()
		var settings []string
		for line := range strings.Lines(l.settings) {
			if strings.HasPrefix(line, "CHECKSUM=") {
				line = "CHECKSUM=" + sum
			}
			settings = append(settings, strings.TrimSpace(line))
		}
		l.parameters["/waggle/demo/settings"] = strings.Join(settings, "\n")
	})
}

// images makes the archive of the release's one image.
func (l *lab) images() (archive []byte, id, reference string) {
	l.t.Helper()
	l.archives++
	dir := l.t.TempDir()
	build := exec.CommandContext(l.t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(dir, "program"), "./testdata/program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
	engine := docker.Engine{}
	reference = fmt.Sprintf("localhost/waggle/provider:test%d-%d", os.Getpid(), l.archives)
	pack := exec.CommandContext(l.t.Context(), "tar", "-C", dir, "-c", "program")
	packed, err := pack.Output()
	if err != nil {
		l.t.Fatal(err)
	}
	if id, err = engine.RunInput(l.t.Context(), bytes.NewReader(packed), "import", "--change", `ENTRYPOINT ["/program"]`, "-", reference); err != nil {
		l.t.Fatal(err)
	}
	var saved bytes.Buffer
	out := gzip.NewWriter(&saved)
	if err := engine.Stream(l.t.Context(), nil, out, "save", reference); err != nil {
		l.t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		l.t.Fatal(err)
	}
	if _, err := engine.Run(l.t.Context(), "rmi", reference); err != nil {
		l.t.Fatal(err)
	}
	return saved.Bytes(), id, reference
}

// boot runs the user data of every machine at the same time, as AWS does.
func (l *lab) boot() {
	l.t.Helper()
	all := newResolver(l.t, nil).resources()
	group, ctx := errgroup.WithContext(l.t.Context())
	for _, role := range machineRoles {
		kind := strings.TrimSuffix(role, "2")
		data := all[strings.ToUpper(kind[:1])+kind[1:]+"Template"].properties["LaunchTemplateData"].(map[string]any)
		l.put(role, "/user-data", data["UserData"].(string))
		group.Go(func() error {
			out, err := docker.Engine{}.Run(ctx, "exec", l.nodes[role].Container, "sh", "-c", "/user-data 2>&1")
			if err != nil {
				return fmt.Errorf("booting %s: %w\n%s", role, err, out)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		l.t.Fatal(err)
	}
}

// pass is one run of the managers' timer.
func (l *lab) pass() {
	l.t.Helper()
	for _, role := range []string{"manager", "manager2"} {
		if out, err := l.try(role, "/opt/waggle/current/deploy/aws/tend.sh 2>&1"); err != nil {
			l.t.Logf("%s: %v\n%s", role, err, out)
		} else if out != "" {
			l.t.Logf("%s: %s", role, out)
		}
	}
}

// until lets passes happen until a condition holds.
func (l *lab) until(what string, holds func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			l.t.Fatalf("it never came to this: %s; status %q", what, l.parameter("status"))
		}
		l.pass()
		time.Sleep(500 * time.Millisecond)
	}
}

func (l *lab) id(role string) string { return l.machines[l.nodes[role].Address].id }
func (l *lab) name(role string) string {
	return l.machines[l.nodes[role].Address].role + "-" + strings.TrimPrefix(l.id(role), "i-")
}

func (l *lab) ending(role string) {
	l.change(func() { l.machines[l.nodes[role].Address].life = "Terminating:Wait" })
}

func (l *lab) mayEnd(role string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.completed[l.id(role)]
}

// stream is a line of the ledger.
func (l *lab) stream(role, state string, pending int, seen time.Time) {
	name := l.name(role)
	l.change(func() {
		l.account.ledger = []map[string]any{{"node": name, "state": state, "pending": pending, "seen_at": seen.UTC().Format(time.RFC3339Nano)}}
	})
}

func (l *lab) runs() string {
	out, _ := l.try(l.leader(), "wc -l </tmp/waggle.runs 2>/dev/null || echo 0")
	return strings.TrimSpace(out)
}

func (l *lab) leader() string {
	for _, role := range []string{"manager", "manager2"} {
		if out, err := l.try(role, "docker node inspect self --format '{{.ManagerStatus.Leader}}'"); err == nil && out == "true" {
			return role
		}
	}
	l.t.Fatal("there is no leader")
	return ""
}

// One story, since machines take their time. A stack starts, is deployed, and takes a new release. Then it loses a machine of
// each kind that has something to lose.
func TestAStackOfMachines(t *testing.T) {
	l := start(t)
	l.boot()
	members := l.run("manager", "docker node ls --format '{{.Hostname}} {{.ManagerStatus}}'")
	for _, role := range machineRoles {
		if !strings.Contains(members, l.name(role)) || l.signals[l.id(role)] == "" {
			t.Fatalf("%s is no member, or has not said that it is ready: %s; %v", role, members, l.signals)
		}
	}
	if got := l.signals[l.id("capture")]; got != "CaptureMachines" || strings.Count(members, "Reachable")+strings.Count(members, "Leader") != 2 {
		t.Errorf("the capture machine signals %s; members:\n%s", got, members)
	}
	if timers := l.run("manager", "cat /tmp/systemctl.log; cat /etc/systemd/system/waggle-tend.service"); !strings.Contains(timers, "enable --now waggle-fetch.timer") ||
		!strings.Contains(timers, "enable --now waggle-tend.timer") || !strings.Contains(timers, "ExecStart=/opt/waggle/current/deploy/aws/tend.sh") {
		t.Errorf("timers of a manager: %s", timers)
	}
	if timers := l.run("capture", "cat /tmp/systemctl.log"); strings.Contains(timers, "tend") {
		t.Errorf("timers of a capture machine: %s", timers)
	}
	if mounted := l.run("store", "findmnt -no FSTYPE /var/lib/docker/volumes; cat /etc/systemd/system/docker.service.d/volume.conf; /opt/waggle/current/deploy/aws/boot.sh 2>&1"); !strings.Contains(mounted, "ext4") ||
		!strings.Contains(mounted, "RequiresMountsFor=/var/lib/docker/volumes") {
		t.Errorf("the store's volume: %s", mounted)
	}

	l.until("deployed", func() bool { return strings.HasPrefix(l.parameter("status"), "up: ") })
	leader := l.leader()
	if env := l.run(leader, "cat /tmp/waggle.env"); env != "COPIES=2 prefer\nGATEWAYS=http://"+l.nodes["edge"].Address+"\nPORT=80\nPRELOADED=1\nPUBLIC_ORIGINS=\nQUEUE_MAXMEMORY=256mb\nREDIS_MAXMEMORY=2048mb\nWORKERS=2" {
		t.Errorf("the deploy program was given\n%s", env)
	}
	for _, secret := range []string{"worker-token", "manager-token", "basic-auth-password"} {
		if !l.secure["/waggle/demo/"+secret] || l.parameter(secret) == "" {
			t.Errorf("%s is not stored, or not encrypted", secret)
		}
	}
	if len(l.objects["state/state.tar.gz"]) == 0 {
		t.Error("the deploy program's state is not kept")
	}
	if got := l.parameter("managers"); len(strings.Fields(got)) != 2 {
		t.Errorf("managers: %s", got)
	}
	l.pass()
	if runs := l.runs(); runs != "1" {
		t.Errorf("a pass without a change deployed again: %s", runs)
	}

	t.Run("a new release waits until every machine has it", l.newRelease)
	t.Run("a capture machine ends when its votes are counted", l.endCapture)
	t.Run("an edge machine ends when its queue is empty", l.endEdge)
	t.Run("a manager is demoted before it ends", l.endManager)
	if len(l.refused) > 0 {
		t.Errorf("the template's roles do not allow what the scripts do: %v", l.refused)
	}
	for call := range l.calls {
		t.Log("call: aws " + call)
	}
}

func (l *lab) newRelease(t *testing.T) {
	l.publish("1.2.4")
	const fetch = "/opt/waggle/current/deploy/aws/fetch.sh 2>&1"
	for _, role := range machineRoles {
		if role != "worker" {
			l.run(role, fetch)
		}
	}
	l.pass()
	if status := l.parameter("status"); !strings.Contains(status, "waiting until every machine has release") || l.runs() != "1" {
		t.Fatalf("status %q after %s runs", status, l.runs())
	}
	l.run("worker", fetch)
	l.until("the new release is deployed", func() bool { return l.runs() == "2" })
	if again := l.run("worker", fetch); again != "" {
		t.Errorf("fetching again did something: %s", again)
	}
}

func (l *lab) endCapture(t *testing.T) {
	name, id := l.name("capture"), l.id("capture")
	placed := func(service string) bool {
		return strings.Contains(l.run(l.leader(), "docker service ps "+service+" --filter node="+name+" --format '{{.CurrentState}}'"), "Running")
	}
	l.until("votes are taken", func() bool { return placed("vote") && placed("waggle_redis") })
	before := time.Now()
	l.stream("capture", "active", 3, before)
	l.ending("capture")
	l.until("no votes are taken", func() bool { return !placed("vote") })
	l.until("its time was extended thrice", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.extended[id] >= 3
	})
	l.stream("capture", "active", 0, before)
	for range 3 {
		l.pass()
	}
	if l.mayEnd("capture") || !placed("waggle_redis") {
		t.Fatal("it is let go on a reading from before its last vote")
	}
	l.stream("capture", "active", 0, time.Now().Add(20*time.Second))
	retired := func() bool {
		out, err := l.try(l.leader(), "docker service ps waggle-retire --format '{{.CurrentState}}' && docker service inspect waggle-retire --format '{{.Spec.TaskTemplate.ContainerSpec.Args}}'")
		return err == nil && strings.Contains(out, "Complete") && strings.Contains(out, "[retire -node "+name+" -drained]")
	}
	l.until("it is written off", retired)
	if l.mayEnd("capture") || placed("waggle_redis") {
		t.Error("it is let go before the ledger says that it is written off, or its Redis still runs")
	}
	l.stream("capture", "retired", 0, time.Now())
	l.until("it may end", func() bool { return l.mayEnd("capture") })

	if err := l.nodes["capture"].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.change(func() { l.machines[l.nodes["capture"].Address].life = "" })
	l.until("it is forgotten", func() bool { return !strings.Contains(l.run(l.leader(), "docker node ls"), name) })
	if status := l.parameter("status"); !strings.Contains(status, "waiting for a machine with role capture") {
		t.Errorf("status %q", status)
	}
}

func (l *lab) endEdge(t *testing.T) {
	l.change(func() { l.queued = 2 })
	l.ending("edge")
	for range 2 {
		l.pass()
	}
	if l.mayEnd("edge") {
		t.Fatal("it is let go with calls in its queue")
	}
	l.change(func() { l.queued = 0 })
	l.until("it may end", func() bool { return l.mayEnd("edge") })
}

func (l *lab) endManager(t *testing.T) {
	leader := l.leader()
	l.ending(leader)
	l.until("it may end", func() bool { return l.mayEnd(leader) })
	other := l.leader()
	kinds := l.run(other, "docker node ls --filter role=manager --format '{{.Hostname}}'")
	if other == leader || kinds != l.name(other) {
		t.Errorf("managers are %s", kinds)
	}
	// The last one ends with the Swarm, and leaves nothing that a new stack of this name would trip over.
	l.ending(other)
	l.until("the last may end", func() bool { return l.mayEnd(other) })
	for _, name := range []string{"first", "managers", "worker-token", "manager-token"} {
		if l.parameter(name) != "" {
			t.Errorf("parameter %s is left", name)
		}
	}
}
