package watchdog

import (
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
		"every mistake is named": {map[string]string{"read_timeout": "soon", "max_inflight": "-1", "port": "70000", "log_requests": "maybe"}, Config{},
			[]string{`read_timeout="soon"`, `max_inflight="-1"`, `port="70000"`, `log_requests="maybe"`}},
		"write_timeout of zero":         {map[string]string{"write_timeout": "0"}, Config{}, []string{"write_timeout"}},
		"exec above write":              {map[string]string{"write_timeout": "5s", "exec_timeout": "6s"}, Config{}, []string{"exec_timeout", "write_timeout"}},
		"one port for both":             {map[string]string{"port": "9000", "metrics_port": "9000"}, Config{}, []string{"metrics_port"}},
		"seconds beyond all duration":   {map[string]string{"read_timeout": "99999999999999"}, Config{}, []string{"read_timeout"}},
		"negative":                      {map[string]string{"read_timeout": "-5"}, Config{}, []string{"read_timeout"}},
		"a number without a unit, wide": {map[string]string{"read_timeout": "86401"}, Config{}, []string{"read_timeout"}},
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
