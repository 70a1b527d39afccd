package up

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/docker"
)

// The archive holds base backups of Postgres and its whole log since, so that the votes can be had as they were at any
// moment. pgBackRest keeps it, in the container of Postgres: images/postgres/archive.sh.

const (
	// archiveEnv is the setting of a deployment that names the archive's directory on the store machine.
	archiveEnv   = "ARCHIVE"
	archiveLayer = "archive.yml"
	// archiveKey is the credential that the archive is encrypted with.
	archiveKey  = "archive-key"
	archiveTool = "archive.sh"
	// recovery is the container in which a moment is recovered.
	recovery = "waggle-recovery"
	// lateLog is how old a log may be that the archive does not have yet. Postgres hands one over each minute at least.
	lateLog = 3 * time.Minute
	// moment is how a time is written for people.
	moment = "2 January 2006 15:04:05 UTC"
)

// archiveInfo is what `pgbackrest info` says of the archive.
type archiveInfo struct {
	// Bases are the base backups, oldest first. Clusters are the databases whose logs are in it, the one in use last.
	Bases    []baseBackup `json:"backup"`
	Clusters []archived   `json:"db"`
	Status   struct {
		Code    int
		Message string
	}
}

// archived is a database whose log is in the archive.
type archived struct{ ID int }

type baseBackup struct {
	Label     string
	Database  archived
	Timestamp struct{ Stop int64 }
}

// from is the first moment that the base backup can be rolled forward to.
func (b baseBackup) from() time.Time { return time.Unix(b.Timestamp.Stop+1, 0).UTC() }

// parseArchive reads what `pgbackrest info --output=json` prints.
func parseArchive(text string) (archiveInfo, error) {
	const ok, noBase = 0, 2 // pgBackRest's own numbers
	var all []archiveInfo
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all) != 1 {
		return archiveInfo{}, fmt.Errorf("reading about the archive: %q, %w", text, err)
	}
	if code := all[0].Status.Code; code != ok && code != noBase {
		return archiveInfo{}, fmt.Errorf("reading about the archive: %s", all[0].Status.Message)
	}
	return all[0], nil
}

// hasBase reports whether there is a base backup of the database in use.
func (a archiveInfo) hasBase() bool {
	n := len(a.Bases)
	return n > 0 && len(a.Clusters) > 0 && a.Bases[n-1].Database == a.Clusters[len(a.Clusters)-1]
}

// before finds the base backup from which a moment is reached soonest. now is the newest moment that there can be.
func (a archiveInfo) before(at, now time.Time) (baseBackup, error) {
	if len(a.Bases) == 0 {
		return baseBackup{}, failf("Run `make backup`, which makes one.", "the archive has no base backup")
	}
	if at.Before(a.Bases[0].from()) || at.After(now) {
		return baseBackup{}, illegalMoment(at, a.Bases[0].from(), now)
	}
	found := a.Bases[0]
	for _, b := range a.Bases {
		if !at.Before(b.from()) {
			found = b
		}
	}
	return found, nil
}

func illegalMoment(at, first, last time.Time) error {
	const form = "2006-01-02T15:04:05.999Z"
	return fmt.Errorf("AT is %s: must be %s to %s", at.UTC().Format(form), first.UTC().Format(form), last.UTC().Format(form))
}

var lastTransaction = regexp.MustCompile(`last completed transaction was at log time (\S+ [0-9:.]+)`)

// recoveryFailed says why a recovery of a moment ended, from what it logged.
func recoveryFailed(log string, at time.Time, base baseBackup) error {
	if strings.Contains(log, "recovery ended before configured recovery target was reached") {
		last := base.from()
		if found := lastTransaction.FindStringSubmatch(log); found != nil {
			if t, err := time.Parse("2006-01-02 15:04:05.999999", found[1]); err == nil {
				last = t
			}
		}
		return fmt.Errorf("%w, the last transaction in the archive", illegalMoment(at, base.from(), last))
	}
	for line := range strings.Lines(log) {
		_, why, failed := strings.Cut(strings.NewReplacer("FATAL: ", "ERROR: ", "PANIC: ", "ERROR: ").Replace(line), "ERROR: ")
		// Who asks whether it is ready is told that it is not.
		if failed && !strings.Contains(why, "the database system is ") {
			return fmt.Errorf("recovering the database: %s", strings.TrimSpace(why))
		}
	}
	return fmt.Errorf("recovering the database: %s", log)
}

// checkArchive finds out whether Postgres can write to the archive, before Postgres restarts for it.
func (s *System) checkArchive(ctx context.Context, image string) error {
	dir := s.Postgres.Archive
	if dir == "" {
		return nil
	}
	all, err := s.members(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if !m.ready() || !m.has(storeLabel) {
			continue
		}
		engine, ok := s.engineOf(ctx, m.Hostname)
		if !ok {
			return failf("Run this where the store machine can be reached, as with INVENTORY.", "%s holds Postgres and cannot be reached from here, so it can have no archive", m.Hostname)
		}
		_, err := engine.Run(ctx, "run", "--rm", "--network", "none", "--no-healthcheck", "--mount", "type=bind,source="+dir+",target=/archive", "--entrypoint", "test", image, "-w", "/archive")
		if err != nil {
			return failf("On "+m.Hostname+": install -d -o 999 -g 999 -m 700 "+dir, "%s has no directory %s that user 999, Postgres, may write to: %w", m.Hostname, dir, err)
		}
	}
	return nil
}

// ensureArchive makes the archive, and a first base backup for it. It makes another if the deployment before had no archive: the
// log has a hole then, and an older base backup leads no further.
func (s *System) ensureArchive(ctx context.Context) (string, error) {
	engine, id, err := s.container(ctx, "postgres")
	if err != nil {
		return "", err
	}
	if _, err := engine.Run(ctx, "exec", id, archiveTool, "prepare"); err != nil {
		return "", advise(fmt.Errorf("handing the log to %s: %w", s.Postgres.Archive, err), "See `docker service logs waggle_postgres`.")
	}
	info, err := s.archiveInfo(ctx, engine, id)
	if err != nil {
		return "", err
	}
	earlier, err := s.deployments(ctx)
	if err != nil {
		return "", err
	}
	if len(earlier) > 0 && earlier[0].Env[archiveEnv] == s.Postgres.Archive && info.hasBase() {
		return s.Postgres.Archive, nil
	}
	return s.baseBackup(ctx, engine, id)
}

// baseBackup adds a base backup to the archive, which keeps the newest two.
func (s *System) baseBackup(ctx context.Context, engine docker.Engine, id string) (string, error) {
	s.progress.Note("copying the database to the archive")
	if _, err := engine.Run(ctx, "exec", id, archiveTool, "pgbackrest", "backup", "--type=full"); err != nil {
		return "", advise(fmt.Errorf("copying the database to the archive: %w", err), "See `make status`.")
	}
	info, err := s.archiveInfo(ctx, engine, id)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d base backups, each moment from %s on", len(info.Bases), info.Bases[0].from().Format(moment)), nil
}

func (s *System) archiveInfo(ctx context.Context, engine docker.Engine, id string) (archiveInfo, error) {
	out, err := engine.Run(ctx, "exec", id, archiveTool, "pgbackrest", "info", "--output=json")
	if err != nil {
		return archiveInfo{}, fmt.Errorf("reading about the archive: %w", err)
	}
	return parseArchive(out)
}

// archiverState asks how old the newest log in the archive is and how many are not there yet. Of these it asks for the age of
// the oldest and for their size. At last it asks whether the last attempt failed. Ages are in seconds, -1 for none.
const archiverState = `SELECT coalesce(extract(epoch FROM now() - last_archived_time)::bigint, -1), waiting, age,
 pg_size_pretty(waiting * (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')),
 coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
 FROM pg_stat_archiver, (SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(modification))::bigint, -1) AS age
 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') AS logs`

// judgeArchiver says how the archive stands, from the answer to archiverState; the error says what is wrong.
func judgeArchiver(answer string) (string, error) {
	fields := strings.Split(answer, "|")
	if len(fields) != 5 {
		return "", fmt.Errorf("reading the state of the archive: %q", answer)
	}
	seconds := func(text string) time.Duration {
		n, _ := strconv.ParseInt(text, 10, 64) // the database's own number
		return time.Duration(n) * time.Second
	}
	if waits := seconds(fields[2]); fields[4] == "t" || waits > lateLog {
		return "", failf("Mend it before that disk is full; see `docker service logs waggle_postgres`.",
			"it takes no log: %s wait for %s and take %s of Postgres's disk", fields[1], max(waits, 0), fields[3])
	}
	if fields[0] == "-1" {
		return "no log since Postgres started", nil
	}
	return fmt.Sprintf("newest log %s old", seconds(fields[0])), nil
}

// archiveStatus says how the archive stands; the error says what is wrong.
func (s *System) archiveStatus(ctx context.Context) (string, error) {
	engine, id, err := s.container(ctx, "postgres")
	if err != nil {
		return "", err
	}
	answer, err := engine.Run(ctx, "exec", id, "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname=postgres", "--command="+archiverState)
	if err != nil {
		return "", fmt.Errorf("reading the state of the archive: %w", err)
	}
	state, err := judgeArchiver(answer)
	if err != nil {
		return "", err
	}
	info, err := s.archiveInfo(ctx, engine, id)
	if err != nil {
		return "", err
	}
	if !info.hasBase() {
		return "", failf("Run `make backup`, which makes one.", "it has no base backup of this database")
	}
	return fmt.Sprintf("each moment from %s on; %s", info.Bases[0].from().Format(moment), state), nil
}
