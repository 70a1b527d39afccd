package main

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"waggle/provider/async"
	"waggle/provider/gateway"
	"waggle/provider/settings"
)

// The environment is the process's own: these tests do not run in parallel.
func TestLoadConfig(t *testing.T) {
	for name, test := range map[string]struct {
		env   map[string]string
		check func(config) bool
	}{
		"defaults": {nil, func(c config) bool {
			return c.Role == roleProvider && c.address() == ":8081" && c.provider.FunctionUser == "12000:12000" &&
				c.provider.SwarmControlSocket == "/var/run/docker/swarm/control.sock" && c.provider.UpstreamTimeout == 55*time.Second
		}},
		"no control socket": {map[string]string{"swarm_control_socket": ""}, func(c config) bool { return c.provider.SwarmControlSocket == "" }},
		"seconds":           {map[string]string{"read_timeout": "90"}, func(c config) bool { return c.provider.ReadTimeout == 90*time.Second }},
		"images' own user":  {map[string]string{"function_user": ""}, func(c config) bool { return c.provider.FunctionUser == "" }},
		"lists":             {map[string]string{"allowed_volumes": "a,b"}, func(c config) bool { return len(c.provider.AllowedVolumes) == 2 }},
		"a gateway's own": {map[string]string{"role": "gateway", "upstream_timeout": "5m", "function_namespace": "x"}, func(c config) bool {
			return c.gateway.UpstreamTimeout == 5*time.Minute && c.gateway.ProviderURL == "http://provider:8081" &&
				c.gateway.FunctionNamespace == "x" && !c.hasQueue()
		}},
		"seconds of the queue": {map[string]string{"role": "gateway", "async_redis_socket": "/s", "async_run_timeout": "90", "max_retry_attempts": "0", "shutdown_timeout": "7"}, func(c config) bool {
			return c.hasQueue() && c.queue.RunTimeout == 90*time.Second && c.queue.MaxRetryAttempts == 0 &&
				c.queue.MaxRetryWait == 2*time.Minute && c.queue.StopTimeout == 9*time.Second && c.queue.Password == ""
		}},
		// Long functions are no reason to give the Swarm more time, and the provider keeps its place behind the gateway.
		"all: names that both have are the gateway's": {map[string]string{"role": "all", "port": "80", "upstream_timeout": "5m"}, func(c config) bool {
			return c.address() == "127.0.0.1:8081" && c.gateway.Port == 80 && c.gateway.ProviderURL == "http://127.0.0.1:8081" &&
				c.gateway.UpstreamTimeout == 5*time.Minute && c.provider.UpstreamTimeout == 55*time.Second && c.provider.WriteTimeout == time.Minute
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("basic_auth", "false")
			for key, value := range test.env {
				t.Setenv(key, value)
			}
			if c, err := loadConfig(); err != nil || !test.check(c) {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
}

// Operators find every setting, its default and what is legal in README.md, which `provider help` prints.
func TestEverySettingIsInTheReadme(t *testing.T) {
	t.Parallel()
	if err := settings.CompareTables(readme, common{}, server{}, providerConfig{}, gateway.Config{}, async.Config{}); err != nil {
		t.Error(err)
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
