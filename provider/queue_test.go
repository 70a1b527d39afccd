package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A gateway that is asked to end finishes the calls it is making: the next one does not make them again.
func TestAskedToEndItFinishesWhatItHasBegun(t *testing.T) {
	t.Parallel()
	began, release := make(chan struct{}, 10), make(chan struct{})
	runs := 0
	p := newProcess(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_/health" {
			runs++
			began <- struct{}{}
			<-release
		}
	}))
	p.submit(t, "slow", "")
	<-began
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// It says so before it refuses connections.
	for status := 200; status != 503; time.Sleep(10 * time.Millisecond) {
		response, err := http.Get("http://" + p.addr + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		status = response.StatusCode
	}
	close(release)
	if err := p.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	p.start()
	if dead := p.deadLetters(t); len(dead) != 0 || runs != 1 {
		t.Errorf("%d runs, dead letters: %s", runs, fmt.Sprint(dead))
	}
}

// A call that takes longer than upstream_timeout ends at that when it is synchronous, and runs once, to its end, when it is
// asynchronous.
func TestLongCallsHaveTheQueuesTime(t *testing.T) {
	t.Parallel()
	var runs atomic.Int32
	told := make(chan string, 10)
	callback := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		told <- r.Header.Get("X-Function-Status") + " " + string(body)
	}))
	t.Cleanup(callback.Close)
	p := newProcess(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_/health" {
			return
		}
		runs.Add(1)
		time.Sleep(3 * time.Second) // Not a wait for something: the length of the call.
		_, _ = io.WriteString(w, "done")
	}), "upstream_timeout=1s")
	p.submit(t, "long", callback.URL)
	if got := <-told; got != "200 done" {
		t.Errorf("the callback was told %q, want 200 done", got)
	}
	if dead, n := p.deadLetters(t), runs.Load(); len(dead) != 0 || n != 1 {
		t.Errorf("%d runs, dead letters %v", n, dead)
	}
	response, err := http.Get("http://" + p.addr + "/function/flaky")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(text), "upstream_timeout") {
		t.Errorf("the synchronous call: %s %q", response.Status, text)
	}
}
