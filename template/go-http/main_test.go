package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"waggle/template/go-http/liveness"
)

func build(t *testing.T, program string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "program")
	if output, err := exec.Command("go", "build", "-o", binary, program).CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, output)
	}
	return binary
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func TestTheSampleServesAndStops(t *testing.T) {
	binary, port := build(t, "."), freePort(t)
	env := append(os.Environ(), "port="+port, "metrics_port="+freePort(t), "healthcheck_interval=0")
	var log bytes.Buffer
	function := exec.Command(binary)
	function.Env, function.Stdout = env, &log
	if err := function.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = function.Process.Kill() }()
	exited := make(chan error, 1)
	go func() { exited <- function.Wait() }()
	ask := liveness.HTTP("127.0.0.1:"+port, "/_/health", 200)
	for ask(t.Context()) != nil {
		select {
		case err := <-exited:
			t.Fatalf("the function is gone: %v\n%s", err, log.String())
		default:
		}
	}
	response, err := http.Post("http://127.0.0.1:"+port, "text/plain", strings.NewReader("bee"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || string(body) != "Hello! You said: bee\n" {
		t.Errorf("reply = %q, %v", body, err)
	}
	if err := function.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-exited; err != nil || !strings.Contains(log.String(), "function drained") {
		t.Errorf("after SIGTERM: %v, log:\n%s", err, log.String())
	}
	if strings.Contains(log.String(), `"time"`) {
		t.Errorf("the engine stamps lines, and these carry a time of their own as well:\n%s", log.String())
	}
	if ask(t.Context()) == nil {
		t.Error("it answers after the stop")
	}
}

func TestAMalformedSettingStopsTheStart(t *testing.T) {
	function := exec.Command(build(t, "."))
	function.Env = append(os.Environ(), "write_timeout=soon")
	output, err := function.CombinedOutput()
	if err == nil || !strings.Contains(string(output), `write_timeout=\"soon\"`) {
		t.Errorf("start = %v:\n%s", err, output)
	}
}
