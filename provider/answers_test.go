package main

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Once a function has answered, the call has been made. Only what a retry can mend is made again, whatever the
// standard library makes of the answer.
func TestOddAnswersAreAnswers(t *testing.T) {
	t.Parallel()
	raw := map[string]string{
		"plain":                  "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
		"location that is none":  "HTTP/1.1 303 See Other\r\nLocation: /50% off\r\nContent-Length: 0\r\n",
		"long trailers":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
		"trailer of the framing": "HTTP/1.1 200 OK\r\nTrailer: Content-Length\r\nTransfer-Encoding: chunked\r\n",
		"passed on":              "HTTP/1.1 200 OK\r\nX-OpenFaaS-Internal: other\r\nContent-Length: 0\r\n",
	}
	tails := map[string]string{"long trailers": "2\r\nok\r\n0\r\nX: " + strings.Repeat("x", 5000) + "\r\n\r\n", "trailer of the framing": "0\r\n\r\n"}
	var mu sync.Mutex
	runs := map[string]int{}
	p := newProcess(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_/health" {
			return
		}
		_, _ = io.ReadAll(r.Body)
		id := strings.ReplaceAll(r.Header.Get("X-Call-Id"), "_", " ")
		mu.Lock()
		runs[id]++
		mu.Unlock()
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, raw[id]+"Connection: close\r\n\r\n"+tails[id])
		_ = c.Close()
	}))
	for id := range raw {
		p.submit(t, strings.ReplaceAll(id, " ", "_"), "")
	}
	if dead := p.deadLetters(t); len(dead) != 0 {
		t.Errorf("dead letters: %v", dead)
	}
	mu.Lock()
	defer mu.Unlock()
	for id := range raw {
		if runs[id] != 1 {
			t.Errorf("%s: called %d times", id, runs[id])
		}
	}
}
