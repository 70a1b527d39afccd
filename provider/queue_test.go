package main

import (
	"fmt"
	"io"
	"net/http"
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
