//go:build e2e

package operate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/lab/testbed"
)

const votesPerSecond = 300

// TestOperate needs its first step always: -run 'TestOperate/(before|draining)'.
func TestOperate(t *testing.T) {
	l := start(t)
	for _, s := range l.operating() {
		if !l.follow(t, s) {
			break
		}
	}
	l.verdict(t)
}

// operating are its steps. Votes come in from the end of the first to the announcement.
func (l *lab) operating() []step {
	return []step{
		{"before the event", []string{"Size the machines", "Bring them up", "Make a backup, and keep the passphrase elsewhere", "Load it before voters do", "On the day"}, l.before},
		{"the price of a vote", nil, l.testPrice},
		{"rotating every secret", []string{"change a secret"}, l.testRotate},
		{"upgrading, rolling back and cleaning up", []string{
			"upgrade", "go back", "`make up` failed half-way", "clean up", "`make up`: somebody *has been deploying since*",
		}, l.testRollback},
		{"adding a machine", []string{"add a machine"}, l.testAdd},
		{"changing certificate, polls, memory and a registry's password", []string{
			"change the certificate", "change polls", "change a registry's password", "Redis is full: voters get 503",
		}, l.testSettings},
		{"rebooting each node", []string{"On the day", "Bring them up"}, l.testReboots},
		{"restoring a backup", []string{"back up", "restore votes"}, l.testRestore},
		{"restoring a moment", []string{
			"Bring them up", "On the day", "back up", "restore the votes of a moment", "`make status`: the archive *takes no log*",
		}, l.testArchive},
		{"another operator", []string{"back up", "let another operator take over"}, l.testTakeOver},
		{"draining a capture node", []string{"take a capture node out", "an engine or a machine has to be upgraded"}, l.testDrain},
		{"a machine that was off too long", []string{"node certificates ended: a machine was off for 90 days"}, l.testExpired},
		{"a machine with another address", []string{"a machine got another address"}, l.testMoved},
		{"looking at what runs", []string{
			"`make status`: a service is not settled", "*not counted yet* keeps growing", "names of tasks are stale after a partition",
		}, l.testLook},
		{"announcing", []string{"announce"}, l.testAnnounce},
		{"losing a disk", []string{"*votes … cannot be accounted for* (a gap)", "*captured votes are lost*"}, l.testLostDisk},
		{"removing a machine", []string{"take a machine away"}, l.testRemove},
		{"beginning anew", []string{"the passphrase and the state are lost"}, l.testPurge},
	}
}

func (l *lab) passphrase(t *testing.T) string {
	t.Helper()
	file := filepath.Join(l.scratch, "passphrase")
	if err := os.WriteFile(file, []byte("a passphrase of the test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "PASSPHRASE_FILE=" + file
}

// backup returns the folder that the page's command made.
func (l *lab) backup(t *testing.T) string {
	t.Helper()
	out := t.TempDir()
	l.run(t, "make backup", "OUT="+out, l.passphrase(t))
	folders, err := os.ReadDir(out)
	if err != nil || len(folders) != 1 {
		t.Fatalf("OUT has %v, %v", folders, err)
	}
	kept := filepath.Join(l.scratch, folders[0].Name())
	if err := os.Rename(filepath.Join(out, folders[0].Name()), kept); err != nil {
		t.Fatal(err)
	}
	return kept
}

func (l *lab) before(t *testing.T) {
	l.certificate(t)
	l.inventory(t, everything, voting)
	l.run(t, "make capacity")
	l.run(t, "make up")
	if said := l.run(t, "make up"); !strings.Contains(said, "nothing changed") {
		t.Errorf("a second run: %s", said)
	}
	l.backup(t)
	l.run(t, "make voters", "20000=2000")
	l.run(t, "make status")
	l.vote(t, votesPerSecond, 2) // the first two machines are there from the first to the last moment
}

// certificate gives the gateways a new one, which signs itself, at the next make up.
func (l *lab) certificate(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	number, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: number, DNSNames: []string{"vote.example"}, NotAfter: time.Now().Add(24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	l.all.Edge.TLS = inventory.TLS{Cert: filepath.Join(l.scratch, number.String()+".pem"), Key: filepath.Join(l.scratch, number.String()+".key")}
	if err := errors.Join(
		os.WriteFile(l.all.Edge.TLS.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(l.all.Edge.TLS.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
}

// shown is the certificate that a node's gateway shows.
func (l *lab) shown(t *testing.T, node *cluster.Node) string {
	t.Helper()
	conn, err := tls.Dial("tcp", node.Address+":8443", &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: conn.ConnectionState().PeerCertificates[0].Raw}))
}

func (l *lab) testRotate(t *testing.T) {
	names := []string{"basic-auth-password", "redis-capture", "redis-copies", "redis-drain", "redis-queue", "postgres-admin", "postgres-drain", "postgres-results", "voter-keys"}
	before := map[string]string{}
	for _, name := range names {
		before[name] = l.secret(t, name)
	}
	l.run(t, "make rotate", "SECRET=all")
	for _, name := range names {
		if l.secret(t, name) == before[name] {
			t.Errorf("%s is what it was", name)
		}
	}
	if now, then := l.status(t, l.secret(t, "basic-auth-password")), l.status(t, before["basic-auth-password"]); now != 200 || then != 401 {
		t.Errorf("the new password is answered by %d, the old one by %d", now, then)
	}
	if left := l.docker(t, "secret", "ls", "--quiet", "--filter", "label=com.waggle.credential=redis-drain"); len(strings.Fields(left)) != 1 {
		t.Errorf("secrets of redis-drain that are left: %s", left)
	}
}

// testRollback deploys another version of one part, and goes back.
func (l *lab) testRollback(t *testing.T) {
	image := func() string {
		return l.docker(t, "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "waggle_postgres")
	}
	first := image()
	hba := filepath.Join(l.upstream, "deploy/images/postgres/pg_hba.conf")
	text, err := os.ReadFile(hba)
	if err == nil {
		err = os.WriteFile(hba, append([]byte("# Another version.\n"), text...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	git(t, l.upstream, "-c", "user.name=operate", "-c", "user.email=operate@example.org", "commit", "--quiet", "--all", "--message", "Another version")
	l.run(t, "git pull")
	l.run(t, "make up")
	second := image()
	if second == first {
		t.Fatalf("both versions have %s", first)
	}
	l.run(t, "make rollback")
	if got := image(); got != first {
		t.Errorf("rolled back to %s, want %s", got, first)
	}

	// A run whose machine is gone has left its lock.
	l.docker(t, "config", "create", "--label", "com.waggle.holder=somebody@elsewhere", "--label", "com.waggle.process=1",
		"--label", "com.waggle.since="+time.Now().Format(time.RFC3339), "waggle-deploy-lock", "/etc/hostname")
	l.builder = l.Nodes[0].Engine.Host // this machine's own images are not the test's
	defer func() { l.builder = "" }()
	l.refused(t, "somebody@elsewhere has been deploying since", "make prune")
	l.at(t, l.Nodes[0], "docker config rm")
	l.run(t, "make prune")
	for _, kept := range []string{first, second} {
		if has, err := l.Nodes[0].Engine.HasImage(t.Context(), kept); err != nil || !has {
			t.Errorf("%s was pruned, %v", kept, err)
		}
	}
}

func (l *lab) testAdd(t *testing.T) {
	l.inventory(t, everything, voting, voting)
	l.run(t, "make up")
	replicas := l.docker(t, "service", "ps", "--filter", "desired-state=running", "--format", "{{.Node}}", "vote")
	for _, node := range l.Nodes {
		if !strings.Contains(replicas, node.Name) {
			t.Errorf("%s has no ballot: %q", node.Name, replicas)
		}
	}
}

func (l *lab) testSettings(t *testing.T) {
	l.certificate(t)
	l.all.Capture.MaxMemory = "300mb"
	l.inventory(t, everything, voting, voting)
	polls := filepath.Join(l.sources, "functions", "polls.json")
	text, err := os.ReadFile(polls)
	if err == nil {
		more := `}, {"id": 2, "slug": "drinks", "question": "Tea or coffee?", "options": [{"id": 1, "slug": "tea", "name": "Tea"}, {"id": 2, "slug": "coffee", "name": "Coffee"}],
			"opens": "2026-01-01T00:00:00Z", "closes": "2036-01-01T00:00:00Z", "mode": "last", "results": "live"}]}`
		err = os.WriteFile(polls, []byte(strings.TrimRight(string(text), "]} \n")+more), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if said := l.run(t, "make polls"); !strings.Contains(said, "change of drinks") {
		t.Errorf("make polls: %s", said)
	}
	l.run(t, "make up")
	want, err := os.ReadFile(l.all.Edge.TLS.Cert)
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range l.Nodes {
		if got := l.shown(t, node); got != string(want) {
			t.Errorf("%s shows certificate\n%s", node.Name, got)
		}
	}
	if env := l.docker(t, "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Env}}", "waggle_redis"); !strings.Contains(env, "REDIS_MAXMEMORY=300mb") {
		t.Errorf("Redis has %s", env)
	}
	if results, _, err := l.results(); err != nil || !strings.Contains(string(results), "Tea or coffee?") {
		t.Errorf("the results lack the new poll: %s, %v", results, err)
	}

	mounted := func() string {
		return l.docker(t, "service", "inspect", "--format", "{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{println .SecretName}}{{end}}", "waggle_provider")
	}
	was := mounted()
	registries := filepath.Join(l.scratch, "config.json")
	if err := os.WriteFile(registries, []byte(`{"auths":{"registry.example.org":{"auth":"dXNlcjpwYXNz"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	l.run(t, "make up REGISTRY_CONFIG=config.json", "REGISTRY_CONFIG="+registries)
	if mounted() == was {
		t.Errorf("the provider has the credentials of before: %s", was)
	}
}

// testReboots boots one node after the other, the manager with Postgres last.
func (l *lab) testReboots(t *testing.T) {
	for i := range l.Nodes {
		node := l.Nodes[len(l.Nodes)-1-i]
		l.reboot(t, node)
		l.run(t, "make up")
	}
	l.whole(t)
}

// testRestore takes the votes back to a backup while voting goes on: Redis still holds what came after it.
func (l *lab) testRestore(t *testing.T) {
	l.run(t, "make restore", "FROM="+l.backup(t), l.passphrase(t))
}

// testTakeOver goes on at another machine.
func (l *lab) testTakeOver(t *testing.T) {
	from := l.backup(t)
	l.home = filepath.Join(l.scratch, "elsewhere")
	l.run(t, "make restore", "FROM="+from, l.passphrase(t))
	if said := l.run(t, "make up"); !strings.Contains(said, "nothing changed") {
		t.Errorf("make up with the restored state: %s", said)
	}
}

// testDrain takes a node out, boots it, and gives it its work back.
func (l *lab) testDrain(t *testing.T) {
	l.inventory(t, everything, voting, voting)
	l.run(t, "make drain", "NODE=node3")
	l.at(t, l.Nodes[2], "apt-mark hold")
	l.reboot(t, l.Nodes[2])
	l.run(t, "make up")
}

// testExpired lets a machine join anew whose certificate ended; its disk has votes.
func (l *lab) testExpired(t *testing.T) {
	node := l.Nodes[2]
	l.at(t, node, "docker swarm leave")
	l.down(t, node.Name)
	l.at(t, l.Nodes[0], "docker node rm", "m2="+node.Name)
	l.run(t, "make up")
	l.member(t, node)
}

// down waits until the managers have noticed.
func (l *lab) down(t *testing.T, name string) {
	t.Helper()
	testbed.Eventually(t, time.Minute, func() error {
		members, err := l.Nodes[l.asked].Engine.Run(t.Context(), "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
		if err == nil && !strings.Contains(members, name+" Down") {
			err = fmt.Errorf("members are %q", members)
		}
		return err
	})
}

// member checks that the Swarm lists a machine once, and that it does its work again. Its ballot returns by itself.
func (l *lab) member(t *testing.T, node *cluster.Node) {
	t.Helper()
	if members := l.docker(t, "node", "ls", "--format", "{{.Hostname}}"); strings.Count(members, node.Name) != 1 {
		t.Errorf("members are %q", members)
	}
	testbed.Eventually(t, 2*time.Minute, func() error {
		runs, err := l.Nodes[l.asked].Engine.Run(t.Context(), "node", "ps", "--filter", "desired-state=running", "--format", "{{.Name}}", node.Name)
		if err == nil && (!strings.Contains(runs, "waggle_redis") || !strings.Contains(runs, "vote")) {
			err = fmt.Errorf("on %s run %q", node.Name, runs)
		}
		return err
	})
}

// testMoved gives a machine another address while it is off.
func (l *lab) testMoved(t *testing.T) {
	node, machine := l.Nodes[2], docker.Engine{}
	network, err := machine.Run(t.Context(), "inspect", "--format", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}", node.Container)
	if err != nil {
		t.Fatal(err)
	}
	cut := strings.LastIndexByte(node.Address, '.')
	last, err := strconv.Atoi(node.Address[cut+1:])
	if err != nil {
		t.Fatal(err)
	}
	node.Address = node.Address[:cut+1] + strconv.Itoa(last+20)
	for _, args := range [][]string{
		{"stop", "--time", "60", node.Container},
		{"network", "disconnect", network, node.Container},
		{"network", "connect", "--ip", node.Address, network, node.Container},
		{"start", node.Container},
	} {
		if _, err := machine.Run(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	testbed.Eventually(t, time.Minute, func() error { _, err := node.Engine.Ping(t.Context()); return err })
	l.at(t, node, "docker swarm leave")
	l.down(t, node.Name)
	l.at(t, l.Nodes[0], "docker node rm", "m2="+node.Name)
	l.all.Machines[2].Address, l.all.Machines[2].SSH = node.Address, "root@"+node.Address
	l.inventory(t, everything, voting, voting)
	l.run(t, "make up")
	l.member(t, node)
}

func (l *lab) testLook(t *testing.T) {
	if said := l.at(t, l.Nodes[0], "docker service ps", "SERVICE=waggle_worker"); !strings.Contains(said, "Running") {
		t.Errorf("docker service ps: %s", said)
	}
	l.at(t, l.Nodes[0], "docker service logs", "SERVICE=waggle_gateway")
	l.at(t, l.Nodes[0], "docker service logs waggle_worker")
	l.at(t, l.Nodes[0], "docker service update")
}

func (l *lab) testAnnounce(t *testing.T) {
	l.verdict(t)
	if said := l.run(t, "make summary"); !strings.Contains(said, "Signed: ") {
		t.Errorf("make summary: %s", said)
	}
}

// testLostDisk loses what a node's Redis has on its disk. Nobody votes, so that the only loss is of certainty.
func (l *lab) testLostDisk(t *testing.T) {
	node := l.Nodes[1]
	if _, err := node.Exec(t.Context(), "sh", "-c", "id=$(docker ps -qf name=waggle_redis) && docker exec $id rm -rf /data/redis && docker kill $id"); err != nil {
		t.Fatal(err)
	}
	testbed.Eventually(t, 2*time.Minute, func() error {
		_, ledger, err := l.results()
		if err != nil {
			return err
		}
		for _, reason := range ledger.Reasons {
			if reason.Code == "gap" {
				return nil
			}
		}
		return fmt.Errorf("the ledger has no gap: %s", ledger)
	})
	l.at(t, l.Nodes[0], "docker exec", "m2="+node.Name)
	testbed.Eventually(t, 30*time.Second, func() error { // the results are a second old
		for _, reason := range l.ledger(t).Reasons {
			if reason.Code == "gap" && !reason.Closed {
				return fmt.Errorf("an open gap is left: %+v", reason)
			}
		}
		return nil
	})
}

func (l *lab) testRemove(t *testing.T) {
	l.refused(t, "node1 holds Postgres", "make remove", "NODE=node1")
	l.run(t, "make remove", "NODE=node3")
	if left := l.docker(t, "node", "ls", "--format", "{{.Hostname}}"); strings.Contains(left, "node3") {
		t.Errorf("members are %q", left)
	}
	l.inventory(t, everything, voting)
}

// testPurge keeps the votes, deletes the system, and begins with another.
func (l *lab) testPurge(t *testing.T) {
	if dump := l.at(t, l.Nodes[0], "docker exec"); !strings.Contains(dump, "COPY public.vote ") {
		t.Errorf("the dump has no votes: %.500s", dump)
	}
	l.home = filepath.Join(l.scratch, "lost")
	l.run(t, "make purge")
	if left := l.docker(t, "service", "ls", "--quiet"); left != "" {
		t.Errorf("services are left: %s", left)
	}
}
