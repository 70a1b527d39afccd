package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// sweepHalf is a time at which no sweep runs.
const sweepHalf = 500 * time.Millisecond

// names is a DNS.
type names struct {
	mu      sync.Mutex
	hosts   map[string][]string // guarded by mu
	broken  bool                // guarded by mu
	lookups atomic.Int32
}

func (n *names) set(host string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = make(map[string][]string)
	}
	n.hosts["tasks."+host] = addresses
}

func (n *names) fail(broken bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken = broken
}

func (n *names) resolve(_ context.Context, host string) ([]string, error) {
	n.lookups.Add(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken {
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	}
	if len(n.hosts[host]) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return slices.Clone(n.hosts[host]), nil
}

// alone is the configuration of a registry whose provider is gone.
func alone(n *names) Config {
	return Config{ProviderGone: func() bool { return true }, Resolve: n.resolve}
}

func foundByDNS(t *testing.T, g *Registry, name string) *Set {
	t.Helper()
	s, err := g.LookupDNS([]byte(name))
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return s
}

func TestDNSOnlyWhileProviderIsGone(t *testing.T) {
	var gone atomic.Bool
	dns := &names{}
	dns.set("hello", "10.0.0.2", "10.0.0.1")
	bubble(t, Config{ProviderGone: gone.Load, Resolve: dns.resolve}, func(t *testing.T, g *Registry) {
		if foundByDNS(t, g, "hello") != nil || dns.lookups.Load() != 0 {
			t.Fatal("looked up although the provider is there")
		}
		gone.Store(true)
		s := foundByDNS(t, g, "hello.fn")
		if s == nil || s.Ready() != 2 || foundByDNS(t, g, "hello") != s || dns.lookups.Load() != 1 {
			t.Fatalf("the name is %+v after %d look-ups", s, dns.lookups.Load())
		}
		for _, name := range []string{"waggle_postgres", "tasks.hello", "-x", "", "Hello", "a/b"} {
			if foundByDNS(t, g, name) != nil || dns.lookups.Load() != 1 {
				t.Errorf("%q was looked up", name)
			}
		}
		gone.Store(false)
		time.Sleep(10 * time.Second)
		gone.Store(true)
		if again := foundByDNS(t, g, "hello"); again == nil || again == s {
			t.Error("dnsFallback outlast the provider's return")
		}
	})
}

func TestStrangersTakeNoPlaceFromFunctions(t *testing.T) {
	dns := &names{}
	dns.set("hello", "10.0.0.1")
	dns.set("late", "10.0.0.2")
	bubble(t, alone(dns), func(t *testing.T, g *Registry) {
		s := foundByDNS(t, g, "hello")
		for second := range 20 {
			for i := range maxUnknown {
				_, _ = g.LookupDNS(fmt.Append(nil, "nobody", second, "-", i))
			}
			if foundByDNS(t, g, "hello") != s {
				t.Fatalf("a function in use was lost in second %d", second)
			}
			time.Sleep(time.Second)
		}
		// At most maxUnknown names at a time, each for unknownFor and up to a sweep more.
		if n := dns.lookups.Load(); n > 11*maxUnknown {
			t.Errorf("%d look-ups for names of a stranger in 20 s", n)
		}
		time.Sleep(sweepHalf)
		for i := range 2 * maxUnknown {
			_, _ = g.LookupDNS(fmt.Append(nil, "nobody", i))
		}
		if late, err := g.LookupDNS([]byte("late")); late != nil || !errors.Is(err, ErrTooManyLookups) {
			t.Errorf("without room: %v, %v", late, err)
		}
	})
}

func TestFunctionsFoundAreBounded(t *testing.T) {
	everything := func(context.Context, string) ([]string, error) { return []string{"10.0.0.1"}, nil }
	bubble(t, Config{ProviderGone: func() bool { return true }, Resolve: everything}, func(t *testing.T, g *Registry) {
		for i := range maxFoundByDNS {
			if s := foundByDNS(t, g, fmt.Sprint("f", i)); s == nil {
				t.Fatalf("function %d was not found", i)
			}
		}
		if s, err := g.LookupDNS([]byte("more")); s != nil || !errors.Is(err, ErrTooManyLookups) {
			t.Errorf("without room: %v, %v", s, err)
		}
	})
}

func TestDNSInUseFollowsDNS(t *testing.T) {
	dns := &names{}
	dns.set("hello", "10.0.0.1")
	bubble(t, alone(dns), func(t *testing.T, g *Registry) {
		s := foundByDNS(t, g, "hello")
		use := func(seconds int) (last *Set) {
			for range seconds {
				last = foundByDNS(t, g, "hello")
				time.Sleep(time.Second)
			}
			return last
		}
		dns.set("hello", "10.0.0.2", "10.0.0.3")
		if use(10) != s || s.Ready() != 2 || s.byID["10.0.0.1:8080"] != nil {
			t.Errorf("%d replicas, want those that DNS knows now", s.Ready())
		}
		dns.fail(true)
		if use(10) != s || s.Ready() != 2 {
			t.Error("lost although DNS only fails for a while")
		}
		dns.fail(false)
		if use(10) != s {
			t.Error("lost although DNS answers again")
		}
		dns.fail(true)
		if use(60) != nil {
			t.Error("kept although nothing has been heard of it for long")
		}
		dns.fail(false)
		if s = use(10); s == nil {
			t.Fatal("not found again")
		}
		dns.set("hello")
		if use(10) != nil {
			t.Error("kept although DNS says it is gone")
		}
	})
}

func TestDNSThatNobodyUsesEnds(t *testing.T) {
	dns := &names{}
	dns.set("hello", "10.0.0.1")
	var removed atomic.Int32
	cfg := alone(dns)
	cfg.Removed = func(*Set) { removed.Add(1) }
	bubble(t, cfg, func(t *testing.T, g *Registry) {
		foundByDNS(t, g, "hello")
		time.Sleep(time.Minute)
		if n := dns.lookups.Load(); n != 1 || removed.Load() != 1 || len(g.dns.sets()) != 0 {
			t.Errorf("%d look-ups, removed %d times", n, removed.Load())
		}
	})
}

// What is kept per function goes by its label, and belongs to the table's set once there is one.
func TestEndOfANameLeavesTheTablesFunctionAlone(t *testing.T) {
	var removed atomic.Int32
	dns := &names{}
	dns.set("f", "10.0.0.1")
	cfg := alone(dns)
	cfg.Removed = func(*Set) { removed.Add(1) }
	bubble(t, cfg, func(t *testing.T, g *Registry) {
		if s := foundByDNS(t, g, "f"); s == nil || s.Label != "f.fn" {
			t.Fatalf("the name is %+v", s)
		}
		apply(g, fn(0, "a ready"))
		time.Sleep(time.Minute)
		if removed.Load() != 0 || len(g.dns.sets()) != 0 {
			t.Errorf("removed %d times, %d dnsFallback left", removed.Load(), len(g.dns.sets()))
		}
		apply(g)
		if removed.Load() != 1 {
			t.Errorf("removed %d times", removed.Load())
		}
	})
}

func TestRequestsThatWaitForAGuessAreToldToComeAgain(t *testing.T) {
	var gone atomic.Bool
	gone.Store(true)
	w, dns := &town{}, &names{}
	dns.set("f", "10.0.0.1")
	w.set("10.0.0.1:8080", 0)
	bubble(t, Config{Dial: w.dial, ProviderGone: gone.Load, Resolve: dns.resolve}, func(t *testing.T, g *Registry) {
		s := foundByDNS(t, g, "f")
		s.byID["10.0.0.1:8080"].Refused(syscall.ECONNREFUSED)
		got := make(chan error, 1)
		go func() {
			_, err := s.Wait(nil, time.Now().Add(time.Minute), nil)
			got <- err
		}()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("a set was dropped that a request waits for: %v", err)
		default:
		}
		gone.Store(false)
		if err := <-got; !errors.Is(err, ErrStale) {
			t.Errorf("got %v", err)
		}
	})
}
