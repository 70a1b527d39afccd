// Package upstream knows where requests can go: functions, their replicas and the connections to them.
//
// It stands between the replica table, which says what exists, and the forwarder, which asks for one replica at
// a time. In: tables from the provider, and what the forwarder learns of replicas by using them. Out: a
// reserved replica and a connection to it.
//
// It guarantees that a draining replica is never picked once the table that says so was applied. A new replica
// is picked only after it has answered a probe. Nothing here waits or grows without a bound.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"waggle/provider/feed"
)

// Config says how a [Registry] works. Fields without a default are required.
type Config struct {
	// DefaultNamespace may be left out of a function's address; required.
	DefaultNamespace string
	// Node is the Swarm node this gateway runs on; empty prefers no replica over another.
	Node string
	// MaxWaiting bounds the requests that wait for one function; default 2000.
	MaxWaiting int
	// MaxIdlePerReplica bounds the idle connections kept to one replica; default 1024.
	MaxIdlePerReplica int
	// IdleTimeout is how long such a connection is kept; default 20 s, below the 30 s after which watchdogs close it.
	IdleTimeout time.Duration
	// DialTimeout bounds one connection attempt; default 2 s.
	DialTimeout time.Duration
	// ProbeInterval is the first pause between two probes of a replica, MaxProbeInterval the longest; default 50 ms, 1 s.
	ProbeInterval, MaxProbeInterval time.Duration
	// ProbeTimeout bounds one probe; default 2 s.
	ProbeTimeout time.Duration
	// UnreachableAfter is how long all replicas must have failed their probes before requests no longer wait for them;
	// default 30 s.
	UnreachableAfter time.Duration
	// Dial connects to a replica; default: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Resolve finds the addresses of a name while ProviderGone; default: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]string, error)
	// Wake asks for the first replica of a sleeping function; required.
	Wake func(ctx context.Context, name, namespace string) error
	// ProviderGone reports whether the provider cannot be reached or has had no table yet; required.
	ProviderGone func() bool
	// NewStats makes Set.Stats for a function that appeared, Removed is called once none of its Label is left. Both may
	// be nil.
	NewStats func(*Set) any
	Removed  func(*Set)
	// Ejected is called when a replica leaves the rotation by its own fault; may be nil.
	Ejected func(s *Set, r *Replica, reason string)
	// Logger takes what changed; default: discard.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	for _, d := range []struct{ value, otherwise *time.Duration }{
		{&c.IdleTimeout, new(20 * time.Second)}, {&c.DialTimeout, new(2 * time.Second)},
		{&c.ProbeInterval, new(50 * time.Millisecond)}, {&c.MaxProbeInterval, new(time.Second)},
		{&c.ProbeTimeout, new(2 * time.Second)}, {&c.UnreachableAfter, new(30 * time.Second)},
	} {
		if *d.value == 0 {
			*d.value = *d.otherwise
		}
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = 2000
	}
	if c.MaxIdlePerReplica == 0 {
		c.MaxIdlePerReplica = 1024
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", address)
		}
	}
	if c.Resolve == nil {
		c.Resolve = net.DefaultResolver.LookupHost
	}
	if c.NewStats == nil {
		c.NewStats = func(*Set) any { return nil }
	}
	if c.Removed == nil {
		c.Removed = func(*Set) {}
	}
	if c.Ejected == nil {
		c.Ejected = func(*Set, *Replica, string) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.DefaultNamespace == "" {
		errs = append(errs, errors.New("DefaultNamespace is empty: it is required"))
	}
	if c.Wake == nil || c.ProviderGone == nil {
		errs = append(errs, errors.New("one of Wake and ProviderGone is nil: both are required"))
	}
	if c.MaxWaiting < 0 || c.MaxIdlePerReplica < 0 {
		errs = append(errs, fmt.Errorf("MaxWaiting is %d and MaxIdlePerReplica %d: legal is 0 and more", c.MaxWaiting, c.MaxIdlePerReplica))
	}
	return errors.Join(errs...)
}

// maxProbes bounds the probes that are begun at once, so that a new gateway of a large system does not stampede it.
const maxProbes = 64

// Registry is every function by address. Look-ups are one atomic load and one map access.
type Registry struct {
	cfg    Config
	byName atomic.Pointer[map[string]*Set]
	prober *http.Client
	probes chan struct{}
	starts starts

	lives atomic.Uint64

	mu    sync.Mutex
	sets  map[string]*Set // by Label; guarded by mu
	fixed []*Set          // guarded by mu; what no table names
	dns   dnsFallback

	// tasks are the goroutines that probes, wakes and look-ups run in; they end with ctx.
	tasksMu sync.Mutex
	stopped bool // guarded by tasksMu; no task starts any more
	tasks   sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
}

// New checks cfg and returns a registry that knows no function yet.
func New(cfg Config) (*Registry, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the replica registry: %w", err)
	}
	g := &Registry{cfg: cfg, sets: make(map[string]*Set), probes: make(chan struct{}, maxProbes)}
	g.prober = &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return cfg.Dial(ctx, address) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.byName.Store(&map[string]*Set{})
	return g, nil
}

// Run keeps idle connections fresh until ctx is done, then ends every probe, closes every idle connection and returns nil.
func (g *Registry) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, r := range g.replicas() {
				r.sweep(now, g.cfg.IdleTimeout)
			}
			g.sweepDNS(now)
		case <-ctx.Done():
			g.tasksMu.Lock()
			g.stopped = true
			g.tasksMu.Unlock()
			g.cancel()
			g.tasks.Wait()
			for _, r := range g.replicas() {
				r.retire()
			}
			g.closeDNS()
			return nil
		}
	}
}

// goRun runs f in the background until it returns or the registry stops.
func (g *Registry) goRun(f func(ctx context.Context)) {
	g.tasksMu.Lock()
	defer g.tasksMu.Unlock()
	if g.stopped {
		return
	}
	g.tasks.Go(func() { f(g.ctx) })
}

// Apply makes t the truth. Replicas that t calls draining, or no longer lists, are out of rotation when it returns.
func (g *Registry) Apply(t feed.Table) {
	g.mu.Lock()
	defer g.mu.Unlock()
	byName := make(map[string]*Set, 2*len(t.Functions))
	listed := make(map[string]bool, len(t.Functions))
	for _, fn := range t.Functions {
		if fn.Namespace == "" {
			fn.Namespace = g.cfg.DefaultNamespace
		}
		label := fn.Name + "." + fn.Namespace
		s := g.sets[label]
		if s == nil {
			s = g.newSet(fn)
			g.sets[label] = s
		}
		s.apply(fn)
		listed[label] = true
		byName[label] = s
		if fn.Namespace == g.cfg.DefaultNamespace {
			byName[fn.Name] = s
		}
	}
	g.byName.Store(&byName)
	for label, s := range g.sets {
		if !listed[label] {
			delete(g.sets, label)
			s.remove()
			g.cfg.Removed(s)
		}
	}
}

func (g *Registry) newSet(fn feed.Function) *Set {
	s := &Set{registry: g, Name: fn.Name, Namespace: fn.Namespace, Label: fn.Name + "." + fn.Namespace, Life: g.lives.Add(1), byID: make(map[string]*Replica)}
	s.view.Store(&view{fn: fn})
	s.Stats = g.cfg.NewStats(s)
	return s
}

// Lookup finds the function of an address: "name", "name.namespace", where the last dot is the one that splits.
func (g *Registry) Lookup(name []byte) *Set { return (*g.byName.Load())[string(name)] }

// Sets is every function, in no order.
func (g *Registry) Sets() []*Set {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.AppendSeq(make([]*Set, 0, len(g.sets)), maps.Values(g.sets))
}

// replicas is every replica there is, in no order.
func (g *Registry) replicas() []*Replica {
	sets := g.Sets()
	g.mu.Lock()
	sets = append(sets, g.fixed...)
	g.mu.Unlock()
	sets = append(sets, g.dns.sets()...)
	var out []*Replica
	for _, s := range sets {
		out = append(out, s.replicas()...)
	}
	return out
}

// replicas is every replica of the last table, in no order.
func (s *Set) replicas() []*Replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.AppendSeq(make([]*Replica, 0, len(s.byID)), maps.Values(s.byID))
}

// remove takes the function out of service: requests that wait for it are told, those under way finish.
func (s *Set) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.byID {
		s.drop(r)
	}
	s.gone.Store(true)
	s.view.Store(&view{fn: s.view.Load().fn})
	s.wakeAll()
}

func (s *Set) removed() bool { return s.gone.Load() }

// Fixed returns a set outside the table with one replica that is always in rotation: the provider itself.
func (g *Registry) Fixed(name, address string) *Set {
	s := g.newSet(feed.Function{Name: name, Desired: 1, Scale: feed.Scale{Min: 1, Max: 1}})
	s.fixed = true
	g.mu.Lock()
	g.fixed = append(g.fixed, s)
	g.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pin([]string{address})
	return s
}

// pin makes addresses the set's replicas, trusted without a probe. It requires mu.
func (s *Set) pin(addresses []string) {
	fn := s.view.Load().fn
	fn.Replicas = nil
	for _, a := range addresses {
		fn.Replicas = append(fn.Replicas, feed.Replica{ID: a, Address: a, State: feed.Ready})
		if s.byID[a] == nil {
			s.byID[a] = newReplica(s, a, a)
			s.byID[a].state, s.byID[a].trusted = feed.Ready, true
		}
	}
	for id, r := range s.byID {
		if !slices.Contains(addresses, id) {
			s.drop(r)
		}
	}
	s.rebuild(&fn)
}
