package watchdog

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// Config is a server's settings. The zero value of a field is not a default: ConfigFromEnv applies those.
type Config struct {
	// Handler serves every request whose path does not begin with /_/.
	Handler http.Handler
	// Logger gets start, stop and panics, and one line per request when LogRequests is set.
	Logger *slog.Logger
	// Port serves the function (env port, default 8080; a deployed function, which OPENFAAS_NAME tells, must keep that).
	// MetricsPort serves /metrics (metrics_port, 8081). 0 picks a free one.
	Port, MetricsPort int
	// ReadTimeout bounds the reading of one request with its body (read_timeout, default 30 s).
	ReadTimeout time.Duration
	// WriteTimeout bounds one request from its headers to the end of its reply, and the drain (write_timeout;
	// default 30 s or exec_timeout, whichever is more).
	WriteTimeout time.Duration
	// ExecTimeout is how long a handler may take before the caller gets a 504 (exec_timeout; default 30 s or
	// write_timeout, whichever is less). 0 means no limit but WriteTimeout.
	ExecTimeout time.Duration
	// DrainWait is how long the server goes on as usual after SIGTERM, so that gateways hear of it first
	// (healthcheck_interval, default 2 s).
	DrainWait time.Duration
	// MaxInflight is the most requests served at once; further ones get 429 (max_inflight, default 0: no limit).
	MaxInflight int
	// LogRequests writes a line per request (log_requests, default false: at high rates the log costs more than the work).
	LogRequests bool
}

// LogValue keeps the settings and leaves out what is not one.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int("port", c.Port), slog.Int("metrics_port", c.MetricsPort),
		slog.String("read_timeout", c.ReadTimeout.String()), slog.String("write_timeout", c.WriteTimeout.String()),
		slog.String("exec_timeout", c.ExecTimeout.String()), slog.String("healthcheck_interval", c.DrainWait.String()),
		slog.Int("max_inflight", c.MaxInflight), slog.Bool("log_requests", c.LogRequests),
	)
}

const (
	defaultTimeout   = 30 * time.Second
	defaultDrainWait = 2 * time.Second
	// maxTimeout and maxInflight catch a unit mixed up, not a real wish.
	maxTimeout  = 24 * time.Hour
	maxInflight = 1 << 20
	// gatewayPort is where gateways call functions, whatever port they listen on.
	gatewayPort = 8080
)

// ConfigFromEnv reads the names that OpenFaaS watchdogs use. A duration is Go's ("1m30s") or whole seconds ("90").
// Every malformed or impossible value is named in the error.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	env := envReader{getenv: getenv}
	c := Config{
		Port:         env.integer("port", gatewayPort, 1, 65535),
		MetricsPort:  env.integer("metrics_port", 8081, 1, 65535),
		ReadTimeout:  env.duration("read_timeout", defaultTimeout, time.Millisecond),
		WriteTimeout: env.duration("write_timeout", defaultTimeout, time.Millisecond),
		DrainWait:    env.duration("healthcheck_interval", defaultDrainWait, 0),
		MaxInflight:  env.integer("max_inflight", 0, 0, maxInflight),
		LogRequests:  env.boolean("log_requests"),
	}
	c.ExecTimeout = env.duration("exec_timeout", min(defaultTimeout, c.WriteTimeout), 0)
	if getenv("write_timeout") == "" {
		c.WriteTimeout = max(c.WriteTimeout, c.ExecTimeout)
	}
	if c.ExecTimeout > c.WriteTimeout {
		env.fail("exec_timeout", c.ExecTimeout.String(),
			fmt.Sprintf("must not exceed write_timeout (%s): the connection would close before the 504", c.WriteTimeout))
	}
	if c.Port != gatewayPort && getenv("OPENFAAS_NAME") != "" {
		env.fail("port", strconv.Itoa(c.Port), fmt.Sprintf("must be %d in a deployed function: gateways call functions there", gatewayPort))
	}
	if c.Port == c.MetricsPort {
		env.fail("metrics_port", strconv.Itoa(c.MetricsPort), "must differ from port")
	}
	return c, errors.Join(env.errs...)
}

// envReader collects every mistake, so that one start tells them all.
type envReader struct {
	getenv func(string) string
	errs   []error
}

func (e *envReader) fail(name, value, legal string) {
	e.errs = append(e.errs, fmt.Errorf("%s=%q: %s", name, value, legal))
}

func (e *envReader) integer(name string, fallback, low, high int) int {
	text := e.getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		e.fail(name, text, fmt.Sprintf("must be a whole number from %d to %d", low, high))
		return fallback
	}
	return n
}

func (e *envReader) duration(name string, fallback, low time.Duration) time.Duration {
	text := e.getenv(name)
	if text == "" {
		return fallback
	}
	d, err := time.ParseDuration(text)
	if seconds, numErr := strconv.Atoi(text); numErr == nil {
		d, err = maxTimeout+1, nil // so many that a duration might not hold them
		if limit := int(maxTimeout / time.Second); seconds >= -limit && seconds <= limit {
			d = time.Duration(seconds) * time.Second
		}
	}
	if err != nil || d < low || d > maxTimeout {
		e.fail(name, text, fmt.Sprintf("must be a duration such as 30s or 1m30s, or whole seconds, from %s to %s", low, maxTimeout))
		return fallback
	}
	return d
}

func (e *envReader) boolean(name string) bool {
	text := e.getenv(name)
	if text == "" {
		return false
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		e.fail(name, text, "must be true or false")
	}
	return b
}
