-- Writes off a node that will never come back, and closes its losses: an operator has said so.
-- In: $1 node; $2 whether it was drained before: then nothing was captured since it was read, and a stream of which nothing
-- is pending leaves no gap. Out: one row: how many of its streams were seen within the last minute, which are left alone; how many were
-- retired, or never came. Idempotent: a stream is retired once.
WITH gone AS (
	UPDATE drain_stream SET state = 'retired', closed_at = now()
	 WHERE node = $1 AND state = 'active' AND seen_at < now() - interval '1 minute'
	RETURNING id, inc, seen_at
), noted AS (
	INSERT INTO drain_gap (stream, cause, from_at, to_at, closed_at)
	SELECT id, 'retired', seen_at, now(), now() FROM gone
	 WHERE NOT ($2 AND EXISTS (SELECT FROM result_ledger l WHERE l.incarnation = gone.inc AND l.pending = 0))
), closed AS (
	UPDATE drain_gap SET closed_at = now() WHERE closed_at IS NULL AND stream IN (SELECT id FROM drain_stream WHERE node = $1)
), forgotten AS (
	DELETE FROM drain_node WHERE node = $1
	   AND NOT EXISTS (SELECT 1 FROM drain_stream WHERE node = $1 AND state = 'active' AND seen_at >= now() - interval '1 minute')
	RETURNING node
)
SELECT (SELECT count(*) FROM drain_stream WHERE node = $1 AND state = 'active' AND seen_at >= now() - interval '1 minute'),
       (SELECT count(*) FROM gone) + (SELECT count(*) FROM forgotten WHERE NOT EXISTS (SELECT 1 FROM drain_stream WHERE node = $1))
