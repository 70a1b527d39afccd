package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/provider/settings"
	"waggle/worker/drain"
	"waggle/worker/store"
)

// config is the whole environment of the worker. Secrets are files in SecretMountPath: redis-drain and postgres-drain.
// Migrate has postgres-admin. In a Postgres of others it also has postgres-<role>-now and postgres-<role>-before, for each role.
type config struct {
	// RedisHost is looked up at each scan: every address it has is a capture node's Redis.
	RedisHost string `envconfig:"redis_host" default:"tasks.waggle_redis"`
	RedisPort uint16 `envconfig:"redis_port" default:"6379" legal:"1 to 65535"`
	// RedisAddresses, comma separated host:port, replace the look-up.
	RedisAddresses []string `envconfig:"redis_addresses"`
	RedisUser      string   `envconfig:"redis_user" default:"drain"`
	// CaptureNodes are the names of the nodes that should have a Redis: one that no worker has reached is missing, not absent.
	CaptureNodes []string `envconfig:"capture_nodes"`

	// PostgresHost may be several names, comma separated: the first that takes writes is used.
	PostgresHost     string `envconfig:"postgres_host" default:"tasks.waggle_postgres"`
	PostgresPort     uint16 `envconfig:"postgres_port" default:"5432" legal:"1 to 65535"`
	PostgresDatabase string `envconfig:"postgres_database" default:"waggle"`
	PostgresSSLMode  string `envconfig:"postgres_sslmode" default:"prefer" legal:"disable|allow|prefer|require|verify-ca|verify-full"`
	// PostgresCA is a file with the authorities that may have signed Postgres's certificate, for the verifying modes.
	PostgresCA string `envconfig:"postgres_ca"`
	// StartTimeout bounds the wait for Postgres and, when draining, for the migrations.
	StartTimeout time.Duration `envconfig:"start_timeout" default:"2m" legal:"1s to 1h"`

	PollsFile       string `envconfig:"polls_file" default:"/etc/waggle/polls.json"`
	SecretMountPath string `envconfig:"secret_mount_path" default:"/run/secrets"`
	// WorkerName has to be unique among live workers; default: the host name, which in a container is the container's id.
	WorkerName string `envconfig:"worker_name"`

	BatchSize        int           `envconfig:"batch_size" default:"2000" legal:"1 to 100000"`
	PollInterval     time.Duration `envconfig:"poll_interval" default:"200ms" legal:"1ms to 1m"`
	Retention        time.Duration `envconfig:"retention" default:"10m" legal:"1s to 720h"`
	RetentionEntries int64         `envconfig:"retention_entries" default:"1000000" legal:"at least 1"`
	RecoverAfter     time.Duration `envconfig:"recover_after" default:"30s" legal:"1s to 24h"`
	ShutdownTimeout  time.Duration `envconfig:"shutdown_timeout" default:"10s" legal:"1ms to 1h"`

	// Listen serves /healthz and /metrics.
	Listen   string     `envconfig:"listen" default:":8081"`
	LogLevel slog.Level `envconfig:"log_level" default:"info"`
}

// loadConfig reads the environment. Every mistake has a line of its own in the error.
func loadConfig() (config, error) {
	var c config
	err := settings.Load(&c)
	if c.WorkerName == "" {
		name, nameErr := os.Hostname()
		if nameErr != nil {
			err = errors.Join(err, fmt.Errorf("worker_name is empty, and the host has no name: %w", nameErr))
		}
		c.WorkerName = name
	}
	return c, errors.Join(err, c.validate())
}

func (c config) validate() error {
	errs := []error{settings.Check(c)}
	if c.RedisHost == "" && len(c.RedisAddresses) == 0 {
		errs = append(errs, settings.Mistake("redis_host", c.RedisHost, "a host name, or redis_addresses must name servers"))
	}
	for _, addr := range c.RedisAddresses {
		host, port, err := net.SplitHostPort(addr)
		if n, convErr := strconv.ParseUint(port, 10, 16); err != nil || convErr != nil || host == "" || n == 0 {
			errs = append(errs, settings.Mistake("redis_addresses", addr, "host:port, comma separated"))
		}
	}
	if c.PostgresHost == "" {
		errs = append(errs, settings.Mistake("postgres_host", c.PostgresHost, "a host name, or several, comma separated"))
	}
	if _, err := c.listenPort(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// check joins what is wrong outside of the settings: what they name is unavailable. It is for a worker that does not
// run yet.
func (c config) check() error {
	_, pollsErr := drain.LoadPolls(c.PollsFile)
	if pollsErr != nil {
		pollsErr = settings.Mistake("polls_file", c.PollsFile, "a poll file: %w", pollsErr)
	}
	_, redisErr := settings.ReadSecret(c.SecretMountPath, "redis-drain")
	_, postgresErr := settings.ReadSecret(c.SecretMountPath, "postgres-drain")
	var caErr error
	if _, err := os.Stat(c.PostgresCA); c.PostgresCA != "" && err != nil {
		caErr = settings.Mistake("postgres_ca", c.PostgresCA, "a file with certificates: %w", err)
	}
	var portErr error
	if port, err := c.listenPort(); err == nil {
		host, _, _ := net.SplitHostPort(c.Listen)
		portErr = settings.CheckFree("listen", host, port)
	}
	return errors.Join(pollsErr, redisErr, postgresErr, caErr, portErr)
}

// listenPort is the port of Listen.
func (c config) listenPort() (int, error) {
	_, port, err := net.SplitHostPort(c.Listen)
	n, convErr := strconv.ParseUint(port, 10, 16)
	if err != nil || convErr != nil {
		return 0, settings.Mistake("listen", c.Listen, "host:port or :port, a port being 0 to 65535")
	}
	return int(n), nil
}

func (c config) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.LogLevel}))
}

// shard spreads workers over the rows of the tally.
func (c config) shard() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.WorkerName)) // never fails
	return h.Sum32()
}

// dsn is the libpq connection string of a role; its password is in the secret of the given name.
func (c config) dsn(role, secretName string) (string, error) {
	password, err := settings.ReadSecret(c.SecretMountPath, secretName)
	if err != nil {
		return "", err
	}
	return c.login(role, password, "read-write"), nil
}

// login is a connection string for a server of the given kind, as libpq's target_session_attrs has it.
func (c config) login(role, password, server string) string {
	ports := strings.Repeat(","+strconv.Itoa(int(c.PostgresPort)), strings.Count(c.PostgresHost, ",")+1)[1:]
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var out []string
	parameters := [][2]string{
		{"host", c.PostgresHost}, {"port", ports}, {"dbname", c.PostgresDatabase}, {"user", role}, {"password", password},
		{"sslmode", c.PostgresSSLMode}, {"target_session_attrs", server}, {"connect_timeout", "2"},
	}
	if c.PostgresCA != "" {
		parameters = append(parameters, [2]string{"sslrootcert", c.PostgresCA})
	}
	for _, kv := range parameters {
		out = append(out, kv[0]+"='"+quote.Replace(kv[1])+"'")
	}
	return strings.Join(out, " ")
}

// changedPasswords are the roles whose passwords differ from those before, which only migrate in a Postgres of others has.
func (c config) changedPasswords() ([]store.Login, error) {
	var changed []store.Login
	for _, role := range []string{"admin", "drain", "results"} {
		before, err := settings.ReadSecret(c.SecretMountPath, "postgres-"+role+"-before")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		now, nowErr := settings.ReadSecret(c.SecretMountPath, "postgres-"+role+"-now")
		if err := errors.Join(err, nowErr); err != nil {
			return nil, err
		}
		if now != before {
			name := "waggle_" + role
			changed = append(changed, store.Login{Before: c.login(name, before, "primary"), Now: c.login(name, now, "primary"), Password: now})
		}
	}
	return changed, nil
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
