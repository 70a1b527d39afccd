package gateway

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"waggle/provider/gateway/upstream"
)

// A name that the newest table does not have may be a function all the same. Three cases, in this order:
//
//	no provider       upstream.LookupDNS asks DNS, which knows where the tasks of a service are
//	no table yet      the gateway has just started: the request is held until a table comes, or DNS knows the name
//	provider and table  the provider answers a deploy before the table that names the function is here: the gateway
//	                  asks the provider once, and holds the request for the table if the function exists
//
// Strangers must not make this expensive. Requests to the provider are bounded per second, shared by all who wait for
// one name, and a "no" holds for a moment.

var (
	errNoTable      = errors.New("no replica table has come from the provider yet, so the functions are unknown")
	errNotListed    = errors.New("the function has been deployed, and no replica table has named it")
	errManySearches = errors.New("too many requests wait for functions that are not known yet")
	errUnsure       = errors.New("the provider could not say whether there is such a function")
)

const (
	// lookupEvery is the time between two look-ups by DNS for a held request.
	lookupEvery = time.Second
	// maxAsks bounds the asks per second; beyond it an unknown name is a 404 at once.
	maxAsks = 50
	// unknownFor is how long a "no" holds, unless a table or a deploy comes first. It is shorter than a deploy takes.
	unknownFor = 200 * time.Millisecond
	// maxUnknown bounds the names that are remembered.
	maxUnknown = 1024
)

// broadcast lets goroutines wait for the next event. Its zero value is ready.
type broadcast struct {
	mu   sync.Mutex
	wait chan struct{} // guarded by mu; closed by the next event, nil if nobody waits
}

// next is closed by the next event. Whoever waits takes it first and looks afterwards, so that no event is missed.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wait == nil {
		b.wait = make(chan struct{})
	}
	return b.wait
}

func (b *broadcast) fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wait != nil {
		close(b.wait)
		b.wait = nil
	}
}

// unknownNames remembers what the provider has said of names that no table has.
type unknownNames struct {
	asks  singleflight.Group
	rate  sampler
	mu    sync.Mutex
	until map[string]time.Time // guarded by mu; names that do not exist, and when to ask again
}

// forget makes every name worth asking for again.
func (u *unknownNames) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.until)
}

// worthAsking reports whether to ask for a name.
func (u *unknownNames) worthAsking(name string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Before(u.until[name]) {
		return false
	}
	if len(u.until) >= maxUnknown {
		maps.DeleteFunc(u.until, func(_ string, until time.Time) bool { return !now.Before(until) })
	}
	return len(u.until) < maxUnknown
}

func (u *unknownNames) note(name string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = make(map[string]time.Time)
	}
	u.until[name] = now.Add(unknownFor)
}

// deployed asks the provider whether a function exists that no table has named.
func (g *Gateway) deployed(address []byte) (bool, error) {
	if g.feed == nil || g.providerGone() {
		return false, nil
	}
	name, namespace := string(address), g.cfg.FunctionNamespace
	if dot := bytes.LastIndexByte(address, '.'); dot >= 0 {
		name, namespace = name[:dot], name[dot+1:]
	}
	u, now := &g.unknown, time.Now()
	key := name + "." + namespace
	if !upstream.IsFunctionName(name) || !upstream.IsFunctionName(namespace) || !u.worthAsking(key, now) {
		return false, nil
	}
	answer, err, _ := u.asks.Do(key, func() (any, error) {
		if ok, _ := u.rate.take(now); !ok {
			return false, nil
		}
		deployed, err := g.feed.Deployed(context.Background(), name, namespace)
		if !deployed && err == nil {
			u.note(key, time.Now())
		}
		return deployed, err
	})
	if err != nil {
		g.cfg.Logger.Warn("asking for an unknown function failed", "function", name, "namespace", namespace, "error", err)
		return false, errUnsure
	}
	return answer.(bool), nil
}

// noTable reports whether no replica table has come yet. A provider that has just started answers before it can list
// what Swarm runs. Until then it is of no more use to requests than one that is gone.
func (g *Gateway) noTable() bool { return !g.tableArrived.Load() }

// starting reports whether the gateway may only be too young to know any function.
func (g *Gateway) starting() bool {
	return g.noTable() && time.Since(g.startedAt) < g.cfg.StartupTimeout && g.registry.FoundByDNS() == 0
}

// search looks for a function that no table has named; nil means that there is none, an error that nobody can say yet.
func (rq *request) search(name []byte) (*upstream.Set, error) {
	g := rq.g
	young := g.noTable()
	if set, err := g.registry.LookupDNS(name); set != nil || err != nil {
		return set, err
	}
	if g.heldUnlisted.Add(1) > int64(g.cfg.MaxHeld) {
		g.heldUnlisted.Add(-1)
		return nil, errManySearches
	}
	defer g.heldUnlisted.Add(-1)
	rq.c.limit(0) // the waits have their own deadlines
	if young {
		set, err := rq.awaitTable(name)
		if set != nil || err != nil {
			return set, err
		}
	}
	if deployed, err := g.deployed(name); !deployed {
		return nil, err
	}
	return rq.awaitListed(name)
}

// awaitTable holds the request until the first table comes, or DNS knows the function; nil if the table does not have it.
func (rq *request) awaitTable(name []byte) (*upstream.Set, error) {
	g := rq.g
	timeout := time.NewTimer(min(rq.holdUnlisted(), g.cfg.StartupTimeout-time.Since(g.startedAt)))
	defer timeout.Stop()
	again := time.NewTicker(lookupEvery)
	defer again.Stop()
	for {
		applied := g.tables.next()
		if !g.noTable() {
			return g.registry.Lookup(name), nil
		}
		select {
		case <-applied:
		case <-again.C:
			if set, err := g.registry.LookupDNS(name); set != nil || err != nil {
				return set, err
			}
		case <-rq.c.leaving():
			return nil, upstream.ErrLeft
		case <-timeout.C:
			return nil, errNoTable
		}
	}
}

// holdUnlisted is how long the request waits for a table: a browser gets the waiting page meanwhile.
func (rq *request) holdUnlisted() time.Duration {
	if rq.isBrowser() {
		return min(rq.g.cfg.HoldTimeout, rq.g.cfg.WaitingPageAfter)
	}
	return rq.g.cfg.HoldTimeout
}

// awaitListed holds the request until a table has the function.
func (rq *request) awaitListed(name []byte) (*upstream.Set, error) {
	timeout := time.NewTimer(rq.holdUnlisted())
	defer timeout.Stop()
	for {
		applied := rq.g.tables.next()
		if set := rq.g.registry.Lookup(name); set != nil {
			return set, nil
		}
		select {
		case <-applied:
		case <-rq.c.leaving():
			return nil, upstream.ErrLeft
		case <-timeout.C:
			return nil, errNotListed
		}
	}
}
