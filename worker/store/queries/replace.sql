-- Closes the silent former incarnations of a node that has come back with another one.
-- In: $1 node, $2 the stream that it has now. Out: nothing. Idempotent: a stream is replaced once.
WITH gone AS (
	UPDATE drain_stream SET state = 'replaced', closed_at = now()
	 WHERE node = $1 AND id <> $2 AND state = 'active' AND seen_at < now() - interval '10 seconds'
	RETURNING id, seen_at
)
INSERT INTO drain_gap (stream, cause, from_at, to_at)
SELECT gone.id, 'replaced', gone.seen_at, now_has.registered_at
  FROM gone, (SELECT greatest(registered_at, (SELECT max(seen_at) FROM gone)) AS registered_at FROM drain_stream WHERE id = $2) AS now_has
