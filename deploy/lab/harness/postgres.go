package harness

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// roles are the ones the Postgres image creates; the migrations grant to them.
const roles = `CREATE ROLE waggle_admin LOGIN; CREATE ROLE waggle_drain LOGIN; CREATE ROLE waggle_results LOGIN;`

// Database is one empty database, owned by waggle_admin. Its methods fail the test that made it.
type Database struct {
	t    testing.TB
	name string
	*cluster
	private bool
}

// cluster is a running postmaster and what is needed to start it again.
type cluster struct {
	dir     string
	address string // of its TCP port
	port    int
	process
}

var (
	template = &onceDir{}
	shared   struct {
		// mu guards the fields below.
		mu sync.Mutex
		c  *cluster
	}
	databases atomic.Int64
)

// Postgres gives the test a fresh database on a cluster that all tests of this process share.
func Postgres(t testing.TB) *Database {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.c == nil {
		shared.c = newCluster(t)
	}
	return newDatabase(t, shared.c, false)
}

// PostgresAlone gives the test a fresh database on a cluster of its own, which it may kill and restart.
func PostgresAlone(t testing.TB) *Database {
	t.Helper()
	c := newCluster(t)
	t.Cleanup(func() {
		c.end(t, syscall.SIGQUIT)
		if err := os.RemoveAll(c.dir); err != nil {
			t.Errorf("removing the directory of Postgres: %v", err)
		}
	})
	return newDatabase(t, c, true)
}

func newDatabase(t testing.TB, c *cluster, private bool) *Database {
	t.Helper()
	d := &Database{t: t, cluster: c, private: private, name: fmt.Sprintf("test_%d", databases.Add(1))}
	if out, err := c.psql("postgres", fmt.Sprintf("CREATE DATABASE %s OWNER waggle_admin", d.name)); err != nil {
		t.Fatalf("creating database %s: %v: %s", d.name, err, out)
	}
	if !private {
		t.Cleanup(func() {
			if out, err := c.psql("postgres", fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", d.name)); err != nil {
				t.Errorf("dropping database %s: %v: %s", d.name, err, out)
			}
		})
	}
	return d
}

// newCluster copies a data directory that initdb made once per process, because initdb takes a second or more.
func newCluster(t testing.TB) *cluster {
	t.Helper()
	from := template.get(t)
	dir := place(t, "pg")
	if out, err := exec.Command("cp", "-a", from, filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		t.Fatalf("copying the Postgres template: %v: %s", err, out)
	}
	if err := chown(dir); err != nil {
		t.Fatalf("preparing the directory of Postgres: %v", err)
	}
	c := &cluster{dir: dir, address: "127.0.0.1"}
	for range 5 {
		c.port = FreePort(t)
		c.launch(t)
		if c.tryAwait(c.answers) {
			break
		}
	}
	c.await(t, c.answers)
	if out, err := c.psql("postgres", roles); err != nil {
		t.Fatalf("creating the roles: %v: %s", err, out)
	}
	return c
}

func (c *cluster) launch(t testing.TB) {
	t.Helper()
	c.process = process{name: "postgres", dir: c.dir, cred: credential(), args: []string{
		pgBinary(t, "postgres"), "-D", filepath.Join(c.dir, "data"), "-k", c.dir, "-p", strconv.Itoa(c.port),
		"-c", "listen_addresses=" + c.address, "-c", "max_connections=100", "-c", "shared_buffers=64MB",
		// Files under the data directory vanish with it; segments in /dev/shm would not after a kill.
		"-c", "dynamic_shared_memory_type=mmap", "-c", "deadlock_timeout=200ms",
		"-c", "log_min_messages=warning", "-c", "timezone=UTC",
	}}
	c.start(t)
}

func (c *cluster) answers() bool {
	_, err := c.psql("postgres", "SELECT 1")
	return err == nil
}

func (c *cluster) psql(database, sql string) (string, error) {
	path, err := exec.LookPath("psql")
	if err != nil {
		path = filepath.Join(filepath.Dir(c.args[0]), "psql")
	}
	cmd := exec.Command(path, "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", c.dir, "-p", strconv.Itoa(c.port),
		"-U", "postgres", "-d", database, "-c", sql)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// DSN connects as the given role over the unix socket; roles are postgres (superuser), waggle_admin, waggle_drain
// and waggle_results, none needs a password.
func (d *Database) DSN(role string) string {
	return fmt.Sprintf("host=%s port=%d dbname=%s user=%s sslmode=disable", d.dir, d.port, d.name, role)
}

// Host is the address; Host, Port and Name say where the database is over TCP.
func (d *Database) Host() string { return d.address }

// Port is the TCP port; it survives Restart.
func (d *Database) Port() int { return d.port }

// Name is the database's name.
func (d *Database) Name() string { return d.name }

// Standby is the same database on a standby (streaming, asynchronous) at an address of its own with the same port. Only for
// PostgresAlone.
func (d *Database) Standby() *Database {
	d.t.Helper()
	d.own()
	c := &cluster{dir: place(d.t, "pg"), address: "127.0.0.2", port: d.port}
	if err := chown(c.dir); err != nil {
		d.t.Fatalf("preparing the directory of the standby: %v", err)
	}
	copied := exec.Command(pgBinary(d.t, "pg_basebackup"), "-D", filepath.Join(c.dir, "data"), "-h", d.dir, "-p", strconv.Itoa(d.port), "-U", "postgres", "-c", "fast", "-R")
	copied.Dir, copied.SysProcAttr = c.dir, &syscall.SysProcAttr{Credential: credential()}
	if out, err := copied.CombinedOutput(); err != nil {
		d.t.Fatalf("copying the primary: %v: %s", err, out)
	}
	c.launch(d.t)
	d.t.Cleanup(func() {
		c.end(d.t, syscall.SIGQUIT)
		if err := os.RemoveAll(c.dir); err != nil {
			d.t.Errorf("removing the directory of the standby: %v", err)
		}
	})
	c.await(d.t, c.answers)
	return &Database{t: d.t, cluster: c, private: true, name: d.name}
}

// CutOff lets a standby receive nothing from now on.
func (d *Database) CutOff() {
	d.t.Helper()
	d.SQL("ALTER SYSTEM SET primary_conninfo = ''")
	d.SQL("SELECT pg_reload_conf()")
}

// Promote makes a standby the primary.
func (d *Database) Promote() {
	d.t.Helper()
	d.SQL("SELECT pg_promote()")
}

// SQL runs statements as the superuser and returns psql's unaligned output without headers; an error fails the test.
func (d *Database) SQL(sql string) string {
	d.t.Helper()
	out, err := d.psql(d.name, sql)
	if err != nil {
		d.t.Fatalf("running %q: %v: %s", sql, err, out)
	}
	return out
}

// Command is a program that runs as the server's user, which may be another than the test's.
func (d *Database) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = d.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	return cmd
}

// Beside makes a directory of the server's user. A server with its data in data below it ends with the test process.
func (d *Database) Beside(kind string) string {
	d.t.Helper()
	dir := place(d.t, kind)
	if err := chown(dir); err != nil {
		d.t.Fatalf("preparing a directory for %s: %v", kind, err)
	}
	return dir
}

// Kill ends the postmaster with SIGKILL and returns when its children have noticed and gone: until then a connection
// that is open goes on answering. Only for PostgresAlone.
func (d *Database) Kill() {
	d.t.Helper()
	d.own()
	family := d.family()
	d.end(d.t, syscall.SIGKILL)
	for _, f := range family {
		gone := func() bool {
			_, err := os.Stat("/proc/" + f.pid)
			return err != nil
		}
		for late := time.Now().Add(deadline); !gone(); time.Sleep(time.Millisecond) {
			if time.Now().After(late) {
				d.t.Fatalf("process %s of Postgres is there %v after its postmaster was killed", f.pid, deadline)
			}
		}
	}
}

// Restart ends the server without a checkpoint if it runs, and starts it: it recovers from its log. Only for
// PostgresAlone.
func (d *Database) Restart() {
	d.t.Helper()
	d.own()
	d.end(d.t, syscall.SIGQUIT)
	// A killed postmaster's children may hold the data directory for a moment; Postgres then refuses to start.
	for range 20 {
		d.launch(d.t)
		if d.tryAwait(d.answers) {
			return
		}
	}
	d.await(d.t, d.answers)
}

func (d *Database) own() {
	d.t.Helper()
	if !d.private {
		d.t.Fatal("this cluster is shared with other tests: use harness.PostgresAlone to kill or restart it")
	}
}

// onceDir is a data directory made on first use; a failed first use fails only that test.
type onceDir struct {
	// mu guards path.
	mu   sync.Mutex
	path string
}

func (o *onceDir) get(t testing.TB) string {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.path != "" {
		return o.path
	}
	dir := place(t, "template")
	if err := chown(dir); err != nil {
		t.Fatalf("preparing the Postgres template: %v", err)
	}
	data := filepath.Join(dir, "data")
	cmd := exec.Command(pgBinary(t, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
		"--locale=C", "--data-checksums", "--no-sync")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("running initdb: %v: %s", err, out)
	}
	o.path = data
	return data
}

func pgBinary(t testing.TB, name string) string {
	t.Helper()
	return binary(t, name, "postgresql", "/usr/lib/postgresql/*/bin")
}

// credential is the user Postgres runs as: it refuses root, so root becomes postgres, or nobody where that is missing.
func credential() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return nil
}

func chown(dir string) error {
	c := credential()
	if c == nil {
		return nil
	}
	return os.Chown(dir, int(c.Uid), int(c.Gid))
}
