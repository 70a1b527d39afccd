-- Runs every self-check on one snapshot and stores the results. In: nothing. Out: name, drift, detail of each; drift 0 is
-- right. Idempotent: each run replaces the last one's results.
--
-- I2, one vote per voter and poll, needs no query: it is the primary key of vote.
WITH votes AS (
	SELECT poll, choice, count(*) AS n FROM vote GROUP BY poll, choice
), sums AS (
	SELECT poll, choice, sum(n) AS n FROM tally GROUP BY poll, choice
), off AS (
	SELECT format('poll %s choice %s: %s votes, tally %s', poll, choice, coalesce(v.n, 0), coalesce(s.n, 0)) AS what,
	       abs(coalesce(v.n, 0) - coalesce(s.n, 0)) AS by
	  FROM votes v FULL JOIN sums s USING (poll, choice)
	 WHERE coalesce(v.n, 0) <> coalesce(s.n, 0)
), streams AS (
	SELECT s.*, coalesce(e.inserted, 0) AS inserted, coalesce(e.changed, 0) AS changed, coalesce(e.stale, 0) AS stale,
	       coalesce(e.copied, 0) AS copied, coalesce(e.early + e.restored + e.unseen, 0) AS recovered
	  FROM drain_stream s LEFT JOIN drain_effect e ON e.stream = s.id
), results (name, drift, detail) AS (
	-- I1: the tally is the number of votes, choice by choice.
	SELECT 'tally', coalesce(sum(by), 0), coalesce(string_agg(what, '; '), '') FROM off
	UNION ALL
	-- I3: every vote came from a counted insert, and there are no more votes and rejects than entries.
	SELECT 'votes', abs(v.n - s.inserted) + greatest(0, v.n + r.n - s.n),
	       format('%s votes, %s inserted; %s rejects; %s entries and copies', v.n, s.inserted, r.n, s.n)
	  FROM (SELECT coalesce(sum(n), 0) AS n FROM votes) v,
	       (SELECT count(*) AS n FROM vote_reject) r,
	       (SELECT coalesce(sum(n + copied), 0) AS n, coalesce(sum(inserted), 0) AS inserted FROM streams) s
	UNION ALL
	-- I4: no stream has more accounted for than was ever added to it.
	SELECT 'added', coalesce(sum(n + lost - added), 0), coalesce(string_agg(format('%s: %s of %s', node, n + lost, added), '; '), '')
	  FROM streams WHERE n + lost > added
	UNION ALL
	-- I4: what was added and can't be counted any more. Nothing is wrong with the sums, but votes are gone.
	SELECT 'lost', coalesce(sum(lost - lost_closed), 0), coalesce(string_agg(format('%s: %s', node, lost - lost_closed), '; '), '')
	  FROM result_ledger WHERE lost > lost_closed
	UNION ALL
	-- What may be lost besides, and nobody can know.
	SELECT 'unknown', count(*), coalesce(string_agg(format('%s: %s to %s', node, from_at, to_at), '; '), '')
	  FROM result_gap WHERE closed_at IS NULL
	UNION ALL
	-- I5: each entry, and each copy that was counted, had exactly one effect.
	SELECT 'effects', coalesce(sum(abs(n + copied - inserted - changed - stale - superseded - rejected)), 0),
	       coalesce(string_agg(format('%s: %s entries and copies, %s effects', node, n + copied, inserted + changed + stale + superseded + rejected), '; '), '')
	  FROM streams WHERE n + copied <> inserted + changed + stale + superseded + rejected
	UNION ALL
	-- I7: what is recovered is the copies that no origin delivered.
	SELECT 'copies', coalesce(sum(abs(recovered - rows)), 0), coalesce(string_agg(format('%s: %s recovered, %s rows', node, recovered, rows), '; '), '')
	  FROM (SELECT s.node, s.recovered, (SELECT count(*) FROM drain_copy c WHERE c.stream = s.id) AS rows FROM streams s) AS c
	 WHERE recovered <> rows
	UNION ALL
	-- I6: every stream that was not replaced or retired answers.
	SELECT 'missing', count(*), coalesce(string_agg(format('%s since %s', node, seen_at), '; '), '')
	  FROM result_ledger WHERE state = 'missing'
)
INSERT INTO drain_check (name, drift, detail, checked_at)
SELECT name, drift, left(detail, 2000), now() FROM results ORDER BY name
ON CONFLICT (name) DO UPDATE SET drift = EXCLUDED.drift, detail = EXCLUDED.detail, checked_at = EXCLUDED.checked_at
RETURNING name, drift, detail
