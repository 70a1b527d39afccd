//go:build e2e

package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/docker"
	"waggle/deploy/lab/testbed"
)

// testConformance runs the suite that the Swarm in memory passes on this Swarm: what unit tests rely on is so. It runs on
// the manager's node, where the engine's control socket is.
func (p *project) testConformance(t *testing.T) {
	file, node, there := filepath.Join(t.TempDir(), "swarm.test"), p.Cluster.Nodes[0].Container, "/usr/local/bin/swarm.test"
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", file, "waggle/provider/swarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the conformance suite: %v\n%s", err, out)
	}
	if _, err := (docker.Engine{}).Run(t.Context(), "cp", file, node+":"+there); err != nil {
		t.Fatal(err)
	}
	out, err := docker.Engine{}.Run(t.Context(), "exec", "--workdir=/tmp", "--env=WAGGLE_SWARM_DOCKER_HOST=unix:///var/run/docker.sock",
		"--env=WAGGLE_SWARM_CONTROL_SOCKET=/var/run/docker/swarm/control.sock", "--env=WAGGLE_SWARM_IMAGE="+p.image,
		node, there, "-test.v", "-test.run", "^TestConformance$/^swarm$")
	t.Logf("%s", out)
	if err != nil || !strings.Contains(out, "--- PASS: TestConformance/swarm") {
		t.Fatalf("the conformance suite on the real Swarm: %v", err)
	}
	p.onlyOurs(t, "results", "vote")
	// A function's named volume outlives it, as users expect. That of the suite is in nobody's way, but purge leaves it.
	left, err := p.Target.Manager.Run(t.Context(), "volume", "ls", "--quiet", "--filter", "name=-v$")
	if err != nil || left == "" {
		t.Fatalf("the volume of the conformance suite: %q, %v", left, err)
	}
	testbed.Eventually(t, time.Minute, func() error { // the last container may still be leaving
		_, err := p.Target.Manager.Run(t.Context(), append([]string{"volume", "rm", "--force"}, strings.Fields(left)...)...)
		return err
	})
}

// onlyOurs wants the API and Docker to list these functions and no other.
func (p *project) onlyOurs(t *testing.T, want ...string) {
	t.Helper()
	if listed, made := p.functionNames(t), p.serviceNames(t); !slices.Equal(listed, want) || !slices.Equal(made, want) {
		t.Errorf("the API lists %v, Docker has %v; want %v", listed, made, want)
	}
}

const (
	stormClients   = 64
	stormFunctions = 40
	stormDuration  = time.Minute
)

// change is one accepted change of a function: what it set, and from when to when it took place.
type change struct {
	kind       string // deploy, update, scale or delete
	writer     string
	replicas   uint64
	begun, end time.Time
}

// storm keeps the book of what was accepted.
type storm struct {
	*project
	mu       sync.Mutex
	accepted map[string][]change
	statuses map[int]int
	slowest  time.Duration
}

// testStorm lets many clients write the same functions at once through the gateway. They are tied to a node that does
// not exist: it is the control plane that is tried, not the machine.
func (p *project) testStorm(t *testing.T) {
	st := &storm{project: p, accepted: map[string][]change{}, statuses: map[int]int{}}
	stop := time.Now().Add(stormDuration)
	var group sync.WaitGroup
	for client := range stormClients {
		random := rand.New(rand.NewPCG(1, uint64(client)))
		group.Go(func() {
			for n := 0; time.Now().Before(stop); n++ {
				st.one(t, random, fmt.Sprintf("%d-%d", client, n))
			}
		})
	}
	group.Wait()
	operations := 0
	for _, n := range st.statuses {
		operations += n
	}
	if t.Failed() {
		out, err := docker.Engine{}.Run(t.Context(), "logs", "--tail", "80", p.Cluster.Nodes[0].Container)
		t.Logf("the last words of the node's engine: %v\n%s", err, out)
	}
	t.Logf("%d calls in %s, by status: %v, the slowest took %s", operations, stormDuration, st.statuses, st.slowest)
	listed, made := p.functionNames(t), p.serviceNames(t)
	if !slices.Equal(listed, made) {
		t.Errorf("the API lists %v, Docker has %v", listed, made)
	}
	if len(st.accepted) != stormFunctions {
		t.Errorf("%d functions were changed, want %d: the storm was none", len(st.accepted), stormFunctions)
	}
	for name, changes := range st.accepted {
		st.check(t, name, changes)
		group.Go(func() { p.remove(t, name) })
	}
	group.Wait()
	p.onlyOurs(t, "results", "vote")
}

// one makes one call of a random kind on a random function.
func (st *storm) one(t *testing.T, random *rand.Rand, writer string) {
	name := fmt.Sprintf("storm-%d", random.IntN(stormFunctions))
	d := st.probe(name, map[string]string{"writer": writer})
	d.Constraints = []string{"node.hostname == nowhere"}
	c := change{writer: writer, replicas: uint64(random.IntN(4))}
	method, path, body := "GET", "/system/function/"+name, any(nil)
	switch choice := random.IntN(10); {
	case choice < 3:
		c.kind, method, path, body = "deploy", "POST", "/system/functions", d
	case choice < 6:
		c.kind, method, path, body = "update", "PUT", "/system/functions", d
	case choice < 8:
		c.kind, method, path, body = "scale", "POST", "/system/scale-function/"+name, types.ScaleServiceRequest{ServiceName: name, Replicas: c.replicas}
	case choice < 9:
		c.kind, method, path, body = "delete", "DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: name}
	}
	c.begun = time.Now()
	status, text, err := st.ask(t, method, path, body)
	c.end = time.Now()
	st.mu.Lock()
	defer st.mu.Unlock()
	st.statuses[status]++
	st.slowest = max(st.slowest, c.end.Sub(c.begun))
	switch {
	case err != nil:
		t.Errorf("%s %s: %v", method, path, err)
	case status == http.StatusAccepted:
		st.accepted[name] = append(st.accepted[name], c)
	case status != http.StatusOK && status != http.StatusNotFound && status != http.StatusConflict:
		t.Errorf("%s %s: status %d: %s", method, path, status, text)
	}
}

// check requires a function to be what an accepted change made it after whose end none began. If the very last
// one scaled it, its replicas count, too.
func (st *storm) check(t *testing.T, name string, changes []change) {
	t.Helper()
	code, text, err := st.ask(t, "GET", "/system/function/"+name, nil)
	if err != nil || (code != http.StatusOK && code != http.StatusNotFound) {
		t.Errorf("describing %s: status %d, %v", name, code, err)
		return
	}
	var left types.FunctionStatus
	if code == http.StatusOK {
		if err := json.Unmarshal([]byte(text), &left); err != nil {
			t.Error(err)
			return
		}
		// What a description adds is none of what was deployed.
		maps.DeleteFunc(*left.Annotations, func(key, _ string) bool {
			return strings.HasPrefix(key, "com.waggle.scaling.") || key == "com.waggle.invocations.since"
		})
	}
	content := slices.DeleteFunc(slices.Clone(changes), func(c change) bool { return c.kind == "scale" })
	explained := len(content) == 0
	for _, c := range content {
		writer := c.writer
		if c.kind == "delete" {
			writer = ""
		}
		explained = explained || (isLast(c, content) && writer == left.EnvVars["writer"])
	}
	if !explained {
		t.Errorf("%s is as writer %q left it, which is none of the last accepted changes", name, left.EnvVars["writer"])
	}
	final := slices.MaxFunc(changes, func(a, b change) int { return cmp.Compare(a.begun.UnixNano(), b.begun.UnixNano()) })
	alone := !slices.ContainsFunc(changes, func(c change) bool { return c != final && c.end.After(final.begun) })
	if alone && final.kind == "scale" && left.Replicas != final.replicas {
		t.Errorf("%s has %d replicas, want the %d of the last change", name, left.Replicas, final.replicas)
	}
	if want := st.probe(name, left.EnvVars); code == http.StatusOK && !reflect.DeepEqual(left.Annotations, want.Annotations) && (*left.Annotations)["com.waggle.state"] == "" {
		t.Errorf("%s has annotations %v, want %v", name, left.Annotations, want.Annotations)
	}
}

// isLast is true for a change after whose end no other began.
func isLast(c change, all []change) bool {
	return !slices.ContainsFunc(all, func(other change) bool { return other.begun.After(c.end) })
}
