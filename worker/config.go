package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// config is the whole environment of the worker. Secrets are files in SecretMountPath: redis-drain, postgres-drain and,
// for migrate alone, postgres-admin.
type config struct {
	// RedisHost is looked up at each scan: every address it has is a capture node's Redis.
	RedisHost string `envconfig:"REDIS_HOST" default:"tasks.waggle_redis"`
	RedisPort uint16 `envconfig:"REDIS_PORT" default:"6379"`
	// RedisAddresses, comma separated host:port, replace the look-up.
	RedisAddresses []string `envconfig:"REDIS_ADDRESSES"`
	RedisUser      string   `envconfig:"REDIS_USER" default:"drain"`

	// PostgresHost may be several names, comma separated: the first that takes writes is used.
	PostgresHost     string `envconfig:"POSTGRES_HOST" default:"tasks.waggle_postgres"`
	PostgresPort     uint16 `envconfig:"POSTGRES_PORT" default:"5432"`
	PostgresDatabase string `envconfig:"POSTGRES_DATABASE" default:"waggle"`
	PostgresSSLMode  string `envconfig:"POSTGRES_SSLMODE" default:"prefer"`
	// StartTimeout bounds the wait for Postgres and, when draining, for the migrations.
	StartTimeout time.Duration `envconfig:"START_TIMEOUT" default:"2m"`

	PollsFile       string `envconfig:"POLLS_FILE" default:"/etc/waggle/polls.json"`
	SecretMountPath string `envconfig:"SECRET_MOUNT_PATH" default:"/run/secrets"`
	// WorkerName has to be unique among live workers; default: the host name, which in a container is the container's id.
	WorkerName string `envconfig:"WORKER_NAME"`

	BatchSize        int           `envconfig:"BATCH_SIZE" default:"2000"`
	PollInterval     time.Duration `envconfig:"POLL_INTERVAL" default:"200ms"`
	Retention        time.Duration `envconfig:"RETENTION" default:"10m"`
	RetentionEntries int64         `envconfig:"RETENTION_ENTRIES" default:"1000000"`
	ShutdownTimeout  time.Duration `envconfig:"SHUTDOWN_TIMEOUT" default:"10s"`

	// Listen serves /healthz and /metrics.
	Listen   string `envconfig:"LISTEN" default:":8081"`
	LogLevel string `envconfig:"LOG_LEVEL" default:"info"`
}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

func loadConfig() (config, error) {
	var c config
	if err := envconfig.Process("", &c); err != nil {
		return c, fmt.Errorf("reading the environment: %w", err)
	}
	if c.WorkerName == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("reading the host name: %w", err)
		}
		c.WorkerName = name
	}
	return c, c.validate()
}

func (c config) validate() error {
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need(c.RedisHost != "" || len(c.RedisAddresses) > 0, "REDIS_HOST is empty: it must be a host name, or REDIS_ADDRESSES must name servers")
	need(c.RedisPort != 0, "REDIS_PORT is 0: it must be 1 to 65535")
	for _, addr := range c.RedisAddresses {
		host, port, err := net.SplitHostPort(addr)
		n, convErr := strconv.ParseUint(port, 10, 16)
		need(err == nil && convErr == nil && host != "" && n != 0, "REDIS_ADDRESSES has %q: each must be host:port", addr)
	}
	need(c.PostgresHost != "", "POSTGRES_HOST is empty: it must be a host name")
	need(c.PostgresPort != 0, "POSTGRES_PORT is 0: it must be 1 to 65535")
	need(slices.Contains(sslModes, c.PostgresSSLMode), "POSTGRES_SSLMODE is %q: it must be one of %s", c.PostgresSSLMode, strings.Join(sslModes, ", "))
	need(c.StartTimeout > 0 && c.StartTimeout <= time.Hour, "START_TIMEOUT is %v: it must be above 0 and at most 1h", c.StartTimeout)
	need(c.BatchSize >= 1 && c.BatchSize <= 100_000, "BATCH_SIZE is %d: it must be 1 to 100000", c.BatchSize)
	need(c.PollInterval >= time.Millisecond && c.PollInterval <= time.Minute, "POLL_INTERVAL is %v: it must be 1ms to 1m", c.PollInterval)
	need(c.Retention > 0 && c.Retention <= 720*time.Hour, "RETENTION is %v: it must be above 0 and at most 720h", c.Retention)
	need(c.RetentionEntries >= 1, "RETENTION_ENTRIES is %d: it must be at least 1", c.RetentionEntries)
	need(c.ShutdownTimeout >= time.Millisecond && c.ShutdownTimeout <= time.Hour, "SHUTDOWN_TIMEOUT is %v: it must be 1ms to 1h", c.ShutdownTimeout)
	_, _, err := net.SplitHostPort(c.Listen)
	need(err == nil, "LISTEN is %q: it must be host:port or :port", c.Listen)
	var level slog.Level
	need(level.UnmarshalText([]byte(c.LogLevel)) == nil, "LOG_LEVEL is %q: it must be debug, info, warn or error", c.LogLevel)
	return errors.Join(errs...)
}

func (c config) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // validated
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// shard spreads workers over the rows of the tally.
func (c config) shard() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.WorkerName)) // never fails
	return h.Sum32()
}

// secret reads a file of SecretMountPath; a line break at its end is not part of the secret.
func (c config) secret(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(c.SecretMountPath, name))
	if err != nil {
		return "", fmt.Errorf("reading secret %s: %w", name, err)
	}
	value := strings.TrimRight(string(text), "\r\n")
	if value == "" {
		return "", fmt.Errorf("secret %s is empty: it must hold a password", name)
	}
	return value, nil
}

// dsn is the libpq connection string of a role; its password is in the secret of the given name.
func (c config) dsn(role, secretName string) (string, error) {
	password, err := c.secret(secretName)
	if err != nil {
		return "", err
	}
	ports := strings.Repeat(","+strconv.Itoa(int(c.PostgresPort)), strings.Count(c.PostgresHost, ",")+1)[1:]
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var out []string
	for _, kv := range [][2]string{
		{"host", c.PostgresHost}, {"port", ports}, {"dbname", c.PostgresDatabase}, {"user", role}, {"password", password},
		{"sslmode", c.PostgresSSLMode}, {"target_session_attrs", "read-write"}, {"connect_timeout", "2"},
	} {
		out = append(out, kv[0]+"='"+quote.Replace(kv[1])+"'")
	}
	return strings.Join(out, " "), nil
}

// resolver returns the addresses of the capture nodes, looked up afresh at each call.
func (c config) resolver() func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		if len(c.RedisAddresses) > 0 {
			return c.RedisAddresses, nil
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		hosts, err := net.DefaultResolver.LookupHost(ctx, c.RedisHost)
		if err != nil {
			return nil, fmt.Errorf("looking up %s: %w", c.RedisHost, err)
		}
		for i, host := range hosts {
			hosts[i] = net.JoinHostPort(host, strconv.Itoa(int(c.RedisPort)))
		}
		slices.Sort(hosts)
		return hosts, nil
	}
}
