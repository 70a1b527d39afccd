package up

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The words and the sum are those of the results page, and "accounted for" is said only of a whole ledger.
func TestLedgerForPeople(t *testing.T) {
	t.Parallel()
	var l Ledger
	text := `{"captured":65,"counted":49,"pending":12,"rejected":1,"lost":3,"missing":1,"whole":false,"reasons":[
		{"code":"pending","n":12},{"code":"silent","node":"node2","since":"2026-11-29T03:00:00Z"},{"code":"lost","n":3},
		{"code":"gap","node":"node2","since":"2026-11-29T02:00:00Z","until":"2026-11-29T03:00:00Z","closed":true}]}`
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatal(err)
	}
	if got := l.String(); got != "65 captured = 49 counted + 12 pending + 1 rejected + 3 lost" {
		t.Errorf("ledger = %q", got)
	}
	now := time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC)
	got := fmt.Sprint(l.troubles(now))
	want := "[{12 captured votes are not counted yet false}" +
		" {node node2 is silent since 29 November 03:00:00 UTC (26h0m0s ago); what it holds is not counted yet true}" +
		" {3 captured votes are lost true}" +
		" {votes captured on node node2 between 29 November 02:00:00 UTC (27h0m0s ago) and 29 November 03:00:00 UTC (26h0m0s ago)" +
		" cannot be accounted for; an operator has closed this false}]"
	if got != want {
		t.Errorf("troubles\n%s\nwant\n%s", got, want)
	}
	l = Ledger{Captured: 2, Counted: 2, Recovered: 1, Single: 2}
	if got, want := l.String(), "; 1 of the counted were recovered from copies; 2 were confirmed with one copy"; !strings.HasSuffix(got, want) {
		t.Errorf("ledger = %q, want it to end in %q", got, want)
	}
	l = Ledger{Captured: 2, Counted: 2, Whole: true}
	if got := l.String(); !strings.HasSuffix(got, "every captured vote is accounted for") {
		t.Errorf("whole ledger = %q", got)
	}
}

// What managers know cannot be had then; what voters are served is shown.
func TestMostManagersAreLost(t *testing.T) {
	results := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"ledger":{"captured":2,"counted":2,"whole":true}}`)
	}))
	defer results.Close()
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$1\" = version ] && exec echo 26.1.5\n" +
		"echo 'Error response from daemon: rpc error: code = Unknown desc = The swarm does not have a leader. It is possible that too few managers are online.' >&2; exit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	s := newTestSystem(t, func(c *Config) { c.Out, c.Target.Gateways = &out, []string{results.URL} })
	err := s.Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "most managers are lost. Start them, or see docs/operate.md") {
		t.Errorf("status: %v", err)
	}
	for _, want := range []string{"most managers are lost: nothing can be changed, moved or started again", "2 captured = 2 counted", "Voting, counting, results and calls go on"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status says %q, lacks %q", out.String(), want)
		}
	}
}

func TestNodesThatAreDownAreNamed(t *testing.T) {
	var out bytes.Buffer
	s := newTestSystem(t, func(c *Config) { c.Out = &out })
	fakeDocker(t, map[string]string{"node ls": "m1 Ready Leader\nm2 Ready Unreachable\nm3 Down Unreachable\nw1 Down\nw2 Ready"})
	down, err := s.absent(t.Context())
	if err != nil || strings.Join(down, ",") != "node m3,node w1" || !strings.HasPrefix(out.String(), "managers           1/3 reachable\nnode m3            down\n") {
		t.Errorf("absent = %q, %v; said %q", down, err, out.String())
	}
}

// Swarm counts what ran on a lost node as running, beside what has taken its place.
func TestReplicasOfANodeThatIsDownDoNotCount(t *testing.T) {
	s := newTestSystem(t, nil)
	fakeDocker(t, map[string]string{
		"service ls": "waggle_gateway 3/2\nwaggle_worker 1/1", "node ls": "Ready\nReady\nDown",
		"service ps":      "waggle_gateway.n1 Running 2 minutes ago\nwaggle_gateway.n2 Running 2 minutes ago\nwaggle_worker.1 Preparing 1 second ago",
		"service inspect": "waggle_gateway|||{}\nwaggle_worker|||{}",
	})
	all, err := s.services(t.Context())
	if err != nil || len(all) != 2 || !all[0].settled() || all[1].settled() {
		t.Errorf("services = %+v, %v; want the gateway settled and the worker not", all, err)
	}
}
