package swarm_test

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The suite always runs on the Swarm in memory. It runs on a real one too where WAGGLE_SWARM_DOCKER_HOST names the
// socket of a manager's engine; WAGGLE_SWARM_IMAGE is then an image that its nodes have and that serves HTTP on port
// 8080, and the overlay waggle-functions exists. The end-to-end tests set both.
func TestConformance(t *testing.T) {
	engine := swarmtest.NewEngine("waggle-functions")
	engine.AddImage("ours/function:1", "sha256:1")
	targets := map[string]swarmtest.Target{
		"memory": {Docker: engine, Network: "waggle-functions", Image: "ours/function:1", Patience: 10 * time.Second},
	}
	if host := os.Getenv("WAGGLE_SWARM_DOCKER_HOST"); host != "" {
		docker, err := swarm.Connect(host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { docker.Close() })
		image := os.Getenv("WAGGLE_SWARM_IMAGE")
		if image == "" {
			t.Fatal("WAGGLE_SWARM_DOCKER_HOST is set but WAGGLE_SWARM_IMAGE is not")
		}
		targets["swarm"] = swarmtest.Target{Docker: docker, Network: "waggle-functions", Image: image, Patience: 90 * time.Second}
	}
	for name, target := range targets {
		t.Run(name, func(t *testing.T) { swarmtest.Run(t, target) })
	}
}
