//go:build e2e

package operate

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/up"
)

// usage prints the service and the processor time, in nanoseconds, of each container of a node, for cgroups of version 1 or 2.
const usage = `docker ps --no-trunc --format '{{.ID}} {{.Label "com.docker.swarm.service.name"}}' | while read -r id service; do
  f=$(find /sys/fs/cgroup -path "*$id/cpuacct.usage" | head -n 1)
  if [ -n "$f" ]; then echo "$service $(cat "$f")"; continue; fi
  f=$(find /sys/fs/cgroup -path "*$id/cpu.stat" | head -n 1)
  echo "$service $(awk '/^usage_usec/ {print $2 * 1000}' "$f")"
done`

// processors is the processor time that each service has had so far, on all nodes.
func (l *lab) processors(t *testing.T) map[string]time.Duration {
	t.Helper()
	found := map[string]time.Duration{}
	for _, node := range l.Nodes {
		out, err := docker.Engine{}.Run(t.Context(), "exec", node.Container, "sh", "-c", usage)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) == 2 {
				n, err := strconv.ParseInt(fields[1], 10, 64)
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				found[fields[0]] += time.Duration(n)
			}
		}
	}
	return found
}

// results are what a gateway answers, and the ledger of them.
func (l *lab) results() ([]byte, up.Ledger, error) {
	var results struct{ Ledger up.Ledger }
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(l.gateway(l.asked) + "/function/results?format=json")
	if err != nil {
		return nil, results.Ledger, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the results answer %s: %s", response.Status, text)
	}
	if err == nil {
		err = json.Unmarshal(text, &results)
	}
	return text, results.Ledger, err
}

func (l *lab) ledger(t *testing.T) up.Ledger {
	t.Helper()
	_, ledger, err := l.results()
	if err != nil {
		t.Fatal(err)
	}
	return ledger
}

// testPrice logs what a vote takes of each part, for docs/capacity.md. It judges nothing: machines differ.
func (l *lab) testPrice(t *testing.T) {
	const long = 30 * time.Second
	votes, before := l.ledger(t).Counted, l.processors(t)
	time.Sleep(long) // not a wait for something: the time over which it is measured
	after, counted := l.processors(t), l.ledger(t).Counted-votes
	if counted == 0 {
		t.Fatal("no vote was counted")
	}
	t.Logf("%d votes counted in %s", counted, long)
	for _, service := range slices.Sorted(maps.Keys(after)) {
		if used := after[service] - before[service]; used > 0 {
			t.Logf("%-16s %4d µs a vote", service, used.Microseconds()/counted)
		}
	}
	t.Logf("database: %s bytes, %d votes", l.docker(t, "exec", l.database(t), "psql", "-XAt", "-d", "waggle", "-c",
		"SELECT pg_database_size('waggle') || ' bytes, vote table and indexes ' || pg_total_relation_size('vote') || ' bytes, rows ' || count(*) FROM vote"), counted+votes)
}
