-- What became of the vote on a receipt: an entry of a stream by its incarnation and id (ms, counter), of a voter's
-- pseudonym in a poll. It never tells what was chosen, and changes nothing. Node and since are of a node that is silent.
--
--   counted      this entry is the voter's vote
--   replaced     another vote of the voter counts: a later one, or in a poll that keeps the first an earlier one
--   rejected     the entry was no valid vote
--   waiting      no worker has read as far as the entry
--   unreachable  nor can one: the node has been silent since
--   lost         the entry was captured and can no longer be read
--
-- A replaced or retired stream is read no further, so what it still held is lost. So is what a stream that lost entries
-- had captured a minute before it was last read to its end.
CREATE FUNCTION result_receipt(of_poll int, of_voter uuid, of_seq bigint, keeps_first boolean, incarnation uuid, ms bigint, counter bigint)
RETURNS TABLE (state text, node text, since timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
	WITH place AS (
		SELECT s.id, s.node, s.state, s.seen_at, s.added - s.n - s.lost AS pending, s.lost,
		       (split_part(s.pos, '-', 1)::numeric, split_part(s.pos, '-', 2)::numeric) >= (ms, counter) AS passed,
		       (lpad(to_hex(ms), 12, '0') || lpad(to_hex(counter), 12, '0') || lpad(to_hex(s.id), 8, '0'))::uuid AS eid
		  FROM drain_stream s WHERE s.inc = incarnation
	), fate AS (
		SELECT p.node, p.seen_at, CASE
			WHEN v.eid = p.eid THEN 'counted'
			WHEN EXISTS (SELECT FROM vote_reject r WHERE r.stream = p.id AND r.id = ms || '-' || counter) THEN 'rejected'
			WHEN v.eid IS NOT NULL AND (p.passed OR CASE WHEN keeps_first THEN v.seq < of_seq ELSE v.seq > of_seq END) THEN 'replaced'
			WHEN p.passed OR p.state <> 'active' THEN 'lost'
			WHEN p.seen_at < now() - interval '15 seconds' THEN 'unreachable'
			WHEN p.lost > 0 AND p.pending = 0 AND extract(epoch FROM p.seen_at) * 1000 > ms + 60000 THEN 'lost'
			ELSE 'waiting' END AS state
		  FROM place p LEFT JOIN vote v ON v.poll = of_poll AND v.voter = of_voter
	)
	SELECT state, CASE WHEN state = 'unreachable' THEN node END, CASE WHEN state = 'unreachable' THEN seen_at END FROM fate
	UNION ALL
	SELECT 'waiting', NULL, NULL WHERE NOT EXISTS (SELECT FROM fate)
$$;

REVOKE ALL ON FUNCTION result_receipt(int, uuid, bigint, boolean, uuid, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION result_receipt(int, uuid, bigint, boolean, uuid, bigint, bigint) TO waggle_results;
