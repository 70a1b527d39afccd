// Package drain moves votes from the capture nodes' Redis streams to the tally.
//
// It stands between function vote, which appends one entry per vote to the stream of its own node, and package store.
// In: the addresses of the nodes' Redis servers, found by DNS at each scan. For each stream it reads the entries
// after the cursor, decodes and validates them, and folds them to one vote per voter. The store's one statement then
// moves the cursor and the tally together. Out: a tally, a ledger that accounts for every entry ever added, and a
// stream that is trimmed only long after its entries were counted.
//
// It guarantees that an entry is counted exactly once whatever dies in between. Nothing is removed from Redis before
// it has been counted for the length of the retention window. Whatever a step's outcome was, the next step starts
// from the account that Postgres holds. An entry that cannot be counted is a number in the ledger.
//
// Streams do not share anything: each has a goroutine and a connection of its own, so a slow or dead Redis delays no
// other. Workers divide the streams by rendezvous hash; that only saves work, the compare-and-set on the account is
// what keeps two workers apart.
package drain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"waggle/worker/store"
)

const (
	// heartbeatEvery is well below the 10 s after which others take a worker for dead.
	heartbeatEvery = 2 * time.Second
	// verifyEvery bounds how long a drift goes unnoticed.
	verifyEvery = time.Minute
	// stalled is how long the supervisor may be silent before the worker calls itself unhealthy; each of its steps is
	// bounded well below that.
	stalled = 40 * time.Second
)

// tally is what a stream's loop needs of the store.
type tally interface {
	Register(ctx context.Context, node, inc string) (store.Stream, error)
	Read(ctx context.Context, inc string) (store.Stream, error)
	Observe(ctx context.Context, before, after store.Stream, cause string) error
	Commit(ctx context.Context, b store.Batch) (store.Effect, error)
	recovery
}

// recovery is what counting from copies needs of the store besides.
type recovery interface {
	Active(ctx context.Context) (map[string]string, error)
	Unknown(ctx context.Context, incs []string) ([]string, error)
	Orphans(ctx context.Context, silent, kept time.Duration) ([]store.Stream, error)
	Copied(ctx context.Context, of store.Stream) ([]string, error)
	Settle(ctx context.Context, of store.Stream, ids, seen []string) error
	NoteUnread(ctx context.Context, of store.Stream, nodes []string) error
}

// roster is what the supervisor needs of the store.
type roster interface {
	Heartbeat(ctx context.Context, worker string) ([]string, error)
	Leave(ctx context.Context, worker string) error
	Verify(ctx context.Context) ([]store.Check, error)
}

// Config of a Drain.
type Config struct {
	// Worker names this process among the live workers. Required, and unique.
	Worker string
	// Store is where votes go. Required.
	Store *store.Store
	// Polls are the polls that votes are validated against. Required.
	Polls *Polls
	// Resolve returns the current addresses (host:port) of the capture nodes' Redis servers. Required.
	Resolve func(ctx context.Context) ([]string, error)
	// User and Password log in to every Redis. Required.
	User, Password string
	// BatchSize is the most entries read and counted at once; zero means 2000, which measured best.
	BatchSize int
	// PollInterval is the pause between two readings of an idle stream; zero means 200 ms.
	PollInterval time.Duration
	// ScanInterval is the pause between two look-ups of the addresses; zero means 3 s.
	ScanInterval time.Duration
	// Retention is how long a counted entry stays in Redis; zero means 10 minutes. It has to be longer than any commit
	// that a failover of Postgres can undo.
	Retention time.Duration
	// RetentionEntries is the most counted entries left in Redis, whatever their age; zero means 1,000,000 (about
	// 120 MB).
	RetentionEntries int64
	// StealAfter is how long a stream's owner may be silent before another worker takes over; zero means 5 s.
	StealAfter time.Duration
	// RecoverAfter is how long a stream may be silent before its votes are counted from copies; zero means 30 s.
	RecoverAfter time.Duration
	// ShutdownTimeout bounds finishing the batches in hand after Run's context ends; zero means 10 s.
	ShutdownTimeout time.Duration
	// Logger takes JSON logs; nil means slog.Default().
	Logger *slog.Logger
	// Registerer takes the metrics; nil means a private registry.
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	setDefault(&c.BatchSize, 2000)
	setDefault(&c.PollInterval, 200*time.Millisecond)
	setDefault(&c.ScanInterval, 3*time.Second)
	setDefault(&c.Retention, 10*time.Minute)
	setDefault(&c.RetentionEntries, 1_000_000)
	setDefault(&c.StealAfter, 5*time.Second)
	setDefault(&c.RecoverAfter, 30*time.Second)
	setDefault(&c.ShutdownTimeout, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) validate() error {
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need(c.Worker != "", "the worker's name is empty")
	need(c.Store != nil, "the store is missing")
	need(c.Polls != nil, "the polls are missing")
	need(c.Resolve != nil, "the resolver is missing")
	need(c.User != "" && c.Password != "", "the Redis user and password must not be empty")
	need(c.BatchSize >= 1 && c.BatchSize <= 100_000, "batch size %d: it must be 1 to 100000", c.BatchSize)
	need(c.PollInterval >= time.Millisecond && c.PollInterval <= time.Minute, "poll interval %v: it must be 1ms to 1m", c.PollInterval)
	need(c.ScanInterval >= time.Millisecond && c.ScanInterval <= time.Minute, "scan interval %v: it must be 1ms to 1m", c.ScanInterval)
	need(c.Retention >= 0 && c.Retention <= 30*24*time.Hour, "retention %v: it must be above 0 and at most 720h", c.Retention)
	need(c.RetentionEntries >= 1, "retention of %d entries: it must be at least 1", c.RetentionEntries)
	need(c.StealAfter >= time.Millisecond && c.StealAfter <= time.Hour, "steal after %v: it must be 1ms to 1h", c.StealAfter)
	need(c.RecoverAfter >= time.Millisecond && c.RecoverAfter <= 24*time.Hour, "recover after %v: it must be 1ms to 24h", c.RecoverAfter)
	need(c.ShutdownTimeout >= time.Millisecond && c.ShutdownTimeout <= time.Hour, "shutdown timeout %v: it must be 1ms to 1h", c.ShutdownTimeout)
	return errors.Join(errs...)
}

// Drain is a worker. Run may be called once.
type Drain struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	tally   tally
	roster  roster
	dial    func(addr string) source
	live    atomic.Pointer[[]string]
	beat    atomic.Int64         // Unix nanoseconds of the supervisor's last scan; 0 before the first
	beaten  time.Time            // of the heartbeat's goroutine: the last one that Postgres took
	unknown map[string]time.Time // incarnations that only copies name, and since when; of the goroutine that counts orphans
	failed  sync.Map             // of addresses that gave no copies: the time
	// mostCopies is maxCopies, except in tests.
	mostCopies int
	steady     atomic.Int64 // Unix nanoseconds since when heartbeats have come without a break

	// mu guards the fields below.
	mu sync.Mutex
	// named are the addresses of the last scan.
	named map[string]bool
	// running are the addresses that have a goroutine.
	running map[string]bool
	// claimed maps each incarnation being drained to its address, so that one server behind two addresses is drained once.
	claimed map[string]string
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Drain, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("checking the drain's configuration: %w", err)
	}
	d := &Drain{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer), tally: cfg.Store, roster: cfg.Store,
		named: map[string]bool{}, running: map[string]bool{}, claimed: map[string]string{},
		mostCopies: maxCopies,
	}
	d.dial = func(addr string) source { return dialRedis(addr, cfg.User, cfg.Password) }
	d.live.Store(&[]string{cfg.Worker})
	d.steady.Store(time.Now().UnixNano())
	return d, nil
}

// Healthy reports whether the supervisor is alive. It does not ask whether Redis or Postgres are: a restart of the
// worker would mend neither. Before Run it is healthy: the wait for the schema may take longer than a scan ever does.
func (d *Drain) Healthy() error {
	beat := d.beat.Load()
	if silent := time.Since(time.Unix(0, beat)); beat != 0 && silent > stalled {
		return fmt.Errorf("no scan for %v", silent.Round(time.Second))
	}
	return nil
}

// Run drains until ctx ends: then it reads no more, finishes the batches in hand within ShutdownTimeout, leaves the list
// of workers and returns nil. It returns an error at once when only a human can help, such as a missing table.
func (d *Drain) Run(ctx context.Context) error {
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	g, soft := errgroup.WithContext(ctx)
	defer context.AfterFunc(soft, func() { time.AfterFunc(d.cfg.ShutdownTimeout, cut) })()
	// It waits for a heartbeat under way at the end: cut off, it could arrive after the leave.
	g.Go(func() error {
		return d.every(soft, heartbeatEvery, func(context.Context) error { return d.heartbeat(hard) })
	})
	g.Go(func() error { return d.every(soft, verifyEvery, d.verify) })
	g.Go(func() error { return d.every(soft, min(orphansEvery, d.cfg.RecoverAfter), d.orphans) })
	g.Go(func() error {
		return d.every(soft, d.cfg.ScanInterval, func(ctx context.Context) error { return d.scan(ctx, hard, g) })
	})
	err := g.Wait()
	if leaveErr := d.roster.Leave(hard, d.cfg.Worker); leaveErr != nil {
		d.log.Warn("leaving the list of workers failed", "error", leaveErr)
	}
	return err
}

// every calls step now and after each pause, until ctx ends or step fails for good.
func (d *Drain) every(ctx context.Context, pause time.Duration, step func(context.Context) error) error {
	for ctx.Err() == nil {
		if err := step(ctx); err != nil {
			return err
		}
		wait(ctx, pause)
	}
	return nil
}

// wait returns after d, or as soon as ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (d *Drain) heartbeat(ctx context.Context) error {
	live, err := d.roster.Heartbeat(ctx, d.cfg.Worker)
	if err != nil {
		return d.storeFailed(ctx, "heartbeat", err)
	}
	d.live.Store(&live)
	now := time.Now()
	if now.Sub(d.beaten) > 5*heartbeatEvery {
		d.steady.Store(now.UnixNano())
	}
	d.beaten = now
	d.metrics.workers.Set(float64(len(live)))
	return nil
}

// verify runs on one worker at a time, as the owner of a stream that does not exist.
func (d *Drain) verify(ctx context.Context) error {
	if !owns(d.cfg.Worker, "verify", *d.live.Load()) {
		d.metrics.drift.Reset() // what it found last is the affair of another worker now
		return nil
	}
	checks, err := d.roster.Verify(ctx)
	if err != nil {
		return d.storeFailed(ctx, "verify", err)
	}
	for _, c := range checks {
		d.metrics.drift.WithLabelValues(c.Name).Set(float64(c.Drift))
		if c.Drift != 0 {
			d.log.Error("a self-check found a drift", "check", c.Name, "drift", c.Drift, "detail", c.Detail)
		}
	}
	return nil
}

// storeFailed counts and logs a failed call; it returns the error when it ends the worker.
func (d *Drain) storeFailed(ctx context.Context, doing string, err error) error {
	class := store.Classify(err)
	d.metrics.storeErrors.WithLabelValues(class.String()).Inc()
	if class == store.Deploy {
		return err
	}
	if ctx.Err() == nil {
		d.log.Warn("Postgres failed", "step", doing, "class", class.String(), "error", err)
	}
	return nil
}

// scan starts a goroutine for each address that has none. Addresses that DNS stops naming are left alone: DNS omits
// living nodes. A stream that has been both unnamed and silent for long ends its own goroutine.
func (d *Drain) scan(ctx, hard context.Context, g *errgroup.Group) error {
	addrs, err := d.cfg.Resolve(ctx)
	d.beat.Store(time.Now().UnixNano())
	if err != nil {
		d.metrics.scanErrors.Inc()
		if ctx.Err() == nil {
			d.log.Warn("looking up the capture nodes failed", "error", err)
		}
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.named)
	for _, addr := range addrs {
		d.named[addr] = true
		if d.running[addr] {
			continue
		}
		d.running[addr] = true
		d.log.Info("found a capture node", "address", addr)
		g.Go(func() error {
			defer d.forget(addr)
			return newDrainer(d, addr).run(ctx, hard)
		})
	}
	d.metrics.named.Set(float64(len(addrs)))
	return nil
}

// addresses are those of the last scan.
func (d *Drain) addresses() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.named))
}

func (d *Drain) forget(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.running, addr)
}

func (d *Drain) isNamed(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.named[addr]
}
