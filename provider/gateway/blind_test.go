package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
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
func TestGuessesWithoutATable(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	adjust := under(t, p)
	e := start(t, func(c *Config) { adjust(c); c.Resolve = known("tasks.f") })
	for e.providerGone() {
		time.Sleep(time.Millisecond)
	}
	if s := e.registry.Guess([]byte("f")); s == nil || s.Ready() != 1 {
		t.Error("functions are not looked for although no table has come")
	}
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 1, Functions: []feed.Function{function("g")}})
	for e.registry.Lookup([]byte("g")) == nil {
		time.Sleep(time.Millisecond)
	}
	if s := e.registry.Guess([]byte("f")); s != nil {
		t.Error("a function is looked for that the table does not have")
	}
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
