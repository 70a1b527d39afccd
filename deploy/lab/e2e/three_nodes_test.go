//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/cluster"
	"waggle/deploy/lab/testbed"
	"waggle/deploy/up"
)

// Three nodes: two capture, the third drains and stores. Nothing here could pass on one machine by accident.
func TestThreeNodes(t *testing.T) {
	s := start(t, 3)

	t.Run("each capture node's votes are drained by the third node", func(t *testing.T) {
		s.Judge(t, "-voters", "20000", "-double", "10%", "-change", "5%")
		r, err := s.Results()
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range []int{1, 2} {
			name := s.Cluster.Nodes[node].Name
			entries := int64(-1)
			for _, stream := range r.Ledger.Streams {
				if stream.Node == name {
					entries = stream.Counted
				}
			}
			if entries < 1000 {
				t.Errorf("the ledger counts %d votes from capture node %s, want a fair share of 20,000: %+v", entries, name, r.Ledger)
			}
		}
	})

	t.Run("usage covers replicas on other nodes", s.testUsage)

	t.Run("votes are acknowledged while no worker runs and counted when one does", func(t *testing.T) {
		s.scale(t, "waggle_worker", 0)
		before, err := s.Results()
		if err != nil {
			t.Fatal(err)
		}
		restarted := make(chan error, 1)
		go func() {
			time.Sleep(8 * time.Second) // Not a wait for something: the time without a worker is the fault injected.
			_, err := s.Target.Manager.Run(t.Context(), "service", "scale", "--detach", "waggle_worker=1")
			restarted <- err
		}()
		s.Judge(t, "-voters", "20000", "-double", "10%")
		if err := <-restarted; err != nil {
			t.Fatal(err)
		}
		after, err := s.Results()
		if err != nil {
			t.Fatal(err)
		}
		if after.Polls[0].Total-before.Polls[0].Total != 20000 {
			t.Errorf("%d voters were added, want 20,000", after.Polls[0].Total-before.Polls[0].Total)
		}
	})

	t.Run("a function holds no privilege", s.testPrivileges)

	t.Run("calls go on", func(t *testing.T) {
		p := s.newProject(t)
		t.Run("while everything changes", p.testInvocations)
		t.Run("while replicas are killed", p.testReplicasKilled)
		t.Run("while functions follow their load", p.testAutoscale)
	})

	t.Run("a capture node loses its disk before a worker has looked", s.testLostDisk)

	t.Run("a capture node loses power and comes back with its votes", func(t *testing.T) {
		node := s.Cluster.Nodes[2]
		s.voteThrough(t, s.Target.Gateways[2], 50)
		if err := node.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The others go on while it is away.
		s.newVoter(t).voteByForm("cats")
		if err := node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		testbed.Eventually(t, 90*time.Second, func() error {
			r, err := s.Results()
			if err != nil {
				return err
			}
			if r.Ledger.Pending != 0 || r.Ledger.Lost != 0 || r.Ledger.Missing != 0 || r.Ledger.Active() != 2 {
				return fmt.Errorf("ledger: %+v", r.Ledger)
			}
			return nil
		})
		s.ballotsReturn(t)
	})
}

// ballotsReturn waits until both capture nodes have a ballot. Swarm has moved all of them away from a node that was gone.
func (s *system) ballotsReturn(t *testing.T) {
	t.Helper()
	testbed.Eventually(t, 2*time.Minute, func() error {
		for _, node := range s.Cluster.Nodes[1:3] {
			ids, err := s.containersOn(t, node, "vote")
			if err != nil {
				return err
			}
			if ids == "" {
				return fmt.Errorf("no ballot on %s", node.Name)
			}
		}
		return nil
	})
}

// scale asks Swarm for another number of replicas and waits until it is so.
func (s *system) scale(t *testing.T, service string, replicas int) {
	t.Helper()
	if _, err := s.Target.Manager.Run(t.Context(), "service", "scale", "--detach", fmt.Sprintf("%s=%d", service, replicas)); err != nil {
		t.Fatal(err)
	}
	testbed.Eventually(t, time.Minute, func() error {
		// Those that should have stopped and still run count as well: a worker goes on counting until it has ended.
		out, err := s.Target.Manager.Run(t.Context(), "service", "ps", "--format", "{{.CurrentState}}", service)
		if err != nil {
			return err
		}
		if running := strings.Count(out, "Running"); running != replicas {
			return fmt.Errorf("%s has %d running replicas, want %d", service, running, replicas)
		}
		return nil
	})
}

// testLostDisk wipes the volume of a capture node that no worker has read. That leaves a gap until an operator closes it.
func (s *system) testLostDisk(t *testing.T) {
	node, ledger := s.forgets(t, s.wipeRedis)
	if ledger.Whole {
		t.Errorf("the ledger says that all is accounted for while a gap is open: %+v", ledger)
	}
	s.asWorker(t, "close", "-node", node.Name)
}

// forgets has a capture node forget votes that no worker has read. They are counted from the copies on the other.
func (s *system) forgets(t *testing.T, spoil func(*testing.T, *cluster.Node)) (node *cluster.Node, after up.Ledger) {
	t.Helper()
	if node = s.Cluster.Nodes[1]; !s.runsOn(t, node, "vote") {
		node = s.Cluster.Nodes[2] // where an earlier fault has moved all ballots
	}
	s.scale(t, "waggle_worker", 0)
	before, err := s.Results()
	if err != nil {
		t.Fatal(err)
	}
	const votes = 200
	s.voteThrough(t, s.Target.Gateways[1], votes)
	spoil(t, node)
	s.scale(t, "waggle_worker", 1)
	testbed.Eventually(t, 2*time.Minute, func() error {
		r, err := s.Results()
		if err != nil {
			return err
		}
		after = r.Ledger
		if after.Counted-before.Ledger.Counted < votes || after.Recovered == before.Ledger.Recovered || after.Pending != 0 || after.Lost != 0 || after.Active() != 2 {
			return fmt.Errorf("ledger: %+v, before: %+v", after, before.Ledger)
		}
		return nil
	})
	t.Logf("%d of %d votes were counted from their copies", after.Recovered-before.Ledger.Recovered, votes)
	return node, after
}

// wipeRedis loses the disk of a node's Redis, and with it what only that disk had.
func (s *system) wipeRedis(t *testing.T, node *cluster.Node) {
	t.Helper()
	id := s.containerOn(t, node, "waggle_redis")
	if _, err := node.Engine.Run(t.Context(), "exec", id, "rm", "-rf", "/data/redis"); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Engine.Run(t.Context(), "kill", id); err != nil {
		t.Fatal(err)
	}
}

// containersOn are the containers of a service on a node, a line each.
func (s *system) containersOn(t *testing.T, node *cluster.Node, service string) (string, error) {
	t.Helper()
	return node.Engine.Run(t.Context(), "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+service)
}

func (s *system) runsOn(t *testing.T, node *cluster.Node, service string) bool {
	t.Helper()
	ids, err := s.containersOn(t, node, service)
	if err != nil {
		t.Fatal(err)
	}
	return ids != ""
}

// containerOn is the one container of a service on a node.
func (s *system) containerOn(t *testing.T, node *cluster.Node, service string) string {
	t.Helper()
	id, err := s.containersOn(t, node, service)
	if err != nil || id == "" || strings.Contains(id, "\n") {
		t.Fatalf("the container of %s on %s: %q, %v", service, node.Name, id, err)
	}
	return id
}

// asWorker runs a command of the worker, as an operator does.
func (s *system) asWorker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.tryAsWorker(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *system) tryAsWorker(t *testing.T, args ...string) (string, error) {
	t.Helper()
	node := s.Cluster.Nodes[0]
	return node.Engine.Run(t.Context(), append([]string{"exec", s.containerOn(t, node, "waggle_worker"), "/worker"}, args...)...)
}
