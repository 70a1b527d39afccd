package up

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/docker"
)

// RestoreVotesAt puts the votes as they were at a moment in the place of those in the database. They are recovered from the
// archive in a container beside Postgres, with memory and files of its own. Then they are restored as those of a backup.
func (s *System) RestoreVotesAt(ctx context.Context, at time.Time) error {
	votes := &source{}
	ended := func() error { return nil }
	votes.open = func(ctx context.Context, engine docker.Engine, id string) (string, error) {
		base, dir, err := s.baseBefore(ctx, engine, id, at)
		if err != nil {
			return "", err
		}
		ended = func() error { return removeRecovery(context.WithoutCancel(ctx), engine) }
		last, err := s.recover(ctx, engine, id, dir, base, at)
		votes.then = "The last transaction then was of " + last + "."
		return "of " + at.UTC().Format(moment) + ", from base backup " + base.Label, err
	}
	votes.fill = func(ctx context.Context, engine docker.Engine, id string) error {
		_, err := engine.Pipe(ctx, []string{"exec", recovery, "pg_dump", "--format=custom", "--dbname=waggle"}, engine, intoRestored(id))
		return errors.Join(err, ended())
	}
	err := s.restoreVotes(ctx, votes)
	return errors.Join(err, ended())
}

// baseBefore finds the archive of the running system, and the base backup in it from which a moment is reached.
func (s *System) baseBefore(ctx context.Context, engine docker.Engine, id string, at time.Time) (base baseBackup, dir string, err error) {
	d, err := s.newest(ctx)
	if err != nil {
		return base, "", err
	}
	if dir = d.Env[archiveEnv]; dir == "" {
		return base, "", failf("Restore a backup: FROM=folder. deploy/README.md says how to have an archive.", "no archive of Postgres's log is kept, so there is no moment to go back to")
	}
	now := time.Now()
	// Without it the newest moments are not in the archive. The recovery says where it ends.
	if _, err := engine.Run(ctx, "exec", id, archiveTool, "flush"); err != nil {
		s.progress.Note(fmt.Sprintf("the archive takes no log at present: %v", err))
	}
	info, err := s.archiveInfo(ctx, engine, id)
	if err != nil {
		return base, "", err
	}
	if base, err = info.before(at, now); err != nil {
		return base, "", err
	}
	return base, dir, haveRoom(ctx, engine, id)
}

// haveRoom refuses where the disk of Postgres has no room for the database twice: recovered, and filled. A full disk would stop
// the counting.
func haveRoom(ctx context.Context, engine docker.Engine, id string) error {
	const margin = 1 << 30
	size, err := number(engine.Run(ctx, "exec", id, "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname=postgres", "--command=SELECT sum(pg_database_size(oid)) FROM pg_database"))
	if err != nil {
		return fmt.Errorf("reading the size of the database: %w", err)
	}
	free, err := number(engine.Run(ctx, "exec", id, "sh", "-c", "df --output=avail --block-size=1 /data | tail -n 1"))
	if err != nil {
		return fmt.Errorf("reading how much disk is free: %w", err)
	}
	if needed := 2*size + margin; free < needed {
		return fmt.Errorf("the store machine has %d MiB of disk free, %d MiB are needed", free>>20, needed>>20)
	}
	return nil
}

func number(text string, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
}

// recover starts a server with what was committed up to a moment, and returns the time of the last transaction in it. It
// listens on a socket in its container alone.
func (s *System) recover(ctx context.Context, engine docker.Engine, id, dir string, base baseBackup, at time.Time) (string, error) {
	key, err := s.state.read(archiveKey)
	if err != nil {
		return "", err
	}
	if err := removeRecovery(ctx, engine); err != nil {
		return "", err
	}
	image, err := engine.Run(ctx, "inspect", "--format", "{{.Image}}", id)
	if err != nil {
		return "", fmt.Errorf("finding the image of Postgres: %w", err)
	}
	var log bytes.Buffer // may be read once ended is closed
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// It never ends well: it is removed, or fails and says why.
		err := engine.Stream(ctx, strings.NewReader(key+"\n"), &log, "run", "--rm", "--interactive", "--name", recovery, "--label", ownLabel,
			"--network", "none", "--read-only", "--cap-drop", "ALL", "--no-healthcheck", "--memory", "2g", "--tmpfs", "/tmp", "--volume", "/data",
			"--mount", "type=bind,readonly,source="+dir+",target=/archive", "--entrypoint", archiveTool, image, "recover", base.Label, target(at))
		fmt.Fprintf(&log, "\nERROR: %v\n", err)
	}()
	s.progress.Note("recovering; a day's log takes minutes")
	for {
		last, err := engine.Run(ctx, "exec", recovery, "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname=postgres", "--command=SELECT date_trunc('milliseconds', pg_last_xact_replay_timestamp())")
		if err == nil {
			return last, nil
		}
		select {
		case <-ended:
			return "", errors.Join(ctx.Err(), recoveryFailed(log.String(), at, base))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// target is a moment as Postgres reads it.
func target(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05.999999+00") }

// removeRecovery removes the container of a recovery, of this run or of one that was interrupted, and its disk.
func removeRecovery(ctx context.Context, engine docker.Engine) error {
	found, err := engine.Run(ctx, "ps", "--all", "--quiet", "--filter", "name=^/"+recovery+"$")
	if err == nil && found != "" {
		_, err = engine.Run(ctx, "rm", "--force", "--volumes", recovery)
	}
	if err != nil {
		return fmt.Errorf("removing container %s: %w", recovery, err)
	}
	return nil
}
