package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waggle/deploy/lab/harness"
	"waggle/provider/settings"
)

// program runs the provider's binary with nothing but env in its environment.
func program(t *testing.T, env []string, args ...string) (output string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append([]string{asGateway + "=1"}, env...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// place is a folder with the secrets that every role needs, and ports that nobody has.
func place(t *testing.T) (dir string, env []string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "basic-auth-user", "admin")
	write(t, dir, "basic-auth-password", "hunter2")
	env = []string{"secret_mount_path=" + dir, "registry_config=" + dir + "/registry-config"}
	for _, name := range []string{"port", "metrics_port", "tls_port"} {
		env = append(env, fmt.Sprintf("%s=%d", name, harness.FreePort(t)))
	}
	return dir, env
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each mistake is one line with the setting, its value and what is legal.
func TestConfigCheckFindsMistakes(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	const gateway, queue = "role=gateway", "async_redis_socket=/run/queue/redis.sock"
	for name, test := range map[string]struct {
		env  []string
		file [2]string // name and text
		want string    // the line; DIR is the folder of the secrets
	}{
		"unknown role":            {[]string{"role=edge"}, [2]string{}, `role is "edge": must be provider, gateway or all`},
		"unknown log level":       {[]string{"log_level=loud"}, [2]string{}, `log_level is "loud": must be debug, info, warn or error`},
		"no switch":               {[]string{"basic_auth=perhaps"}, [2]string{}, `basic_auth is "perhaps": must be true or false`},
		"missing secret":          {[]string{"secret_mount_path=/none", "basic_auth=true"}, [2]string{}, `secret basic-auth-user is missing: must be a file /none/basic-auth-user`},
		"empty secret":            {nil, [2]string{"basic-auth-password", "\n"}, `secret basic-auth-password is empty: must be a password in DIR/basic-auth-password`},
		"user with a colon":       {nil, [2]string{"basic-auth-user", "a:b"}, `secret basic-auth-user has a colon: must have none`},
		"no port":                 {[]string{"port=http"}, [2]string{}, `port is "http": must be 1 to 65535`},
		"impossible port":         {[]string{"port=70000"}, [2]string{}, `port is 70000: must be 1 to 65535`},
		"taken port":              {[]string{"port=" + port}, [2]string{}, `port is ` + port + `: must be a free port, but another program listens there`},
		"taken port of a gateway": {[]string{gateway, "metrics_port=" + port}, [2]string{}, `metrics_port is ` + port + `: must be a free port, but another program listens there`},
		"one port twice":          {[]string{gateway, "port=9999", "metrics_port=9999"}, [2]string{}, `metrics_port is 9999: must be another port than port`},
		"no duration":             {[]string{"write_timeout=soon"}, [2]string{}, `write_timeout is "soon": must be 1s to 24h, such as 1m30s or whole seconds`},
		"negative duration":       {[]string{"read_timeout=-1s"}, [2]string{}, `read_timeout is -1s: must be 1s to 24h`},
		"long duration":           {[]string{gateway, "hold_timeout=30h"}, [2]string{}, `hold_timeout is 30h: must be 0s to 24h`},
		"no time at all":          {[]string{gateway, "idle_timeout=0"}, [2]string{}, `idle_timeout is 0s: must be 1s to 24h`},
		"timeouts out of order":   {[]string{"upstream_timeout=2m"}, [2]string{}, `upstream_timeout is 2m: must be at most write_timeout, 1m0s`},
		"wrong user":              {[]string{"function_user=root"}, [2]string{}, `function_user is "root": must be uid:gid in numbers`},
		"wrong namespace":         {[]string{"function_namespace=A b"}, [2]string{}, `function_namespace is "A b": must be 1 to 63 of a-z, 0-9 and -`},
		"registries unreadable":   {nil, [2]string{"registry-config", "password: hunter3"}, `registry_config is "DIR/registry-config": must be a Docker config.json`},
		"wrong Docker host":       {[]string{"DOCKER_HOST=nowhere"}, [2]string{}, `configuring the Docker client: unable to parse docker host`},
		"wrong URL":               {[]string{gateway, "functions_provider_url=ftp://x"}, [2]string{}, `functions_provider_url is "ftp://x": must be http://host:port`},
		"password in a URL":       {[]string{gateway, "functions_provider_url=http://a:hunter3@x"}, [2]string{}, `functions_provider_url is "http://a:xxxxx@x": must be http://host:port`},
		"impossible rate":         {[]string{gateway, "rate_limit=NaN"}, [2]string{}, `rate_limit is NaN: must be 0 to 1000000`},
		"no proxy":                {[]string{gateway, "trusted_proxies=10.0.0.0/8,me"}, [2]string{}, `trusted_proxies is "me": must be addresses and networks`},
		"long target":             {[]string{gateway, "max_uri_bytes=20000"}, [2]string{}, `max_uri_bytes is 20000: must be at most max_header_bytes, 16384`},
		"unreadable certificate":  {[]string{gateway, "tls_cert_file=/none", "tls_key_file=/none"}, [2]string{}, `tls_cert_file is "/none": must be a certificate in PEM whose key is in tls_key_file, /none: open /none`},
		"no certificate":          {[]string{gateway, "tls_cert_file=DIR/cert", "tls_key_file=DIR/cert"}, [2]string{"cert", "x"}, `tls_cert_file is "DIR/cert": must be a certificate in PEM`},
		"certificate without key": {[]string{gateway, "tls_cert_file=/none"}, [2]string{}, `tls_key_file is "": must be set where tls_cert_file is`},
		"redirect without TLS":    {[]string{gateway, "tls_redirect=true"}, [2]string{}, `tls_redirect is true: must be false, unless`},
		"nowhere for ACME":        {[]string{gateway, "acme_domains=a.example"}, [2]string{}, `acme_cache_dir is "": must be a directory that outlives the container`},
		"relative socket":         {[]string{gateway, "async_redis_socket=redis.sock"}, [2]string{}, `async_redis_socket is "redis.sock": must be an absolute path`},
		"retry of a success":      {[]string{gateway, queue, "retry_http_codes=200"}, [2]string{}, `retry_http_codes is 200: must be 400 to 599`},
		"pauses out of order":     {[]string{gateway, queue, "initial_retry_wait=3m"}, [2]string{}, `max_retry_wait is 2m: must be at least initial_retry_wait`},
		"empty queue secret":      {[]string{gateway, queue}, [2]string{"redis-queue", ""}, `secret redis-queue is empty: must be a password`},
		"no network":              {[]string{gateway, queue, "async_callback_networks=10"}, [2]string{}, `async_callback_networks is "10": must be networks such as`},
		"the provider's own port": {[]string{"role=all", "metrics_port=8081"}, [2]string{}, `metrics_port is 8081: must be another port than that of the provider in role all`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, env := place(t)
			if test.file[0] != "" {
				write(t, dir, test.file[0], test.file[1])
			}
			for _, setting := range test.env {
				env = append(env, strings.ReplaceAll(setting, "DIR", dir))
			}
			out, status := program(t, env, "config", "check")
			var lines []string
			for line := range strings.Lines(out) {
				lines = append(lines, strings.TrimSpace(line))
			}
			want := strings.ReplaceAll(test.want, "DIR", dir)
			if status != 2 || !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, want) }) {
				t.Errorf("status %d\n%swant status 2 and a line\n%s", status, out, want)
			}
			if most := 1 + strings.Count(name, "missing") + strings.Count(name, "nowhere"); len(lines) > most {
				t.Errorf("%d lines for one mistake:\n%s", len(lines), out)
			}
			if strings.Contains(out, "hunter") {
				t.Errorf("a password is shown:\n%s", out)
			}
		})
	}
}

func TestConfigCheckSaysAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	_, env := place(t)
	out, status := program(t, append(env, "role=all", "read_timeout=x", "max_connections=0", "function_user=me", "log_level=no"), "config", "check")
	if status != 2 || strings.Count(out, "\n") != 4 || strings.Count(out, ": must be ") != 4 {
		t.Errorf("status %d\n%s", status, out)
	}
}

// What a role does not have is no mistake of it, and is not listed.
func TestConfigCheckAndTheFirstLogLineListTheRolesSettings(t *testing.T) {
	t.Parallel()
	names := func(specs ...any) (all []string) {
		for _, s := range settings.List(specs...) {
			all = append(all, s.Name)
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	ofProvider := []any{common{}, server{}, providerConfig{}}
	ofGateway := []any{common{}, config{}.gateway, config{}.queue}
	for role, test := range map[string]struct {
		specs []any
		env   []string
		want  []string // settings that are not the defaults
		not   []string
	}{
		roleProvider: {ofProvider, []string{"read_timeout=90", "metrics_port=x"}, []string{"read_timeout=1m30s", "upstream_timeout=55s"}, []string{"metrics_port"}},
		roleGateway:  {ofGateway, []string{"read_timeout=90", "async_run_timeout=90", "function_user=x"}, []string{"read_timeout=1m30s", "async_run_timeout=1m30s", "upstream_timeout=1m", "rate_burst=20"}, []string{"function_user"}},
		roleAll:      {append(ofProvider, ofGateway...), []string{"upstream_timeout=3m"}, []string{"upstream_timeout=3m", "functions_provider_url=http://127.0.0.1:8081"}, nil},
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			_, env := place(t)
			env = slices.Concat(env, []string{"role=" + role}, test.env)
			out, status := started(t, env), 0
			if role != roleAll { // there a port is fixed, and may be taken on this machine
				logged := out
				if out, status = program(t, env, "config", "check"); logged != out {
					t.Errorf("the log's first line has\n%swhere config check has\n%s", logged, out)
				}
			}
			if status != 0 || strings.Contains(out, "hunter") {
				t.Fatalf("status %d\n%s", status, out)
			}
			var got []string
			for line := range strings.Lines(out) {
				name, _, _ := strings.Cut(line, "=")
				got = append(got, name)
			}
			slices.Sort(got)
			if !slices.Equal(got, names(test.specs...)) {
				t.Errorf("lists %q\nwant  %q", got, names(test.specs...))
			}
			for _, setting := range test.want {
				if !strings.Contains(out, "\n"+setting+"\n") {
					t.Errorf("%s is not in\n%s", setting, out)
				}
			}
			for _, name := range test.not {
				if slices.Contains(got, name) {
					t.Errorf("%s is listed in role %s", name, role)
				}
			}
		})
	}
}

// started runs the program until it has written its first line, and gives the settings in it, one a line.
func started(t *testing.T, env []string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append([]string{asGateway + "=1"}, env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var first json.RawMessage
	err = json.NewDecoder(stderr).Decode(&first)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // that it was killed is known
	var line struct {
		Msg      string
		Settings json.RawMessage
	}
	if err != nil || json.Unmarshal(first, &line) != nil || line.Msg != "starting" {
		t.Fatalf("first line %s, %v", first, err)
	}
	if bytes.Contains(first, []byte("hunter")) {
		t.Errorf("a password is logged: %s", first)
	}
	// In the order of the line, which a map would lose.
	var out strings.Builder
	words := json.NewDecoder(bytes.NewReader(line.Settings))
	var name string
	for i := 0; words.More() || i == 0; i++ {
		token, err := words.Token()
		if err != nil {
			t.Fatal(err)
		}
		switch text, isText := token.(string); {
		case !isText:
		case name == "":
			name = text
		default:
			fmt.Fprintf(&out, "%s=%s\n", name, text)
			name = ""
		}
	}
	return out.String()
}

func TestHelpPrintsTheSettings(t *testing.T) {
	t.Parallel()
	out, status := program(t, nil, "help")
	if status != 0 || !strings.HasPrefix(out, usage) || !strings.HasSuffix(out, settings.Tables(readme)) || !strings.Contains(out, "| `hold_timeout` | `30s` | 0s to 24h |") {
		t.Errorf("status %d\n%s", status, out)
	}
	if out, status := program(t, nil, "config", "chek"); status != 2 || !strings.Contains(out, `argument "config chek": must be help, config check`) {
		t.Errorf("status %d\n%s", status, out)
	}
}
