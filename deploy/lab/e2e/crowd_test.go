//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
	"waggle/deploy/lab/traffic"
)

// metric reads one sample of the first node's gateway.
func (p *project) metric(t *testing.T, name string) float64 {
	t.Helper()
	match := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(p.metrics(t))
	if match == nil {
		t.Fatalf("the gateway has no metric %s", name)
	}
	value, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func (p *project) metrics(t *testing.T) string {
	t.Helper()
	out, err := p.besideGateway(t, readMetrics)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// testCrowdAtZero calls a function without replicas 500 times at once.
func (p *project) testCrowdAtZero(t *testing.T) {
	p.deploy(t, p.probe("sleeper", nil))
	p.scaleTo(t, "sleeper", 0)
	p.available(t, "sleeper", 0)
	testbed.Eventually(t, 10*time.Second, func() error {
		if ready := p.metric(t, `gateway_service_ready_count{function_name="sleeper.openfaas-fn"}`); ready != 0 {
			return fmt.Errorf("the gateway has %g replicas", ready)
		}
		return nil
	})
	const crowd = 500
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: crowd}}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	answers := make([]string, crowd)
	for i := range answers {
		group.Go(func() {
			response, err := client.Post(fmt.Sprintf("%s/function/sleeper/%d", p.NodeGateways()[0], i), "text/plain", strings.NewReader("x"))
			if err != nil {
				answers[i] = err.Error()
				return
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if want := fmt.Sprintf("POST /%d\nx", i); err != nil || response.StatusCode != http.StatusOK || string(body) != want {
				answers[i] = fmt.Sprintf("%s %q, %v", response.Status, body, err)
			}
		})
	}
	group.Wait()
	failed := 0
	for i, answer := range answers {
		if answer != "" {
			if failed++; failed <= 3 {
				t.Errorf("call %d: %s", i, answer)
			}
		}
	}
	memory := p.metric(t, "process_resident_memory_bytes")
	t.Logf("%d calls, %d failed, the gateway has %.0f MB", crowd, failed, memory/1e6)
	if memory > 128e6 {
		t.Errorf("the gateway has grown to %.0f MB", memory/1e6)
	}
	log, err := p.Target.Manager.Logs(t.Context(), p.oneContainer(t, "waggle_provider"), 1000)
	if err != nil {
		t.Fatal(err)
	}
	var woken []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"function scaled"`) && strings.Contains(line, `"sleeper"`) && strings.Contains(line, `"reason":"woken"`) {
			woken = append(woken, line)
		}
	}
	if len(woken) != 1 {
		t.Errorf("the function was woken %d times, want once: %s", len(woken), woken)
	}
}

// testStrangeNames calls 10,000 functions that do not exist.
func (p *project) testStrangeNames(t *testing.T) {
	series := func() int { return strings.Count(p.metrics(t), "\n") }
	ask := func(conn net.Conn, in *bufio.Reader, n int) {
		t.Helper()
		fmt.Fprintf(conn, "GET /function/stranger-%d-%d HTTP/1.1\r\nHost: h\r\n\r\n", n, n*7919)
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		if response.StatusCode != http.StatusNotFound {
			t.Fatalf("a function that does not exist is %s", response.Status)
		}
	}
	conn, err := net.Dial("tcp", p.Cluster.Nodes[0].Address+":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	ask(conn, in, 0) // makes the one series that counts refusals
	before := series()
	for n := range 10_000 {
		ask(conn, in, n)
	}
	if text := p.metrics(t); strings.Contains(text, "stranger") {
		t.Error("a function that does not exist has a metric")
	}
	if after := series(); after > before {
		t.Errorf("%d lines of metrics have become %d", before, after)
	}
}

// testTricklers lets 2,000 connections send their request a byte at a time. Those who send theirs whole are
// served; the others are told that they are late.
func (p *project) testTricklers(t *testing.T) {
	const slow = 2000
	p.deploy(t, p.probe("served", nil))
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex
	told := map[string]int{}
	for range slow {
		group.Go(func() {
			line := trickle(ctx, p.Cluster.Nodes[0].Address+":8080")
			mu.Lock()
			defer mu.Unlock()
			told[line]++
		})
	}
	testbed.Eventually(t, 30*time.Second, func() error {
		if open := p.metric(t, "gateway_client_connections"); open < slow {
			return fmt.Errorf("%g connections are open", open)
		}
		return nil
	})
	tr := traffic.Start(t.Context(), traffic.Config{Gateways: p.NodeGateways(), Function: "served", PerSecond: 200})
	group.Wait()
	calls, failed := tr.Stop()
	t.Logf("%d calls beside %d slow clients, %d failed; those were told %v", calls, slow, len(failed), told)
	for i, f := range failed {
		if i < 3 {
			t.Errorf("a call failed: %s", f.Why)
		}
	}
	if told["HTTP/1.1 408 Request Timeout"] != slow {
		t.Errorf("the slow clients were told %v, want 408 each", told)
	}
}

// trickle sends a request's head a byte a second and returns the first line of the answer, or what went wrong.
func trickle(ctx context.Context, address string) string {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	done := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		done <- strings.TrimSpace(line)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for _, b := range []byte("GET /function/served HTTP/1.1\r\nHost: an-endless-name-of-a-host\r\n\r\n") {
		if _, err := conn.Write([]byte{b}); err != nil {
			break // the answer says why
		}
		select {
		case line := <-done:
			return line
		case <-ctx.Done():
			return "nothing"
		case <-tick.C:
		}
	}
	return <-done
}
