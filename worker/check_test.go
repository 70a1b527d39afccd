package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"waggle/deploy/lab/harness"
	"waggle/provider/settings"
)

// asWorker in the environment of a test process makes it the program itself.
const asWorker = "WAGGLE_TEST_AS_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(asWorker) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program runs the worker's binary with nothing but env in its environment.
func program(t *testing.T, env []string, args ...string) (output string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append([]string{asWorker + "=1"}, env...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestConfigCheckFindsMistakes(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	for name, test := range map[string]struct {
		env  []string
		want string
	}{
		"no duration":       {[]string{"poll_interval=often"}, `poll_interval is "often": must be 1ms to 1m, such as 1m30s or whole seconds`},
		"long retention":    {[]string{"RETENTION=1000h"}, `retention is 1000h: must be 1s to 720h`},
		"no number":         {[]string{"batch_size=all"}, `batch_size is "all": must be 1 to 100000`},
		"unknown TLS mode":  {[]string{"postgres_sslmode=yes"}, `postgres_sslmode is "yes": must be disable, allow,`},
		"unknown log level": {[]string{"log_level=loud"}, `log_level is "loud": must be debug, info, warn or error`},
		"no server":         {[]string{"redis_addresses=a:1,b"}, `redis_addresses is "b": must be host:port, comma separated`},
		"taken port":        {[]string{"listen=127.0.0.1:" + port}, `listen is ` + port + `: must be a free port, but another program listens there`},
		"impossible port":   {[]string{"listen=:70000"}, `listen is ":70000": must be host:port or :port`},
		"no polls":          {[]string{"polls_file=/none"}, `polls_file is "/none": must be a poll file: reading the polls: open /none: no such file`},
		"no secrets":        {[]string{"secret_mount_path=/none"}, `secret redis-drain is missing: must be a file /none/redis-drain`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, status := program(t, append(place(t), test.env...), "config", "check")
			want := 1 + strings.Count(name, "secrets")
			if status != 2 || strings.Count(out, "\n") != want || !strings.HasPrefix(out, test.want) {
				t.Errorf("status %d\n%swant status 2 and a line\n%s", status, out, test.want)
			}
		})
	}
}

// place is an environment in which nothing is wrong.
func place(t *testing.T) []string {
	c := valid(t)
	return []string{"secret_mount_path=" + c.SecretMountPath, "polls_file=" + c.PollsFile, fmt.Sprintf("listen=127.0.0.1:%d", harness.FreePort(t))}
}

func TestConfigCheckAndTheFirstLogLineListTheSettings(t *testing.T) {
	t.Parallel()
	env := append(place(t), "retention=90", "redis_addresses=127.0.0.1:1")
	out, status := program(t, env, "config", "check")
	var names []string
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(line, "=")
		names = append(names, name)
	}
	var want []string
	for _, setting := range settings.List(config{}) {
		want = append(want, setting.Name)
	}
	if status != 0 || !slices.Equal(names, want) || !strings.Contains(out, "\nretention=1m30s\n") || strings.Contains(out, harness.RedisPassword) {
		t.Errorf("status %d\n%s", status, out)
	}
	// It logs them and then ends, since its polls are not there.
	log, status := program(t, append(env, "polls_file=/none"))
	var line struct {
		Msg      string
		Settings map[string]string
	}
	first, _, _ := strings.Cut(log, "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil || status != 1 || line.Msg != "starting" || len(line.Settings) != len(want) || line.Settings["retention"] != "1m30s" {
		t.Errorf("status %d, first line %s, %v", status, first, err)
	}
}

// Operators find every setting, its default and what is legal in README.md, which `worker help` prints.
func TestEverySettingIsInTheReadme(t *testing.T) {
	t.Parallel()
	if err := settings.CompareTables(readme, config{}); err != nil {
		t.Error(err)
	}
	out, status := program(t, nil, "help")
	if status != 0 || !strings.HasPrefix(out, usage) || !strings.Contains(out, "| `retention` | `10m` | 1s to 720h |") {
		t.Errorf("status %d\n%s", status, out)
	}
}
