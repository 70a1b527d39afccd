//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
)

// awaitCount runs in the gateway's network on its node. It prints the moment at which the gateway counts so many
// replicas of a function as ready, in nanoseconds. From outside, each poll would cost a tenth of a second.
const awaitCount = `
for look in $(seq 1500); do
	exec 3<>/dev/tcp/127.0.0.1/8082
	printf 'GET /metrics HTTP/1.0\r\nAuthorization: %s\r\n\r\n' "$AUTHORIZATION" >&3
	if grep -q "^gateway_service_ready_count{function_name=\"$0.openfaas-fn\"} $1\$" <&3; then date +%s%N; exit; fi
	exec 3>&-
	sleep 0.01
done
exit 1`

// readMetrics runs there, too.
const readMetrics = `exec 3<>/dev/tcp/127.0.0.1/8082 && printf 'GET /metrics HTTP/1.0\r\nAuthorization: %s\r\n\r\n' "$AUTHORIZATION" >&3 && cat <&3`

// besideGateway runs a script in the network of the first node's gateway, whose port for metrics is not published. The
// script has the API's credentials as AUTHORIZATION.
func (p *project) besideGateway(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	gateway := p.oneContainer(t, "waggle_gateway")
	pid, err := p.Target.Manager.Run(t.Context(), "inspect", "--format", "{{.State.Pid}}", gateway)
	if err != nil {
		t.Fatal(err)
	}
	return docker.Engine{}.Run(t.Context(), append([]string{"exec", "--env", "AUTHORIZATION=" + p.Authorization(t), p.Cluster.Nodes[0].Container, "nsenter", "--target", pid, "--net", "bash", "-c", script}, args...)...)
}

// testCalledAtOnce is a pipeline that deploys and calls: no call after the 202 may find no such function.
func (p *project) testCalledAtOnce(t *testing.T) {
	for i := range 5 {
		d := p.probe(fmt.Sprintf("atonce%d", i), nil)
		p.call(t, http.MethodPost, "/system/functions", d, http.StatusAccepted)
		t.Cleanup(func() { p.remove(t, d.Service) })
		for _, path := range []string{"/async-function/", "/function/"} {
			response, err := http.Post(p.Gateway+path+d.Service, "text/plain", strings.NewReader("bee"))
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode >= 300 {
				t.Errorf("%s%s right after its deploy: %s %s", path, d.Service, response.Status, text)
			}
		}
	}
}

// testTable measures how long after Swarm called a replica running the gateway has it in rotation. How long is in the
// log; the test asks only that each replica arrives, and leaves.
func (p *project) testTable(t *testing.T) {
	p.deploy(t, p.probe("seen", nil))
	await := func(count int) time.Time {
		t.Helper()
		out, err := p.besideGateway(t, awaitCount, "seen", strconv.Itoa(count))
		if err != nil {
			t.Fatalf("the gateway never had %d replicas ready: %v", count, err)
		}
		at, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Unix(0, at)
	}
	await(1)
	var delays []time.Duration
	for range 3 {
		p.scaleTo(t, "seen", 2)
		inTable := await(2)
		delays = append(delays, inTable.Sub(p.newestRunning(t, "seen")))
		p.scaleTo(t, "seen", 1)
		await(1)
		p.available(t, "seen", 1)
	}
	slices.Sort(delays)
	t.Logf("from running to in rotation: %v", delays)
}

// newestRunning is when the newest replica of a function was called running.
func (p *project) newestRunning(t *testing.T, service string) time.Time {
	t.Helper()
	ids, err := p.Target.Manager.Run(t.Context(), "service", "ps", "--quiet", "--no-trunc", "--filter", "desired-state=running", service)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Target.Manager.Run(t.Context(), append([]string{"inspect", "--type", "task", "--format", "{{json .Status}}"}, strings.Fields(ids)...)...)
	if err != nil {
		t.Fatal(err)
	}
	var newest time.Time
	for text := range strings.Lines(out) {
		var status struct {
			State     string
			Timestamp time.Time
		}
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			t.Fatal(fmt.Errorf("reading %q: %w", text, err))
		}
		if status.State == "running" && status.Timestamp.After(newest) {
			newest = status.Timestamp
		}
	}
	return newest
}
