// Package store keeps the tally in Postgres.
//
// It stands at the end of a vote's way. Package drain reads a node's stream and hands over one batch. The store
// writes it in one statement that changes the stream's cursor, votes, tally and rejects together or not at all.
// Results functions read it through the views result_tally, result_ledger and result_health.
//
// It guarantees that an entry of a stream changes the tally at most once, however often and by however many
// workers it is delivered. What cannot be counted is a number in the ledger.
package store

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed queries/commit.sql
var commitSQL string

//go:embed queries/observe.sql
var observeSQL string

//go:embed queries/check.sql
var checkSQL string

//go:embed queries/replace.sql
var replaceSQL string

//go:embed queries/retire.sql
var retireSQL string

//go:embed queries/close.sql
var closeSQL string

// shards is the number of rows a choice's count is spread over. It is enough that a few workers seldom meet on
// one, and small enough that reading the sum costs nothing.
const shards = 16

// Config of a Store.
type Config struct {
	// DSN in libpq form, logging in as waggle_drain. Several hosts are tried until one is writable. Required.
	DSN string
	// Connections is the pool's size; zero means 8. Two per stream is plenty.
	Connections int32
	// Timeout bounds each call, waiting for a connection included; zero means 15 s.
	Timeout time.Duration
	// Shard is the tally shard this process adds to; any number, taken modulo the number of shards.
	Shard uint32
}

func (c Config) withDefaults() Config {
	if c.Connections == 0 {
		c.Connections = 8
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.DSN == "" {
		errs = append(errs, errors.New("the Postgres DSN is empty: it must name a host, a database and a user"))
	}
	if c.Connections < 1 || c.Connections > 1000 {
		errs = append(errs, fmt.Errorf("the Postgres pool size is %d: it must be 1 to 1000", c.Connections))
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > time.Hour {
		errs = append(errs, fmt.Errorf("the Postgres timeout is %v: it must be 100ms to 1h", c.Timeout))
	}
	return errors.Join(errs...)
}

// Store is a pool of connections to the tally. It is safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	timeout time.Duration
	shard   int16
}

// New checks the configuration and makes the pool; it does not wait for Postgres to be there. Close frees it.
func New(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	pc, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("reading the Postgres DSN: %w", err)
	}
	pc.MaxConns = cfg.Connections
	pc.MaxConnLifetime = 5 * time.Minute // a moved or promoted Postgres is found again
	pc.HealthCheckPeriod = 5 * time.Second
	pc.ConnConfig.ConnectTimeout = 2 * time.Second
	for name, value := range map[string]string{
		"application_name":                    "waggle-worker",
		"statement_timeout":                   "10000", // ms; a lock held by a partitioned worker ends within it
		"lock_timeout":                        "5000",
		"idle_in_transaction_session_timeout": "10000",
		"tcp_user_timeout":                    "10000",
		"tcp_keepalives_idle":                 "60",
		"TimeZone":                            "UTC",
	} {
		pc.ConnConfig.RuntimeParams[name] = value
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), pc)
	if err != nil {
		return nil, fmt.Errorf("making the Postgres pool: %w", err)
	}
	return &Store{pool: pool, timeout: cfg.Timeout, shard: int16(cfg.Shard % shards)}, nil
}

// Close waits until borrowed connections are back and closes all.
func (s *Store) Close() { s.pool.Close() }

// Account is how far a stream has been counted, and what is known of it. Counts are of entries without the genesis.
type Account struct {
	// Revision, Pos and N are the fence: every write names the ones that were read.
	Revision int64
	// Pos is the id of the last entry that is accounted for.
	Pos string
	// N is the number of entries accounted for, up to Pos.
	N int64
	// Lost is the number of entries that were added and can't be read any more.
	Lost int64
	// Shift is what Redis's counter of added entries has forgotten.
	Shift int64
	// Added is the number of entries ever added, Shift included, at the last reading.
	Added int64
	// LastID is Redis's last-generated-id at the last reading.
	LastID string
	// Held is the number of entries still in Redis at the last reading.
	Held int64
	// Sure is the id up to which nothing is missing unnoticed.
	Sure string
}

// Stream is a registered stream.
type Stream struct {
	// ID is the stream's number; it is part of each vote's order key. Inc is its incarnation, a UUID.
	ID  int32
	Inc string
	// Node is the capture node's name.
	Node string
	Account
	// Unread are the nodes whose copies have not been compared with the stream after Sure.
	Unread []string
	// Torn is the last note that the log was cut, an id; "0-0" if there is none.
	Torn string
	// Early and Restored are entries of Added that were counted from copies: while the stream was silent, and since it lost
	// them. Recovered is all that was counted from copies and that the stream has not delivered.
	Early, Restored, Recovered int64
	// Closed means that the stream was replaced or retired.
	Closed    bool
	ClosedFor time.Duration
	// Age is the time since the last reading of Redis was written, by Postgres's clock.
	Age time.Duration
}

const selectStream = `SELECT id, inc::text, node, revision, pos, n, lost, shift, added, last_id, held, sure, unread, torn,
	coalesce(early, 0), coalesce(restored, 0), coalesce(early + restored + unseen, 0), state <> 'active',
	coalesce(extract(epoch FROM now() - closed_at), 0)::float8, extract(epoch FROM now() - seen_at)::float8
	FROM drain_stream LEFT JOIN drain_effect ON stream = id `

func scanStream(row pgx.Row) (st Stream, err error) {
	var closed, age float64
	err = row.Scan(&st.ID, &st.Inc, &st.Node, &st.Revision, &st.Pos, &st.N, &st.Lost, &st.Shift, &st.Added, &st.LastID, &st.Held,
		&st.Sure, &st.Unread, &st.Torn, &st.Early, &st.Restored, &st.Recovered, &st.Closed, &closed, &age)
	st.ClosedFor = time.Duration(closed * float64(time.Second))
	st.Age = time.Duration(age * float64(time.Second))
	return st, err
}

// Register returns the stream of an incarnation (a UUID), and makes its row when it is new. node is empty when the
// genesis entry, which names it, was trimmed. The row then exists, unless Postgres has lost it. In that case the
// stream is registered anew under a name made of the incarnation. Its votes must be counted, and what was trimmed
// reported.
//
// Former incarnations of the node that have been silent for 10 s become replaced, each with a gap: their volume
// is gone. Because of the silence, two live servers that share a node name by mistake do not close each other's
// accounts.
func (s *Store) Register(ctx context.Context, node, inc string) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	st, err := scanStream(s.pool.QueryRow(ctx, selectStream+`WHERE inc = $1::uuid`, inc))
	if errors.Is(err, pgx.ErrNoRows) {
		if node == "" {
			node = madeUp(inc)
		}
		_, err = s.pool.Exec(ctx, `INSERT INTO drain_stream (node, inc) VALUES ($1, $2::uuid) ON CONFLICT (inc) DO NOTHING`, node, inc)
		if err == nil {
			st, err = scanStream(s.pool.QueryRow(ctx, selectStream+`WHERE inc = $1::uuid`, inc))
		}
	}
	if err == nil && node != "" && st.Node != node && st.Node == madeUp(inc) {
		st.Node = node
		_, err = s.pool.Exec(ctx, `UPDATE drain_stream SET node = $2 WHERE id = $1`, st.ID, node)
	}
	if err == nil {
		_, err = s.pool.Exec(ctx, replaceSQL, st.Node, st.ID)
	}
	return st, s.check(ctx, "registering a stream", err)
}

// madeUp names the node of an incarnation that does not say where it is.
func madeUp(inc string) string { return fmt.Sprintf("unknown-%.8s", inc) }

// Read returns the stream of an incarnation as it is now.
func (s *Store) Read(ctx context.Context, inc string) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	st, err := scanStream(s.pool.QueryRow(ctx, selectStream+`WHERE inc = $1::uuid`, inc))
	return st, s.check(ctx, "reading a stream's account", err)
}

// Causes of a gap: times in which entries may have vanished unseen. See migrations/0003_copies.sql.
const (
	NoGap   = ""
	Cut     = "cut"
	Rewound = "rewound"
)

// Observe writes the account after a reading that found nothing to count. If cause is not NoGap, it also writes
// a gap since the reading before. after.N must be before.N. It returns ErrStale when before is no longer the
// account.
func (s *Store) Observe(ctx context.Context, before, after Stream, cause string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	unread := after.Unread
	if unread == nil {
		unread = []string{}
	}
	tag, err := s.pool.Exec(ctx, observeSQL, before.ID, before.Revision, before.Pos, before.N,
		after.Pos, after.Lost, after.Shift, after.Added, after.LastID, after.Held, before.Inc, after.Sure, unread, after.Torn, cause)
	if err == nil && tag.RowsAffected() == 0 {
		return ErrStale
	}
	return s.check(ctx, "writing a stream's account", err)
}

// Retire writes off what a dead node has not handed over, closes its losses, and returns the number of streams it
// retired. It refuses a node that was seen within the last minute: its votes can still be counted. drained means that
// nobody could vote there after its last reading. If that counted everything, nothing is unknown.
func (s *Store) Retire(ctx context.Context, node string, drained bool) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var live, retired int64
	err := s.pool.QueryRow(ctx, retireSQL, node, drained).Scan(&live, &retired)
	if err := s.check(ctx, "retiring a node", err); err != nil {
		return 0, err
	}
	if live > 0 {
		return retired, fmt.Errorf("node %q was seen within the last minute: a node can be retired only when it is silent", node)
	}
	return retired, nil
}

// CloseLosses marks what a node has lost so far, known and unknown, as dealt with. It stays in the ledger and
// no longer raises an alarm. It returns the number of gaps and of lost entries that it closed.
func (s *Store) CloseLosses(ctx context.Context, node string) (gaps, lost int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, closeSQL, node).Scan(&gaps, &lost)
	return gaps, lost, s.check(ctx, "closing a node's losses", err)
}

// Heartbeat notes that worker is alive and returns the ids of all workers that were within the last 10 s, sorted.
func (s *Store) Heartbeat(ctx context.Context, worker string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `INSERT INTO drain_worker (id, seen_at) VALUES ($1, now())
		ON CONFLICT (id) DO UPDATE SET seen_at = EXCLUDED.seen_at,
			since = CASE WHEN drain_worker.seen_at > now() - interval '10 seconds' THEN drain_worker.since ELSE now() END`, worker)
	if err != nil {
		return nil, s.check(ctx, "writing the worker's heartbeat", err)
	}
	rows, err := s.pool.Query(ctx, `SELECT id FROM drain_worker WHERE seen_at > now() - interval '10 seconds' ORDER BY id`)
	if err != nil {
		return nil, s.check(ctx, "reading the live workers", err)
	}
	live, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return live, s.check(ctx, "reading the live workers", err)
}

// Leave takes the worker off the list, so that others take its streams over at once.
func (s *Store) Leave(ctx context.Context, worker string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `DELETE FROM drain_worker WHERE id = $1 OR seen_at < now() - interval '1 hour'`, worker)
	return s.check(ctx, "removing the worker's heartbeat", err)
}

// Check is the result of one self-check; Drift 0 is right.
type Check struct {
	Name   string
	Drift  int64
	Detail string
}

// verifyTimeout bounds Verify, which reads every vote; batches have much less.
const verifyTimeout = 2 * time.Minute

// Verify runs the self-checks on one snapshot, stores their results for result_health and returns them.
func (s *Store) Verify(ctx context.Context) (checks []Check, err error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = `+strconv.FormatInt(verifyTimeout.Milliseconds(), 10)); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, checkSQL)
		if err != nil {
			return err
		}
		checks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Check])
		return err
	})
	return checks, s.check(ctx, "verifying the tally", err)
}
