package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"waggle/provider/feed"
)

// A function's own timeouts raise the time it is given, as far as the gateway's bound; a caller from this process keeps
// the time itself.
func TestSilence(t *testing.T) {
	t.Parallel()
	cfg := Config{UpstreamTimeout: time.Minute, MaxUpstreamTimeout: 5 * time.Minute}
	for name, tc := range map[string]struct {
		exec, write time.Duration
		inner       bool
		control     bool
		want        time.Duration
		setting     string
	}{
		"says nothing":       {want: time.Minute, setting: "the gateway's upstream_timeout"},
		"less":               {exec: 5 * time.Second, want: time.Minute, setting: "the gateway's upstream_timeout"},
		"the same":           {exec: time.Minute, want: time.Minute + timeoutMargin, setting: "its own exec_timeout"},
		"more":               {exec: 2 * time.Minute, write: time.Minute, want: 2*time.Minute + timeoutMargin, setting: "its own exec_timeout"},
		"more to write":      {exec: time.Minute, write: 2 * time.Minute, want: 2*time.Minute + timeoutMargin, setting: "its own write_timeout"},
		"beyond the bound":   {exec: time.Hour, want: 5 * time.Minute, setting: "the gateway's max_upstream_timeout"},
		"within the process": {exec: time.Second, inner: true},
		"the provider":       {control: true, want: time.Minute, setting: "the gateway's upstream_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := function("f")
			f.ExecTimeout, f.WriteTimeout = tc.exec, tc.write
			cfg := cfg
			cfg.Table = &feed.Table{Epoch: "test", Revision: 1, Functions: []feed.Function{f}}
			g, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			a := &attempt{request: &request{g: g, c: &conn{g: g, inner: tc.inner}, control: tc.control, set: g.registry.Lookup([]byte("f"))}}
			if got, setting := a.silence(); got != tc.want || setting != tc.setting {
				t.Errorf("got %s by %q, want %s by %q", got, setting, tc.want, tc.setting)
			}
		})
	}
}

func TestFunctionThatIsTooLate(t *testing.T) {
	t.Parallel()
	slow := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * time.Second):
			_, _ = io.WriteString(w, "late")
		case <-r.Context().Done():
		}
	})
	patient := function("patient", slow)
	patient.ExecTimeout = 5 * time.Second
	e := start(t, func(c *Config) { c.UpstreamTimeout = time.Second }, function("f", slow), patient)
	call := func(client *http.Client, name string) (int, string) {
		resp, err := client.Get("http://" + e.addr + "/function/" + name)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if status, body := call(&http.Client{Transport: transport}, "f"); status != 504 || !strings.Contains(body, "1s") || !strings.Contains(body, "upstream_timeout") {
		t.Errorf("too late: %d %q", status, body)
	}
	if status, body := call(&http.Client{Transport: transport}, "patient"); status != 200 || body != "late" {
		t.Errorf("late by its own wish: %d %q", status, body)
	}
	if status, body := call(e.within(t), "f"); status != 200 || body != "late" {
		t.Errorf("called by the queue: %d %q", status, body)
	}
}

// TestLongResponseHeads asks for heads of up to the bound, which arrive whole over every version, and for one beyond it.
func TestLongResponseHeads(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		n := map[string]int{"/1": 1 << 10, "/40": 40 << 10, "/63": 63 << 10, "/65": 65 << 10}[r.URL.Path]
		for range n / 1024 {
			w.Header().Add("X-Long", strings.Repeat("x", 1024-len("X-Long: \r\n")))
		}
		_, _ = io.WriteString(w, "body")
	})
	few := function("few", r)
	e := start(t, nil, few)
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	clients := map[string]*http.Client{
		"HTTP/1.1": {Transport: &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 1 << 20}},
		"HTTP/2":   {Transport: &http.Transport{Protocols: &h2c, MaxResponseHeaderBytes: 1 << 20}},
	}
	for version, client := range clients {
		t.Cleanup(client.CloseIdleConnections)
		for path, want := range map[string]int{"/1": 1, "/40": 40, "/63": 63, "/65": 0} {
			resp, err := client.Get("http://" + e.addr + "/function/few" + path)
			if err != nil {
				t.Errorf("%s %s: %v", version, path, err)
				continue
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			switch {
			case want == 0 && (resp.StatusCode != 502 || !strings.Contains(string(body), "max_response_header_bytes")):
				t.Errorf("%s %s: got %s %q", version, path, resp.Status, body)
			case want > 0 && (resp.StatusCode != 200 || len(resp.Header["X-Long"]) != want || string(body) != "body"):
				t.Errorf("%s %s: got %s, %d fields, %q", version, path, resp.Status, len(resp.Header["X-Long"]), body)
			}
		}
	}
}
