package swarm_test

import (
	"context"
	"os"
	"testing"
	"time"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"go.uber.org/goleak"

	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The suite always runs on the Swarm in memory. It also runs on a real one if WAGGLE_SWARM_DOCKER_HOST names
// the socket of a manager's engine and WAGGLE_SWARM_CONTROL_SOCKET its control socket. WAGGLE_SWARM_IMAGE is
// then an image that its nodes have and that serves HTTP on port 8080. The overlay waggle-functions must exist.
// The end-to-end tests set these.
func TestConformance(t *testing.T) {
	for name, target := range targets(t) {
		t.Run(name, func(t *testing.T) { swarmtest.Run(t, target) })
	}
}

// TestStorm is long enough in memory to meet every pair of operations; the end-to-end tests make it longer by
// WAGGLE_SWARM_STORM, a duration.
func TestStorm(t *testing.T) {
	duration := 300 * time.Millisecond
	if text := os.Getenv("WAGGLE_SWARM_STORM"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range targets(t) {
		t.Run(name, func(t *testing.T) {
			swarmtest.Storm(t, target, swarmtest.StormConfig{Clients: 64, Functions: 40, Duration: duration, Seed: 1})
		})
	}
}

// targets gives the Swarms to test, each by its name.
func targets(t *testing.T) map[string]swarmtest.Target {
	t.Helper()
	engine := swarmtest.NewEngine("waggle-functions")
	engine.AddImage("ours/function:1", "sha256:1")
	targets := map[string]swarmtest.Target{
		"memory": {Docker: engine, TaskEvents: engine, Container: engine.Container, Network: "waggle-functions", Image: "ours/function:1", Patience: 10 * time.Second},
	}
	if host := os.Getenv("WAGGLE_SWARM_DOCKER_HOST"); host != "" {
		docker, err := swarm.Connect(host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { docker.Close() })
		image, control := os.Getenv("WAGGLE_SWARM_IMAGE"), os.Getenv("WAGGLE_SWARM_CONTROL_SOCKET")
		if image == "" || control == "" {
			t.Fatal("WAGGLE_SWARM_DOCKER_HOST is set but WAGGLE_SWARM_IMAGE or WAGGLE_SWARM_CONTROL_SOCKET is not")
		}
		targets["swarm"] = swarmtest.Target{Docker: docker, TaskEvents: swarm.ControlSocket(control), Network: "waggle-functions",
			Container: inspect(docker), Image: image, Patience: 90 * time.Second}
	}
	return targets
}

// inspect inspects a container of docker's own node.
func inspect(docker *client.Client) func(context.Context, mobyswarm.Task) (env, targets []string, err error) {
	return func(ctx context.Context, task mobyswarm.Task) (env, targets []string, err error) {
		found, err := docker.ContainerInspect(ctx, task.Status.ContainerStatus.ContainerID, client.ContainerInspectOptions{})
		if err != nil {
			return nil, nil, err
		}
		for _, m := range found.Container.Mounts {
			targets = append(targets, m.Destination)
		}
		for target := range found.Container.HostConfig.Tmpfs {
			targets = append(targets, target)
		}
		return found.Container.Config.Env, targets, nil
	}
}
