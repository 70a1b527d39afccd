package store

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5/pgtype"
)

// Vote is one vote of one voter, ready to be compared with others.
type Vote struct {
	Poll   int32
	Voter  [16]byte
	Choice int16
	// Seq, TS and EID are the order key, in this order; see migrations/0001_tally.sql.
	Seq, TS int64
	EID     [16]byte
}

// compareKey orders two votes of one voter in one poll: the greater one was cast later.
func compareKey(a, b Vote) int {
	return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.TS, b.TS), bytes.Compare(a.EID[:], b.EID[:]))
}

// Fold leaves one vote per poll and voter, the one that counts, sorted by poll and voter. The result depends only on
// the set of votes, not on their order or repetition. It reorders votes and returns a part of it.
// firstPolls are the polls in which the first vote counts instead of the last.
func Fold(votes []Vote, firstPolls []int32) []Vote {
	slices.SortFunc(votes, func(a, b Vote) int {
		if a.Poll != b.Poll {
			return cmp.Compare(a.Poll, b.Poll)
		}
		if c := bytes.Compare(a.Voter[:], b.Voter[:]); c != 0 {
			return c
		}
		if slices.Contains(firstPolls, a.Poll) {
			return compareKey(a, b)
		}
		return compareKey(b, a)
	})
	return slices.CompactFunc(votes, func(a, b Vote) bool { return a.Poll == b.Poll && a.Voter == b.Voter })
}

// Reject is an entry that is no vote, kept for a human.
type Reject struct {
	// ID is the entry's stream id.
	ID string
	// Raw is the entry as it was.
	Raw []byte
	// Reason must be valid UTF-8 without NUL.
	Reason string
}

// Batch is what a stretch of one stream amounts to.
type Batch struct {
	// Before is the stream as it was read; After is its account to be, with N greater by the number of entries.
	Before Stream
	After  Account
	// Votes come out of Fold.
	Votes []Vote
	// Superseded is the number of votes that Fold left out.
	Superseded int64
	// Entries counts the votes of each poll before Fold.
	Entries map[int32]int64
	Rejects []Reject
	// FirstPolls are the polls in which a voter's first vote counts.
	FirstPolls []int32
	// Single is the number of entries that were acknowledged with one copy.
	Single int64
	// Copies are the entries that were counted from copies; then After.N is Before.N, as the origin delivered nothing.
	Copies []Copy
	// Delivered are the ids of the batch's entries, for a stream that has Copies which it may deliver after all.
	Delivered []string
}

// Copy is an entry counted from its copy.
type Copy struct {
	// ID is the entry's id in the origin's stream.
	ID string
	// Seen means that the origin's account has the entry in Added.
	Seen bool
	// Early means that the origin was silent and may deliver the entry yet.
	Early bool
}

// Effect is what a committed batch did.
type Effect struct {
	Inserted, Changed, Stale int64
}

// Commit counts a batch exactly once. On ErrStale nothing was written. On any other error Classify tells what it means.
func (s *Store) Commit(ctx context.Context, b Batch) (Effect, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	v, r, c := columnsOf(b.Votes), rejectColumnsOf(b.Rejects), copyColumnsOf(b.Copies)
	delivered := b.Delivered
	if delivered == nil {
		delivered = []string{}
	}
	polls := slices.Sorted(maps.Keys(b.Entries))
	entries := make([]int64, len(polls))
	for i, poll := range polls {
		entries[i] = b.Entries[poll]
	}
	firsts := b.FirstPolls
	if firsts == nil {
		firsts = []int32{} // = ANY (NULL) would be NULL, and the row would never win
	}
	var held int64
	var e Effect
	err := s.pool.QueryRow(ctx, commitSQL, b.Before.ID, b.Before.Revision, b.Before.Pos, b.Before.N,
		b.After.Pos, b.After.N-b.Before.N, b.Superseded, int64(len(b.Rejects)),
		b.After.Lost, b.After.Shift, b.After.Added, b.After.LastID, b.After.Held, s.shard, firsts,
		v.polls, v.voters, v.choices, v.seqs, v.times, v.eids, r.ids, r.raws, r.reasons, b.Before.Inc,
		pgtype.FlatArray[int32](polls), pgtype.FlatArray[int64](entries),
		b.After.Sure, b.Single, len(b.Copies) == 0, c.ids, c.seen, c.early, delivered,
	).Scan(&held, &e.Inserted, &e.Changed, &e.Stale)
	if err != nil {
		return Effect{}, s.check(ctx, "counting a batch", err)
	}
	if held == 0 {
		return Effect{}, ErrStale
	}
	return e, nil
}

type voteColumns struct {
	polls        pgtype.FlatArray[int32]
	voters, eids pgtype.FlatArray[pgtype.UUID]
	choices      pgtype.FlatArray[int16]
	seqs, times  pgtype.FlatArray[int64]
}

func columnsOf(votes []Vote) voteColumns {
	n := len(votes)
	c := voteColumns{
		polls: make([]int32, n), voters: make([]pgtype.UUID, n), eids: make([]pgtype.UUID, n),
		choices: make([]int16, n), seqs: make([]int64, n), times: make([]int64, n),
	}
	for i := range votes {
		v := &votes[i]
		c.polls[i], c.choices[i], c.seqs[i], c.times[i] = v.Poll, v.Choice, v.Seq, v.TS
		c.voters[i] = pgtype.UUID{Bytes: v.Voter, Valid: true}
		c.eids[i] = pgtype.UUID{Bytes: v.EID, Valid: true}
	}
	return c
}

type rejectColumns struct {
	ids, reasons []string
	raws         [][]byte
}

func rejectColumnsOf(rejects []Reject) rejectColumns {
	c := rejectColumns{ids: []string{}, reasons: []string{}, raws: [][]byte{}}
	for _, r := range rejects {
		c.ids, c.raws, c.reasons = append(c.ids, r.ID), append(c.raws, r.Raw), append(c.reasons, r.Reason)
	}
	return c
}

type copyColumns struct {
	ids         []string
	seen, early []bool
}

func copyColumnsOf(copies []Copy) copyColumns {
	c := copyColumns{ids: []string{}, seen: []bool{}, early: []bool{}}
	for _, copied := range copies {
		c.ids, c.seen, c.early = append(c.ids, copied.ID), append(c.seen, copied.Seen), append(c.early, copied.Early)
	}
	return c
}
