package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

// The output is what deploy/summary reads: the recount, and the faults as a list.
func TestRecountPrintsWhatItFound(t *testing.T) {
	t.Parallel()
	db := harness.Postgres(t)
	if _, err := store.Migrate(t.Context(), db.DSN("waggle_admin")); err != nil {
		t.Fatal(err)
	}
	db.SQL(`INSERT INTO vote VALUES (1, gen_random_uuid(), 2, NULL, 1, 1, gen_random_uuid()); INSERT INTO tally VALUES (1, 2, 0, 3);
		INSERT INTO drain_effect (stream, inserted, changed, stale) VALUES (1, 1, 0, 0)`)
	c := valid(t)
	c.PostgresHost, c.PostgresPort, c.PostgresDatabase = db.Host(), uint16(db.Port()), db.Name()
	c.PostgresSSLMode = "disable"
	var out bytes.Buffer
	if err := recount(t.Context(), c, &out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Votes  int64
		Polls  []struct{ Votes, Tally map[string]int64 }
		Faults []string
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Votes != 1 || len(got.Polls) != 1 || got.Polls[0].Tally["2"] != 3 ||
		len(got.Faults) != 1 || got.Faults[0] != "poll 1 choice 2: 1 votes in rows, 3 in the tally" {
		t.Errorf("recount = %s, %v", out.String(), err)
	}
}
