-- What was lost, what its copies gave back, and what nobody can know.

-- Stretches of time in which votes of a stream may have vanished unseen: no worker had looked, and the disk forgot.
-- A row stays open until an operator closes it (worker close, worker retire).
CREATE TABLE drain_gap (
	id        int  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	stream    int  NOT NULL,
	-- replaced: the node came back with an empty volume. cut: the log lost entries at its end. rewound: it lost even
	-- entries that had been counted. retired: an operator wrote the node off.
	cause     text NOT NULL CHECK (cause IN ('replaced', 'cut', 'rewound', 'retired')),
	from_at   timestamptz NOT NULL, -- the last reading before it
	to_at     timestamptz NOT NULL, -- when it was noticed
	closed_at timestamptz
);

ALTER TABLE drain_stream
	-- Up to this id nothing is missing unnoticed: it was read without a break, or compared with the copies of every node.
	ADD COLUMN sure        text   NOT NULL DEFAULT '0-1',
	-- Nodes whose copies have still to be compared from there on.
	ADD COLUMN unread      text[] NOT NULL DEFAULT '{}',
	-- Entries that were acknowledged with one copy.
	ADD COLUMN single      bigint NOT NULL DEFAULT 0,
	-- The last note that the log was cut, an id of stream votes:torn.
	ADD COLUMN torn        text   NOT NULL DEFAULT '0-0',
	-- As many lost entries as an operator has closed.
	ADD COLUMN lost_closed bigint NOT NULL DEFAULT 0;
UPDATE drain_stream SET sure = pos;

-- Votes that were counted from a copy and that their origin has not delivered. Rows are few: an origin had to fail.
CREATE TABLE drain_copy (
	stream int     NOT NULL, -- the origin
	id     text    NOT NULL, -- the entry's id there
	seen   boolean NOT NULL, -- part of drain_stream.added, so its recovery lessens what is lost
	early  boolean NOT NULL, -- the origin was silent, and may deliver it yet
	PRIMARY KEY (stream, id)
);

-- copied: votes counted from copies, ever; n + copied = inserted + changed + stale + superseded + rejected.
-- The others are the rows of drain_copy: early; seen and not early; not seen.
ALTER TABLE drain_effect
	ADD COLUMN copied   bigint NOT NULL DEFAULT 0,
	ADD COLUMN early    bigint NOT NULL DEFAULT 0,
	ADD COLUMN restored bigint NOT NULL DEFAULT 0,
	ADD COLUMN unseen   bigint NOT NULL DEFAULT 0;

-- The capture nodes that the Swarm's labels name. One that no worker has reached is missing, not absent.
CREATE TABLE drain_node (
	node        text PRIMARY KEY,
	expected_at timestamptz NOT NULL DEFAULT now()
);

-- Since when a worker lives without a break. After a pause of all workers, a node is not missing before they had time to ask it.
ALTER TABLE drain_worker ADD COLUMN since timestamptz NOT NULL DEFAULT now();

-- added = counted + pending + rejected + lost, always. lost is "at least": result_gap says what is not known besides.
-- counted contains recovered, the votes that only copies gave.
CREATE OR REPLACE VIEW result_ledger AS
	SELECT node, inc AS incarnation,
	       CASE WHEN state = 'active' AND now() - seen_at > interval '15 seconds' AND watched < now() - interval '15 seconds'
	            THEN 'missing' ELSE state END AS state,
	       added + unseen AS added,
	       n - rejected + early + restored + unseen AS counted,
	       CASE WHEN state = 'active' THEN added - n - lost - early ELSE 0 END AS pending,
	       rejected,
	       CASE WHEN state = 'active' THEN lost - restored ELSE added - n - early - restored END AS lost,
	       seen_at, registered_at, closed_at,
	       early + restored + unseen AS recovered,
	       single,
	       lost_closed,
	       unread
	  FROM (SELECT s.*, coalesce(e.early, 0) AS early, coalesce(e.restored, 0) AS restored, coalesce(e.unseen, 0) AS unseen,
	               coalesce((SELECT min(since) FROM drain_worker WHERE drain_worker.seen_at > now() - interval '10 seconds'), '-infinity') AS watched
	          FROM drain_stream s LEFT JOIN drain_effect e ON e.stream = s.id) AS streams
	UNION ALL
	SELECT node, '00000000-0000-0000-0000-000000000000'::uuid, 'missing', 0, 0, 0, 0, 0, expected_at, expected_at, NULL, 0, 0, 0, '{}'::text[]
	  FROM drain_node WHERE NOT EXISTS (SELECT 1 FROM drain_stream s WHERE s.node = drain_node.node);

-- Votes that were captured on the node in this time, and are not counted, cannot be accounted for. closed_at is null while it
-- is open.
CREATE VIEW result_gap AS
	SELECT g.id, s.node, s.inc AS incarnation, g.cause, g.from_at, g.to_at, g.closed_at
	  FROM drain_gap g JOIN drain_stream s ON s.id = g.stream;

GRANT SELECT, INSERT, UPDATE ON drain_gap TO waggle_drain;
GRANT SELECT, INSERT, UPDATE, DELETE ON drain_copy, drain_node TO waggle_drain;
GRANT SELECT ON result_gap TO waggle_results, waggle_drain;
