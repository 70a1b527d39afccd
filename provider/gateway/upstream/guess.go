package upstream

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"waggle/provider/feed"
)

// guesses are functions that no table has named, found by DNS while the provider is gone: a gateway that starts then
// has no table at all, and Swarm's own DNS still knows where a service's tasks are.
type guesses struct {
	mu     sync.Mutex
	byName map[string]*guess // guarded by mu
}

type guess struct {
	set   *Set // nil: DNS knows no such function
	until time.Time
	ready chan struct{} // closed once set and until are final
}

const (
	// maxGuesses bounds the cache, and with it the look-ups that strangers can cause.
	maxGuesses = 256
	// guessFor is how long an answer holds, noGuessFor a "no such name". Both are short because nothing says when they end.
	guessFor, noGuessFor = 5 * time.Second, 2 * time.Second
	functionPort         = "8080"
)

// Guess finds a function of the default namespace by DNS as long as the provider is gone; nil if there is none.
// It waits for the resolver at most the dial timeout.
func (g *Registry) Guess(address []byte) *Set {
	if !g.cfg.ProviderGone() {
		return nil
	}
	name := string(address)
	if suffix := "." + g.cfg.DefaultNamespace; len(name) > len(suffix) && name[len(name)-len(suffix):] == suffix {
		name = name[:len(name)-len(suffix)]
	}
	if !isFunctionName(name) {
		return nil
	}
	now := time.Now()
	g.guess.mu.Lock()
	have := g.guess.byName[name]
	if have == nil && len(g.guess.byName) >= maxGuesses {
		g.guess.mu.Unlock()
		return nil
	}
	if have == nil {
		have = &guess{ready: make(chan struct{}), until: now.Add(time.Hour)}
		if g.guess.byName == nil {
			g.guess.byName = make(map[string]*guess)
		}
		g.guess.byName[name] = have
		g.goRun(func(ctx context.Context) { g.resolve(ctx, name, have) })
	}
	g.guess.mu.Unlock()
	select {
	case <-have.ready:
		return have.set
	case <-time.After(g.cfg.DialTimeout):
		return nil
	}
}

func (g *Registry) resolve(ctx context.Context, name string, into *guess) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.DialTimeout)
	defer cancel()
	hosts, err := g.cfg.Resolve(ctx, "tasks."+name)
	g.guess.mu.Lock()
	defer g.guess.mu.Unlock()
	defer close(into.ready)
	into.until = time.Now().Add(noGuessFor)
	if err != nil || len(hosts) == 0 {
		return
	}
	slices.Sort(hosts)
	for i, h := range hosts {
		hosts[i] = net.JoinHostPort(h, functionPort)
	}
	into.set = g.newSet(feed.Function{Name: name, Namespace: g.cfg.DefaultNamespace, Desired: uint64(len(hosts))})
	into.set.mu.Lock()
	into.set.pin(hosts)
	into.set.mu.Unlock()
	into.until = time.Now().Add(guessFor)
}

func (q *guesses) sweep(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, have := range q.byName {
		if now.After(have.until) {
			q.drop(name, have)
		}
	}
}

func (q *guesses) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, have := range q.byName {
		q.drop(name, have)
	}
}

// drop requires mu.
func (q *guesses) drop(name string, have *guess) {
	delete(q.byName, name)
	if have.set != nil {
		have.set.remove()
		have.set.registry.cfg.Removed(have.set)
	}
}

// isFunctionName keeps names that are no function's, such as the stack's own services, from being looked up.
func isFunctionName(name string) bool {
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
