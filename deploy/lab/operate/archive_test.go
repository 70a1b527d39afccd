//go:build e2e

package operate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
)

// testArchive has Postgres's log kept in a directory of its machine. While voting goes on, it takes the votes back to a moment
// after a base backup. Redis still holds what came after it.
func (l *lab) testArchive(t *testing.T) {
	const dir = "/mnt/waggle-archive"
	on := func(command ...string) {
		t.Helper()
		if _, err := l.Nodes[0].Exec(t.Context(), command...); err != nil {
			t.Fatal(err)
		}
	}

	l.all.Postgres.Archive = dir
	l.inventory(t, everything, voting, voting)
	before := l.database(t)
	l.refused(t, "On node1: install -d -o 999 -g 999 -m 700 "+dir, "make up")
	if l.database(t) != before {
		t.Error("Postgres restarted for an archive that is not there")
	}
	on("install", "-d", "-o", "999", "-g", "999", "-m", "700", dir)
	if said := l.run(t, "make up"); !strings.Contains(said, "1 base backups, each moment from ") {
		t.Errorf("make up with an archive: %s", said)
	}
	l.backup(t)

	l.goesOn(t)
	moment := time.Now().UTC()
	l.goesOn(t)
	said := l.run(t, "make restore", "AT="+moment.Format(time.RFC3339Nano))
	if !strings.Contains(said, "The last transaction then was of ") || !strings.Contains(said, "+ 0 lost") {
		t.Errorf("restored: %s", said)
	}
	l.refused(t, ": must be ", "make restore", "AT="+moment.AddDate(0, 0, -1).Format(time.RFC3339))
	if left := l.docker(t, "ps", "--all", "--quiet", "--filter", "name=waggle-recovery"); left != "" {
		t.Errorf("the recovery is left: %s", left)
	}

	// An archive that takes nothing is seen, and catches up by itself.
	on("chmod", "0", dir)
	l.docker(t, "exec", l.database(t), "psql", "-XAtq", "--dbname=postgres", "--command=SELECT pg_switch_wal()")
	testbed.Eventually(t, 3*time.Minute, func() error {
		said, err := l.try(t, "make status")
		if err == nil || !strings.Contains(said, "it takes no log") {
			return fmt.Errorf("make status says %q", said)
		}
		return nil
	})
	l.at(t, l.Nodes[0], "docker service logs waggle_postgres")
	on("chmod", "700", dir)
	l.whole(t)
	if said := l.run(t, "make status"); !strings.Contains(said, dir+": each moment from ") {
		t.Errorf("make status: %s", said)
	}
}
