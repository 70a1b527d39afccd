package up

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
)

// archivist is a real Postgres whose log goes to an archive, by the script of the image.
type archivist struct {
	*harness.Database
	t      *testing.T
	script string
	env    []string
}

func newArchivist(t *testing.T) *archivist {
	t.Helper()
	a := &archivist{Database: harness.PostgresAlone(t), t: t}
	a.script = filepath.Join(a.Beside("script"), archiveTool)
	text, err := os.ReadFile("../images/postgres/" + archiveTool)
	if err == nil {
		err = os.WriteFile(a.script, text, 0o755) // where the server's user can read it
	}
	if err != nil {
		t.Fatal(err)
	}
	data := a.SQL("SHOW data_directory")
	a.env = []string{
		"PATH=" + a.SQL("SELECT setting FROM pg_config WHERE name = 'BINDIR'") + ":" + os.Getenv("PATH"), "PGBACKREST_REPO1_CIPHER_PASS=a key of the test",
		"PGBACKREST_REPO1_PATH=" + a.Beside("archive"), "PGBACKREST_PG1_PATH=" + data, "PGHOST=" + filepath.Dir(data), fmt.Sprintf("PGPORT=%d", a.Port()),
	}
	push := "env"
	for _, setting := range a.env {
		push += " \"" + setting + "\""
	}
	a.SQL("ALTER SYSTEM SET archive_mode = on")
	a.SQL("ALTER SYSTEM SET archive_command = '" + push + " " + a.script + " pgbackrest archive-push %p'")
	a.Restart()
	return a
}

// do runs the script of the image.
func (a *archivist) do(args ...string) string {
	a.t.Helper()
	cmd := a.Command(a.script, args...)
	cmd.Env = a.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		a.t.Fatalf("%s %v: %v: %s", archiveTool, args, err, out)
	}
	return string(out)
}

func (a *archivist) info() archiveInfo {
	a.t.Helper()
	info, err := parseArchive(a.do("pgbackrest", "info", "--output=json"))
	if err != nil {
		a.t.Fatal(err)
	}
	return info
}

func (a *archivist) now() time.Time {
	a.t.Helper()
	now, err := time.Parse(time.RFC3339Nano, a.SQL(`SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`))
	if err != nil {
		a.t.Fatal(err)
	}
	return now
}

// recovered is what a query says in a server that is recovered to a moment, or the log of one that could not be.
func (a *archivist) recovered(base baseBackup, at time.Time, query string) (said, log string) {
	a.t.Helper()
	dir := a.Beside("recovered")
	cmd := a.Command(a.script, "recover", base.Label, target(at))
	cmd.Env = append(a.env[:len(a.env):len(a.env)], "PGHOST="+dir, "PGBACKREST_PG1_PATH="+filepath.Join(dir, "data"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it fails, or is killed below
	}()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT) // unless it has ended
		<-ended
	}()
	for {
		answer, err := exec.Command("psql", "-XAtq", "-h", dir, "-p", fmt.Sprint(a.Port()), "-U", "postgres", "-d", a.Name(), "-c", query).Output()
		if err == nil {
			return strings.TrimSpace(string(answer)), ""
		}
		select {
		case <-ended:
			return "", out.String()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestAMomentIsRecoveredFromTheArchive(t *testing.T) {
	t.Parallel()
	const sum = "SELECT count(*) || ' ' || sum(n) FROM ballot"
	a := newArchivist(t)
	a.SQL("CREATE TABLE ballot (n int)")
	a.do("prepare")
	if a.info().hasBase() {
		t.Fatal("a new archive has a base backup")
	}
	load := a.Command("psql", "-Xq", "-d", a.DSN("postgres"), "-c", "DO $$ BEGIN FOR i IN 1..5000 LOOP INSERT INTO ballot VALUES (i); COMMIT; END LOOP; END $$")
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	a.do("pgbackrest", "backup", "--type=full")
	if err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	first := a.info().Bases[0].from()
	for a.now().Before(first) { // the second in which the base backup ended is none that can be asked for
		time.Sleep(50 * time.Millisecond)
	}
	a.SQL("INSERT INTO ballot SELECT generate_series(10001, 11000)")
	moment, was := a.now(), a.SQL(sum)
	a.SQL("DELETE FROM ballot WHERE n % 2 = 0; INSERT INTO ballot VALUES (0)")
	a.do("flush")

	info := a.info()
	base, err := info.before(moment, a.now())
	if err != nil || !info.hasBase() {
		t.Fatalf("%+v, %v", info, err)
	}
	if said, log := a.recovered(base, moment, sum); said != was {
		t.Errorf("recovered %q, want %q\n%s", said, was, log)
	}

	for _, at := range []time.Time{first.Add(-time.Second), a.now().Add(time.Hour)} {
		if _, err := info.before(at, a.now()); err == nil || !strings.Contains(err.Error(), ": must be "+first.Format("2006-01-02T15:04:05Z")+" to ") {
			t.Errorf("a moment outside: %v", err)
		}
	}

	// What is not in the archive cannot be asked for, although it is past.
	if said, err := judgeArchiver(a.SQL(archiverState)); err != nil || !strings.HasPrefix(said, "newest log ") {
		t.Errorf("the archive is %q, %v", said, err)
	}
	last := a.now()
	a.SQL("ALTER SYSTEM SET archive_command = 'false'")
	a.SQL("SELECT pg_reload_conf()")
	a.SQL("INSERT INTO ballot VALUES (1); SELECT pg_switch_wal()")
	for err == nil {
		time.Sleep(100 * time.Millisecond)
		_, err = judgeArchiver(a.SQL(archiverState))
	}
	if !strings.Contains(err.Error(), "it takes no log: ") {
		t.Errorf("archiving fails: %v", err)
	}
	late := a.now()
	a.SQL("INSERT INTO ballot VALUES (2)")
	_, log := a.recovered(base, late, sum)
	refused := recoveryFailed(log, late, base).Error()
	_, end, _ := strings.Cut(refused, " to ")
	end, why, _ := strings.Cut(end, ", ")
	if newest, err := time.Parse(time.RFC3339Nano, end); err != nil || newest.Before(moment) || newest.After(last) || why != "the last transaction in the archive" {
		t.Errorf("a moment after the newest log: %s, %v\n%s", refused, err, log)
	}
}

// swarmWithArchive is a docker command of a system with an archive. What pgBackRest and Postgres say of it is the test's. It
// keeps its calls, and the key that a recovery is told.
func swarmWithArchive(t *testing.T, info, archiver, recovers string) (s *System, dir string) {
	t.Helper()
	results := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"ledger":{"captured":7,"counted":7,"whole":true,"streams":[]}}`)
	}))
	t.Cleanup(results.Close)
	s = newTestSystem(t, func(c *Config) {
		c.Target.Gateways = []string{results.URL}
		c.Postgres.Archive = "/mnt/archive"
	})
	if err := s.state.write(archiveKey, "the key"); err != nil {
		t.Fatal(err)
	}
	deployed, err := json.Marshal(Deployment{Version: "1.2.3", Env: map[string]string{archiveEnv: "/mnt/archive"}})
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	script := `#!/bin/sh
dir=$(dirname "$0")
echo "$*" >>"$dir/calls"
case "$*" in
"config ls"*` + lockName + `*) ;;
"config ls"*) echo ` + deploymentConfig + `1;;
"config inspect"*) echo '"` + base64.StdEncoding.EncodeToString(deployed) + `"';;
"config create"*) cat >/dev/null;;
*"pgbackrest info"*) echo '` + info + `';;
*pg_stat_archiver*) echo '` + archiver + `';;
*pg_database_size*) echo 1073741824;;
*"df --output"*) echo 4294967296;;
"version "*) echo 20.10.24;;
"exec ` + recovery + ` psql"*) [ ` + recovers + ` = yes ] && echo 2026-11-30 08:19:59;;
"exec ` + recovery + ` pg_dump"*) printf 'the votes';;
"run --rm --interactive"*) cat >"$dir/key"; [ ` + recovers + ` = yes ] || { echo 'FATAL:  the database system is starting up'; echo 'FATAL:  ` + recovers + `'; exit 1; }; while [ ! -e "$dir/removed" ]; do sleep 0.05; done;;
"ps --all"*) [ ! -e "$dir/key" ] || echo r1;;
"rm --force"*) touch "$dir/removed"; rm "$dir/key.kept" 2>/dev/null; mv "$dir/key" "$dir/key.kept";;
*pg_restore*) cat >"$dir/restored";;
*psql*) cat >/dev/null;;
"inspect --format"*) echo sha256:1;;
"ps "*) echo c1;;
"service inspect --format {{.Spec.Mode"*) echo 2;;
"service inspect"*) echo 'waggle_worker|||{}';;
"service ls --filter label=com.docker"*) echo 'waggle_worker 2/2';;
"service ps"*) echo 'Shutdown 1 second ago';;
*) ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return s, dir
}

const (
	oneBase = `[{"backup":[{"label":"20261130-080000F","database":{"id":1},"timestamp":{"stop":1796025600}}],"db":[{"id":1}],"status":{"code":0}}]`
	// otherBase is of a database that was lost.
	otherBase = `[{"backup":[{"label":"20261130-080000F","database":{"id":1},"timestamp":{"stop":1796025600}}],"db":[{"id":1},{"id":2}],"status":{"code":0}}]`
	archiving = "34|0|-1|0 bytes|f"
)

func TestVotesAreRestoredAsOfAMoment(t *testing.T) {
	s, dir := swarmWithArchive(t, oneBase, archiving, "yes")
	at := time.Date(2026, 11, 30, 8, 20, 0, 0, time.UTC)
	if err := s.RestoreVotesAt(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"key.kept": "the key\n", "restored": "the votes"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != want {
			t.Errorf("%s is %q, %v", name, text, err)
		}
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	rest := string(calls)
	for _, next := range []string{"exec c1 archive.sh flush", "source=/mnt/archive,target=/archive --entrypoint archive.sh sha256:1 recover 20261130-080000F 2026-11-30 08:20:00+00",
		"service scale --detach waggle_worker=0", "rm --force --volumes " + recovery, "file=/usr/share/waggle/roles.sql", "service scale --detach waggle_worker=2"} {
		at := strings.Index(rest, next)
		if at < 0 {
			t.Fatalf("%q does not follow in\n%s", next, calls)
		}
		rest = rest[at+len(next):]
	}
	if said := s.Out.(*bytes.Buffer).String(); !strings.Contains(said, "Restored. The last transaction then was of 2026-11-30 08:19:59.") {
		t.Errorf("it said %s", said)
	}
}

// A moment that cannot be had is found out before the workers stop.
func TestAMomentThatIsRefusedStopsNothing(t *testing.T) {
	at := time.Date(2026, 11, 30, 8, 20, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		info, recovers string
		at             time.Time
		want           string
	}{
		"before the first base backup": {oneBase, "yes", at.Add(-time.Hour), "AT is 2026-11-30T07:20:00Z: must be 2026-11-30T08:00:01Z to "},
		"to come":                      {oneBase, "yes", time.Now().Add(time.Hour), ": must be 2026-11-30T08:00:01Z to "},
		"no base backup":               {`[{"backup":[],"db":[{"id":1}],"status":{"code":2}}]`, "yes", at, "the archive has no base backup"},
		"the archive is away":          {`[{"backup":[],"db":[],"status":{"code":1,"message":"missing stanza path"}}]`, "yes", at, "missing stanza path"},
		"not in the archive":           {oneBase, `"recovery ended before configured recovery target was reached"`, at, "the last transaction in the archive"},
		"a damaged archive":            {oneBase, "broken", at, "recovering the database: broken"},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := swarmWithArchive(t, test.info, archiving, test.recovers)
			if err := s.RestoreVotesAt(t.Context(), test.at); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if calls, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || strings.Contains(string(calls), "service scale") {
				t.Errorf("workers were stopped: %s, %v", calls, err)
			}
		})
	}
	s, _ := swarmWithArchive(t, oneBase, archiving, "yes")
	s.Postgres.Hosts = []string{"pg1"}
	if err := s.RestoreVotesAt(t.Context(), at); err == nil || !strings.Contains(err.Error(), "the votes are in an external Postgres") {
		t.Errorf("of an external Postgres: %v", err)
	}
}

func TestStatusSaysHowTheArchiveStands(t *testing.T) {
	for name, test := range map[string]struct{ info, archiver, want, fault string }{
		"well":            {oneBase, archiving, "archive  /mnt/archive: each moment from 30 November 2026 08:00:01 UTC on; newest log 34s old", ""},
		"just started":    {oneBase, "-1|1|20|16 MB|f", "no log since Postgres started", ""},
		"failing":         {oneBase, "34|2|70|32 MB|t", "archive  /mnt/archive: it takes no log: 2 wait for 1m10s and take 32 MB of Postgres's disk", "1 fault(s)"},
		"hanging":         {oneBase, "400|9|390|144 MB|f", "9 wait for 6m30s", "1 fault(s)"},
		"another's bases": {otherBase, archiving, "it has no base backup of this database", "1 fault(s)"},
		"away":            {`[{"status":{"code":1,"message":"missing stanza path"}}]`, archiving, "missing stanza path", "1 fault(s)"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := swarmWithArchive(t, test.info, test.archiver, "yes")
			err := s.Status(t.Context())
			if said := s.Out.(*bytes.Buffer).String(); !strings.Contains(said, test.want) {
				t.Errorf("it said %s, want %q", said, test.want)
			}
			if (err != nil) != (test.fault != "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("got %v, want %q", err, test.fault)
			}
		})
	}
}

// An archive that had a hole in its log needs a base backup after it.
func TestABaseBackupIsMadeWhereTheOldOneLeadsNoFurther(t *testing.T) {
	for name, test := range map[string]struct {
		info, archive string
		want          bool
	}{
		"as before":        {oneBase, "/mnt/archive", false},
		"another archive":  {oneBase, "/mnt/other", true},
		"another database": {otherBase, "/mnt/archive", true},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := swarmWithArchive(t, test.info, archiving, "yes")
			s.Postgres.Archive = test.archive
			if _, err := s.ensureArchive(t.Context()); err != nil {
				t.Fatal(err)
			}
			calls, err := os.ReadFile(filepath.Join(dir, "calls"))
			if made := strings.Contains(string(calls), "pgbackrest backup --type=full"); err != nil || made != test.want || !strings.Contains(string(calls), "exec c1 archive.sh prepare") {
				t.Errorf("a base backup is made: %v, want %v\n%s", made, test.want, calls)
			}
		})
	}
}

// Postgres must not stop for an archive that it cannot have.
func TestAnArchiveIsCheckedBeforePostgresRestarts(t *testing.T) {
	for name, test := range map[string]struct{ host, archive, probe, want string }{
		"none":             {"m3", "", "exit 1", ""},
		"there":            {"m3", "/mnt/archive", "exit 0", ""},
		"not writable":     {"m3", "/mnt/archive", "exit 1", "On m3: install -d -o 999 -g 999 -m 700 /mnt/archive"},
		"not there":        {"m3", "/mnt/archive", "echo 'bind source path does not exist: /mnt/archive' >&2; exit 125", "bind source path does not exist"},
		"out of our reach": {"m1", "/mnt/archive", "exit 0", "m3 holds Postgres and cannot be reached from here"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := `#!/bin/sh
case "$1 $2" in
"node ls") echo n3;;
"node inspect") echo '{"ID":"n3","Hostname":"m3","State":"ready","Labels":{"waggle.store":"true"}}';;
"info --format") echo ` + test.host + `;;
"run --rm") ` + test.probe + `;;
esac
`
			if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			s := newTestSystem(t, func(c *Config) { c.Postgres.Archive = test.archive })
			err := s.checkArchive(t.Context(), "localhost/waggle/postgres:0123456789ab")
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
