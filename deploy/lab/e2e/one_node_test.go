//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
)

// A single machine: votes by form and by JSON, redeploys that change nothing, and a restart that keeps the votes.
func TestOneNode(t *testing.T) {
	s := start(t, 1)

	t.Run("a vote by form is counted, and a changed one moves", func(t *testing.T) {
		first := s.newVoter(t)
		first.voteByForm("cats")
		s.Counts(t, 3*time.Second, 1, 0)
		first.voteByForm("dogs")
		s.Counts(t, 3*time.Second, 0, 1)
	})

	t.Run("a vote by JSON is counted, and delivered twice it counts once", func(t *testing.T) {
		second := s.newVoter(t)
		sent := second.voteByJSON("cats")
		s.Counts(t, 3*time.Second, 1, 1)
		second.useCookies(sent)
		second.postJSON("cats")
		s.delivered(t, 4)
		s.Counts(t, time.Second, 1, 1)
	})

	t.Run("a second make up changes nothing and says so", func(t *testing.T) {
		if out := s.MakeUp(t); !strings.Contains(out, "nothing changed") {
			t.Fatalf("the second run says:\n%s", out)
		}
	})

	t.Run("each part says of which sources it was made", s.testBuild)

	t.Run("a release brings the same up and builds nothing", s.testRelease)

	t.Run("two operators at once: the second is told of the first", func(t *testing.T) {
		manager := s.Target.Manager
		if _, err := manager.RunInput(t.Context(), strings.NewReader("held"), "config", "create", "--label", "com.waggle.holder=other@elsewhere",
			"--label", "com.waggle.process=1", "--label", "com.waggle.since=2024-02-03T04:05:06Z", "waggle-deploy-lock", "-"); err != nil {
			t.Fatal(err)
		}
		if err := s.Up(t.Context()); err == nil || !strings.Contains(err.Error(), "other@elsewhere has been deploying since 2024-02-03") {
			t.Errorf("the second run: %v", err)
		}
		if _, err := manager.Run(t.Context(), "config", "rm", "waggle-deploy-lock"); err != nil {
			t.Error(err)
		}
	})

	t.Run("make status finds it whole", func(t *testing.T) {
		if err := s.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("receipts, a live page and a signed summary", s.testResults)

	t.Run("a voter's browser", s.testBrowser)

	t.Run("the control plane", s.testControlPlane)

	t.Run("20,000 voters", func(t *testing.T) {
		s.Judge(t, "-voters", "20000", "-double", "10%")
	})

	t.Run("make down and make up keep the votes", func(t *testing.T) {
		before, err := s.Results()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := http.Get(s.Gateway + "/healthz"); err == nil {
			t.Fatal("the gateway still answers after make down")
		}
		s.MakeUp(t)
		testbed.Eventually(t, 10*time.Second, func() error {
			after, err := s.Results()
			if err != nil {
				return err
			}
			return sameTotals(before, after)
		})
	})

	t.Run("make purge leaves nothing", func(t *testing.T) {
		if err := s.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"service", "secret", "config", "volume"} {
			if left, err := s.Target.Manager.Run(t.Context(), kind, "ls", "--quiet"); err != nil || left != "" {
				t.Errorf("docker %s ls after purge: %q, %v", kind, left, err)
			}
		}
	})
}
