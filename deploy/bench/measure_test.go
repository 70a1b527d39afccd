package main

import (
	"os"
	"os/exec"
	"testing"
	"time"
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
	got, err := parse(report, 20*time.Millisecond, 10*time.Millisecond)
	want := result{rate: 200.5, p50: 0.812, p99: 1200, cpu: 20, functionCPU: 10, errors: 15}
	if err != nil || got != want {
		t.Errorf("got %+v, error %v, want %+v", got, err, want)
	}
	if _, err := parse("unable to connect", 0, 0); err == nil {
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
