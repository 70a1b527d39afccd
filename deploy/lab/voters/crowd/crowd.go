// Package crowd is the voters: it opens ballots, presses buttons the way people do, and writes down what it was told.
//
// It stands before the gateway, as a browser does. In: addresses of the vote function, a number of voters,
// their habits, and a pace. Out: latencies and, for each voter, the ballots with the strongest answer to each,
// ready for package judge. It guarantees that every request it sends is in that record. Memory is bounded:
// about 200 bytes per voter, and one connection to each address for every voter who is being served.
package crowd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"waggle/deploy/lab/voters/judge"
)

// Config describes a run.
type Config struct {
	// Targets are addresses of the same vote function; each request goes to any of them. At least one.
	Targets []Target
	// Poll is the slug of the poll they vote in, Options what they choose from; at least one.
	Poll    string
	Options []Option
	// Voters is how many come, 1 to 100 million.
	Voters int
	// Rate is how many voters arrive per second, on a schedule that does not wait for answers (open loop). Zero means
	// that a voter comes whenever another has finished (closed loop).
	Rate float64
	// Concurrency is the most voters served at once, 1 to 65,536. In an open loop, whoever finds no place waits, and
	// that wait counts in Stats.Ack.
	Concurrency int
	// Duration ends the arrival of voters; zero means when all have come.
	Duration time.Duration
	// Timeout bounds one request, dialling included; at least 1 ms.
	Timeout time.Duration
	// Retries is how often a patient voter presses again, and how often anybody opens a ballot again, 0 to 1,000.
	Retries int
	// Shares are the voters' habits.
	Shares Shares
	// Seed decides chance.
	Seed uint64
	// Pseudonym names the voter with this id (the one in the cookie) as the books do. Any goroutine may call it.
	Pseudonym func(id string) (judge.Pseudonym, error)
	// Log takes what is wrong with the system under test beyond a failed request. Nil is silent.
	Log *slog.Logger
}

func (c Config) validate() error {
	var errs []error
	reject := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	reject(len(c.Targets) == 0, "targets: at least one address is needed")
	reject(c.Poll == "" || len(c.Options) == 0, "poll %q with %d options: a slug and at least one option are needed", c.Poll, len(c.Options))
	reject(c.Voters < 1 || c.Voters > 100e6, "voters %d: 1 to 100000000", c.Voters)
	reject(!(c.Rate >= 0 && c.Rate <= 1e6), "rate %v: 0 (closed loop) to 1000000 per second", c.Rate)
	reject(c.Concurrency < 1 || c.Concurrency > 65536, "concurrency %d: 1 to 65536", c.Concurrency)
	reject(c.Duration < 0, "duration %v: 0 (no limit) or more", c.Duration)
	reject(c.Timeout < time.Millisecond, "timeout %v: at least 1ms", c.Timeout)
	reject(c.Retries < 0 || c.Retries > 1000, "retries %d: 0 to 1000", c.Retries)
	reject(c.Pseudonym == nil, "pseudonym: a function is needed")
	return errors.Join(append(errs, c.Shares.validate())...)
}

// Crowd is one run.
type Crowd struct {
	config Config
	paths  []string // of Targets, each naming the poll
	stats  *Stats
	voters []judge.Voter
}

// New checks the configuration.
func New(c Config) (*Crowd, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("configuring the crowd: %w", err)
	}
	crowd := &Crowd{config: c, stats: newStats()}
	for _, t := range c.Targets {
		query := t.URL.Query()
		query.Set("poll", c.Poll)
		crowd.paths = append(crowd.paths, (&url.URL{Path: t.URL.Path, RawPath: t.URL.RawPath, RawQuery: query.Encode()}).RequestURI())
	}
	return crowd, nil
}

// Stats may be read at any time.
func (c *Crowd) Stats() *Stats { return c.stats }

// Voters is everybody who came. It is complete when Run has returned, and must not be read before.
func (c *Crowd) Voters() []judge.Voter { return c.voters }

// arrival is a voter's turn, and when it was due.
type arrival struct {
	voter int
	due   time.Time
}

// Run lets the voters come until all have, the duration is over or ctx ends. A voter who is being served then
// still gets the answer. It returns an error only if the system under test cannot be judged at all.
func (c *Crowd) Run(ctx context.Context) error {
	c.voters = make([]judge.Voter, c.config.Voters)
	group, ctx := errgroup.WithContext(ctx)
	turns := make(chan arrival)
	group.Go(func() error {
		defer close(turns)
		c.arrive(ctx, turns)
		return nil
	})
	for range min(c.config.Concurrency, c.config.Voters) {
		group.Go(func() error { return c.serve(ctx, turns) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("running the voters: %w", err)
	}
	c.voters = c.voters[:c.stats.Arrived.Load()]
	return nil
}

// arrive hands out turns in order, without gaps.
func (c *Crowd) arrive(ctx context.Context, turns chan<- arrival) {
	if c.config.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.config.Duration)
		defer cancel()
	}
	began := time.Now()
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for i := range c.config.Voters {
		next := arrival{voter: i}
		if c.config.Rate > 0 {
			next.due = began.Add(time.Duration(float64(i) / c.config.Rate * float64(time.Second)))
			if wait := time.Until(next.due); wait > 0 {
				alarm.Reset(wait)
				select {
				case <-alarm.C:
				case <-ctx.Done():
					return
				}
			}
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case turns <- next:
			c.stats.Arrived.Add(1)
		case <-ctx.Done():
			return
		}
	}
}

// serve is one place in the polling station: a voter at a time, over connections that stay.
func (c *Crowd) serve(ctx context.Context, turns <-chan arrival) error {
	place := &place{crowd: c, client: newClient(c.config.Targets, c.config.Timeout)}
	defer place.close()
	for turn := range turns {
		if turn.due.IsZero() {
			turn.due = time.Now()
		}
		err := place.visit(ctx, turn, planOf(c.config.Seed, turn.voter, c.config.Shares))
		if err != nil {
			return err
		}
		c.stats.Finished.Add(1)
	}
	return nil
}
