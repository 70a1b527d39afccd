//go:build e2e

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What a person meets on a machine that is not ready: one line that says what to do, and a failure.
func TestMachineNotReady(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env  func(t *testing.T) []string
		user uint32
		want string
	}{
		"docker is not installed and may not be": {
			env: func(t *testing.T) []string {
				return []string{"PATH=" + pathWithout(t, "docker"), "INSTALL=no"}
			},
			want: "Docker is not installed, and INSTALL=no forbids installing it. Run: apt-get install docker.io iptables",
		},
		"the daemon is down": {
			env:  func(t *testing.T) []string { return []string{"DOCKER_HOST=unix://" + t.TempDir() + "/docker.sock"} },
			want: "the Docker daemon does not answer: start it",
		},
		"no permission on the socket": {
			env:  func(*testing.T) []string { return []string{"DOCKER_HOST=unix:///var/run/docker.sock"} },
			user: 65534,
			want: "no permission on the Docker socket: add yourself to its group",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home, err := os.MkdirTemp("", "waggle-errors-")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(home)
			program := filepath.Join(home, "deploy")
			if out, err := exec.Command("go", "build", "-o", program, "waggle/deploy").CombinedOutput(); err != nil {
				t.Fatalf("building the deploy program: %v\n%s", err, out)
			}
			command := exec.CommandContext(t.Context(), "../../bootstrap.sh", "up")
			if test.user != 0 {
				// Another user may neither read this checkout nor use its build cache, so the program is run as it is.
				command = exec.CommandContext(t.Context(), program, "up")
				command.Dir = home
				command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: test.user, Gid: test.user}}
				polls, err := os.ReadFile("../../../functions/polls.json")
				err = errors.Join(err, os.Chmod(home, 0o755), os.WriteFile(filepath.Join(home, "stack.yml"), nil, 0o644),
					os.Mkdir(filepath.Join(home, "functions"), 0o755), os.WriteFile(filepath.Join(home, "functions", "polls.json"), polls, 0o644))
				if err != nil {
					t.Fatal(err)
				}
			}
			command.Env = append(append(os.Environ(), "HOME="+home, "GOCACHE="+goCache(t), "GOPATH="+goPath(t), "WAGGLE_STATE="+home), test.env(t)...)
			var stderr strings.Builder
			command.Stderr = &stderr
			err = command.Run()
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
				t.Fatalf("make up ended with %v, want a non-zero exit", err)
			}
			if got := strings.TrimSpace(stderr.String()); !strings.Contains(got, test.want) || strings.Contains(got, "\n") {
				t.Fatalf("it says\n%s\nwant one line with %q", got, test.want)
			}
		})
	}
}

// pathWithout is a PATH whose directories have everything but one command: a folder of links to the rest.
func pathWithout(t *testing.T, command string) string {
	t.Helper()
	dir := t.TempDir()
	for _, from := range filepath.SplitList(os.Getenv("PATH")) {
		entries, err := os.ReadDir(from)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if entry.Name() != command {
				_ = os.Symlink(filepath.Join(from, entry.Name()), filepath.Join(dir, entry.Name())) // The first on PATH wins.
			}
		}
	}
	return dir
}

func goCache(t *testing.T) string { return goEnv(t, "GOCACHE") }
func goPath(t *testing.T) string  { return goEnv(t, "GOPATH") }

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
