package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRefusalsNameTheirSetting goes beyond each bound in turn: the answer names what is legal and the setting that says so.
func TestRefusalsNameTheirSetting(t *testing.T) {
	t.Parallel()
	const (
		get  = "GET /function/f HTTP/1.1\r\nHost: h\r\n"
		post = "POST /function/f HTTP/1.1\r\nHost: h\r\n"
		call = "POST /async-function/f HTTP/1.1\r\nHost: h\r\n"
		none = "GET /function/none HTTP/1.1\r\nHost: h\r\n\r\n"
		busy = "GET /function/busy HTTP/1.1\r\nHost: h\r\n\r\n"
	)
	long := strings.Repeat("x", 9000)
	for name, tc := range map[string]struct {
		adjust func(*Config)
		before []string // requests that are under way or answered meanwhile
		send   string
		status int
		legal  string
		by     string
	}{
		"long target":                         {nil, nil, "GET /function/f/" + long + " HTTP/1.1\r\nHost: h\r\n\r\n", 414, "8192 bytes", "max_uri_bytes"},
		"long head":                           {nil, nil, get + "A: " + long + long + "\r\n\r\n", 431, "16384 bytes", "max_header_bytes"},
		"long head, queued":                   {nil, nil, call + "A: " + strings.Repeat("x", 16300) + "\r\n\r\n", 431, "16384 bytes", "max_header_bytes"},
		"many fields":                         {nil, nil, get + strings.Repeat("A: b\r\n", 101) + "\r\n", 431, "legal are 100", ""},
		"many trailers":                       {nil, nil, post + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + long + "\r\n\r\n", 431, "8192 bytes", ""},
		"slow head":                           {func(c *Config) { c.HeaderTimeout = time.Second }, nil, get, 408, "1s", "header_timeout"},
		"no body":                             {func(c *Config) { c.ReadTimeout = time.Second }, nil, post + "Content-Length: 5\r\n\r\n", 408, "1s", "read_timeout"},
		"slow long body":                      {func(c *Config) { c.ReadTimeout = time.Second }, nil, post + "Content-Length: 500000\r\n\r\nx", 408, "1s", "read_timeout"},
		"slow chunks":                         {func(c *Config) { c.ReadTimeout = time.Second }, nil, post + "Transfer-Encoding: chunked\r\n\r\n1\r\n", 408, "1s", "read_timeout"},
		"slow body, queued":                   {func(c *Config) { c.ReadTimeout = time.Second }, nil, call + "Content-Length: 5\r\n\r\nx", 408, "1s", "read_timeout"},
		"long body":                           {func(c *Config) { c.MaxBody = 7 }, nil, post + "Content-Length: 8\r\n\r\n12345678", 413, "7 bytes", "max_body_bytes"},
		"long chunks":                         {func(c *Config) { c.MaxBody = 7 }, nil, post + "Transfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n", 413, "7 bytes", "max_body_bytes"},
		"long body, queued":                   {func(c *Config) { c.MaxAsyncBody = 6 }, nil, call + "Content-Length: 7\r\n\r\n1234567", 413, "6 bytes", "async_max_body_bytes"},
		"long body, queued, of less than any": {func(c *Config) { c.MaxBody = 5 }, nil, call + "Content-Length: 6\r\n\r\n123456", 413, "5 bytes", "'s max_body_bytes"},
		"long chunks, queued":                 {func(c *Config) { c.MaxAsyncBody = 6 }, nil, call + "Transfer-Encoding: chunked\r\n\r\n7\r\n1234567\r\n0\r\n\r\n", 413, "6 bytes", "async_max_body_bytes"},
		"many requests":                       {func(c *Config) { c.RateLimit, c.RateBurst = 0.01, 1 }, []string{get + "\r\n"}, get + "\r\n", 429, "0.01 a second", "rate_limit"},
		"many requests at once":               {func(c *Config) { c.RateLimit, c.RateBurst = 0.01, 1 }, []string{get + "\r\n"}, get + "\r\n", 429, "1 at once", "rate_burst"},
		"no replica":                          {func(c *Config) { c.HoldTimeout = time.Millisecond }, nil, none, 503, "within 1ms", "hold_timeout"},
		"no replica, no wait":                 {func(c *Config) { c.HoldTimeout = 0 }, nil, none, 503, "no request waits", "hold_timeout"},
		"no room":                             {func(c *Config) { c.HoldTimeout = time.Millisecond }, []string{busy}, busy, 503, "within 1ms", "hold_timeout"},
		"no room by max_inflight":             {func(c *Config) { c.HoldTimeout = time.Millisecond }, []string{busy}, busy, 503, "none had room", "max_inflight"},
		"many wait":                           {func(c *Config) { c.MaxHeld = 1 }, []string{none}, none, 503, "legal are 1,", "max_held_per_function"},
		"silent function":                     {func(c *Config) { c.UpstreamTimeout = time.Second }, nil, busy, 504, "1s", "upstream_timeout"},
		"long response head":                  {func(c *Config) { c.MaxResponseHeader = 2000 }, nil, get + "X-Long: y\r\n\r\n", 502, "2000 bytes", "max_response_header_bytes"},
		"many connections":                    {func(c *Config) { c.MaxConns = 1 }, []string{none}, get + "\r\n", 503, "legal are 1,", "max_connections"},
		"many connections from one address":   {func(c *Config) { c.MaxConnsPerIP = 1 }, []string{none}, get + "\r\n", 503, "legal are 1,", "max_connections_per_ip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Long") != "" {
					w.Header().Set("X-Long", long)
				}
				_, _ = io.Copy(io.Discard, r.Body)
			})
			hangs := function("busy", newReplica(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			hangs.MaxInflight = 1
			asleep := function("none")
			asleep.Desired = 1
			e := start(t, func(c *Config) {
				c.Queue = &fakeQueue{}
				if tc.adjust != nil {
					tc.adjust(c)
				}
			}, function("f", r), hangs, asleep)
			e.awaitReady(t, "f", 1)
			e.awaitReady(t, "busy", 1)
			for _, raw := range tc.before {
				c, _ := e.dial(t)
				_, _ = io.WriteString(c, raw)
				_, name, _ := strings.Cut(raw, "/function/")
				name, _, _ = strings.Cut(name, " ")
				for s := e.registry.Lookup([]byte(name)); s.Started.Load() == 0 || name == "none" && s.Queued() == 0; time.Sleep(time.Millisecond) {
					if err := t.Context().Err(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if resp, body := e.exchange(t, tc.send); resp.StatusCode != tc.status || !strings.Contains(body, tc.legal) || !strings.Contains(body, tc.by) {
				t.Errorf("got %s %q, want %d with %q and %q", resp.Status, body, tc.status, tc.legal, tc.by)
			}
		})
	}
}
