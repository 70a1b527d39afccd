//go:build e2e

package operate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
	"waggle/deploy/lab/testbed"
)

// managing is what each machine does here: all are managers, the first one also counts.
func managing() [][]inventory.Role {
	second := append([]inventory.Role{inventory.Manager}, voting...)
	return [][]inventory.Role{everything, second, second}
}

// TestManagers loses one manager of three, then two, while votes come in at all three, then the machine with Postgres. Its
// first step is needed always.
func TestManagers(t *testing.T) {
	l := start(t)
	for _, s := range l.losing() {
		if !l.follow(t, s) {
			break
		}
	}
	l.verdict(t)
}

func (l *lab) losing() []step {
	return []step{
		{"before the event", []string{"Bring them up"}, l.beforeLosses},
		{"one manager is silent", []string{"On the day", "Bring them up"}, l.testOneManager},
		{"most managers are lost", []string{"On the day", "most managers are lost"}, l.testMostManagers},
		{"the machine with Postgres is lost, a manager", []string{
			"Load it before voters do", "On the day", "back up", "the store machine is lost", "write off a lost machine", "*node m2 is silent*", "a manager is lost",
		}, l.testLostStore},
	}
}

func (l *lab) beforeLosses(t *testing.T) {
	l.inventory(t, managing()...)
	l.run(t, "make up")
	l.vote(t, 150, 3)
}

// api asks a gateway as an operator.
func (l *lab) api(t *testing.T, method, path, body string, answer any) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, l.gateway(l.asked)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("admin", l.secret(t, "basic-auth-password"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

// scale makes Swarm start or stop replicas of the results, through the provider.
func (l *lab) scale(t *testing.T, replicas int) {
	t.Helper()
	testbed.Eventually(t, 2*time.Minute, func() error {
		return l.api(t, http.MethodPost, "/system/scale-function/results", fmt.Sprintf(`{"serviceName":"results","replicas":%d}`, replicas), nil)
	})
	testbed.Eventually(t, time.Minute, func() error {
		var found struct{ AvailableReplicas int }
		if err := l.api(t, http.MethodGet, "/system/function/results", "", &found); err != nil {
			return err
		}
		if found.AvailableReplicas != replicas {
			return fmt.Errorf("results has %d replicas, want %d", found.AvailableReplicas, replicas)
		}
		return nil
	})
}

// kill is power loss of nodes, at once.
func (l *lab) kill(t *testing.T, nodes ...int) {
	t.Helper()
	for _, i := range nodes {
		if err := l.Nodes[i].Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// goesOn checks that votes are counted and shown.
func (l *lab) goesOn(t *testing.T) {
	t.Helper()
	before := int64(-1)
	testbed.Eventually(t, time.Minute, func() error {
		_, ledger, err := l.results()
		if err != nil {
			return err
		}
		if before < 0 {
			before = ledger.Counted
		}
		if n := ledger.Counted - before; n < 1000 {
			return fmt.Errorf("%d votes were counted", n)
		}
		return nil
	})
}

// testOneManager takes the one with the provider away.
func (l *lab) testOneManager(t *testing.T) {
	for _, node := range []string{"node1", "node2"} {
		l.docker(t, "node", "update", "--availability", "pause", node)
	}
	l.docker(t, "service", "update", "--force", "--quiet", "waggle_provider")
	for _, node := range []string{"node1", "node2"} {
		l.docker(t, "node", "update", "--availability", "active", node)
	}
	if runs := l.docker(t, "node", "ps", "--filter", "desired-state=running", "--format", "{{.Name}}", "node3"); !strings.Contains(runs, "waggle_provider") {
		t.Fatalf("on node3 run %q", runs)
	}
	l.kill(t, 2)
	l.goesOn(t)
	l.scale(t, 3)
	l.scale(t, 2)
	l.refused(t, "2/3 reachable", "make status")
	if err := l.Nodes[2].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.run(t, "make up")
	l.whole(t)
}

// testMostManagers goes the page's way when they are gone for good, and lets them come back from the old Swarm.
func (l *lab) testMostManagers(t *testing.T) {
	l.scale(t, 3) // on three nodes
	t.Logf("the provider runs on %s", l.docker(t, "service", "ps", "--filter", "desired-state=running", "--format", "{{.Node}}", "waggle_provider"))
	l.kill(t, 1, 2)
	l.goesOn(t)
	l.refused(t, "most managers are lost", "make status")
	l.goesOn(t)
	l.at(t, l.Nodes[0], "docker swarm init", "ADDRESS="+l.Nodes[0].Address)
	for _, node := range l.Nodes[1:] {
		l.at(t, l.Nodes[0], "docker node rm", "m2="+node.Name)
	}
	for _, node := range l.Nodes[1:] {
		if _, err := (docker.Engine{}).Run(t.Context(), "start", node.Container); err != nil {
			t.Fatal(err)
		}
		testbed.Eventually(t, time.Minute, func() error { _, err := node.Engine.Ping(t.Context()); return err })
		l.at(t, node, "docker swarm leave")
	}
	l.run(t, "make up")
	l.whole(t)
	l.goesOn(t)
}

// testLostStore loses Postgres and a capture node at once, when the voters are judged. What a backup has is there again.
func (l *lab) testLostStore(t *testing.T) {
	l.verdict(t)
	counted := l.ledger(t).Counted
	from := l.backup(t)
	if err := l.Nodes[0].Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.asked = 1
	roles := managing()
	roles[0], roles[1] = nil, everything
	l.inventory(t, roles...)
	l.down(t, "node1")
	l.run(t, "make up")
	l.run(t, "make restore", "FROM="+from, l.passphrase(t))
	for _, command := range []string{"make retire NODE=m1", "make retire NODE=m2", "make retire NODE=m3"} {
		l.run(t, command, "NODE=node1")
	}
	l.whole(t)
	if now := l.ledger(t); now.Counted != counted || now.Lost != 0 {
		t.Errorf("%d votes were counted, now: %s", counted, now)
	}
	l.run(t, "make voters", "20000=1000")
}
