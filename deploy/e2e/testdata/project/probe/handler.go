// Package function tells the end-to-end tests what it was given, and writes log lines to order.
package function

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// New starts the beat: one line every duration of the environment's beat, if there is one.
func New(ctx context.Context) (http.Handler, error) {
	if text := os.Getenv("beat"); text != "" {
		every, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("reading beat: %w", err)
		}
		go beat(ctx, every)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", echo)
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, os.Getenv(r.URL.Query().Get("name")))
	})
	mux.HandleFunc("/secret", secret)
	mux.HandleFunc("/lines", lines)
	m := &memory{runs: map[string]int{}, Told: map[string]string{}, Succeeded: map[string]int{}}
	mux.HandleFunc("/flaky", m.flaky)
	mux.HandleFunc("/note", m.note)
	mux.HandleFunc("/noted", m.noted)
	mux.HandleFunc("/sleep", sleep)
	return mux, nil
}

// memory is what a replica remembers of asynchronous calls, by call id.
type memory struct {
	mu        sync.Mutex
	runs      map[string]int    // guarded by mu
	Succeeded map[string]int    // guarded by mu; runs of flaky that succeeded
	Told      map[string]string // guarded by mu; the status that a callback named
}

// flaky fails three times in ten, half of that with a time to come back; a call whose id ends in "-doomed" always.
func (m *memory) flaky(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Call-Id")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runs[id]++
	h := fnv.New32a()
	fmt.Fprint(h, id, " ", m.runs[id])
	switch chance := h.Sum32() % 100; {
	case chance < 15 || strings.HasSuffix(id, "-doomed"):
		http.Error(w, "failed", http.StatusInternalServerError)
	case chance < 30:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "busy", http.StatusServiceUnavailable)
	default:
		m.Succeeded[id]++
		fmt.Fprintf(w, "run %d", m.runs[id])
	}
}

// note takes a callback.
func (m *memory) note(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Told[r.Header.Get("X-Call-Id")] = r.Header.Get("X-Function-Status")
}

func (m *memory) noted(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(m)
}

// sleep ends when its caller leaves.
func sleep(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func beat(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for n := 1; ; n++ {
		fmt.Printf("beat %d\n", n)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.RequestURI())
	io.Copy(w, r.Body)
}

func secret(w http.ResponseWriter, r *http.Request) {
	content, err := os.ReadFile(filepath.Join("/var/openfaas/secrets", filepath.Base(r.URL.Query().Get("name"))))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(content)
}

// lines writes a line of each length in the body: letters that follow from length and position, so that a piece that is
// lost or moved shows.
func lines(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, field := range strings.Fields(string(body)) {
		length, err := strconv.Atoi(field)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		line := make([]byte, length+1)
		for i := range length {
			line[i] = byte('a' + (i*i+7*i+length)%26)
		}
		line[length] = '\n'
		if _, err := os.Stdout.Write(line); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	fmt.Fprintln(w, "written")
}
