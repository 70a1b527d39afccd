-- The tally: who voted what, the sums, and the account of every stream the votes came from.
-- Run by waggle_admin, who owns the database. Roles waggle_drain and waggle_results exist before.

-- One row per voter and poll: the vote that counts. No secondary index, so that updates can stay on their page (HOT).
--
-- Order key. Of two votes of one voter in one poll, (seq, ts, eid) decides; the greater one counts in a poll of mode
-- 'last', the lesser one in mode 'first'.
--   seq  the sequence in the voter's signed cookie: no clock is involved, and a late retry of an older ballot loses.
--   ts   capture time, Unix ms: decides only between votes cast with the same sequence.
--   eid  the entry's own name, big-endian: 48 bits stream id milliseconds, 48 bits stream id counter, 32 bits
--        drain_stream.id. No two entries share it, so the order is total; it depends on the entry alone, so every
--        worker and every redelivery agree; an equal key is the same entry again, and a redelivery changes nothing.
-- prev is the choice before this version of the row; it exists only to be returned by the upsert.
CREATE TABLE vote (
	poll   int      NOT NULL,
	voter  uuid     NOT NULL,
	choice smallint NOT NULL,
	prev   smallint,
	seq    bigint   NOT NULL,
	ts     bigint   NOT NULL,
	eid    uuid     NOT NULL,
	PRIMARY KEY (poll, voter)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- The sum of shards is the count; a single shard may be negative. Shards keep workers off each other's rows.
CREATE TABLE tally (
	poll   int      NOT NULL,
	choice smallint NOT NULL,
	shard  smallint NOT NULL,
	n      bigint   NOT NULL,
	PRIMARY KEY (poll, choice, shard)
) WITH (fillfactor = 20);

-- One row per incarnation of a node's stream, for ever: a node that discovery stops naming is missing, not forgotten.
-- Counts are of entries and leave out the genesis entry 0-1.
CREATE TABLE drain_stream (
	id         int    GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	node       text   NOT NULL,
	inc        uuid   NOT NULL UNIQUE,
	-- active: to be drained. replaced: the node came back with another incarnation. retired: an operator wrote it off.
	state      text   NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'replaced', 'retired')),
	-- Compare-and-set fence: every writer names the revision, pos and n it has read.
	revision   bigint NOT NULL DEFAULT 0,
	-- Id of the last entry that is accounted for; 0-1 is the genesis.
	pos        text   NOT NULL DEFAULT '0-1',
	-- Entries accounted for: n = inserted + changed + stale (drain_effect) + superseded + rejected.
	n          bigint NOT NULL DEFAULT 0,
	superseded bigint NOT NULL DEFAULT 0, -- folded away by a newer vote of the same voter in the same batch
	rejected   bigint NOT NULL DEFAULT 0, -- in vote_reject
	-- Entries that were added and can no longer be read: trimmed by a stranger, or cut off Redis's log.
	lost       bigint NOT NULL DEFAULT 0,
	-- What must be added to Redis's counter entries-added because Redis forgot entries that had been seen.
	shift      bigint NOT NULL DEFAULT 0,
	-- The last look at Redis: entries ever added (shift included), its last-generated-id, entries it still holds.
	added      bigint NOT NULL DEFAULT 0,
	last_id    text   NOT NULL DEFAULT '0-1',
	held       bigint NOT NULL DEFAULT 0,
	seen_at    timestamptz NOT NULL DEFAULT now(),
	registered_at timestamptz NOT NULL DEFAULT now(),
	closed_at  timestamptz
) WITH (fillfactor = 20);

-- What the entries of a stream did to vote. Apart from drain_stream, because it is known only after the upsert and one
-- statement cannot update a row twice.
CREATE TABLE drain_effect (
	stream   int    PRIMARY KEY,
	inserted bigint NOT NULL,
	changed  bigint NOT NULL,
	stale    bigint NOT NULL -- lost against the row that was there, or delivered again
) WITH (fillfactor = 20);

-- Entries that are no vote, as they were. An acknowledged vote that lands here is not counted and must be seen.
CREATE TABLE vote_reject (
	stream int   NOT NULL,
	id     text  NOT NULL,
	raw    bytea NOT NULL,
	reason text  NOT NULL,
	at     timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (stream, id)
);

-- Live workers, by heartbeat: they divide the streams among themselves.
CREATE TABLE drain_worker (
	id      text PRIMARY KEY,
	seen_at timestamptz NOT NULL
) WITH (fillfactor = 20);

-- The last result of each self-check; drift 0 is right.
CREATE TABLE drain_check (
	name       text PRIMARY KEY,
	drift      bigint NOT NULL,
	detail     text   NOT NULL,
	checked_at timestamptz NOT NULL
) WITH (fillfactor = 20);

-- What the results function reads. added = counted + rejected + pending + lost, always.
CREATE VIEW result_tally AS
	SELECT poll, choice, sum(n)::bigint AS votes FROM tally GROUP BY poll, choice;

CREATE VIEW result_ledger AS
	SELECT node, inc AS incarnation,
	       CASE WHEN state = 'active' AND now() - seen_at > interval '15 seconds' THEN 'missing' ELSE state END AS state,
	       added,
	       n - rejected AS counted,
	       CASE WHEN state = 'active' THEN added - n - lost ELSE 0 END AS pending,
	       rejected,
	       CASE WHEN state = 'active' THEN lost ELSE added - n END AS lost,
	       seen_at, registered_at, closed_at
	FROM drain_stream;

CREATE VIEW result_health AS
	SELECT name, drift, detail, checked_at FROM drain_check;

GRANT USAGE ON SCHEMA public TO waggle_drain, waggle_results;
GRANT SELECT, INSERT, UPDATE ON vote, tally, drain_stream, drain_effect, drain_check TO waggle_drain;
GRANT SELECT, INSERT ON vote_reject TO waggle_drain;
GRANT SELECT, INSERT, UPDATE, DELETE ON drain_worker TO waggle_drain;
GRANT SELECT ON schema_version TO waggle_drain;
GRANT SELECT ON result_tally, result_ledger, result_health TO waggle_results, waggle_drain;
