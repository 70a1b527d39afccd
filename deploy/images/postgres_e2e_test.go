//go:build e2e

package images

import (
	"strings"
	"testing"
	"time"
)

var postgresSecrets = map[string]string{
	"postgres-admin": "admin-secret", "postgres-drain": "drain'; DROP ROLE waggle_admin; --", "postgres-results": "results\\secret",
}

type postgresBench struct {
	*bench
	data string
}

func setupPostgres(t *testing.T) *postgresBench {
	t.Helper()
	b := setup(t, Postgres, postgresSecrets)
	return &postgresBench{bench: b, data: b.volume("data")}
}

func (b *postgresBench) start(name string, command ...string) *container {
	b.t.Helper()
	return b.bench.start(name, []string{"--volume=" + b.data + ":/data"}, command...)
}

// query runs one statement as a client would: over TCP, with a password.
func query(c *container, role, password, statement string) (string, error) {
	return c.engine.Run(c.t.Context(), "exec", "--env=PGPASSWORD="+password, c.name, "psql", "--no-psqlrc", "--quiet",
		"--tuples-only", "--no-align", "--host=127.0.0.1", "--username="+role, "--dbname=waggle", "--command="+statement)
}

// maintain runs one statement the way an operator does inside the container.
func maintain(c *container, statement string) string {
	c.t.Helper()
	out, err := c.exec("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--dbname=waggle", "--command="+statement)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func TestPostgresRolesMayLogInAndAreLimited(t *testing.T) {
	t.Parallel()
	b := setupPostgres(t)
	c := b.start("only")
	c.awaitHealthy()
	for role, secret := range map[string]string{"waggle_admin": "postgres-admin", "waggle_drain": "postgres-drain", "waggle_results": "postgres-results"} {
		if got, err := query(c, role, postgresSecrets[secret], "SELECT current_user"); got != role {
			t.Errorf("%s logs in as %q (%v)", role, got, err)
		}
	}
	refusals := map[string]struct{ role, password, statement, want string }{
		"wrong password":             {"waggle_drain", "x", "SELECT 1", "password authentication failed"},
		"superuser from outside":     {"postgres", "x", "SELECT 1", "no pg_hba.conf entry"},
		"results writes":             {"waggle_results", postgresSecrets["postgres-results"], "CREATE TABLE t (a int)", "read-only transaction"},
		"drain makes tables":         {"waggle_drain", postgresSecrets["postgres-drain"], "CREATE TABLE t (a int)", "permission denied"},
		"results makes itself admin": {"waggle_results", postgresSecrets["postgres-results"], "SET ROLE waggle_admin", "permission denied"},
	}
	for name, refusal := range refusals {
		_, err := query(c, refusal.role, refusal.password, refusal.statement)
		if err == nil || !strings.Contains(err.Error(), refusal.want) {
			t.Errorf("%s: %v, want %q", name, err, refusal.want)
		}
	}
	settings := maintain(c, `SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings
		WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums', 'autovacuum', 'log_statement', 'shared_buffers')`)
	if want := "autovacuum=on data_checksums=on fsync=on full_page_writes=on log_statement=none shared_buffers=32768 synchronous_commit=on"; settings != want {
		t.Errorf("settings are %s, want %s", settings, want)
	}
	timeouts, err := query(c, "waggle_drain", postgresSecrets["postgres-drain"],
		"SELECT current_setting('statement_timeout') || ' ' || current_setting('lock_timeout')")
	if err != nil || timeouts != "10s 5s" {
		t.Errorf("timeouts of waggle_drain are %q (%v), want 10s 5s", timeouts, err)
	}
}

func TestPostgresKeepsCommittedRowsThroughPowerLossAndTakesNewPasswords(t *testing.T) {
	t.Parallel()
	b := setupPostgres(t)
	c := b.start("only")
	c.awaitHealthy()
	if _, err := query(c, "waggle_admin", postgresSecrets["postgres-admin"], "CREATE TABLE kept (a int); INSERT INTO kept VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	b.run("kill", "--signal=KILL", c.name)
	b.secret("postgres-admin", "rotated")
	b.run("start", c.name)
	c.awaitHealthy()
	if got, err := query(c, "waggle_admin", "rotated", "SELECT a FROM kept"); got != "7" {
		t.Errorf("after power loss the table holds %q (%v), want 7", got, err)
	}
	if _, err := query(c, "waggle_admin", postgresSecrets["postgres-admin"], "SELECT 1"); err == nil {
		t.Error("the old password still works")
	}
	text := c.log() + b.run("inspect", c.name)
	for name, secret := range postgresSecrets {
		if strings.Contains(text, secret) || strings.Contains(text, "rotated") {
			t.Errorf("%s can be read in the log or the container's description", name)
		}
	}
	b.run("stop", "--time=30", c.name)
	if code := b.run("inspect", "--format={{.State.ExitCode}}", c.name); code != "0" {
		t.Errorf("it stopped with exit code %s, want 0", code)
	}
	assertContains(t, "the log", c.log(), "database system is shut down")
}

func TestPostgresNeverRunsTwiceOnOneVolume(t *testing.T) {
	t.Parallel()
	b := setupPostgres(t)
	first := b.start("first")
	first.awaitHealthy()
	assertContains(t, "the second server's log", b.start("second").refused(), "another server holds /data/.lock")
	if got := maintain(first, "SELECT 1"); got != "1" {
		t.Errorf("the first server answers %q", got)
	}
}

func TestPostgresFinishesAnInterruptedFirstStart(t *testing.T) {
	t.Parallel()
	b := setupPostgres(t)
	b.sh(b.data, "mkdir -p /data/postgres.new/base; echo 15 >/data/postgres.new/PG_VERSION; chown -R 999:999 /data")
	c := b.start("only")
	c.awaitHealthy()
	if left := b.sh(b.data, "ls -A /data"); left != ".lock\npostgres" {
		t.Errorf("the volume holds %q, want .lock and postgres", left)
	}
}

func TestPostgresRefusesWhatItCannotTrust(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare string
		command []string
		want    string
	}{
		"an argument":       {prepare: ":", command: []string{"-c", "fsync=off"}, want: `arguments "-c fsync=off" are not accepted`},
		"another version":   {prepare: "mkdir /data/postgres; echo 14 >/data/postgres/PG_VERSION; chown -R 999:999 /data", want: "made by PostgreSQL 14"},
		"an empty cluster":  {prepare: "mkdir /data/postgres; chown -R 999:999 /data", want: "has no PG_VERSION"},
		"somebody's volume": {prepare: "echo x >/data/photo.jpg; chown -R 999:999 /data", want: "/data holds photo.jpg"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupPostgres(t)
			b.sh(b.data, test.prepare)
			assertContains(t, "the log", b.start("only", test.command...).refused(), test.want)
		})
	}
	t.Run("no secret", func(t *testing.T) {
		t.Parallel()
		b := setupPostgres(t)
		b.secret("postgres-drain", "")
		assertContains(t, "the log", b.start("only").refused(), "secret postgres-drain is missing or empty")
	})
}

// The store is lost, and another one goes on with the archive. What is in it can still be had.
func TestPostgresArchiveOutlivesItsDatabase(t *testing.T) {
	t.Parallel()
	b := setupPostgres(t)
	b.secret("archive-key", "key of the archive")
	archive := b.volume("archive")
	b.sh(archive, "chown 999:999 /data")
	started := func(name, data string) *container {
		c := b.bench.start(name, []string{"--volume=" + data + ":/data", "--volume=" + archive + ":/archive", "--env=ARCHIVE=on"})
		c.awaitHealthy()
		if _, err := c.exec("archive.sh", "prepare"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := started("first", b.data)
	if out, err := first.exec("archive.sh", "pgbackrest", "backup", "--type=full"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	maintain(first, "CREATE TABLE kept AS SELECT 7 AS a")
	time.Sleep(1100 * time.Millisecond) // a base backup reaches moments after its last second
	moment := maintain(first, "SELECT clock_timestamp()")
	maintain(first, "DROP TABLE kept")
	if _, err := first.exec("archive.sh", "flush"); err != nil {
		t.Fatal(err)
	}
	label := func(c *container) string {
		found, err := c.exec("sh", "-c", `archive.sh pgbackrest info --output=json | grep -o '"label":"[^"]*"' | head -n 1 | cut -d '"' -f 4`)
		if err != nil || found == "" {
			t.Fatalf("base backup %q, %v", found, err)
		}
		return found
	}
	base := label(first)
	b.run("kill", "--signal=KILL", first.name)

	second := started("second", b.volume("other"))
	if now := label(second); now != base {
		t.Errorf("the archive begins with %s, it was %s", now, base)
	}
	recovery := b.bench.start("recovery", []string{"--volume=" + b.volume("empty") + ":/data", "--volume=" + archive + ":/archive:ro", "--entrypoint=archive.sh", "--no-healthcheck"}, "recover", base, moment)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		got, err := recovery.exec("psql", "-XAtq", "--dbname=waggle", "--command=SELECT a FROM kept")
		if err == nil && got == "7" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("recovered %q, %v\n%s", got, err, recovery.log())
		}
	}
}
