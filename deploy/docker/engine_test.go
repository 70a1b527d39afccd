package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeDocker puts a script in place of the docker command: what is tested is how its words are understood. It changes
// the process's PATH, so these tests cannot run in parallel.
func fakeDocker(t *testing.T, script string) Engine {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return Engine{}
}

// The words of several versions of the docker command, as they appear on the error stream.
func TestPingSaysWhyAnEngineCannotBeUsed(t *testing.T) {
	tests := map[string]struct {
		complaint string
		want      error
	}{
		"daemon down": {"Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", ErrDaemonDown},
		"daemon down, version 29": {"failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon " +
			"is running: dial unix /var/run/docker.sock: connect: no such file or directory", ErrDaemonDown},
		"remote daemon down": {"error during connect: Get \"http://10.0.0.1:2375/v1.41/version\": dial tcp 10.0.0.1:2375: i/o timeout", ErrDaemonDown},
		"no permission": {"permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: " +
			"Get \"http://%2Fvar%2Frun%2Fdocker.sock/v1.24/version\": dial unix /var/run/docker.sock: connect: permission denied", ErrNoPermission},
		"no permission, version 29": {"permission denied while trying to connect to the docker API at unix:///var/run/docker.sock", ErrNoPermission},
		"no permission, version 20": {"Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: " +
			"Is the docker daemon running?", ErrNoPermission},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			engine := fakeDocker(t, "cat >&2 <<'WORDS'\n"+test.complaint+"\nWORDS\nexit 1\n")
			_, err := engine.Ping(t.Context())
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the message has several lines: %q", err)
			}
		})
	}
	t.Run("not installed", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, err := (Engine{}).Ping(t.Context()); !errors.Is(err, ErrNotInstalled) {
			t.Errorf("got %v, want ErrNotInstalled", err)
		}
	})
	t.Run("a client without a server", func(t *testing.T) {
		if _, err := fakeDocker(t, "exit 0\n").Ping(t.Context()); !errors.Is(err, ErrDaemonDown) {
			t.Errorf("got %v, want ErrDaemonDown", err)
		}
	})
	t.Run("a server", func(t *testing.T) {
		if version, err := fakeDocker(t, "echo 28.2.2\n").Ping(t.Context()); version != "28.2.2" || err != nil {
			t.Errorf("got %q, %v, want 28.2.2", version, err)
		}
	})
}

func TestRunFoldsWhatDockerComplainedIntoOneLine(t *testing.T) {
	engine := fakeDocker(t, `printf 'half an answer\n'
printf 'docker: Error response from daemon: Conflict. The name is in use.\nSee '"'docker run --help'"'.\n\n' >&2
exit 125
`)
	out, err := engine.Run(t.Context(), "run", "--detach", "--name=secret", "x")
	if out != "half an answer" || err == nil || err.Error() != "running docker run --detach: Conflict. The name is in use." {
		t.Errorf("got %q and error %v", out, err)
	}
}

func TestRunOnACancelledContextSaysSo(t *testing.T) {
	engine := fakeDocker(t, "exec sleep 60\n")
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the user pressed Ctrl-C")
	cancel(reason)
	if _, err := engine.Run(ctx, "pull", "x"); !errors.Is(err, reason) {
		t.Errorf("got %v, want the cause of the cancellation", err)
	}
}

func TestImageIDTellsAMissingImageFromAFailure(t *testing.T) {
	tests := map[string]struct {
		script, id string
		failed     bool
	}{
		"there":                  {"echo sha256:abc\n", "sha256:abc", false},
		"missing":                {"echo 'Error: No such image: x' >&2; exit 1\n", "", false},
		"missing, newer wording": {"echo 'Error response from daemon: No such image: x:latest' >&2; exit 1\n", "", false},
		"failure":                {"echo 'Error response from daemon: input/output error' >&2; exit 1\n", "", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			id, err := fakeDocker(t, test.script).ImageID(t.Context(), "x")
			if id != test.id || (err != nil) != test.failed {
				t.Errorf("got %q, %v, want %q, failed=%v", id, err, test.id, test.failed)
			}
		})
	}
}

func TestPipeFeedsOneCommandToAnother(t *testing.T) {
	const many = "head -c 5000000 /dev/zero"
	tests := map[string]struct {
		script, out string
		want        []string
	}{
		"both end well":                          {"case $1 in save) " + many + ";; load) wc -c;; esac\n", "5000000", nil},
		"the first fails":                        {"case $1 in save) echo 'no such tag' >&2; exit 1;; load) cat;; esac\n", "", []string{"no such tag"}},
		"the second fails while the first waits": {"case $1 in save) " + many + ";; load) echo 'disk full' >&2; exit 1;; esac\n", "", []string{"disk full"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			engine := fakeDocker(t, test.script)
			out, err := engine.Pipe(t.Context(), []string{"save"}, engine, []string{"load"})
			if strings.TrimSpace(out) != test.out || (err == nil) != (test.want == nil) {
				t.Fatalf("got %q, %v, want %q", out, err, test.out)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error is %q, want it to contain %q", err, want)
				}
			}
		})
	}
}

func TestBuildShowsTheLastLinesOfAFailure(t *testing.T) {
	engine := fakeDocker(t, `for i in $(seq 40); do echo "line $i"; done; echo 'undefined: x' >&2; exit 1`)
	_, err := engine.Build(t.Context(), BuildOptions{Context: ".", Tag: "waggle/x"})
	if err == nil || !strings.HasPrefix(err.Error(), "building waggle/x failed, last lines:\n  line 27\n") ||
		!strings.HasSuffix(err.Error(), "\n  line 40\n  undefined: x") {
		t.Errorf("got %v", err)
	}
}

func TestBuildPassesItsArgumentsInOrder(t *testing.T) {
	engine := fakeDocker(t, `case $1 in build) echo "$*" >"$RECORD";; image) echo sha256:abc;; esac`)
	record := filepath.Join(t.TempDir(), "record")
	t.Setenv("RECORD", record)
	id, err := engine.Build(t.Context(), BuildOptions{
		Context: "ctx", Dockerfile: "a/Dockerfile", Tag: "waggle/x", BuildArgs: map[string]string{"B": "2", "A": "1"},
	})
	if id != "sha256:abc" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
	got, _ := os.ReadFile(record)
	if want := "build --tag waggle/x --file a/Dockerfile --build-arg A=1 --build-arg B=2 ctx\n"; string(got) != want {
		t.Errorf("docker was called with %q, want %q", got, want)
	}
}

func TestEnvironmentPointsAtOneEngineOnly(t *testing.T) {
	t.Parallel()
	base := []string{"HOME=/root", "DOCKER_HOST=tcp://elsewhere", "DOCKER_CONTEXT=remote", "DOCKER_TLS_VERIFY=1", "DOCKER_CERT_PATH=/x"}
	own := Engine{Host: "unix:///x.sock"}.environment(base)
	if !slices.Contains(own, "DOCKER_HOST=unix:///x.sock") || !slices.Contains(own, "HOME=/root") {
		t.Errorf("got %v", own)
	}
	for _, entry := range base[1:] {
		if slices.Contains(own, entry) {
			t.Errorf("%s points elsewhere and was kept", entry)
		}
	}
	if kept := (Engine{}).environment(base); !slices.Contains(kept, "DOCKER_CONTEXT=remote") {
		t.Errorf("the default engine lost the user's context: %v", kept)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	t.Parallel()
	var kept tail
	for i := range 10_000 {
		fmt.Fprintf(&kept, "line %d\n", i)
	}
	if got := kept.String(); len(got) != tailLimit || !strings.HasSuffix(got, "line 9999\n") {
		t.Errorf("kept %d bytes ending in %q", len(got), got[len(got)-20:])
	}
}
