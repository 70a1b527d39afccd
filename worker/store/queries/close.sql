-- Closes what a node has lost so far: it stays in the ledger and raises no alarm any more.
-- In: $1 node. Out: one row: gaps closed, lost entries closed. Idempotent.
WITH closed AS (
	UPDATE drain_gap SET closed_at = now() WHERE closed_at IS NULL AND stream IN (SELECT id FROM drain_stream WHERE node = $1)
	RETURNING 1
), open AS (
	SELECT incarnation, lost, lost - lost_closed AS more FROM result_ledger WHERE node = $1 AND lost > lost_closed
), accepted AS (
	UPDATE drain_stream SET lost_closed = open.lost FROM open WHERE inc = open.incarnation
)
SELECT (SELECT count(*) FROM closed), coalesce(sum(more), 0)::bigint FROM open
