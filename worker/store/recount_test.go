package store_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"waggle/worker/store"
)

// A recount finds a vote that was changed, added or removed, and a tally that was changed. Its digest finds two
// changes that cancel each other out.
func TestRecountFindsWhatWasTamperedWith(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	s := open(t, db, 0)
	inc := register(t, s, "n", 1).Inc
	rng := rand.New(rand.NewPCG(3, 4))
	events := make([]store.Vote, 500)
	for k := range events {
		events[k] = event(rng, k, 100)
	}
	if _, err := deliver(t.Context(), s, inc, events, nil, rng); err != nil {
		t.Fatalf("delivering: %v", err)
	}
	recount := func() store.Recount {
		r, err := s.Recount(t.Context())
		if err != nil {
			t.Fatalf("recounting: %v", err)
		}
		return r
	}
	good := recount()
	if err := good.Check(); err != nil || len(good.Polls) != 2 || good.Votes < 100 || good.Polls[0].Digest == good.Polls[1].Digest {
		t.Fatalf("a good tally = %+v, %v", good, err)
	}
	if again := recount(); fmt.Sprint(again.Polls) != fmt.Sprint(good.Polls) {
		t.Errorf("two recounts differ: %v and %v", good.Polls, again.Polls)
	}
	const one = `(SELECT voter FROM vote WHERE poll = 1 AND choice = %d ORDER BY voter LIMIT 1)`
	flip := func(from, to int) string {
		return fmt.Sprintf(`UPDATE vote SET choice = %d WHERE poll = 1 AND voter = `+one, to, from)
	}
	for name, test := range map[string]struct{ do, want string }{
		"a flipped vote":     {flip(1, 2), "poll 1 choice 1"},
		"a tally changed":    {`UPDATE tally SET n = n + 1 WHERE poll = 2 AND choice = 3`, "poll 2 choice 3"},
		"a vote removed":     {fmt.Sprintf(`DELETE FROM vote WHERE poll = 1 AND voter = `+one, 3), "by the streams' accounts"},
		"a vote for nobody":  {`INSERT INTO vote VALUES (9, gen_random_uuid(), 1, NULL, 1, 1, gen_random_uuid())`, "poll 9 choice 1"},
		"a tally for nobody": {`INSERT INTO tally VALUES (9, 4, 0, 7)`, "no vote in rows, 7 in the tally"},
	} {
		db.SQL(`CREATE TABLE kept_vote AS SELECT * FROM vote; CREATE TABLE kept_tally AS SELECT * FROM tally; ` + test.do)
		if err := recount().Check(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		db.SQL(`TRUNCATE vote, tally; INSERT INTO vote SELECT * FROM kept_vote; INSERT INTO tally SELECT * FROM kept_tally; DROP TABLE kept_vote, kept_tally`)
	}
	db.SQL(`WITH a AS ` + fmt.Sprintf(one, 1) + `, b AS ` + fmt.Sprintf(one, 2) + ` UPDATE vote SET choice = 3 - choice WHERE poll = 1 AND voter IN (SELECT * FROM a UNION SELECT * FROM b)`)
	bad := recount()
	if err := bad.Check(); err != nil || bad.Polls[0].Digest == good.Polls[0].Digest || bad.Polls[1].Digest != good.Polls[1].Digest {
		t.Errorf("two votes that were exchanged: %v, digests %v", err, bad.Polls)
	}
}

var benchVotes = flag.Int("votes", 100_000, "how many votes BenchmarkRecount counts again")

// BenchmarkRecount: go test -run '^$' -bench Recount ./worker/store -args -votes 5000000
func BenchmarkRecount(b *testing.B) {
	db := migrated(b)
	s := open(b, db, 0)
	db.SQL(fmt.Sprintf(`SET synchronous_commit = off; ALTER TABLE vote DROP CONSTRAINT vote_pkey; INSERT INTO vote SELECT 1, gen_random_uuid(), 1 + n %% 2, NULL, 1, n, gen_random_uuid() FROM generate_series(1, %d) n;
		ALTER TABLE vote ADD PRIMARY KEY (poll, voter); ANALYZE vote`, *benchVotes))
	for b.Loop() {
		r, err := s.Recount(b.Context())
		if err != nil || r.Votes != int64(*benchVotes) {
			b.Fatalf("recounting = %d, %v", r.Votes, err)
		}
	}
	b.ReportMetric(float64(*benchVotes)*float64(b.N)/b.Elapsed().Seconds(), "votes/s")
}
