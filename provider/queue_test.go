package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The environment is the process's own: this test does not run in parallel.
func TestLoadQueue(t *testing.T) {
	dir := t.TempDir()
	c := config{SecretMountPath: dir}
	set := func(name, value string) {
		t.Setenv(name, value)
		t.Setenv(strings.ToUpper(name), value)
	}
	if _, wanted, err := loadQueue(c); wanted || err != nil {
		t.Errorf("without a socket: %v %v", wanted, err)
	}
	set("async_redis_socket", "/run/queue/redis.sock")
	got, wanted, err := loadQueue(c)
	if !wanted || err != nil || got.Password != "" || got.MaxRetryAttempts != 10 || got.InitialRetryWait != 10*time.Second ||
		got.MaxRetryWait != 2*time.Minute || !slices.Equal(got.RetryCodes, []int{408, 429, 500, 502, 503, 504}) {
		t.Errorf("defaults: %+v %v %v", got, wanted, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "redis-queue"), []byte("pw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	set("max_retry_attempts", "0")
	set("retry_http_codes", "500,503")
	set("async_callback_networks", "10.0.0.0/8,fd00::/8")
	if got, _, err := loadQueue(c); err != nil || got.Password != "pw" || got.MaxRetryAttempts != 0 || len(got.RetryCodes) != 2 || len(got.CallbackNetworks) != 2 {
		t.Errorf("all set: %+v %v", got, err)
	}
	set("initial_retry_wait", "soon")
	if _, _, err := loadQueue(c); err == nil || !strings.Contains(err.Error(), "INITIAL_RETRY_WAIT") {
		t.Errorf("a wait of nonsense: %v", err)
	}
}

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
