package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Unexplained is the number of entries in Added that are neither accounted for nor recovered from copies yet.
// For a stream that answers these are the ones it lost; for a silent or closed one, all that it did not
// deliver.
func (st Stream) Unexplained(silent bool) int64 {
	if silent || st.Closed {
		return max(0, st.Added-st.N-st.Early-st.Restored)
	}
	return max(0, st.Lost-st.Restored)
}

// Active returns the nodes of the streams that are to be drained, by incarnation.
func (s *Store) Active(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT inc::text, node FROM drain_stream WHERE state = 'active'`)
	if err != nil {
		return nil, s.check(ctx, "listing the active streams", err)
	}
	active := map[string]string{}
	var inc, node string
	_, err = pgx.ForEachRow(rows, []any{&inc, &node}, func() error {
		active[inc] = node
		return nil
	})
	return active, s.check(ctx, "listing the active streams", err)
}

// Orphans returns the streams that have been silent for a time, and those that were closed and whose copies may still be kept.
func (s *Store) Orphans(ctx context.Context, silent, kept time.Duration) ([]Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, selectStream+`WHERE CASE WHEN state = 'active' THEN seen_at < now() - $1 * interval '1 second'
		ELSE closed_at > now() - $2 * interval '1 second' - interval '1 hour' OR unread <> '{}' END ORDER BY id`, silent.Seconds(), kept.Seconds())
	if err != nil {
		return nil, s.check(ctx, "listing silent streams", err)
	}
	orphans, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Stream, error) { return scanStream(row) })
	return orphans, s.check(ctx, "listing silent streams", err)
}

// Copied returns the ids of the entries that were counted from copies and that the stream has not delivered.
func (s *Store) Copied(ctx context.Context, of Stream) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT id FROM drain_copy WHERE stream = $1`, of.ID)
	if err != nil {
		return nil, s.check(ctx, "listing counted copies", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, s.check(ctx, "listing counted copies", err)
}

// Settle notes that the stream will not deliver entries that were counted early. Idempotent.
func (s *Store) Settle(ctx context.Context, of Stream, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `WITH settled AS (
			UPDATE drain_copy SET early = false WHERE stream = $1 AND early AND id = ANY ($2::text[]) RETURNING seen
		), moved AS (SELECT count(*) FILTER (WHERE seen) AS n FROM settled)
		UPDATE drain_effect SET early = early - n, restored = restored + n FROM moved WHERE stream = $1`, of.ID, ids)
	return s.check(ctx, "settling copies", err)
}

// NoteUnread writes which nodes' copies of the stream could not be read.
func (s *Store) NoteUnread(ctx context.Context, of Stream, nodes []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if nodes == nil {
		nodes = []string{}
	}
	_, err := s.pool.Exec(ctx, `UPDATE drain_stream SET unread = $2 WHERE id = $1 AND unread <> $2`, of.ID, nodes)
	return s.check(ctx, "noting unread copies", err)
}

// Expect replaces the list of nodes that should have a stream.
func (s *Store) Expect(ctx context.Context, nodes []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `WITH gone AS (DELETE FROM drain_node WHERE NOT node = ANY ($1::text[]))
		INSERT INTO drain_node (node) SELECT unnest($1::text[]) ON CONFLICT (node) DO NOTHING`, nodes)
	return s.check(ctx, "noting the expected nodes", err)
}
