// Package usage reads from each ready replica what it consumes, and hands that on to the provider.
//
// In: the newest replica table, and what replicas say on their metrics port, in Prometheus' text format. Out:
// processor and memory of each replica, about every ten seconds. A manager's engine sees only the containers of its
// own node; gateways reach the replicas of all nodes, so they ask. Each replica costs a bounded time, a bounded
// number of bytes and one of a few connections. One that does not answer is soon asked rarely.
package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"waggle/provider/feed"
)

const (
	// readers bounds the connections at once. With the default interval and timeout, a thousand replicas that take 80
	// ms each are all read in time.
	readers = 8
	// tick is how often it is seen which replicas are due.
	tick = 200 * time.Millisecond
	// freshDelay is the time after a replica's first reading to its second, without which there is no rate.
	freshDelay = 2 * time.Second
	// sendEvery gathers the readings of this time into one report.
	sendEvery = 2 * time.Second
	// maxMisses in a row make a replica one that is asked rarely, rareFactor intervals apart: it has no such port.
	maxMisses  = 3
	rareFactor = 30
)

// Config says whom to ask and whom to tell.
type Config struct {
	// Table gives the newest replica table; Report hands readings on. Both are required.
	Table  func() feed.Table
	Report func(context.Context, feed.UsageReport) error
	// Interval lies between two readings of one replica; default 10 s.
	Interval time.Duration
	// Timeout bounds one reading; default 1 s.
	Timeout time.Duration
	// Port is where replicas show their metrics; default 8081, as OpenFaaS' watchdogs have it.
	Port int
	// Registerer takes the metrics; nil keeps none.
	Registerer prometheus.Registerer
	// Logger defaults to discarding.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Interval == 0 {
		c.Interval = 10 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if c.Port == 0 {
		c.Port = 8081
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	var problems []error
	if c.Table == nil || c.Report == nil {
		problems = append(problems, errors.New("fields Table and Report: required"))
	}
	if c.Interval < 0 || c.Timeout < 0 {
		problems = append(problems, fmt.Errorf("fields Interval and Timeout: %s and %s; want more than 0", c.Interval, c.Timeout))
	}
	if c.Port < 1 || c.Port > 65535 {
		problems = append(problems, fmt.Errorf("field Port: %d; want 1 to 65535", c.Port))
	}
	return errors.Join(problems...)
}

// Reader asks replicas in turn. Make it with New, run it once with Run.
type Reader struct {
	cfg      Config
	readings *prometheus.CounterVec
	fetch    func(ctx context.Context, address string) (sample, error)

	// What follows is Run's goroutine's own.
	epoch    string
	revision uint64
	replicas map[string]*replica
	pending  map[string]feed.Usage
}

// replica is what is known of one between two readings.
type replica struct {
	address string
	due     time.Time
	asked   bool // a reading is under way
	misses  int
	last    sample // the zero value is none
}

// New checks the configuration; it opens nothing.
func New(config Config) (*Reader, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("configuring the reading of usage: %w", err)
	}
	r := &Reader{cfg: config, replicas: map[string]*replica{}, pending: map[string]feed.Usage{},
		readings: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_usage_readings_total",
			Help: "Readings of what replicas consume, by result: ok, none (no figures there), failed."}, []string{"result"}),
	}
	r.fetch = newFetcher(config).fetch
	if config.Registerer != nil {
		if err := config.Registerer.Register(r.readings); err != nil {
			return nil, fmt.Errorf("configuring the reading of usage: %w", err)
		}
	}
	return r, nil
}

// question and answer go between Run and those who read.
type question struct{ id, address string }

type answer struct {
	id     string
	sample sample
	err    error
}

// Run reads and reports until ctx is done; it always returns nil.
func (r *Reader) Run(ctx context.Context) error {
	questions, answers := make(chan question, readers), make(chan answer)
	reports := make(chan feed.UsageReport)
	var group errgroup.Group
	for range readers {
		group.Go(func() error { r.read(ctx, questions, answers); return nil })
	}
	group.Go(func() error { r.report(ctx, reports); return nil })
	r.schedule(ctx, questions, answers, reports)
	return group.Wait()
}

// read asks replicas one after the other.
func (r *Reader) read(ctx context.Context, questions <-chan question, answers chan<- answer) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-questions:
			s, err := r.fetch(ctx, q.address)
			select {
			case answers <- answer{q.id, s, err}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// report sends what it is given. The provider may be slow or away without holding up the readings.
func (r *Reader) report(ctx context.Context, reports <-chan feed.UsageReport) {
	for {
		select {
		case <-ctx.Done():
			return
		case report := <-reports:
			if err := r.cfg.Report(ctx, report); err != nil && ctx.Err() == nil {
				r.cfg.Logger.Debug("reporting usage failed", "error", err)
			}
		}
	}
}

// schedule decides who is asked when, and what is reported. It never waits for a reader or the provider: what finds no
// place now is offered again a tick later.
func (r *Reader) schedule(ctx context.Context, questions chan<- question, answers <-chan answer, reports chan<- feed.UsageReport) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var sent time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			r.take(a, time.Now())
		case now := <-ticker.C:
			r.follow(r.cfg.Table(), now)
			r.ask(questions, now)
			if len(r.pending) == 0 || now.Sub(sent) < sendEvery {
				continue
			}
			select {
			case reports <- feed.UsageReport{Replicas: slices.Collect(maps.Values(r.pending))}:
				clear(r.pending)
				sent = now
			default:
			}
		}
	}
}

// follow makes the replicas those that are ready in the table. New ones are first asked within a second, so that the
// first table does not make all due at once.
func (r *Reader) follow(table feed.Table, now time.Time) {
	if table.Epoch == r.epoch && table.Revision == r.revision {
		return
	}
	r.epoch, r.revision = table.Epoch, table.Revision
	gone := maps.Clone(r.replicas)
	for _, function := range table.Functions {
		for _, one := range function.Replicas {
			if one.State != feed.Ready {
				continue
			}
			delete(gone, one.ID)
			if known := r.replicas[one.ID]; known == nil || known.address != one.Address {
				r.replicas[one.ID] = &replica{address: one.Address, due: now.Add(rand.N(time.Second))}
			}
		}
	}
	for id := range gone {
		delete(r.replicas, id)
		delete(r.pending, id)
	}
}

// ask hands out those that are due, as far as there is room.
func (r *Reader) ask(questions chan<- question, now time.Time) {
	for id, one := range r.replicas {
		if one.asked || now.Before(one.due) {
			continue
		}
		select {
		case questions <- question{id, one.address}:
			one.asked = true
		default:
			return
		}
	}
}

// take makes a usage of an answer and the one before it.
func (r *Reader) take(a answer, now time.Time) {
	one := r.replicas[a.id]
	if one == nil {
		return // it has left meanwhile
	}
	one.asked = false
	// A tenth more or less, so that replicas which started together do not stay together.
	next := r.cfg.Interval*9/10 + rand.N(r.cfg.Interval/5+1)
	if a.err != nil {
		r.readings.WithLabelValues(resultOf(a.err)).Inc()
		one.misses++
		one.last = sample{}
		if one.misses >= maxMisses {
			next *= rareFactor
		}
		one.due = now.Add(next)
		return
	}
	r.readings.WithLabelValues("ok").Inc()
	one.misses = 0
	if milliCPU, ok := a.sample.since(one.last); ok {
		if u := (feed.Usage{ID: a.id, CPU: milliCPU, Memory: a.sample.memory}); u.Plausible() {
			r.pending[a.id] = u
		}
	} else {
		next = min(next, freshDelay)
	}
	one.last, one.due = a.sample, now.Add(next)
}

func resultOf(err error) string {
	if errors.Is(err, errNoFigures) {
		return "none"
	}
	return "failed"
}
