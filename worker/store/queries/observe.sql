-- Writes what a reading of Redis showed when there was nothing to count, and what of it is a reason to doubt.
-- In: the fence $1..$4 as in commit.sql; $5 pos, $6 lost, $7 shift, $8 added, $9 last_id, $10 held; $11 inc; $12 sure,
--     $13 unread, $14 torn; $15 the cause of a gap since the last reading, or ''. Out: a row if the fence held.
-- Idempotence: the fence moves, so only one of several writers of the same account succeeds.
-- Order: the snapshot's seen_at, the time of the last reading, is what the gap begins with.
WITH cas AS (
	UPDATE drain_stream
	   SET revision = revision + 1, pos = $5, lost = $6, shift = $7, added = $8, last_id = $9, held = $10, seen_at = now(),
	       sure = $12, unread = $13, torn = $14, state = 'active', closed_at = NULL
	 WHERE id = $1 AND revision = $2 AND pos = $3 AND n = $4 AND inc = $11::uuid
	RETURNING id
), gap AS (
	INSERT INTO drain_gap (stream, cause, from_at, to_at)
	SELECT s.id, $15, s.seen_at, now() FROM drain_stream s JOIN cas USING (id) WHERE $15 <> ''
)
SELECT 1 FROM cas
