//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/docker"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/lab/provider"
	"waggle/deploy/lab/testbed"
	"waggle/deploy/up"
)

const (
	// lostFunctions are started in each round and ended within lostWithin, in at most lostRounds rounds.
	lostFunctions, lostReplicas, lostRounds = 6, 4, 16
	lostWithin                              = time.Second
	// managersAct is enough for late managers that lose nothing.
	managersAct = 3 * time.Second
)

// TestLostChanges makes the managers of a real Swarm lose changes, and wants each to be mended.
//
// Swarmkit's orchestrator reads the tasks of a service, and then waits for its turn to write. A task that changes
// meanwhile keeps its old desired state: "failed to update task to REMOVE: update out of sequence". Here the other
// managers answer late, so that each write takes long, and functions end while their replicas are being started.
func TestLostChanges(t *testing.T) {
	engine, made := threeManagers(t)
	image := idleImage(t, engine, made)
	runner := provider.New(t, made.Nodes[0].Engine.Host)
	api := &child{runner.Start(t, nil)}
	nameIsFree(t, made.Nodes[0], api, image)

	deploy := func(name string, replicas int) request {
		return request{"POST", "/system/functions", types.FunctionDeployment{
			Service: name, Image: image, Constraints: []string{"node.hostname == " + made.Nodes[0].Name},
			Labels:      &map[string]string{"com.openfaas.scale.min": fmt.Sprint(replicas)},
			Annotations: &map[string]string{"com.waggle.autoscale": "false", "com.waggle.stop-grace": "1s"},
		}, 202}
	}
	scale := func(name string, replicas uint64) request {
		return request{"POST", "/system/scale-function/" + name, types.ScaleServiceRequest{ServiceName: name, Replicas: replicas}, 202}
	}
	call := func(r request) {
		if status, text, err := api.ask(t.Context(), r); err != nil || status != r.status {
			t.Errorf("%s %s: status %d, want %d, %v: %s", r.method, r.path, status, r.status, err, text)
		}
	}
	sleeper := func(i int) string { return fmt.Sprintf("fn-%d", i) }
	for i := range lostFunctions {
		api.accepted(t, deploy(sleeper(i), 1))
		api.accepted(t, scale(sleeper(i), 0))
	}
	// Nothing is to run.
	running := func() error {
		tasks, err := made.Nodes[0].Engine.Run(t.Context(), "node", "ps", "--filter", "desired-state=running", "--format", "{{.Name}}", made.Nodes[0].Name)
		if err == nil && tasks != "" {
			err = fmt.Errorf("%q are to run", tasks)
		}
		return err
	}
	testbed.Eventually(t, time.Minute, running)

	inTime := answerLate(t, engine, made.Nodes[1:])
	for _, kind := range []struct {
		name       string
		begin, end func(round, i int) request
	}{
		{
			"removals",
			func(round, i int) request { return deploy(fmt.Sprintf("fn-%d-%d", round, i), lostReplicas) },
			func(round, i int) request {
				return request{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: fmt.Sprintf("fn-%d-%d", round, i)}, 202}
			},
		},
		{
			"scaling to zero",
			func(_, i int) request { return scale(sleeper(i), lostReplicas) },
			func(_, i int) request { return scale(sleeper(i), 0) },
		},
	} {
		lost := false
		for round := 0; !lost; round++ {
			if round == lostRounds {
				t.Fatalf("%s: the managers lost none in %d rounds: nothing was tried", kind.name, round)
			}
			var functions sync.WaitGroup
			for i := range lostFunctions {
				functions.Go(func() {
					call(kind.begin(round, i))
					time.Sleep(rand.N(lostWithin)) // not a wait for something: each meets another moment of the start
					call(kind.end(round, i))
				})
			}
			functions.Wait()
			time.Sleep(managersAct)
			if err := running(); err != nil {
				t.Logf("%s: lost after %d rounds: %v", kind.name, round+1, err)
				lost = true
			}
			if t.Failed() {
				t.Fatalf("the leader says:\n%s", lastWords(t, made.Nodes[0]))
			}
		}
		testbed.Eventually(t, 2*time.Minute, running)
	}
	inTime()

	testbed.Eventually(t, time.Minute, func() error {
		services, err := made.Nodes[0].Engine.Run(t.Context(), "service", "ls", "--quiet", "--filter", "label=com.waggle.removed")
		if err != nil {
			return err
		}
		containers, err := made.Nodes[0].Engine.Run(t.Context(), "ps", "--quiet", "--filter", "name=fn-")
		if err == nil && (services != "" || containers != "") {
			err = fmt.Errorf("left are services of removed functions, %q, and containers, %q", services, containers)
		}
		return err
	})
	api.Kill() // its log is read
	for _, what := range []string{"function touched", "a removed function is touched"} {
		if !strings.Contains(api.Log(), what) {
			t.Errorf("nothing runs any more, but the provider's log lacks %q:\n%s", what, api.Log())
		}
	}
}

// nameIsFree deploys a function again while a replica of the removed one still ends.
func nameIsFree(t *testing.T, node *cluster.Node, api *child, image string) {
	t.Helper()
	running := func(want int) {
		t.Helper()
		testbed.Eventually(t, time.Minute, func() error {
			containers, err := node.Engine.Run(t.Context(), "ps", "--quiet", "--filter", "name=again")
			if err == nil && len(strings.Fields(containers)) != want {
				err = fmt.Errorf("containers are %q, want %d", containers, want)
			}
			return err
		})
	}
	deploy := request{"POST", "/system/functions", types.FunctionDeployment{
		Service: "again", Image: image, Constraints: []string{"node.hostname == " + node.Name},
		Annotations: &map[string]string{"com.waggle.autoscale": "false", "com.waggle.stop-grace": "20s"},
	}, 202}
	remove := request{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "again"}, 202}
	api.accepted(t, deploy)
	running(1)
	api.accepted(t, remove)
	var left []types.FunctionStatus
	if api.read(t, "/system/functions", &left); len(left) != 0 {
		t.Errorf("functions are %v after the removal of the only one", left)
	}
	api.accepted(t, deploy)
	running(2)
	running(1)
	var status types.FunctionStatus
	if api.read(t, "/system/function/again", &status); status.Replicas != 1 {
		t.Errorf("the function has %d replicas, want 1", status.Replicas)
	}
	api.accepted(t, remove)
	running(0)
}

// lastWords are the end of an engine's log, or why it crashed.
func lastWords(t *testing.T, node *cluster.Node) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", "logs", node.Container).CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	said := string(out)
	if at := strings.Index(said, "\npanic: "); at >= 0 {
		return said[at:min(at+2000, len(said))]
	}
	return said[max(len(said)-2000, 0):]
}

// threeManagers makes a Swarm of three managers, of which the first leads. It is gone when the test ends.
func threeManagers(t *testing.T) (docker.Engine, *cluster.Cluster) {
	t.Helper()
	engine, name := docker.Engine{}, fmt.Sprintf("lost-%d", os.Getpid())
	made, err := up.CreateCluster(t.Context(), "../../..", cluster.Config{Engine: engine, Name: name, Nodes: 3, Progress: func(line string) { t.Log(line) }})
	t.Cleanup(func() {
		if err := cluster.Delete(context.WithoutCancel(t.Context()), engine, name); err != nil {
			t.Errorf("removing the cluster: %v", err)
		}
	})
	if err == nil {
		_, err = made.Nodes[0].Engine.Run(t.Context(), "node", "promote", made.Nodes[1].Name, made.Nodes[2].Name)
	}
	if err == nil {
		_, err = made.Nodes[0].Engine.Run(t.Context(), "network", "create", "--driver=overlay", "waggle-functions")
	}
	if err != nil {
		t.Fatal(err)
	}
	return engine, made
}

// idleImage gives every node an image that does nothing, and ends only when it is killed.
func idleImage(t *testing.T, engine docker.Engine, nodes *cluster.Cluster) string {
	t.Helper()
	tag := fmt.Sprintf("localhost/waggle/idle:%d", os.Getpid())
	_, err := engine.RunInput(t.Context(), strings.NewReader("FROM debian:bookworm-slim\nCMD [\"sleep\", \"infinity\"]\n"), "build", "--quiet", "--tag", tag, "-")
	if err == nil {
		t.Cleanup(func() {
			if _, err := engine.Run(context.WithoutCancel(t.Context()), "image", "rm", tag); err != nil {
				t.Error(err)
			}
		})
		err = nodes.Load(t.Context(), tag)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

// answerLate lets the engines of nodes run for 2 ms every 150 ms, until the function that it returns is called. A change
// that needs their word takes as long.
func answerLate(t *testing.T, engine docker.Engine, nodes []*cluster.Node) (inTime func()) {
	t.Helper()
	args := []string{"inspect", "--format", "{{.State.Pid}}"}
	for _, node := range nodes {
		args = append(args, node.Container)
	}
	out, err := engine.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	send := func(signal syscall.Signal) {
		for _, field := range strings.Fields(out) {
			pid, err := strconv.Atoi(field)
			if err == nil {
				err = syscall.Kill(pid, signal)
			}
			if err != nil {
				t.Errorf("%s to the engine of process %q: %v", signal, field, err)
			}
		}
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			send(syscall.SIGSTOP)
			time.Sleep(150 * time.Millisecond)
			send(syscall.SIGCONT)
			select {
			case <-over:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	stop := sync.OnceFunc(func() {
		close(over)
		<-ended
	})
	t.Cleanup(stop)
	return stop
}
