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

// Unknown returns those of the incarnations that are UUIDs and no stream's, sorted.
func (s *Store) Unknown(ctx context.Context, incs []string) ([]string, error) {
	if len(incs) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT inc FROM unnest($1::text[]) AS u (inc)
		WHERE inc ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' AND NOT EXISTS (SELECT 1 FROM drain_stream s WHERE s.inc::text = u.inc) ORDER BY inc`, incs)
	if err != nil {
		return nil, s.check(ctx, "looking for unknown streams", err)
	}
	unknown, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return unknown, s.check(ctx, "looking for unknown streams", err)
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

// Settle notes that the stream will not deliver entries that were counted early. Those of seen have been found to be part
// of Added meanwhile. Idempotent.
func (s *Store) Settle(ctx context.Context, of Stream, ids, seen []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if seen == nil {
		seen = []string{}
	}
	_, err := s.pool.Exec(ctx, `WITH was AS (
			SELECT id, seen, early FROM drain_copy WHERE stream = $1 AND id = ANY ($2::text[]) FOR UPDATE
		), settled AS (
			UPDATE drain_copy c SET early = false, seen = c.seen OR c.id = ANY ($3::text[]) FROM was
			 WHERE c.stream = $1 AND c.id = was.id AND (was.early OR NOT was.seen AND c.id = ANY ($3::text[]))
			RETURNING was.seen AS was_seen, was.early AS was_early, c.seen
		), moved AS (
			SELECT count(*) FILTER (WHERE was_seen AND was_early) AS early, count(*) FILTER (WHERE seen) AS restored,
			       count(*) FILTER (WHERE seen AND NOT was_seen) AS unseen
			  FROM settled
		)
		UPDATE drain_effect e SET early = e.early - moved.early, restored = e.restored + moved.restored, unseen = e.unseen - moved.unseen
		  FROM moved WHERE stream = $1`, of.ID, ids, seen)
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
