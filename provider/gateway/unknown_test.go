package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waggle/provider/feed"
)

// A provider that has just started can be heard, but cannot say yet which functions there are.
func TestProviderWithoutATable(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	adjust := under(t, p)
	e := start(t, func(c *Config) { adjust(c); c.Queue = &fakeQueue{} })
	for e.providerGone() {
		time.Sleep(time.Millisecond)
	}
	for request, want := range map[string]string{
		"GET /function/f":        "503 no replica table has come",
		"POST /async-function/f": "503 no replica table has come",
		"GET /healthz":           `200 {"status":"degraded","provider":"connected, no table yet"`,
	} {
		resp, body := e.exchange(t, request+" HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := fmt.Sprint(resp.StatusCode, " ", body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", request, got, want)
		}
		if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After in %v", request, resp.Header)
		}
	}
	r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 1, Functions: []feed.Function{function("f", r)}})
	for e.registry.Lookup([]byte("f")) == nil {
		time.Sleep(time.Millisecond)
	}
	for path, want := range map[string]string{"/function/f": "200 here", "/function/never": "404 no such function\n", "/healthz": `200 {"status":"ok"`} {
		resp, body := e.exchange(t, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := fmt.Sprint(resp.StatusCode, " ", body); !strings.HasPrefix(got, want) {
			t.Errorf("with a table, %s: got %q, want %q", path, got, want)
		}
	}
}

// Such a provider does not keep functions from being found by DNS.
func TestDNSesWithoutATable(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	adjust := under(t, p)
	e := start(t, func(c *Config) { adjust(c); c.Resolve = known("tasks.f") })
	for e.providerGone() {
		time.Sleep(time.Millisecond)
	}
	if s, err := e.registry.LookupDNS([]byte("f")); err != nil || s == nil || s.Ready() != 1 {
		t.Error("functions are not looked for although no table has come")
	}
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 1, Functions: []feed.Function{function("g")}})
	for e.registry.Lookup([]byte("g")) == nil {
		time.Sleep(time.Millisecond)
	}
	if s, err := e.registry.LookupDNS([]byte("f")); s != nil || err != nil {
		t.Error("a function is looked for that the table does not have")
	}
}

// On a node that has just joined, the provider's name may be unknown for a while: whoever comes meanwhile is served then.
func TestHeldWhileStarting(t *testing.T) {
	t.Parallel()
	const get, head = "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
	begin := func(t *testing.T, adjust func(*Config)) (*control, *edge) {
		p := newControl(t)
		provided := under(t, p)
		return p, start(t, func(c *Config) {
			provided(c)
			c.StartupTimeout = time.Minute
			adjust(c)
		})
	}
	held := func(e *edge, n int64) {
		for e.heldUnlisted.Load() != n {
			time.Sleep(time.Millisecond)
		}
	}
	health := func(t *testing.T, e *edge, want string) {
		t.Helper()
		resp, body := e.exchange(t, head)
		if got := fmt.Sprint(resp.StatusCode, " ", body); !strings.HasPrefix(got, want) {
			t.Errorf("/healthz: got %q, want %q", got, want)
		}
	}
	t.Run("until a table comes", func(t *testing.T) {
		t.Parallel()
		p, e := begin(t, func(*Config) {})
		health(t, e, `503 {"status":"starting"`)
		c, in := e.dial(t)
		_, _ = io.WriteString(c, get)
		never, inNever := e.dial(t)
		_, _ = io.WriteString(never, "GET /function/never HTTP/1.1\r\nHost: h\r\n\r\n")
		held(e, 2)
		r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
		p.hub.Publish(feed.Table{Epoch: "e", Revision: 1, Functions: []feed.Function{function("f", r)}})
		if resp, body := readResponse(t, in, "GET"); resp.StatusCode != 200 || body != "here" {
			t.Errorf("held: %s %q", resp.Status, body)
		}
		if resp, body := readResponse(t, inNever, "GET"); resp.StatusCode != 404 {
			t.Errorf("held for a function that there is not: %s %q", resp.Status, body)
		}
		health(t, e, `200 {"status":"ok"`)
		held(e, 0)
	})
	t.Run("until DNS knows the function", func(t *testing.T) {
		t.Parallel()
		var knows atomic.Bool
		_, e := begin(t, func(c *Config) {
			all := known("tasks.f")
			c.Resolve = func(ctx context.Context, host string) ([]string, error) {
				if !knows.Load() {
					host = "unknown"
				}
				return all(ctx, host)
			}
		})
		c, _ := e.dial(t)
		_, _ = io.WriteString(c, get)
		held(e, 1)
		knows.Store(true)
		held(e, 0)
		if n := e.registry.FoundByDNS(); n != 1 {
			t.Errorf("%d functions were found, want 1", n)
		}
		health(t, e, `200 {"status":"degraded"`)
	})
	t.Run("while there is room", func(t *testing.T) {
		t.Parallel()
		_, e := begin(t, func(c *Config) { c.MaxHeld = 1 })
		first, _ := e.dial(t)
		_, _ = io.WriteString(first, get)
		held(e, 1)
		if resp, body := e.exchange(t, get); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "max_held_per_function") {
			t.Errorf("the second of one that may be held: %s %q", resp.Status, body)
		}
		_ = first.Close()
		held(e, 0) // whoever leaves is held no longer
	})
	t.Run("no longer than a request may be", func(t *testing.T) {
		t.Parallel()
		_, e := begin(t, func(c *Config) { c.HoldTimeout = 50 * time.Millisecond })
		if resp, body := e.exchange(t, get); resp.StatusCode != 503 || !strings.Contains(body, "no replica table") {
			t.Errorf("got %s %q", resp.Status, body)
		}
		health(t, e, `503 {"status":"starting"`)
	})
	t.Run("no longer than the gateway is young", func(t *testing.T) {
		t.Parallel()
		_, e := begin(t, func(c *Config) { c.StartupTimeout = 50 * time.Millisecond })
		if resp, body := e.exchange(t, get); resp.StatusCode != 503 || !strings.Contains(body, "no replica table") {
			t.Errorf("got %s %q", resp.Status, body)
		}
		health(t, e, `200 {"status":"degraded"`)
	})
}

// A name that there is no room to look for is not known not to exist.
func TestTooManyLookups(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	e := start(t, func(c *Config) {
		c.Resolve = func(ctx context.Context, _ string) ([]string, error) {
			asked.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	var strangers sync.WaitGroup
	const most = 256
	for i := range most {
		strangers.Go(func() { _, _ = e.registry.LookupDNS(fmt.Append(nil, "nobody", i)) })
	}
	for asked.Load() != most {
		time.Sleep(time.Millisecond)
	}
	resp, body := e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "too many") {
		t.Errorf("got %s %q", resp.Status, body)
	}
	strangers.Wait()
}

// known is a resolver that knows one name.
func known(name string) func(context.Context, string) ([]string, error) {
	return func(_ context.Context, host string) ([]string, error) {
		if host != name {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return []string{"127.0.0.1"}, nil
	}
}

// A function that was deployed a moment ago is called at once, before any table has it. The calls go through the
// gateway that passed the 202 on and through another one. Nobody is told that there is no such function.
func TestDeployedFunctionIsKnownAtOnce(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 1})
	adjust := under(t, p)
	gateways := []*edge{start(t, adjust), start(t, func(c *Config) { adjust(c); c.Queue = &fakeQueue{} })}
	for _, e := range gateways {
		for e.noTable() {
			time.Sleep(time.Millisecond)
		}
	}
	if resp, body := gateways[0].exchange(t, "GET /function/new HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 404 {
		t.Fatalf("before it is deployed: %s %q", resp.Status, body)
	}
	deploy := "POST /system/functions HTTP/1.1\r\nHost: h\r\nAuthorization: " + basic("admin:s3cret") + "\r\nContent-Length: 3\r\n\r\nnew"
	if resp, body := gateways[0].exchange(t, deploy); resp.StatusCode != 202 {
		t.Fatalf("deploying: %s %q", resp.Status, body)
	}
	var callers sync.WaitGroup
	for i, call := range []struct {
		e    *edge
		raw  string
		want string
	}{
		{gateways[0], "GET /function/new", "200 here"}, {gateways[1], "GET /function/new.openfaas-fn", "200 here"},
		{gateways[1], "POST /async-function/new", "202 "}, {gateways[1], "GET /function/other", "404 no such function\n"},
	} {
		c, in := call.e.dial(t)
		callers.Go(func() {
			_, _ = io.WriteString(c, call.raw+" HTTP/1.1\r\nHost: h\r\n\r\n")
			method, _, _ := strings.Cut(call.raw, " ")
			resp, err := http.ReadResponse(in, &http.Request{Method: method})
			if err != nil {
				t.Errorf("call %d: %v", i, err)
				return
			}
			body, _ := io.ReadAll(resp.Body)
			if got := fmt.Sprint(resp.StatusCode, " ", string(body)); got != call.want {
				t.Errorf("call %d: got %q, want %q", i, got, call.want)
			}
		})
	}
	for gateways[0].heldUnlisted.Load()+gateways[1].heldUnlisted.Load() < 3 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 2, Functions: []feed.Function{function("new", r)}})
	callers.Wait()
}

// Names that strangers make up cost the provider little.
func TestUnknownNamesAreCheap(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 1})
	e := start(t, under(t, p))
	for e.noTable() {
		time.Sleep(time.Millisecond)
	}
	c, in := e.dial(t)
	begun := time.Now()
	for i := range 500 {
		_, _ = fmt.Fprintf(c, "GET /function/nobody%d HTTP/1.1\r\nHost: h\r\n\r\n", i)
		if resp, body := readResponse(t, in, "GET"); resp.StatusCode != 404 {
			t.Fatalf("got %s %q", resp.Status, body)
		}
	}
	if asked, most := int(p.asked.Load()), maxAsks*(int(time.Since(begun)/time.Second)+2); asked == 0 || asked > most {
		t.Errorf("the provider was asked %d times, want 1 to %d", asked, most)
	}
	for _, name := range []string{"a.b.c", "Capital", "a%20b", strings.Repeat("x", 64), ""} {
		before := p.asked.Load()
		if resp, _ := e.exchange(t, "GET /function/"+name+" HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 404 || p.asked.Load() != before {
			t.Errorf("%q: got %s, %d asks", name, resp.Status, p.asked.Load()-before)
		}
	}
}
