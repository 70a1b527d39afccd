package up

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
)

// fakeDocker puts a docker command on PATH that answers by the first two words of its arguments. It stands for the
// command line only; what the real one answers is checked by the end-to-end tests.
func fakeDocker(t *testing.T, answers map[string]string) {
	t.Helper()
	var script strings.Builder
	script.WriteString("#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/calls\"\ncase \"$1 $2\" in\n")
	for words, answer := range answers {
		fmt.Fprintf(&script, "'%s') cat <<'EOF'\n%s\nEOF\n;;\n", words, answer)
	}
	script.WriteString("*) echo \"no answer for $*\" >&2; exit 1;;\nesac\n")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script.String()), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func newTestSystem(t *testing.T, change func(*Config)) *System {
	t.Helper()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "stack.yml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	config := Config{
		Target: Target{Gateways: []string{"http://127.0.0.1:1"}}, Root: root, StateDir: filepath.Join(root, "state"),
		Port: DefaultPort, Workers: 1, RedisMaxMemory: "64mb", QueueMaxMemory: "64mb", Out: &bytes.Buffer{},
	}
	if change != nil {
		change(&config)
	}
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewRefusesImpossibleSettings(t *testing.T) {
	t.Parallel()
	good := Config{Target: Target{Gateways: []string{"http://x"}}, Root: "../..", Port: 8080, Workers: 1, RedisMaxMemory: "512mb", QueueMaxMemory: "256mb"}
	if _, err := New(good); err != nil {
		t.Fatalf("the good settings are refused: %v", err)
	}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"port too high":       {func(c *Config) { c.Port = 65536 }, "PORT is 65536; legal are 1 to 65535"},
		"no port":             {func(c *Config) { c.Port = 0 }, "PORT is 0"},
		"memory without unit": {func(c *Config) { c.RedisMaxMemory = "512" }, `REDIS_MAXMEMORY is "512"; legal are 16mb to 999999mb`},
		"too little memory":   {func(c *Config) { c.RedisMaxMemory = "15mb" }, "legal are 16mb"},
		"too small a queue":   {func(c *Config) { c.QueueMaxMemory = "8mb" }, `QUEUE_MAXMEMORY is "8mb"; legal are 16mb to 999999mb`},
		"calls without end":   {func(c *Config) { c.MaxUpstreamTimeout = 48 * time.Hour }, "MAX_UPSTREAM_TIMEOUT is 48h0m0s; legal are 1m to 24h"},
		"a registry's name":   {func(c *Config) { c.Registry = "waggle" }, `REGISTRY is "waggle"; legal are names such as registry.example.com/waggle`},
		"a registry's URL":    {func(c *Config) { c.Registry = "https://r.example.com/waggle" }, `REGISTRY is "https://r.example.com/waggle"`},
		"a version of words":  {func(c *Config) { c.Version = "next one" }, `VERSION is "next one"; legal are`},
		"no worker":           {func(c *Config) { c.Workers = 0 }, "WORKERS is 0; legal are 1 to 64"},
		"no gateway":          {func(c *Config) { c.Target.Gateways = nil }, "no gateway"},
		"not the root":        {func(c *Config) { c.Root = t.TempDir() }, "not this repository's root"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := good
			test.change(&c)
			if _, err := New(c); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestTooLittleDiskIsSaidBeforeAnythingIsChanged(t *testing.T) {
	// No block of /proc is free, ever.
	fakeDocker(t, map[string]string{"version --format": "20.10.24", "info --format": "/proc", "image inspect": "sha256:1"})
	_, err := newTestSystem(t, nil).checkMachine(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not enough disk: /proc has 0 MiB free, 1024 MiB are needed") {
		t.Fatalf("got %v", err)
	}
}

func TestTakenPortNamesTheSettingThatChangesIt(t *testing.T) {
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	fakeDocker(t, map[string]string{"version --format": "20.10.24", "info --format": t.TempDir(), "image inspect": "sha256:1"})
	s := newTestSystem(t, func(c *Config) { c.Port = port })
	_, err = s.checkMachine(t.Context())
	want := fmt.Sprintf("port %d is taken by another program. Choose another with `make up PORT=%d`.", port, port+1)
	if err == nil || err.Error() != want {
		t.Fatalf("got %v, want %q", err, want)
	}

	fakeDocker(t, map[string]string{"version --format": "20.10.24", "info --format": t.TempDir(), "image inspect": "sha256:1", "service inspect": fmt.Sprint(port)})
	if _, err := s.checkMachine(t.Context()); err != nil {
		t.Fatalf("the port that our own gateway holds is refused: %v", err)
	}
}

func TestSwarmOfTheMachine(t *testing.T) {
	for name, test := range map[string]struct {
		answers map[string]string
		want    string // of the error; "" is success
		called  string
	}{
		"none: one is made and the node gets every role": {
			answers: map[string]string{"info --format": "inactive false", "swarm init": "", "node ls": "n1", "node inspect": "n1", "node update": ""},
			called:  "node update --label-add waggle.capture=true n1",
		},
		"a worker is told to use a manager": {
			answers: map[string]string{"info --format": "active false"}, want: "this machine is a worker of a Swarm",
		},
		"a locked Swarm is not guessed at": {
			answers: map[string]string{"info --format": "locked false"}, want: `in state "locked false"`,
		},
		"several nodes without a role: the operator decides": {
			answers: map[string]string{"info --format": "active true", "node ls": "n1\nn2", "node inspect": "n1 waggle.edge=true\nn2 waggle.capture=true waggle.worker=true"},
			want:    "docker node update --label-add waggle.store=true NODE",
		},
	} {
		t.Run(name, func(t *testing.T) {
			fakeDocker(t, test.answers)
			_, err := newTestSystem(t, nil).ensureSwarm(t.Context())
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			dir, _, _ := strings.Cut(os.Getenv("PATH"), ":")
			calls, err := os.ReadFile(filepath.Join(dir, "calls"))
			if err != nil || !strings.Contains(string(calls), test.called) {
				t.Fatalf("the calls were (%v)\n%swant %q", err, calls, test.called)
			}
		})
	}
}

func TestCredentialsAreMadeOnceAndNeverReplaced(t *testing.T) {
	fakeDocker(t, map[string]string{"secret ls": "", "secret create": "id"})
	s := newTestSystem(t, nil)
	created, err := s.ensureCredentials(t.Context())
	if err != nil || created == 0 {
		t.Fatalf("%d created, %v", created, err)
	}
	password, err := s.state.read("basic-auth-password")
	if err != nil || len(password) != 48 {
		t.Fatalf("the password is %q, %v; want 48 hexadecimal digits", password, err)
	}
	if info, err := os.Stat(s.state.path("basic-auth-password")); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the password's file is %v, %v; want mode 0600", info, err)
	}

	var listed []string
	for _, c := range credentials {
		v, err := s.state.values(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, content := range v.forms() {
			listed = append(listed, c.name+" "+v.secretName(content))
		}
	}
	fakeDocker(t, map[string]string{"secret ls": strings.Join(listed, "\n")})
	if created, err := s.ensureCredentials(t.Context()); err != nil || created != 0 {
		t.Fatalf("a second run makes %d, %v", created, err)
	}
	if again, _ := s.state.read("basic-auth-password"); again != password {
		t.Fatal("a second run replaced the password")
	}
	if err := os.Remove(s.state.path("postgres-admin")); err != nil {
		t.Fatal(err)
	}
	// A new password would lock us out of the volume that has the old one.
	if _, err := s.ensureCredentials(t.Context()); err == nil || !strings.Contains(err.Error(), "secret waggle-postgres-admin") {
		t.Fatalf("a lost credential gives %v", err)
	}
}

// TestLostVoterKeysAreNotReplaced: other keys give every voter another identity, and all of them could vote again.
func TestLostVoterKeysAreNotReplaced(t *testing.T) {
	fakeDocker(t, map[string]string{"secret ls": "", "secret create": "id"})
	s := newTestSystem(t, nil)
	if _, err := s.ensureCredentials(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.state.write("applied-voter-keys", "the hash of what the functions have"); err != nil {
		t.Fatal(err)
	}
	for name, lose := range map[string]func(string) error{
		"deleted": os.Remove, "emptied": func(path string) error { return os.Truncate(path, 0) },
	} {
		if err := lose(s.state.path("voter-keys")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ensureCredentials(t.Context()); err == nil || !strings.Contains(err.Error(), "voter-keys is gone") {
			t.Errorf("voter keys %s: got %v", name, err)
		}
		if err := s.state.write("voter-keys", voterKeys()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFingerprintShowsWhatChanged(t *testing.T) {
	t.Parallel()
	before := fingerprint{"a": "1", "b": "1", "gone": "1"}
	after := fingerprint{"a": "1", "b": "2", "c": "1"}
	if got := joinWords(after.changedFrom(before)); got != "b and c" {
		t.Errorf("changed: %q, want b and c", got)
	}
	if got := after.changedFrom(after); got != nil {
		t.Errorf("against itself: %q", got)
	}
}

func TestFailureIsOneLineAndKeepsItsFirstAdvice(t *testing.T) {
	t.Parallel()
	cause := fmt.Errorf("first\n  second: %w", docker.ErrDaemonDown)
	err := advise(advise(cause, "Do this."), "Do that.")
	if got := err.Error(); strings.Contains(got, "\n") || !strings.HasPrefix(got, "first second: ") || !strings.HasSuffix(got, " Do this.") {
		t.Errorf("got %q", got)
	}
	if !errors.Is(err, docker.ErrDaemonDown) {
		t.Error("the cause is lost")
	}
}

// An engine with another exec-root must start the provider as well.
func TestTaskEventsAreForEnginesThatHaveThem(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		want   bool
		fails  bool
	}{
		"there":   {"exit 0", true, false},
		"absent":  {`echo 'docker: Error response from daemon: invalid mount config for type "bind": bind source path does not exist: /var/run/docker/swarm.' >&2; exit 125`, false, false},
		"unknown": {"echo 'no such image' >&2; exit 125", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			if got, err := newTestSystem(t, nil).hasTaskEvents(t.Context(), "x"); got != test.want || (err != nil) != test.fails {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}
