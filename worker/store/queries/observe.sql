-- Writes what a look at Redis showed when there was nothing to count.
-- In: the fence $1..$4 as in commit.sql; $5 pos, $6 lost, $7 shift, $8 added, $9 last_id, $10 held; $11 inc. Out: a row if the fence held.
-- Idempotence: the fence moves, so only one of several writers of the same account succeeds.
UPDATE drain_stream
   SET revision = revision + 1, pos = $5, lost = $6, shift = $7, added = $8, last_id = $9, held = $10, seen_at = now(),
       state = 'active', closed_at = NULL
 WHERE id = $1 AND revision = $2 AND pos = $3 AND n = $4 AND inc = $11::uuid
RETURNING 1
