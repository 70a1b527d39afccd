package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// requests are the lines about requests, decoded.
func (b *lockedBuffer) requests(t *testing.T) (all []map[string]any) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry["msg"] == "request" {
			all = append(all, entry)
		}
	}
	return all
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	log := &lockedBuffer{}
	r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) })
	e := start(t, func(c *Config) {
		c.AccessLog, c.Logger = 1000, slog.New(slog.NewJSONHandler(log, nil))
	}, function("f", r))
	for _, raw := range []string{
		"POST /function/f/a%2Fb?voter=7 HTTP/1.1\r\nHost: h\r\nX-Call-Id: mine\r\nCookie: secret\r\n\r\n",
		"GET /function/nobody HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /bad path HTTP/1.1\r\nHost: h\r\n\r\n",
	} {
		e.exchange(t, raw)
	}
	e.stop() // each line is written by then
	got := log.requests(t)
	// A line is written after its answer, so that those of two connections may come in any order.
	for _, want := range []map[string]any{
		{"method": "POST", "path": "/function/f/a%2Fb", "status": 201.0, "function": "f.openfaas-fn", "call_id": "mine", "tries": 1.0},
		{"method": "GET", "path": "/function/nobody", "status": 404.0},
		{"method": "GET", "path": "/healthz", "status": 200.0},
		{"method": "", "path": "", "status": 400.0},
	} {
		if !slices.ContainsFunc(got, func(line map[string]any) bool {
			for key, value := range want {
				if line[key] != value {
					return false
				}
			}
			return true
		}) {
			t.Errorf("no line is as %v; there are %v", want, got)
		}
	}
	if len(got) != 4 {
		t.Errorf("%d lines, want 4", len(got))
	}
	for _, line := range got {
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		for _, private := range []string{"127.0.0.1", "voter", "secret"} {
			if bytes.Contains(text, []byte(private)) {
				t.Errorf("the log tells %q: %s", private, text)
			}
		}
	}
}

func TestNoLineByDefault(t *testing.T) {
	t.Parallel()
	log := &lockedBuffer{}
	e := start(t, func(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(log, nil)) })
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
	readResponse(t, in, "GET")
	e.stop()
	if got := log.requests(t); len(got) > 0 {
		t.Errorf("logged %v", got)
	}
}

func TestSampler(t *testing.T) {
	t.Parallel()
	s := sampler{most: 3}
	second := time.Unix(1_700_000_000, 0)
	for _, step := range []struct {
		after  time.Duration
		events int
		passed int
		told   uint64
	}{
		{0, 2, 2, 0}, {100 * time.Millisecond, 5, 1, 0}, {999 * time.Millisecond, 1, 0, 0},
		{time.Second, 1, 1, 5}, {time.Second, 9, 2, 0}, {time.Hour, 1, 1, 7},
	} {
		passed, told := 0, uint64(0)
		for range step.events {
			ok, skipped := s.take(second.Add(step.after))
			if ok {
				passed++
			}
			told += skipped
		}
		if passed != step.passed || told != step.told {
			t.Errorf("after %s: %d passed and told of %d, want %d and %d", step.after, passed, told, step.passed, step.told)
		}
	}
	var group sync.WaitGroup
	busy := sampler{most: 100}
	var mu sync.Mutex
	var passed, told uint64
	for range 8 {
		group.Go(func() {
			for range 1000 {
				ok, skipped := busy.take(second)
				mu.Lock()
				if ok {
					passed++
				}
				told += skipped
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if _, rest := busy.take(second.Add(time.Second)); passed != 100 || told+rest != 7900 {
		t.Errorf("%d passed and %d were told of, want 100 and 7900", passed, told+rest)
	}
}
