package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
)

func valid(t *testing.T) config {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"redis-drain": harness.RedisPassword + "\n", "postgres-drain": `pass'word\`, "postgres-admin": "x",
		"polls.json": `{"polls":[{"id":1,"slug":"a","question":"?","opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z",` +
			`"mode":"last","results":"live","options":[{"id":1,"slug":"b","name":"B"},{"id":2,"slug":"c","name":"C"}]}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatalf("writing %s: %v", name, err)
		}
	}
	return config{
		RedisHost: "tasks.waggle_redis", RedisPort: 6379, RedisUser: "drain",
		PostgresHost: "a", PostgresPort: 5432, PostgresDatabase: "waggle", PostgresSSLMode: "prefer", StartTimeout: time.Minute,
		PollsFile: filepath.Join(dir, "polls.json"), SecretMountPath: dir, WorkerName: "w",
		BatchSize: 2000, PollInterval: 5 * time.Millisecond, Retention: time.Minute, RetentionEntries: 1000, RecoverAfter: 30 * time.Second,
		ShutdownTimeout: 10 * time.Second, Listen: "127.0.0.1:0", LogLevel: slog.LevelError,
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*config)
		want   string
	}{
		"no Redis":              {func(c *config) { c.RedisHost = "" }, "redis_host is \"\": must be a host name"},
		"address without port":  {func(c *config) { c.RedisAddresses = []string{"a"} }, `redis_addresses is "a": must be host:port`},
		"no Postgres":           {func(c *config) { c.PostgresHost = "" }, "postgres_host is \"\": must be a host name"},
		"unknown TLS mode":      {func(c *config) { c.PostgresSSLMode = "yes" }, `postgres_sslmode is "yes": must be disable, allow, prefer, require, verify-ca or verify-full`},
		"batch too big":         {func(c *config) { c.BatchSize = 100_001 }, "batch_size is 100001: must be 1 to 100000"},
		"no pause":              {func(c *config) { c.PollInterval = 0 }, "poll_interval is 0s: must be 1ms to 1m"},
		"no retention":          {func(c *config) { c.Retention = 0 }, "retention is 0s: must be 1s to 720h"},
		"retention without end": {func(c *config) { c.RetentionEntries = 0 }, "retention_entries is 0: must be at least 1"},
		"no time to stop":       {func(c *config) { c.ShutdownTimeout = 0 }, "shutdown_timeout is 0s"},
		"no port":               {func(c *config) { c.Listen = "8081" }, `listen is "8081": must be host:port or :port`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := valid(t)
			if err := c.validate(); err != nil {
				t.Fatalf("the valid configuration is refused: %v", err)
			}
			tc.change(&c)
			if err := c.validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("validate = %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestDSNQuotesThePassword(t *testing.T) {
	t.Parallel()
	c := valid(t)
	c.PostgresHost = "a,b"
	got, err := c.dsn("waggle_drain", "postgres-drain")
	want := `host='a,b' port='5432,5432' dbname='waggle' user='waggle_drain' password='pass\'word\\' sslmode='prefer' target_session_attrs='read-write' connect_timeout='2'`
	if err != nil || got != want {
		t.Errorf("dsn = %s, %v; want %s", got, err, want)
	}
	c.PostgresCA = "/etc/waggle/postgres-ca.pem"
	if got, err := c.dsn("waggle_drain", "postgres-drain"); err != nil || !strings.HasSuffix(got, ` sslrootcert='/etc/waggle/postgres-ca.pem'`) {
		t.Errorf("dsn = %s, %v; want the authorities in it", got, err)
	}
	if _, err := c.dsn("waggle_drain", "missing"); err == nil || !strings.Contains(err.Error(), "secret missing") {
		t.Errorf("dsn without its secret = %v, want the secret's name", err)
	}
}

func TestUnknownCommandIsNamed(t *testing.T) {
	t.Parallel()
	if err := command(t.Context(), []string{"drian"}); err == nil || !strings.Contains(err.Error(), `"drian"`) {
		t.Errorf("command = %v, want the unknown word", err)
	}
}

func TestWorkerStopsWhileItWaitsForPostgres(t *testing.T) {
	t.Parallel()
	c := valid(t)
	c.PostgresHost, c.PostgresPort = "127.0.0.1", 1
	c.RedisAddresses = []string{"127.0.0.1:1"}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := run(ctx, c); err != nil {
		t.Errorf("run = %v, want a quiet end", err)
	}
}

// TestFromMigrationToACountedVote runs the subcommands as the deployment does. The worker starts before the schema is
// there, waits for the migration, counts, and stops on request.
func TestFromMigrationToACountedVote(t *testing.T) {
	t.Parallel()
	db, r := harness.Postgres(t), harness.Redis(t)
	c := valid(t)
	c.RedisAddresses = []string{r.Addr()}
	c.PostgresHost, c.PostgresPort, c.PostgresDatabase = db.Host(), uint16(db.Port()), db.Name()
	c.Listen = harness.FreeAddr(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, c) }()
	if err := migrate(t.Context(), c); err != nil {
		t.Fatalf("migrating: %v", err)
	}
	r.Do("XADD", "votes", "*", "p", "1", "v", "AAAAAAAAAAAAAAAAAAAAAA", "c", "1", "s", "0", "t", "1")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(time.Minute); db.SQL(`SELECT votes FROM result_tally`) != "1"; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("the vote was not counted")
		}
	}
	ask, err := askWorker(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(t.Context()); err != nil {
		t.Errorf("asking a live worker = %v", err)
	}
	response, err := http.Get("http://" + c.Listen + "/metrics")
	if err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("metrics = %v, %v", response, err)
	} else {
		response.Body.Close()
	}
	if err := onNode(t.Context(), c, "retire", []string{"-node", r.Node()}); err == nil || !strings.Contains(err.Error(), "seen within the last minute") {
		t.Errorf("retiring a live node = %v, want a refusal", err)
	}
	if err := onNode(t.Context(), c, "retire", []string{"-node", "nobody"}); err == nil {
		t.Error("retiring an unknown node succeeded")
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run = %v", err)
	}
	if err := ask(t.Context()); err == nil {
		t.Error("a stopped worker answers")
	}
}
