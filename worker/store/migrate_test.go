package store_test

import (
	"path/filepath"
	"sync"
	"testing"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

func TestMigrateMayRunTwiceAtOnceAndAgain(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for range 4 {
		wg.Go(func() {
			n, err := store.Migrate(t.Context(), db.DSN("waggle_admin"))
			if err != nil {
				t.Errorf("migrating concurrently: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += n
		})
	}
	wg.Wait()
	files, err := filepath.Glob("migrations/*.sql")
	if err != nil || total != len(files) || total == 0 {
		t.Errorf("four runs applied %d migrations of %d, %v; want each once", total, len(files), err)
	}
	if n, err := store.Migrate(t.Context(), db.DSN("waggle_admin")); n != 0 || err != nil {
		t.Errorf("a later run = %d, %v; want nothing to do", n, err)
	}
}

func TestResultsRoleReadsViewsOnly(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	db.SQL(`SET ROLE waggle_results; SELECT * FROM result_tally; SELECT * FROM result_ledger; SELECT * FROM result_health;
		SELECT * FROM result_turnout; SELECT * FROM result_poll_ledger`)
	for _, table := range []string{"vote", "tally", "drain_stream", "vote_reject", "turnout", "poll_entries", "drain_gap", "drain_copy"} {
		got := db.SQL(`SELECT has_table_privilege('waggle_results', '` + table + `', 'SELECT')`)
		if got != "f" {
			t.Errorf("waggle_results may read table %s", table)
		}
	}
	if got := db.SQL(`SELECT has_table_privilege('waggle_drain', 'vote', 'DELETE')`); got != "f" {
		t.Error("waggle_drain may delete votes")
	}
}

// migrated is a fresh database with the schema of this binary.
func migrated(t testing.TB) *harness.Database {
	t.Helper()
	db := harness.Postgres(t)
	if _, err := store.Migrate(t.Context(), db.DSN("waggle_admin")); err != nil {
		t.Fatalf("migrating: %v", err)
	}
	return db
}
