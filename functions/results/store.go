package results

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// count is what Postgres said at one moment. It alone is the result: Redis still holds votes that are counted
// already, so nothing is ever added to it.
type count struct {
	asOf    time.Time
	votes   map[choice]int64
	streams []stream
	checks  []check
}

type choice struct {
	poll   int32
	option int16
}

// stream is the account of one incarnation of a node's stream: added = counted + pending + rejected + lost.
type stream struct {
	Node        string    `json:"node"`
	Incarnation string    `json:"incarnation"`
	State       string    `json:"state"`
	Added       int64     `json:"added"`
	Counted     int64     `json:"counted"`
	Pending     int64     `json:"pending"`
	Rejected    int64     `json:"rejected"`
	Lost        int64     `json:"lost"`
	SeenAt      time.Time `json:"seen_at"`
}

// check is the last outcome of one of the tally's self-checks; 0 is right.
type check struct {
	Name      string    `json:"name"`
	Drift     int64     `json:"drift"`
	CheckedAt time.Time `json:"checked_at"`
}

// store reads the views that the tally makes for this function (worker/store).
type store struct{ pool *pgxpool.Pool }

func (s *store) close() { s.pool.Close() }

// read takes tally and ledger from one snapshot, so that they agree with each other.
func (s *store) read(ctx context.Context) (*count, error) {
	c := &count{votes: map[choice]int64{}}
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, s.pool, options, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, "SELECT now()").Scan(&c.asOf); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT poll, choice, votes FROM result_tally")
		if err != nil {
			return err
		}
		var key choice
		var votes int64
		if _, err = pgx.ForEachRow(rows, []any{&key.poll, &key.option, &votes}, func() error {
			c.votes[key] = votes
			return nil
		}); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT node, incarnation::text, state, added, counted, pending, rejected, lost, seen_at
			FROM result_ledger ORDER BY node, registered_at, incarnation`)
		if err != nil {
			return err
		}
		if c.streams, err = pgx.CollectRows(rows, pgx.RowToStructByPos[stream]); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, "SELECT name, drift, checked_at FROM result_health ORDER BY name")
		if err != nil {
			return err
		}
		c.checks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[check])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the tally: %w", err)
	}
	return c, nil
}
