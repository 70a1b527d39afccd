package up

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestANodeWithCallsIsNotRemoved(t *testing.T) {
	edge := member{Hostname: "e", Labels: map[string]string{edgeLabel: "true"}}
	var out bytes.Buffer
	s := newTestSystem(t, func(c *Config) { c.Out = &out })
	for counted, want := range map[string]string{
		"0\n0":    "",
		"0\n3":    "",
		"2\n0":    "2 asynchronous call(s) wait on e. Take it out of the balancer",
		"LOADING": `counting the asynchronous calls on e: Redis says "LOADING"`,
	} {
		out.Reset()
		if s.Timeout = time.Minute; want != "" {
			s.Timeout = 3 * time.Second // enough for one answer, since each that asks again is the same
		}
		fakeDocker(t, map[string]string{"info --format": "e", "ps --quiet": "c1", "exec c1": counted})
		_, err := s.awaitCalls(t.Context(), edge)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", counted, err, want)
		}
		if strings.HasSuffix(counted, "3") && !strings.Contains(out.String(), "3 dead letter(s) go with the node") {
			t.Errorf("%q: said %q", counted, out.String())
		}
	}
	fakeDocker(t, map[string]string{"info --format": "another"})
	if _, err := s.awaitCalls(t.Context(), edge); err == nil || !strings.Contains(err.Error(), "e cannot be reached from here") {
		t.Errorf("a node that is not in reach: %v", err)
	}
	if did, err := s.awaitCalls(t.Context(), member{Hostname: "w"}); err != nil || did != "none" {
		t.Errorf("a node without a gateway: %q, %v", did, err)
	}
}

// A manager is demoted before it leaves, and the Swarm is asked through another one.
func TestAManagerLeavesAfterItWasDemoted(t *testing.T) {
	s := newTestSystem(t, nil)
	fakeDocker(t, map[string]string{
		"node ls": "ids", "node inspect": line("m", "manager", "ready") + "\n" + line("n", "manager", "ready"),
		"info --format": "n false", "node demote": "", "swarm leave": "", "node rm": "",
	})
	if _, err := s.leave(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	got := calls(t)
	demoted, removed := strings.Index(got, "node demote id-m"), strings.Index(got, "node rm --force id-m")
	if demoted < 0 || removed < demoted {
		t.Errorf("calls %s", got)
	}
	fakeDocker(t, map[string]string{"node ls": "ids", "node inspect": line("m", "manager", "ready"), "info --format": "m true"})
	if _, err := s.leave(t.Context(), "m"); err == nil || !strings.Contains(err.Error(), "m is the only manager that can be reached from here") {
		t.Errorf("the only one in reach: %v", err)
	}
}
