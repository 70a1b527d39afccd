package up

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// swarmToRestore is a docker command of a Swarm with two workers and a Postgres. It keeps its calls, and what pg_restore and
// psql read. A call that matches fails fails.
func swarmToRestore(t *testing.T, fails string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	script := `#!/bin/sh
dir=$(dirname "$0")
echo "$*" >>"$dir/calls"
case "$*" in ` + fails + `) echo broken >&2; exit 1;; esac
case "$*" in
*pg_restore*) cat >"$dir/restored";;
*psql*--interactive*|*--interactive*psql*) cat >>"$dir/sql";;
*pg_dump*) printf 'the votes';;
"config create"*) cat >/dev/null;;
"config ls"*|"config rm"*|"service scale"*|exec*) ;;
"node ls --format {{.Hostname}} {{.Status}}") printf 'node1 Ready\nnode2 Down\n';;
"node ls"*) ;;
"ps "*) echo c1;;
"service inspect --format {{.Spec.Mode"*) echo 2;;
"service inspect"*) echo 'waggle_worker|||{}';;
"service ls"*) echo 'waggle_worker 2/2';;
"service ps"*) printf 'node1 Shutdown 1 second ago\nnode2 Running 1 hour ago\n';;
*) echo "no answer for $*" >&2; exit 1;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

// backedUpSystem is a system whose results answer, and a backup of it.
func backedUpSystem(t *testing.T) (*System, string) {
	t.Helper()
	results := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"ledger":{"captured":7,"counted":7,"whole":true,"streams":[]}}`)
	}))
	t.Cleanup(results.Close)
	s := newTestSystem(t, func(c *Config) { c.Target.Gateways = []string{results.URL} })
	if err := s.state.write("redis-drain", "secret"); err != nil {
		t.Fatal(err)
	}
	swarmToRestore(t, "nothing")
	out := t.TempDir()
	if err := s.Backup(t.Context(), out, passphrase); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(out + "/*")
	if err != nil || len(found) != 1 {
		t.Fatalf("OUT has %v, %v", found, err)
	}
	return s, found[0]
}

func TestVotesAreRestoredWhileWorkersStandStill(t *testing.T) {
	s, from := backedUpSystem(t)
	dir := swarmToRestore(t, "nothing")
	if err := s.RestoreVotes(t.Context(), from, passphrase); err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	rest := string(calls)
	for _, next := range []string{"config create", "service scale --detach waggle_worker=0", "exec c1 dropdb --if-exists waggle_restored", "exec c1 createdb --owner=waggle_admin waggle_restored",
		"pg_restore --exit-on-error --dbname=waggle_restored", "psql", "--file=/usr/share/waggle/roles.sql", "service scale --detach waggle_worker=2", "config rm " + lockName} {
		at := strings.Index(rest, next)
		if at < 0 {
			t.Fatalf("%q does not follow in\n%s", next, calls)
		}
		rest = rest[at+len(next):]
	}
	if text, err := os.ReadFile(filepath.Join(dir, "restored")); err != nil || string(text) != "the votes" {
		t.Errorf("restored is %q, %v", text, err)
	}
	sql, err := os.ReadFile(filepath.Join(dir, "sql"))
	if err != nil || strings.Index(string(sql), "RENAME TO waggle_before_") > strings.Index(string(sql), "waggle_restored RENAME TO waggle;") || !strings.Contains(string(sql), "BEGIN;") {
		t.Errorf("the databases are exchanged by %q, %v", sql, err)
	}
}

func TestARestoreThatFailsChangesNoVotes(t *testing.T) {
	s, from := backedUpSystem(t)
	for fails, want := range map[string]string{
		"*pg_restore*": "database: reading the votes into database waggle_restored",
		"*psql*":       "exchange: exchanging the databases",
	} {
		dir := swarmToRestore(t, fails)
		err := s.RestoreVotes(t.Context(), from, passphrase)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Repeat the command") && !strings.Contains(err.Error(), "ALLOW_CONNECTIONS true") {
			t.Errorf("%s fails: %v, want %q", fails, err, want)
		}
		if _, err := os.Stat(filepath.Join(dir, "sql")); err == nil {
			t.Errorf("%s fails: the database in use was changed", fails)
		}
	}
	dir := swarmToRestore(t, "nothing")
	if err := s.RestoreVotes(t.Context(), from, "another passphrase"); err == nil || !strings.Contains(err.Error(), "Is PASSPHRASE_FILE the one") {
		t.Errorf("another passphrase: %v", err)
	}
	if calls, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || strings.Contains(string(calls), "service scale") {
		t.Errorf("workers were stopped for a backup that cannot be read: %s, %v", calls, err)
	}
}
