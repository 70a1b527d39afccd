package watchdog

import (
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestConfigFromEnv(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  map[string]string
		want Config
		errs []string // each must be in the message; none means success
	}{
		"defaults": {nil, Config{Port: 8080, MetricsPort: 8081, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
			ExecTimeout: 30 * time.Second, DrainWait: 2 * time.Second}, nil},
		"seconds and durations": {map[string]string{"read_timeout": "5", "write_timeout": "1m30s", "exec_timeout": "0", "max_inflight": "7", "log_requests": "true"},
			Config{Port: 8080, MetricsPort: 8081, ReadTimeout: 5 * time.Second, WriteTimeout: 90 * time.Second,
				DrainWait: 2 * time.Second, MaxInflight: 7, LogRequests: true}, nil},
		"exec follows a shorter write_timeout": {map[string]string{"write_timeout": "10s", "healthcheck_interval": "0"},
			Config{Port: 8080, MetricsPort: 8081, ReadTimeout: 30 * time.Second, WriteTimeout: 10 * time.Second, ExecTimeout: 10 * time.Second}, nil},
		"write follows a longer exec_timeout": {map[string]string{"exec_timeout": "5m"},
			Config{Port: 8080, MetricsPort: 8081, ReadTimeout: 30 * time.Second, WriteTimeout: 5 * time.Minute, ExecTimeout: 5 * time.Minute, DrainWait: 2 * time.Second}, nil},
		"every mistake is named": {map[string]string{"read_timeout": "soon", "max_inflight": "-1", "port": "70000", "log_requests": "maybe"}, Config{},
			[]string{`read_timeout="soon"`, `max_inflight="-1"`, `port="70000"`, `log_requests="maybe"`}},
		"another port where none is called": {map[string]string{"port": "9000"}, Config{Port: 9000, MetricsPort: 8081, ReadTimeout: 30 * time.Second,
			WriteTimeout: 30 * time.Second, ExecTimeout: 30 * time.Second, DrainWait: 2 * time.Second}, nil},
		"another port in a deployed function": {map[string]string{"port": "9000", "OPENFAAS_NAME": "fn"}, Config{}, []string{`port="9000": must be 8080`}},
		"write_timeout of zero":               {map[string]string{"write_timeout": "0"}, Config{}, []string{"write_timeout"}},
		"exec above write":                    {map[string]string{"write_timeout": "5s", "exec_timeout": "6s"}, Config{}, []string{"exec_timeout", "write_timeout"}},
		"one port for both":                   {map[string]string{"port": "9000", "metrics_port": "9000"}, Config{}, []string{"metrics_port"}},
		"seconds beyond all duration":         {map[string]string{"read_timeout": "99999999999999"}, Config{}, []string{"read_timeout"}},
		"negative":                            {map[string]string{"read_timeout": "-5"}, Config{}, []string{"read_timeout"}},
		"a number without a unit, wide":       {map[string]string{"read_timeout": "86401"}, Config{}, []string{"read_timeout"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ConfigFromEnv(func(name string) string { return test.env[name] })
			if len(test.errs) == 0 {
				if err != nil || got != test.want {
					t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
				}
				return
			}
			for _, part := range test.errs {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("error %v does not name %s", err, part)
				}
			}
		})
	}
}

// FuzzConfig sets every variable to anything. What is accepted is what the text says, within the bounds. A caller's
// X-Timeout never lengthens a request.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{"", "30", "30s", "1m30s", "-5", "-9223372036854775807", "9223372036854775807", "18446744074", "0", "1e3", "true", "70000"} {
		f.Add(text, text, text)
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		env := map[string]string{"port": a, "metrics_port": b, "read_timeout": c, "write_timeout": a, "healthcheck_interval": b,
			"exec_timeout": c, "max_inflight": b, "log_requests": c}
		config, err := ConfigFromEnv(func(name string) string { return env[name] })
		for name, d := range map[string]time.Duration{"read_timeout": config.ReadTimeout, "write_timeout": config.WriteTimeout,
			"healthcheck_interval": config.DrainWait, "exec_timeout": config.ExecTimeout} {
			if d < 0 || d > maxTimeout {
				t.Errorf("%s=%q is %s", name, env[name], d)
			}
			seconds, numErr := strconv.Atoi(env[name])
			refused := err != nil && strings.Contains(err.Error(), name+"=")
			if numErr == nil && !refused && d.Seconds() != float64(seconds) {
				t.Errorf("%s=%q is %s", name, env[name], d)
			}
		}
		if config.Port < 1 || config.Port > 65535 || config.MetricsPort < 1 || config.MetricsPort > 65535 || config.MaxInflight < 0 {
			t.Errorf("%q: %+v", env, config)
		}
		server := &Server{config: config}
		request := httptest.NewRequest("GET", "/", nil)
		request.Header["X-Timeout"] = []string{a}
		if limit, _ := server.limit(request); config.ExecTimeout > 0 && (limit <= 0 || limit > config.ExecTimeout) {
			t.Errorf("X-Timeout %q makes exec_timeout %s %s", a, config.ExecTimeout, limit)
		}
	})
}
