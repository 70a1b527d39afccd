-- Counts one batch of one stream, or nothing at all.
--
-- In:  $1..$4 and $25 the fence: stream, the revision, pos and n the caller has read, and the incarnation: after a failover
--      that undid a registration, the stream's number may be another's
--      $5..$12 the account after the batch: pos, n, superseded and rejected as increments, lost, shift, added, last_id
--      $13 held, $14 tally shard, $15 polls in which the first vote counts
--      $16..$21 votes, at most one per poll and voter: poll, voter, choice, seq, ts, eid
--      $22..$24 rejects: id, raw, reason
--      $26, $27 valid entries of the batch by poll, superseded ones included: poll, number
--      $28 sure, $29 single copies as an increment
--      $30 whether the origin was read; a batch of copies alone leaves its state as it is
--      $31..$33 entries counted from copies: id, seen, early (see drain_copy)
--      $34 ids of entries that the origin delivered, while drain_copy has some of it
-- Out: one row: 1 if the fence held, else 0 and nothing was written; votes inserted, changed, stale.
--
-- Idempotence: the fence moves with the batch, so a batch that was committed finds it moved; and a vote whose key is not
-- beyond the row's writes nothing, so even a cursor set back by hand changes no count.
-- Exactness under READ COMMITTED: ON CONFLICT DO UPDATE locks and reads the newest committed version of the row, so each
-- returned (prev, choice) is a true step of its history, and the sum of the steps is the tally. Reading the old
-- choice in a CTE would read the snapshot instead, and drift.
-- Order: sub-statements see each other through RETURNING alone, which fixes cas, then up, then tally. Keys are sorted, so
-- that two batches that meet lock rows in the same order and never deadlock.
WITH cas AS (
	UPDATE drain_stream
	   SET revision = revision + 1, pos = $5, n = n + $6, superseded = superseded + $7, rejected = rejected + $8,
	       lost = $9, shift = $10, added = $11, last_id = $12, held = $13, sure = $28, single = single + $29,
	       seen_at = CASE WHEN $30 THEN now() ELSE seen_at END, state = CASE WHEN $30 THEN 'active' ELSE state END,
	       closed_at = CASE WHEN $30 THEN NULL ELSE closed_at END
	 WHERE id = $1 AND revision = $2 AND pos = $3 AND n = $4 AND inc = $25::uuid
	RETURNING 1
), inp AS MATERIALIZED (
	SELECT * FROM unnest($16::int[], $17::uuid[], $18::smallint[], $19::bigint[], $20::bigint[], $21::uuid[])
	       AS t (poll, voter, choice, seq, ts, eid)
	 WHERE EXISTS (SELECT 1 FROM cas)
), up AS (
	INSERT INTO vote AS v (poll, voter, choice, seq, ts, eid)
	SELECT poll, voter, choice, seq, ts, eid FROM inp ORDER BY poll, voter
	ON CONFLICT (poll, voter) DO UPDATE
	   SET prev = v.choice, choice = EXCLUDED.choice, seq = EXCLUDED.seq, ts = EXCLUDED.ts, eid = EXCLUDED.eid
	 WHERE CASE WHEN EXCLUDED.poll = ANY ($15::int[])
	            THEN (EXCLUDED.seq, EXCLUDED.ts, EXCLUDED.eid) < (v.seq, v.ts, v.eid)
	            ELSE (EXCLUDED.seq, EXCLUDED.ts, EXCLUDED.eid) > (v.seq, v.ts, v.eid) END
	RETURNING poll, choice, prev, ts
), delta AS (
	SELECT poll, choice, sum(k)::bigint AS n
	  FROM (SELECT poll, choice, 1 AS k FROM up UNION ALL SELECT poll, prev, -1 FROM up WHERE prev IS NOT NULL) AS steps
	 GROUP BY poll, choice HAVING sum(k) <> 0
), counted AS (
	INSERT INTO tally AS t (poll, choice, shard, n)
	SELECT poll, choice, $14::smallint, n FROM delta ORDER BY poll, choice
	ON CONFLICT (poll, choice, shard) DO UPDATE SET n = t.n + EXCLUDED.n
), effect AS (
	SELECT count(*) FILTER (WHERE prev IS NULL) AS inserted, count(prev) AS changed,
	       (SELECT count(*) FROM inp) - count(*) AS stale
	  FROM up
), copied AS (
	INSERT INTO drain_copy (stream, id, seen, early)
	SELECT $1, id, seen, early FROM unnest($31::text[], $32::boolean[], $33::boolean[]) AS c (id, seen, early)
	 WHERE EXISTS (SELECT 1 FROM cas)
	RETURNING seen, early
), delivered AS (
	DELETE FROM drain_copy WHERE stream = $1 AND id = ANY ($34::text[]) AND EXISTS (SELECT 1 FROM cas)
	RETURNING seen, early
), moved AS (
	SELECT coalesce(sum(k) FILTER (WHERE k > 0), 0) AS copied, coalesce(sum(k) FILTER (WHERE early AND seen), 0) AS early,
	       coalesce(sum(k) FILTER (WHERE NOT early AND seen), 0) AS restored, coalesce(sum(k) FILTER (WHERE NOT seen), 0) AS unseen
	  FROM (SELECT 1 AS k, seen, early FROM copied UNION ALL SELECT -1, seen, early FROM delivered) AS steps
), noted AS (
	INSERT INTO drain_effect AS e (stream, inserted, changed, stale, copied, early, restored, unseen)
	SELECT $1, inserted, changed, stale, copied, early, restored, unseen FROM effect, moved WHERE EXISTS (SELECT 1 FROM cas)
	ON CONFLICT (stream) DO UPDATE
	   SET inserted = e.inserted + EXCLUDED.inserted, changed = e.changed + EXCLUDED.changed, stale = e.stale + EXCLUDED.stale,
	       copied = e.copied + EXCLUDED.copied, early = e.early + EXCLUDED.early, restored = e.restored + EXCLUDED.restored,
	       unseen = e.unseen + EXCLUDED.unseen
), came AS (
	INSERT INTO turnout AS t (poll, minute, stream, voters)
	SELECT poll, ts / 60000, $1, count(*) FROM up WHERE prev IS NULL GROUP BY poll, ts / 60000
	ON CONFLICT (poll, minute, stream) DO UPDATE SET voters = t.voters + EXCLUDED.voters
), shares AS (
	INSERT INTO poll_entries AS p (poll, stream, n)
	SELECT poll, $1, n FROM unnest($26::int[], $27::bigint[]) AS e (poll, n) WHERE EXISTS (SELECT 1 FROM cas)
	ON CONFLICT (poll, stream) DO UPDATE SET n = p.n + EXCLUDED.n
), refused AS (
	INSERT INTO vote_reject (stream, id, raw, reason)
	SELECT $1, id, raw, reason FROM unnest($22::text[], $23::bytea[], $24::text[]) AS r (id, raw, reason)
	 WHERE EXISTS (SELECT 1 FROM cas)
	ON CONFLICT DO NOTHING
)
SELECT (SELECT count(*) FROM cas), inserted, changed, stale FROM effect
