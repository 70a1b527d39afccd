package function

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
	"sync"
)

// memory is what a replica remembers of asynchronous calls, by call id.
type memory struct {
	mu        sync.Mutex
	runs      map[string]int    // guarded by mu
	Succeeded map[string]int    // guarded by mu; runs of flaky that succeeded
	Told      map[string]string // guarded by mu; the status that a callback named
}

// remember adds what asynchronous calls are tried with.
func remember(mux *http.ServeMux) {
	m := &memory{runs: map[string]int{}, Told: map[string]string{}, Succeeded: map[string]int{}}
	mux.HandleFunc("/flaky", m.flaky)
	mux.HandleFunc("/note", m.note)
	mux.HandleFunc("/noted", m.noted)
	mux.HandleFunc("/sleep", sleep)
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
