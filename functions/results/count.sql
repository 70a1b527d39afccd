-- Reads the count once for all replicas: returns it and tells it to every session that listens, this one included.
--
-- In: $1..$3 the stretches of turnout to read: poll, first and last minute (Unix minutes). Out: the count as JSON.
-- One statement is one snapshot. A notification holds less than 8000 bytes, so the text travels as base64 in numbered
-- pieces, which Postgres delivers together and in order: "<piece>/<pieces> <text>".
WITH count AS MATERIALIZED (
	SELECT json_build_object(
		'as_of', now(),
		'tally', (SELECT json_agg(json_build_array(poll, choice, votes)) FROM result_tally),
		'ledger', (SELECT json_agg(l ORDER BY node, registered_at, incarnation)
		             FROM (SELECT *, added AS captured FROM result_ledger) AS l),
		'gaps', (SELECT json_agg(g ORDER BY g.from, node)
		           FROM (SELECT node, from_at AS "from", to_at AS "to", closed_at FROM result_gap) AS g),
		'checks', (SELECT json_agg(c ORDER BY name) FROM (SELECT name, drift, checked_at FROM result_health) AS c),
		'entries', (SELECT json_agg(e ORDER BY poll, node) FROM result_poll_ledger AS e),
		'turnout', (SELECT json_agg(json_build_array(w.poll, t.minute, t.voters) ORDER BY w.poll, t.minute)
		              FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS w (poll, first, last),
		                   LATERAL (SELECT minute, voters FROM result_turnout AS r
		                             WHERE r.poll = w.poll AND r.minute BETWEEN w.first AND w.last) AS t)
	)::text AS body
), pieces AS (
	SELECT body, convert_to(body, 'UTF8') AS bytes, (octet_length(body) + 5799) / 5800 AS n FROM count
)
SELECT body, (SELECT count(pg_notify('result_count',
              i || '/' || n || ' ' || encode(substring(bytes FROM 5800 * (i - 1) + 1 FOR 5800), 'base64')))
         FROM generate_series(1, n) AS i)
  FROM pieces
