package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/jackc/pgx/v5"
)

// Recount is what the rows of votes say by themselves, beside what was added up while they were counted, on one snapshot.
type Recount struct {
	At time.Time `json:"at"`
	// Polls are those that have votes or a tally, by id.
	Polls []PollRecount `json:"polls"`
	// Votes is the number of rows, Inserted the number of new voters by the streams' accounts; they must be equal.
	Votes    int64 `json:"votes"`
	Inserted int64 `json:"inserted"`
}

// PollRecount is one poll of a Recount.
type PollRecount struct {
	Poll int32 `json:"poll"`
	// Votes and Tally are the numbers of each choice: counted row by row, and added up. They must be equal.
	Votes map[int16]int64 `json:"votes"`
	Tally map[int16]int64 `json:"tally"`
	// Digest is the SHA-256 of all rows in the order of their voters, in hexadecimal. A row is poll, voter,
	// choice, seq, ts and eid, big-endian, in 4, 16, 2, 8, 8 and 16 bytes. It tells whether any vote has
	// changed since.
	Digest string `json:"digest"`
}

// recountTimeout bounds Recount, which reads every vote in order.
const recountTimeout = 5 * time.Minute

// Recount reads every vote. It holds no lock that a worker waits for.
func (s *Store) Recount(ctx context.Context) (Recount, error) {
	ctx, cancel := context.WithTimeout(ctx, recountTimeout)
	defer cancel()
	var r Recount
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.pool, options, func(tx pgx.Tx) error {
		// The role's limits are for batches; a sort of all votes does better in memory. In the order of the index, each vote
		// would have its page read again: for 5 million that took three times as long.
		limits := fmt.Sprintf(`SET LOCAL statement_timeout = %d; SET LOCAL work_mem = '256MB'; SET LOCAL enable_indexscan = off`, recountTimeout.Milliseconds())
		if _, err := tx.Exec(ctx, limits); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT now(), coalesce(sum(inserted), 0)::bigint FROM drain_effect`).Scan(&r.At, &r.Inserted); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT poll, voter, choice, seq, ts, eid FROM vote ORDER BY poll, voter`)
		if err != nil {
			return err
		}
		if err := r.countRows(rows); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT poll, choice, sum(n)::bigint FROM tally GROUP BY poll, choice HAVING sum(n) <> 0 ORDER BY poll, choice`)
		if err != nil {
			return err
		}
		var poll int32
		var choice int16
		var n int64
		_, err = pgx.ForEachRow(rows, []any{&poll, &choice, &n}, func() error {
			r.poll(poll).Tally[choice] = n
			return nil
		})
		return err
	})
	return r, s.check(ctx, "counting the votes again", err)
}

// rowLayout are the lengths of the columns of a vote in Postgres's binary form, which is big-endian.
var rowLayout = [...]int{4, 16, 2, 8, 8, 16}

func (r *Recount) countRows(rows pgx.Rows) error {
	defer rows.Close()
	var current *PollRecount
	var digest hash.Hash
	var row []byte
	finish := func() {
		if current != nil {
			current.Digest = hex.EncodeToString(digest.Sum(nil))
		}
	}
	for rows.Next() {
		columns := rows.RawValues()
		for i, want := range rowLayout {
			if len(columns[i]) != want {
				return fmt.Errorf("column %d of a vote has %d bytes: it must be %d", i+1, len(columns[i]), want)
			}
		}
		poll := int32(binary.BigEndian.Uint32(columns[0]))
		if current == nil || current.Poll != poll {
			finish()
			current, digest = r.poll(poll), sha256.New()
		}
		row = row[:0]
		for _, column := range columns {
			row = append(row, column...)
		}
		digest.Write(row)
		current.Votes[int16(binary.BigEndian.Uint16(columns[2]))]++
		r.Votes++
	}
	finish()
	return rows.Err()
}

// poll returns the poll's entry, a new one at the end if there is none.
func (r *Recount) poll(id int32) *PollRecount {
	for i := range r.Polls {
		if r.Polls[i].Poll == id {
			return &r.Polls[i]
		}
	}
	empty := sha256.Sum256(nil)
	r.Polls = append(r.Polls, PollRecount{Poll: id, Votes: map[int16]int64{}, Tally: map[int16]int64{}, Digest: hex.EncodeToString(empty[:])})
	return &r.Polls[len(r.Polls)-1]
}

// Check says where the rows and what was added up differ; nil if nowhere.
func (r Recount) Check() error {
	var errs []error
	for _, p := range r.Polls {
		for choice, n := range p.Votes {
			if p.Tally[choice] != n {
				errs = append(errs, fmt.Errorf("poll %d choice %d: %d votes in rows, %d in the tally", p.Poll, choice, n, p.Tally[choice]))
			}
		}
		for choice, n := range p.Tally {
			if _, counted := p.Votes[choice]; !counted {
				errs = append(errs, fmt.Errorf("poll %d choice %d: no vote in rows, %d in the tally", p.Poll, choice, n))
			}
		}
	}
	if r.Votes != r.Inserted {
		errs = append(errs, fmt.Errorf("%d votes in rows, %d by the streams' accounts", r.Votes, r.Inserted))
	}
	return errors.Join(errs...)
}
