//go:build qemu

package release

import (
	"context"
	"debug/elf"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// emulator runs programs for arm64 on another processor. `make arm64` says how to get it.
const emulator = "qemu-aarch64-static"

// TestArm64ProgramsAnswer compiles a gateway and function vote for arm64, as an image build on such a machine does, and asks
// both for an answer.
func TestArm64ProgramsAnswer(t *testing.T) {
	if _, err := exec.LookPath(emulator); err != nil {
		t.Fatalf("%s is not installed: run 'apt-get install qemu-user-static'", emulator)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("gateway", func(t *testing.T) {
		t.Parallel()
		program := filepath.Join(t.TempDir(), "provider")
		compile(t, root, "go", "build", "-trimpath", "-o", program, "./provider")
		port, metrics := freePort(t), freePort(t)
		answer := ask(t, program, map[string]string{
			"role": "gateway", "basic_auth": "false", "port": port, "metrics_port": metrics,
			"functions_provider_url": "http://127.0.0.1:9", "startup_timeout": "0s",
		}, "http://127.0.0.1:"+port+"/healthz")
		if !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
			t.Errorf("got %s", answer)
		}
		t.Log(answer)
	})
	t.Run("vote", func(t *testing.T) {
		t.Parallel()
		program := compileFunction(t, root, "vote")
		secrets := t.TempDir()
		polls, err := os.ReadFile(filepath.Join(root, "functions/polls.json"))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"polls": string(polls), "redis-capture": "secret", "redis-copies": "secret",
			"voter-keys": "poll:" + strings.Repeat("ab", 32) + "\nk1:" + strings.Repeat("cd", 32),
		} {
			if err := os.WriteFile(filepath.Join(secrets, name), []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		port, metrics := freePort(t), freePort(t)
		answer := ask(t, program, map[string]string{
			"port": port, "metrics_port": metrics, "secret_mount_path": secrets, "redis_socket": filepath.Join(secrets, "none.sock"),
		}, "http://127.0.0.1:"+port+"/_/health")
		if !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
			t.Errorf("got %s", answer)
		}
		t.Log(answer)
	})
}

// compile runs a build for arm64.
func compile(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	build := exec.CommandContext(t.Context(), name, args...)
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64", "TEST_ENABLED=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// compileFunction lays a build context out as faas-cli does and runs the template's own build in it.
func compileFunction(t *testing.T, root, name string) string {
	t.Helper()
	buildContext, out := t.TempDir(), t.TempDir()
	compile(t, root, "cp", "-r", "template/go-http/.", buildContext)
	compile(t, root, "sh", "-c", "rm -r "+buildContext+"/function && cp -r functions/"+name+" "+buildContext+"/function && rm "+buildContext+"/function/*_test.go")
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(buildContext, "function", file), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	compile(t, buildContext, "sh", "build.sh", buildContext, out)
	return filepath.Join(out, "handler")
}

// ask starts an arm64 program under the emulator with these settings, and returns its first answer at the address.
func ask(t *testing.T, program string, settings map[string]string, address string) string {
	t.Helper()
	binary, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	if binary.Machine != elf.EM_AARCH64 {
		t.Fatalf("%s is for %s", program, binary.Machine)
	}
	binary.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, emulator, program)
	run.Cancel = func() error { return run.Process.Signal(os.Interrupt) }
	for name, value := range settings {
		run.Env = append(run.Env, name+"="+value)
	}
	var log strings.Builder
	run.Stdout, run.Stderr = &log, &log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- run.Wait() }()
	defer func() {
		cancel()
		<-done
	}()
	for {
		if response, err := http.Get(address); err == nil {
			body, _ := io.ReadAll(io.LimitReader(response.Body, 200))
			response.Body.Close()
			return fmt.Sprintf("%s %s\n%s", response.Proto, response.Status, body)
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("it ended: %v\n%s", err, log.String())
		case <-ctx.Done():
			t.Fatalf("it never answered\n%s", log.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}
