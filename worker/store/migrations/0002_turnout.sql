-- What a poll's results are shown with besides the tally: when its voters came, and what each node sent for it.
-- Both tables are keyed by stream, so that only the one writer that holds a stream's fence touches a row.

-- New voters by the minute in which their vote was captured: minute = Unix minutes of the node's clock. A voter counts in
-- one minute only, that of the vote that was counted first.
CREATE TABLE turnout (
	poll   int    NOT NULL,
	minute bigint NOT NULL,
	stream int    NOT NULL,
	voters bigint NOT NULL,
	PRIMARY KEY (poll, minute, stream)
) WITH (fillfactor = 50);

-- Valid entries accounted for, by poll. Those of a stream and its rejects together are its n.
CREATE TABLE poll_entries (
	poll   int    NOT NULL,
	stream int    NOT NULL,
	n      bigint NOT NULL,
	PRIMARY KEY (poll, stream)
) WITH (fillfactor = 20);

-- For votes that are there already: the last four bytes of an order key are the stream. What was folded away before is
-- not known by poll any more.
INSERT INTO turnout
	SELECT poll, ts / 60000, ('x' || right(eid::text, 8))::bit(32)::int, count(*) FROM vote GROUP BY 1, 2, 3;
INSERT INTO poll_entries
	SELECT poll, stream, sum(voters) FROM turnout GROUP BY 1, 2;

CREATE VIEW result_turnout AS
	SELECT poll, minute, sum(voters)::bigint AS voters FROM turnout GROUP BY poll, minute;

CREATE VIEW result_poll_ledger AS
	SELECT p.poll, s.node, sum(p.n)::bigint AS counted
	  FROM poll_entries p JOIN drain_stream s ON s.id = p.stream GROUP BY p.poll, s.node;

GRANT SELECT, INSERT, UPDATE ON turnout, poll_entries TO waggle_drain;
GRANT SELECT ON result_turnout, result_poll_ledger TO waggle_results, waggle_drain;
