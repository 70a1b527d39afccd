package autoscale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/feed"
)

// Cluster is where functions run. *swarm.Cluster implements it.
type Cluster interface {
	// ScaleFrom sets the number of replicas to to if it still is from, and does not wait.
	ScaleFrom(ctx context.Context, namespace, name string, from, to uint64) error
	// Wake asks for the least number of replicas of a function that has none.
	Wake(ctx context.Context, name, namespace string) error
}

// Source tells what functions there are and what gateways report. *feed.Hub implements it.
type Source interface {
	Newest() *feed.Snapshot
	Loads() feed.Loads
}

// Config says what a [Scaler] needs.
type Config struct {
	// Cluster and Usages are required.
	Cluster Cluster
	Usages  *feed.UsageBook
	// Namespace is what an empty one stands for; required.
	Namespace string
	// Off leaves every function to operators and alerts, but for waking.
	Off bool
	// Postponed reports of an error of Cluster that the same call may succeed a little later, or is no longer wanted; nil:
	// none is. Such are no faults.
	Postponed func(error) bool
	// Record takes everything that trackers are told and answer, a line each; nil: nothing is kept. It is written to by one
	// goroutine at a time; after an error, never again.
	Record io.Writer
	// Registerer takes the metrics; nil keeps none.
	Registerer prometheus.Registerer
	// Logger takes what changed; default: discard.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Postponed == nil {
		c.Postponed = func(error) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

const (
	// callTimeout bounds one scale call.
	callTimeout = 30 * time.Second
	// shownWithin is how long the table may take to show what Swarm has accepted.
	shownWithin = 3 * time.Second
)

// Scaler decides for all functions. Its methods are safe for concurrent use.
type Scaler struct {
	cfg     Config
	metrics *metrics
	record  *recorder
	began   time.Time

	// calls are the scale calls under way; a slow one delays no other function's.
	calls sync.WaitGroup
	ctx   context.Context // ends calls
	stop  context.CancelFunc

	mu        sync.Mutex
	functions map[key]*function // guarded by mu
	epoch     string            // of the table; guarded by mu
	revision  uint64            // guarded by mu
	known     map[string]uint64 // guarded by mu; the last round that each gateway process was known in
	rounds    uint64            // guarded by mu
	ending    bool              // guarded by mu; no call begins any more
}

// key names a function.
type key struct{ namespace, name string }

func (s *Scaler) key(namespace, name string) key {
	if namespace == "" {
		namespace = s.cfg.Namespace
	}
	return key{namespace, name}
}

// New checks the configuration and starts nothing.
func New(config Config) (*Scaler, error) {
	config = config.withDefaults()
	if config.Cluster == nil || config.Usages == nil || config.Namespace == "" {
		return nil, errors.New("configuring the autoscaler: Cluster, Usages and Namespace are required")
	}
	s := &Scaler{cfg: config, began: time.Now(), functions: make(map[key]*function), known: make(map[string]uint64)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if config.Record != nil {
		s.record = &recorder{out: config.Record, logger: config.Logger}
	}
	var err error
	if s.metrics, err = newMetrics(config.Registerer, s); err != nil {
		return nil, fmt.Errorf("configuring the autoscaler: %w", err)
	}
	return s, nil
}

// Run follows a source and decides once a second until ctx is done; then it ends calls under way and returns nil.
func (s *Scaler) Run(ctx context.Context, source Source) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer s.end()
	for {
		snapshot := source.Newest()
		s.Follow(snapshot.Table)
		select {
		case <-ctx.Done():
			return nil
		case <-snapshot.Changed:
		case <-tick.C:
			s.Round(source.Loads())
		}
	}
}

// end lets no call begin, and ends those under way: the next provider takes the same decisions.
func (s *Scaler) end() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.stop()
	s.calls.Wait()
}

// now is the time on a clock that nobody can set: what is measured by it must not jump.
func (s *Scaler) now() time.Time { return s.on(time.Now()) }

func (s *Scaler) on(at time.Time) time.Time { return s.began.Round(0).Add(at.Sub(s.began)) }

// Follow takes over a table. Run calls it for each that its source has.
func (s *Scaler) Follow(t feed.Table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.Epoch == "" || t.Epoch == s.epoch && t.Revision == s.revision {
		return
	}
	s.epoch, s.revision = t.Epoch, t.Revision
	now := s.now()
	listed := make(map[key]bool, len(t.Functions))
	for i := range t.Functions {
		fn := &t.Functions[i]
		k := key{fn.Namespace, fn.Name}
		listed[k] = true
		f := s.functions[k]
		if f == nil {
			f = newFunction(s, fn)
			s.functions[k] = f
		}
		f.follow(fn, now)
	}
	for k, f := range s.functions {
		if !listed[k] {
			delete(s.functions, k)
			s.metrics.forget(f.label)
		}
	}
}

// Round takes the loads of a second and decides for every function. Run calls it once a second.
func (s *Scaler) Round(loads feed.Loads) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.takeLoads(loads, now)
	began := time.Now()
	for _, f := range s.functions {
		f.settle(now)
		f.read(now)
		f.act(f.take(Input{At: now, Kind: AskSecond}), now)
	}
	s.metrics.round.Observe(time.Since(began).Seconds())
}

// takeLoads hands on what is new of each gateway process, and which have ended. One that has been silent for a function's
// down window is no longer reckoned with there.
func (s *Scaler) takeLoads(loads feed.Loads, now time.Time) {
	s.rounds++
	for i := range loads.Gateways {
		g := &loads.Gateways[i]
		name, at := g.Gateway+"/"+g.Epoch, s.on(g.Arrived)
		s.known[name] = s.rounds
		for _, l := range g.Functions {
			f := s.functions[key{l.Namespace, l.Name}]
			if f == nil {
				continue
			}
			if silent := now.Sub(at); silent > freshFor+f.tracker.policy.DownWindow {
				f.lose(name, now)
			} else {
				f.report(name, at, l)
			}
		}
	}
	for name, round := range s.known {
		if round == s.rounds {
			continue
		}
		delete(s.known, name)
		for _, f := range s.functions {
			f.lose(name, now)
		}
	}
}

// Reported takes a gateway's report, and acts at once on one that came out of turn. It is what the hub calls.
func (s *Scaler) Reported(g feed.GatewayLoad, urgent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, name, at := s.now(), g.Gateway+"/"+g.Epoch, s.on(g.Arrived)
	s.known[name] = s.rounds // a report that was overtaken by its gateway's goodbye is forgotten with the next round
	for _, l := range g.Functions {
		f := s.functions[key{l.Namespace, l.Name}]
		if f == nil {
			continue
		}
		f.report(name, at, l)
		if urgent {
			f.act(f.take(Input{At: now, Kind: AskUrgent}), now)
		}
	}
}

// Wake has a function that sleeps started, sized by what waits for it. One that the table does not have yet gets its least
// number; one that does not exist is feed.ErrUnknownFunction. It implements feed.Waker.
func (s *Scaler) Wake(ctx context.Context, name, namespace string) error {
	k := s.key(namespace, name)
	from, to, known := s.wake(k)
	switch {
	case !known:
		return s.cfg.Cluster.Wake(ctx, name, namespace)
	case to <= from:
		return nil
	}
	err := s.cfg.Cluster.ScaleFrom(ctx, namespace, name, uint64(from), uint64(to))
	s.called(k, from, to, Woken, err)
	if err != nil && s.cfg.Postponed(err) {
		return nil // somebody else has changed it, or will have
	}
	return err
}

func (s *Scaler) wake(k key) (from, to int, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.functions[k]
	if f == nil {
		return 0, 0, false
	}
	now := s.now()
	f.settle(now)
	if from = f.tracker.Replicas().Desired; from > 0 || f.calling {
		return from, from, true
	}
	d := f.take(Input{At: now, Kind: AskWake})
	f.ask(d.Desired)
	return 0, d.Desired, true
}
