package drain

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

func TestMain(m *testing.M) {
	// The harness waits for its servers in the background until the process ends.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"))
}

// pollsText has poll 1, in which the last vote counts, and poll 2, in which the first does.
const pollsText = `{"polls":[
	{"id":1,"slug":"pets","question":"Which?","opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live",
	 "options":[{"id":1,"slug":"cats","name":"Cats"},{"id":2,"slug":"dogs","name":"Dogs"},{"id":3,"slug":"bees","name":"Bees"}]},
	{"id":2,"slug":"once","question":"Yes?","opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"first","results":"live",
	 "options":[{"id":1,"slug":"yes","name":"Yes"},{"id":2,"slug":"no","name":"No"}]}]}`

// patience bounds every wait of a test; it is generous, because the machine may be busy.
const patience = 60 * time.Second

// bench is one database with the schema, and what is needed to run workers on it.
type bench struct {
	t     testing.TB
	db    *harness.Database
	store *store.Store
	polls *Polls
}

func newBench(t testing.TB) *bench {
	t.Helper()
	return benchOn(t, harness.Postgres(t))
}

func benchOn(t testing.TB, db *harness.Database) *bench {
	t.Helper()
	if _, err := store.Migrate(t.Context(), db.DSN("waggle_admin")); err != nil {
		t.Fatalf("migrating: %v", err)
	}
	s, err := store.New(store.Config{DSN: db.DSN("waggle_drain")})
	if err != nil {
		t.Fatalf("opening the store: %v", err)
	}
	t.Cleanup(s.Close)
	polls, err := parsePolls([]byte(pollsText))
	if err != nil {
		t.Fatalf("parsing the polls: %v", err)
	}
	return &bench{t, db, s, polls}
}

// worker makes a fast worker over the given servers; change may alter it before it runs.
func (b *bench) worker(name string, change func(*Drain), servers ...*harness.RedisServer) *Drain {
	b.t.Helper()
	var addrs []string
	for _, r := range servers {
		addrs = append(addrs, r.Addr())
	}
	d, err := New(Config{
		Worker: name, Store: b.store, Polls: b.polls, User: "drain", Password: harness.RedisPassword,
		Resolve:      func(context.Context) ([]string, error) { return addrs, nil },
		PollInterval: 5 * time.Millisecond, ScanInterval: 20 * time.Millisecond, StealAfter: 200 * time.Millisecond,
		Logger: slog.New(slog.NewJSONHandler(testLog{b.t}, nil)),
	})
	if err != nil {
		b.t.Fatalf("making a worker: %v", err)
	}
	if change != nil {
		change(d)
	}
	return d
}

// testLog shows a worker's log when its test fails.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// run starts a worker and returns the function that stops it softly and checks how it ended.
func (b *bench) run(d *Drain) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				b.t.Errorf("the worker ended with %v", err)
			}
		case <-time.After(patience):
			b.t.Errorf("the worker did not stop within %v", patience)
		}
	}
	b.t.Cleanup(stop)
	return stop
}

// eventually polls until sql answers want.
func (b *bench) eventually(sql, want string) {
	b.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		got := b.db.SQL(sql)
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			b.t.Fatalf("%s\nis:\n%s\nwant:\n%s", sql, got, want)
		}
	}
}

// until polls done until it is true.
func (b *bench) until(what string, done func() bool) {
	b.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			b.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// settled waits until every stream's known entries are accounted for.
func (b *bench) settled(entries int) {
	b.t.Helper()
	b.eventually(`SELECT coalesce(sum(added), 0), coalesce(sum(pending), 0) FROM result_ledger`, fmt.Sprintf("%d|0", entries))
}

func (b *bench) noDrift() {
	b.t.Helper()
	checks, err := b.store.Verify(b.t.Context())
	if err != nil {
		b.t.Fatalf("verifying: %v", err)
	}
	for _, c := range checks {
		if c.Drift != 0 {
			b.t.Errorf("check %s drifts by %d: %s", c.Name, c.Drift, c.Detail)
		}
	}
}

// capture is a client with the rights of function vote, but long timeouts. Each write waits for the disk, which takes
// seconds for large ones on a busy machine.
func capture(t testing.TB, r *harness.RedisServer) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: r.Socket(), Username: "capture", Password: harness.RedisPassword,
		Protocol: 2, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience, PoolTimeout: patience})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// voter spells voter number k as function vote does.
func voter(k int) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[8:], uint64(k))
	return base64.RawURLEncoding.EncodeToString(id[:])
}

// ballot is one vote as the test casts it.
type ballot struct {
	poll, voter, choice int
	seq, at             int64
}

func (v ballot) fields() []any {
	return []any{"p", strconv.Itoa(v.poll), "v", voter(v.voter), "c", strconv.Itoa(v.choice),
		"s", strconv.FormatInt(v.seq, 10), "t", strconv.FormatInt(v.at, 10)}
}

// cast appends ballots as function vote does and fails the test unless all are acknowledged.
func cast(t testing.TB, c *redis.Client, ballots ...ballot) {
	t.Helper()
	for len(ballots) > 0 {
		some := ballots[:min(len(ballots), 500)]
		ballots = ballots[len(some):]
		pipe := c.Pipeline()
		for _, v := range some {
			pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: streamKey, NoMkStream: true, Values: v.fields()})
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatalf("casting: %v", err)
		}
	}
}

// crowd is n voters who each vote once in poll 1.
func crowd(from, n int) []ballot {
	out := make([]ballot, n)
	for i := range out {
		out[i] = ballot{1, from + i, 1 + i%3, 0, 1_700_000_000_000 + int64(i)}
	}
	return out
}
