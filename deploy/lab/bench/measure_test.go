package main

import (
	"os"
	"os/exec"
	"testing"
)

func TestParseReport(t *testing.T) {
	t.Parallel()
	const report = `Running 5s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Latency Distribution
     50%  812.00us
     75%    1.19ms
     99%    1.20s
  1000 requests in 5.00s, 1.23MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:    200.50
`
	got, n, err := parse(report)
	want := result{rate: 200.5, p50: 0.812, p99: 1200, errors: 15}
	if err != nil || n != 1000 || got != want {
		t.Errorf("got %+v of %v requests, error %v, want %+v", got, n, err, want)
	}
	if _, _, err := parse("unable to connect"); err == nil {
		t.Error("nonsense is a report")
	}
}

func TestParseReportOfHTTP2(t *testing.T) {
	t.Parallel()
	const report = `
finished in 11.60s, 8622.71 req/s, 1.98MB/s
requests: 1015 total, 1015 started, 1000 done, 993 succeeded, 4 failed, 2 errored, 1 timeout
status codes: 993 2xx, 0 3xx, 3 4xx, 1 5xx
traffic: 4.13MB (4326656) total, 1.41MB (1479000) headers (space savings 26.05%), 1.14MB (1200000) data
`
	got, n, err := parseHTTP2(report)
	if want := (result{rate: 8622.71, errors: 11}); err != nil || n != 1000 || got != want {
		t.Errorf("got %+v of %v requests, error %v, want %+v", got, n, err, want)
	}
	if _, _, err := parseHTTP2("Could not connect"); err == nil {
		t.Error("nonsense is a report")
	}
}

func TestProcessFigures(t *testing.T) {
	t.Parallel()
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: &exec.Cmd{Process: self}}
	for p.cpu() == 0 { // this very loop is what it counts
	}
	if p.rss() < 1<<20 {
		t.Errorf("%d bytes resident", p.rss())
	}
}

func TestRatiosAreOfOneRound(t *testing.T) {
	t.Parallel()
	p99 := func(r result) float64 { return r.p99 }
	slower := []result{{p99: 2}, {p99: 20}, {p99: 30}}
	if got := ratio(slower, []result{{p99: 1}, {p99: 10}, {p99: 20}}, p99); got != "2.00" {
		t.Errorf("the ratio is %q, want 2.00", got)
	}
	if got := ratio(slower, nil, p99); got != "" {
		t.Errorf("without a reference the ratio is %q", got)
	}
	if got := median(slower, p99); got != 20 {
		t.Errorf("the median is %v, want 20", got)
	}
}
