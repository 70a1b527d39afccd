//go:build e2e && copies

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/cluster"
	"waggle/deploy/lab/testbed"
)

// TestCopies takes one capture node away in every way, and then both, while a judged crowd votes. `make copies` freezes a node 20 times
// instead of once.
func TestCopies(t *testing.T) {
	s := start(t, 3)
	t.Run("a node is frozen under voters who go elsewhere", s.testFrozen)
	t.Run("two capture nodes cannot reach each other", s.testPartition)
	t.Run("what the second copy costs", s.testCost)
	t.Run("a stream is trimmed by hand", func(t *testing.T) { s.forgets(t, s.trim) })
	t.Run("a log is cut", func(t *testing.T) {
		if node, ledger := s.forgets(t, s.cutLog); !ledger.Whole {
			s.asWorker(t, "close", "-node", node.Name)
		}
	})
	t.Run("both disks are lost at once", s.testBothDisks)
	t.Run("a node is gone for good", s.testGone)
}

// together runs a judged crowd and a fault side by side.
func (s *system) together(t *testing.T, fault func(*testing.T), voters ...string) {
	t.Run("beside", func(t *testing.T) {
		t.Run("voters", func(t *testing.T) {
			t.Parallel()
			s.JudgeDirectly(t, append([]string{"-alone", "-concurrency", "4000", "-retries", "100", "-drain-timeout", "6m"}, voters...)...)
		})
		t.Run("fault", func(t *testing.T) {
			t.Parallel()
			s.voted(t, 500)
			fault(t)
		})
	})
}

// voted waits until the crowd is at it.
func (s *system) voted(t *testing.T, more int64) {
	t.Helper()
	before, err := s.Results()
	if err != nil {
		t.Fatal(err)
	}
	testbed.Eventually(t, 5*time.Minute, func() error {
		now, err := s.Results()
		if err == nil && now.Ledger.Counted-before.Ledger.Counted < more {
			err = fmt.Errorf("%d votes are counted", now.Ledger.Counted-before.Ledger.Counted)
		}
		return err
	})
}

// testFrozen stops everything on a capture node for 50 s, again and again. Whoever waits there gives up after 5 s and presses something
// else through another node: on thawing, what they pressed first must not win.
func (s *system) testFrozen(t *testing.T) {
	rounds := 1
	if os.Getenv("E2E_LONG") == "1" {
		rounds = 20
	}
	const frozen, between, perSecond = 50 * time.Second, 2 * time.Second, 200
	total := perSecond * (10 + rounds*int((frozen+between)/time.Second))
	s.together(t, func(t *testing.T) {
		for round := range rounds {
			node := s.Cluster.Nodes[2-round%2]
			if err := node.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(frozen)
			if err := node.Unpause(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(between)
		}
	}, "-voters", fmt.Sprint(total), "-rate", fmt.Sprint(perSecond), "-timeout", "5s",
		"-elsewhere", "90%", "-double", "0", "-change", "0.02", "-stale", "0", "-replay", "0", "-tabs", "0", "-api", "50%")
	s.bothDrained(t)
	s.ballotsReturn(t)
}

// bothDrained waits until both capture nodes are read again and nothing is on its way.
func (s *system) bothDrained(t *testing.T) {
	t.Helper()
	testbed.Eventually(t, 2*time.Minute, func() error {
		r, err := s.Results()
		if err == nil && (r.Ledger.Active() != 2 || r.Ledger.Missing != 0 || r.Ledger.Pending != 0) {
			err = fmt.Errorf("ledger: %+v", r.Ledger)
		}
		return err
	})
}

// single is how many votes were confirmed with one copy.
func (s *system) single(t *testing.T) int64 {
	t.Helper()
	r, err := s.Results()
	if err != nil {
		t.Fatal(err)
	}
	return r.Ledger.Single
}

// testPartition drops every packet of the overlays between the two capture nodes: neither can copy to the other, voters and
// workers reach both.
func (s *system) testPartition(t *testing.T) {
	first, second := s.Cluster.Nodes[1], s.Cluster.Nodes[2]
	wall := func(t *testing.T, change string) {
		t.Helper()
		for _, pair := range [][2]*cluster.Node{{first, second}, {second, first}} {
			if _, err := pair[0].Exec(t.Context(), "iptables", change, "INPUT", "-p", "udp", "--dport", "4789", "-s", pair[1].Address, "-j", "DROP"); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := s.single(t)
	s.voteThrough(t, s.Target.Gateways[1], 20)
	if after := s.single(t); after != before {
		t.Errorf("%d votes had one copy although both nodes are there", after-before)
	}
	s.together(t, func(t *testing.T) {
		wall(t, "-I")
		time.Sleep(10 * time.Second)
		wall(t, "-D")
	}, "-voters", "2000", "-rate", "100")
	s.bothDrained(t)
	during := s.single(t)
	if during == before {
		t.Error("the ledger says that every vote had two copies")
	}
	t.Logf("%d of some 1000 votes had one copy", during-before)

	s.setCopies(t, "2 require")
	defer s.setCopies(t, "2 prefer")
	wall(t, "-I")
	testbed.Eventually(t, 30*time.Second, func() error { return s.refused(t) })
	wall(t, "-D")
	testbed.Eventually(t, 30*time.Second, func() error {
		if s.refused(t) == nil {
			return fmt.Errorf("votes are still refused")
		}
		return nil
	})
	s.voteThrough(t, s.Target.Gateways[1], 20)
	s.bothDrained(t)
	if after := s.single(t); after != during {
		t.Errorf("%d votes had one copy under 2 require", after-during)
	}
}

// refused returns nil while a vote is answered 503 with Retry-After.
func (s *system) refused(t *testing.T) error {
	t.Helper()
	v := s.newVoter(t)
	v.do(http.MethodGet, "", nil, "application/json")
	response, err := v.http.Post(v.base+"/function/vote", "application/json", strings.NewReader(`{"poll":"pets","choice":"cats"}`))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != 503 || response.Header.Get("Retry-After") == "" {
		return fmt.Errorf("a vote is answered %s with Retry-After %q, want 503 and one", response.Status, response.Header.Get("Retry-After"))
	}
	return nil
}

// setCopies changes the setting of the function vote and waits until every replica has it.
func (s *system) setCopies(t *testing.T, mode string) {
	t.Helper()
	if _, err := s.Target.Manager.Run(t.Context(), "service", "update", "--detach", "--env-add", "copies="+mode, "vote"); err != nil {
		t.Fatal(err)
	}
	testbed.Eventually(t, 2*time.Minute, func() error {
		state, err := s.Target.Manager.Run(t.Context(), "service", "inspect", "--format", "{{.UpdateStatus.State}}", "vote")
		if err == nil && state != "completed" {
			err = fmt.Errorf("the update is %q", state)
		}
		return err
	})
}

// testCost votes at a rate that no part has trouble with, with one copy and with two; the reports have the latencies.
func (s *system) testCost(t *testing.T) {
	defer s.setCopies(t, "2 prefer")
	for _, mode := range []string{"1", "2 prefer", "1", "2 prefer"} {
		s.setCopies(t, mode)
		t.Run(mode, func(t *testing.T) { s.Judge(t, "-voters", "2000", "-rate", "200", "-elsewhere", "0") })
	}
}

// trim deletes all entries of a node's stream but the last, as an operator could.
func (s *system) trim(t *testing.T, node *cluster.Node) {
	t.Helper()
	const command = "REDISCLI_AUTH=$(head -n 1 /run/secrets/redis-drain) redis-cli -s /run/votes/redis.sock --user drain --no-auth-warning -e xtrim votes maxlen = 1"
	if _, err := node.Engine.Run(t.Context(), "exec", s.containerOn(t, node, "waggle_redis"), "sh", "-c", command); err != nil {
		t.Fatal(err)
	}
}

// cutLog takes the end off what a node's disk has confirmed, as one does that loses its cache with the power.
func (s *system) cutLog(t *testing.T, node *cluster.Node) {
	t.Helper()
	id := s.containerOn(t, node, "waggle_redis")
	for _, args := range [][]string{{"exec", id, "sh", "-c", "truncate -s -10000 /data/redis/appendonlydir/*.incr.aof"}, {"kill", id}} {
		if _, err := node.Engine.Run(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
}

// testBothDisks loses both disks of a pair after votes that no worker has seen: they are lost, and the ledger says in which time.
func (s *system) testBothDisks(t *testing.T) {
	s.bothDrained(t)
	s.scale(t, "waggle_worker", 0)
	began := time.Now()
	s.voteThrough(t, s.Target.Gateways[1], 50)
	nodes := s.Cluster.Nodes[1:3]
	for _, node := range nodes {
		s.wipeRedis(t, node)
	}
	ended := time.Now()
	s.scale(t, "waggle_worker", 1)
	testbed.Eventually(t, 2*time.Minute, func() error {
		r, err := s.Results()
		if err != nil {
			return err
		}
		open := map[string]bool{}
		for _, reason := range r.Ledger.Reasons {
			if reason.Code == "gap" && !reason.Closed && reason.Since.Before(began) && reason.Until.After(ended.Add(-time.Second)) {
				open[reason.Node] = true
			}
		}
		if len(open) != 2 || r.Ledger.Whole || r.Ledger.Active() != 2 {
			return fmt.Errorf("gaps around %s to %s on %v, want two; ledger %+v", began, ended, open, r.Ledger)
		}
		return nil
	})
	for _, node := range nodes {
		s.asWorker(t, "close", "-node", node.Name)
	}
}

// testGone removes a capture node, its disk included, and never brings it back.
func (s *system) testGone(t *testing.T) {
	before, err := s.Results()
	if err != nil {
		t.Fatal(err)
	}
	node := s.Cluster.Nodes[2]
	s.together(t, func(t *testing.T) {
		time.Sleep(10 * time.Second)
		if err := node.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		testbed.Eventually(t, time.Minute, func() error {
			_, err := s.Target.Manager.Run(t.Context(), "node", "rm", "--force", node.Name)
			return err
		})
		testbed.Eventually(t, 3*time.Minute, func() error {
			_, err := s.tryAsWorker(t, "retire", "-node", node.Name)
			return err
		})
	}, "-voters", "12000", "-rate", "300", "-timeout", "5s")
	r, err := s.Results()
	if err != nil {
		t.Fatal(err)
	}
	if r.Ledger.Lost != 0 || r.Ledger.Pending != 0 || r.Ledger.Missing != 0 {
		t.Errorf("ledger: %+v, want nothing lost or pending", r.Ledger)
	}
	// How many a worker had not read yet is chance.
	t.Logf("%d votes were counted from their copies", r.Ledger.Recovered-before.Ledger.Recovered)
}
