package upstream

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"waggle/provider/feed"
)

// dnsFallback are functions that no table has named, found by DNS while the provider is gone. A gateway that
// starts then has no table at all, and Swarm's own DNS still knows where a service's tasks are.
type dnsFallback struct {
	mu     sync.Mutex
	byName map[string]*dnsName // guarded by mu
	found  int                 // guarded by mu; those of byName that have a set
}

type dnsName struct {
	set   *Set          // nil: DNS knows no such function; final once ready is closed
	ready chan struct{} // closed once the first answer has come

	// Guarded by dnsFallback.mu.
	until  time.Time // when the answer has to be asked for again
	seen   time.Time // when DNS last knew the function
	used   bool      // asked for since the last answer
	asking bool      // a look-up is under way
}

const (
	// maxFoundByDNS bounds the functions found, whose number Swarm bounds already. maxUnknown bounds the names
	// that DNS does not know or has not answered for, and so the look-ups that strangers can cause. The two are
	// apart so that a stranger's names take no place from a function's.
	maxFoundByDNS, maxUnknown = 1024, 256
	// foundFor is how long an answer holds, unknownFor a "no such name". Both are short because nothing says when they end.
	foundFor, unknownFor = 5 * time.Second, 2 * time.Second
	// keepFound is how long a function in use outlives the failure of its look-ups. A short failure of the
	// resolver should affect nobody, but Swarm soon gives the address of a task that has ended to another.
	keepFound    = 15 * time.Second
	functionPort = "8080"
)

// LookupDNS finds a function of the default namespace by DNS as long as the provider is gone; nil if there is none.
// It waits for the resolver at most the dial timeout. ErrTooManyLookups means that it did not look.
func (g *Registry) LookupDNS(address []byte) (*Set, error) {
	if !g.cfg.ProviderGone() {
		return nil, nil
	}
	name := string(address)
	if suffix := "." + g.cfg.DefaultNamespace; len(name) > len(suffix) && name[len(name)-len(suffix):] == suffix {
		name = name[:len(name)-len(suffix)]
	}
	if !IsFunctionName(name) {
		return nil, nil
	}
	q := &g.dns
	q.mu.Lock()
	have := q.byName[name]
	if have == nil {
		if q.found >= maxFoundByDNS || len(q.byName)-q.found >= maxUnknown {
			q.mu.Unlock()
			return nil, ErrTooManyLookups
		}
		have = &dnsName{ready: make(chan struct{}), asking: true}
		if q.byName == nil {
			q.byName = make(map[string]*dnsName)
		}
		q.byName[name] = have
		g.goRun(func(ctx context.Context) { g.resolve(ctx, name, have) })
	}
	have.used = true
	q.mu.Unlock()
	select {
	case <-have.ready:
		return have.set, nil
	case <-time.After(g.cfg.DialTimeout):
		return nil, nil
	}
}

// FoundByDNS is the number of functions that have been found.
func (g *Registry) FoundByDNS() int {
	g.dns.mu.Lock()
	defer g.dns.mu.Unlock()
	return g.dns.found
}

// resolve asks for a name that nothing is known of.
func (g *Registry) resolve(ctx context.Context, name string, into *dnsName) {
	hosts, _ := g.lookUp(ctx, name)
	q := &g.dns
	q.mu.Lock()
	defer q.mu.Unlock()
	defer close(into.ready)
	into.asking = false
	if len(hosts) == 0 {
		into.until = time.Now().Add(unknownFor)
		return
	}
	q.found++
	into.set = g.newSet(feed.Function{Name: name, Namespace: g.cfg.DefaultNamespace, Desired: uint64(len(hosts))})
	into.set.fromDNS = true
	into.found(hosts)
}

// refresh asks again for a function in use. Its set stays, and with it the requests that wait for it.
func (g *Registry) refresh(ctx context.Context, name string, have *dnsName) {
	hosts, err := g.lookUp(ctx, name)
	g.dns.mu.Lock()
	defer g.dns.mu.Unlock()
	have.asking = false
	var unknown *net.DNSError
	switch now := time.Now(); {
	case len(hosts) > 0:
		have.found(hosts)
	case err == nil, errors.As(err, &unknown) && unknown.IsNotFound, now.Sub(have.seen) > keepFound:
		g.drop(name, have)
	default:
		have.used, have.until = true, now.Add(unknownFor)
	}
}

// found notes an answer. It requires dnsFallback.mu.
func (have *dnsName) found(hosts []string) {
	have.set.mu.Lock()
	have.set.pin(hosts)
	have.set.mu.Unlock()
	have.used, have.seen = false, time.Now()
	have.until = have.seen.Add(foundFor)
}

// lookUp finds where a function's tasks are.
func (g *Registry) lookUp(ctx context.Context, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.DialTimeout)
	defer cancel()
	hosts, err := g.cfg.Resolve(ctx, "tasks."+name)
	if err != nil {
		return nil, err
	}
	slices.Sort(hosts)
	for i, h := range hosts {
		hosts[i] = net.JoinHostPort(h, functionPort)
	}
	return hosts, nil
}

// sweepDNS asks again for functions in use, as long as the provider is gone, and forgets what has not been asked for.
func (g *Registry) sweepDNS(now time.Time) {
	gone := g.cfg.ProviderGone()
	g.dns.mu.Lock()
	defer g.dns.mu.Unlock()
	for name, have := range g.dns.byName {
		switch {
		case have.asking || !now.After(have.until):
		case have.set != nil && gone && (have.used || have.set.Queued() > 0):
			have.asking = true
			g.goRun(func(ctx context.Context) { g.refresh(ctx, name, have) })
		default:
			g.drop(name, have)
		}
	}
}

// closeDNS forgets them all. No look-up may be under way.
func (g *Registry) closeDNS() {
	g.dns.mu.Lock()
	defer g.dns.mu.Unlock()
	for name, have := range g.dns.byName {
		g.drop(name, have)
	}
}

// drop forgets a name. It requires dnsFallback.mu. If a table has brought the function meanwhile, what is kept
// under its label now belongs to that one and stays. No other place holds both locks.
func (g *Registry) drop(name string, have *dnsName) {
	delete(g.dns.byName, name)
	if have.set == nil {
		return
	}
	g.dns.found--
	have.set.remove()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sets[have.set.Label] == nil {
		g.cfg.Removed(have.set)
	}
}

// sets is every function found, in no order.
func (q *dnsFallback) sets() (all []*Set) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, have := range q.byName {
		if have.set != nil {
			all = append(all, have.set)
		}
	}
	return all
}

// IsFunctionName reports whether a function may have this name. Names that are no function's, such as those of
// the stack's own services, are therefore not looked up.
func IsFunctionName(name string) bool {
	if name == "" || len(name) > 63 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
