package gateway

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"waggle/provider/feed"
)

// hanging is a replica that answers nothing at all once hangs is set.
func hanging(t *testing.T, hangs *atomic.Bool, asked chan<- struct{}) feed.Replica {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_/health" {
			asked <- struct{}{}
		}
		if hangs.Load() {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(s.Close)
	return replicaAt(s.Listener.Addr().String())
}

// TestOneWaitInVainIsEnough has one of two replicas hang, as a container that is paused does. One client waits in vain, until
// its own patience ends or the gateway's does. Then the replica is asked for its health, and nobody waits for it again.
func TestOneWaitInVainIsEnough(t *testing.T) {
	t.Parallel()
	for name, patience := range map[string]time.Duration{"the client leaves": longWait + 200*time.Millisecond, "the gateway gives up": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var hangs atomic.Bool
			asked := make(chan struct{}, 1000)
			well := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") })
			e := start(t, func(c *Config) {
				c.UpstreamTimeout = 5 * time.Second
				if patience == time.Minute {
					c.UpstreamTimeout = 2 * time.Second
				}
			}, function("f", well, hanging(t, &hangs, asked)))
			e.awaitReady(t, "f", 2)
			hangs.Store(true)
			client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
			for waiting := true; waiting; {
				go func() {
					if resp, err := client.Get("http://" + e.addr + "/function/f"); err == nil {
						_ = resp.Body.Close()
					}
				}()
				select {
				case <-asked:
					waiting = false
				case <-time.After(10 * time.Millisecond):
				}
			}
			e.awaitReady(t, "f", 1)
			if n := len(asked); n > 2 {
				t.Errorf("%d further requests went to the replica that hangs", n)
			}
		})
	}
}

// A sole replica that is late stays, whatever a probe would say: it beats none.
func TestASoleReplicaThatIsLateStays(t *testing.T) {
	t.Parallel()
	var hangs atomic.Bool
	asked := make(chan struct{}, 10)
	e := start(t, func(c *Config) { c.UpstreamTimeout = time.Second }, function("f", hanging(t, &hangs, asked)))
	e.awaitReady(t, "f", 1)
	hangs.Store(true)
	if resp, body := e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 504 {
		t.Errorf("got %s %q", resp.Status, body)
	}
	hangs.Store(false)
	if resp, body := e.exchange(t, "GET /function/f HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s %q", resp.Status, body)
	}
}
