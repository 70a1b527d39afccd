package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/provider/async"
	"waggle/provider/gateway"
)

// The environment is the process's own: these tests do not run in parallel.
func TestLoadConfig(t *testing.T) {
	for name, test := range map[string]struct {
		env   map[string]string
		check func(config) bool
		wrong string
	}{
		"defaults": {nil, func(c config) bool {
			return c.Port == 8081 && c.BasicAuth && c.FunctionUser == "12000:12000" && c.Role == roleProvider &&
				c.SwarmControlSocket == "/var/run/docker/swarm/control.sock"
		}, ""},
		"no control socket": {map[string]string{"swarm_control_socket": ""}, func(c config) bool { return c.SwarmControlSocket == "" }, ""},
		"seconds":           {map[string]string{"read_timeout": "90"}, func(c config) bool { return time.Duration(c.ReadTimeout) == 90*time.Second }, ""},
		"duration":          {map[string]string{"read_timeout": "1m30s"}, func(c config) bool { return time.Duration(c.ReadTimeout) == 90*time.Second }, ""},
		"images' own user":  {map[string]string{"function_user": ""}, func(c config) bool { return c.FunctionUser == "" }, ""},
		"lists":             {map[string]string{"allowed_volumes": "a,b"}, func(c config) bool { return len(c.AllowedVolumes) == 2 }, ""},
		"all: loopback":     {map[string]string{"role": "all", "port": "80"}, func(c config) bool { return c.address() == "127.0.0.1:8081" }, ""},
		"gateway":           {map[string]string{"role": "gateway", "upstream_timeout": "5m"}, func(c config) bool { return c.Role == roleGateway }, ""},
		"unknown role":      {map[string]string{"role": "x"}, nil, "role"},
		"bad port":          {map[string]string{"port": "70000"}, nil, "port"},
		"no port":           {map[string]string{"port": "x"}, nil, "PORT"},
		"bad timeout":       {map[string]string{"write_timeout": "soon"}, nil, "soon"},
		"negative timeout":  {map[string]string{"read_timeout": "-1s"}, nil, "read_timeout"},
		"upstream too long": {map[string]string{"upstream_timeout": "2m"}, nil, "upstream_timeout"},
		"bad switch":        {map[string]string{"basic_auth": "perhaps"}, nil, "BASIC_AUTH"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range test.env {
				t.Setenv(key, value)
				t.Setenv(strings.ToUpper(key), value) // loadEnv sets it; this has it removed afterwards
			}
			c, err := loadConfig()
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("got %v; want an error about %s", err, test.wrong)
				}
				return
			}
			if err != nil || !test.check(c) {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := config{BasicAuth: true, SecretMountPath: dir}
	if _, _, err := c.credentials(); err == nil || !strings.Contains(err.Error(), "basic-auth-user") {
		t.Errorf("without files: %v", err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("basic-auth-user", "admin\n")
	write("basic-auth-password", "\n")
	if _, _, err := c.credentials(); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("with an empty password: %v", err)
	}
	write("basic-auth-password", " pw \n")
	if user, password, err := c.credentials(); err != nil || user != "admin" || password != "pw" {
		t.Errorf("got %q, %q, %v", user, password, err)
	}
	c.BasicAuth = false
	if user, password, err := c.credentials(); err != nil || user != "" || password != "" {
		t.Errorf("without basic auth: %q, %q, %v", user, password, err)
	}
}

func TestAuthHeader(t *testing.T) {
	t.Parallel()
	file := []byte(`{"auths":{"ghcr.io":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("me:p:w")) + `"},
		"https://index.docker.io/v1/":{"username":"hub","password":"x"},"bad.io":{"auth":"!"}},"credsStore":"none"}`)
	for host, want := range map[string]string{"ghcr.io": "me p:w", "": "hub x", "docker.io": "hub x", "quay.io": "", "bad.io": "error"} {
		header, err := authHeader(file, host)
		switch {
		case want == "error":
			if err == nil || strings.Contains(err.Error(), "!") {
				t.Errorf("%s: %q, %v; want an error without the value", host, header, err)
			}
		case want == "":
			if header != "" || err != nil {
				t.Errorf("%s: %q, %v", host, header, err)
			}
		default:
			plain, decodeErr := base64.URLEncoding.DecodeString(header)
			var sent struct{ Username, Password string }
			if err != nil || decodeErr != nil || json.Unmarshal(plain, &sent) != nil || sent.Username+" "+sent.Password != want {
				t.Errorf("%s: %s, %v", host, plain, err)
			}
		}
	}
	if _, err := authHeader([]byte("password: hunter2"), ""); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("no JSON: %v; want an error without the content", err)
	}
}

func FuzzAuthHeader(f *testing.F) {
	f.Add([]byte(`{"auths":{"a":{"auth":"YTpi"}}}`), "a")
	f.Fuzz(func(t *testing.T, file []byte, host string) {
		header, err := authHeader(file, host)
		if header != "" && err != nil {
			t.Errorf("both %q and %v", header, err)
		}
	})
}

// FuzzDuration reads settings that are Go's durations or whole seconds; no other text is taken for either.
func FuzzDuration(f *testing.F) {
	for _, text := range []string{"60s", "60", "1m30s", "-1", "+5", "9999999999", "1e3", " 1", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var d duration
		err := d.Decode(text)
		if seconds, intErr := strconv.ParseUint(text, 10, 31); intErr == nil && (err != nil || time.Duration(d) != time.Duration(seconds)*time.Second) {
			t.Errorf("%q: %s, %v; want %d seconds", text, d, err, seconds)
		}
		if parsed, goErr := time.ParseDuration(text); goErr == nil && text != "0" && text != "+0" && text != "-0" && (err != nil || time.Duration(d) != parsed) {
			t.Errorf("%q: %s, %v; want %s", text, d, err, parsed)
		} else if err != nil && !strings.Contains(err.Error(), "want a duration") {
			t.Errorf("%q: %v does not say what is legal", text, err)
		}
	})
}

// Operators find every setting, and its default, in README.md.
func TestEverySettingIsInTheReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range []any{config{}, gateway.Config{}, async.Config{}} {
		fields := reflect.TypeOf(spec)
		for i := range fields.NumField() {
			name, value := fields.Field(i).Tag.Get("envconfig"), fields.Field(i).Tag.Get("default")
			if name == "" {
				continue
			}
			row := regexp.MustCompile("(?m)^\\| .*`" + name + "`.* \\|.*" + regexp.QuoteMeta(value) + ".*\\|")
			if !row.Match(text) {
				t.Errorf("README.md has no row for setting %s with default %q", name, value)
			}
		}
	}
}
