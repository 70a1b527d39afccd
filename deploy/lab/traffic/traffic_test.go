package traffic

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func slow(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "slow %s\n", r.URL.Query().Get("n"))
}

// server answers calls of function f; it is well.
func server(t *testing.T, answer http.HandlerFunc) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /function/f/slow", answer)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// Each call has a number of its own: an answer that belongs to another call would be noticed.
func TestCallsAreNumbered(t *testing.T) {
	t.Parallel()
	numbers := make(chan string, 100_000) // more than come while the test lasts
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		slow(w, r)
		numbers <- r.URL.Query().Get("n")
	})
	tr := Start(t.Context(), Config{Gateways: []string{url}, Function: "f", PerSecond: 100})
	seen := map[string]bool{}
	for range 100 {
		seen[<-numbers] = true
	}
	calls, failed := tr.Stop()
	if len(seen) != 100 || calls < 100 || len(failed) != 0 {
		t.Errorf("100 of %d calls had %d numbers, %d failed", calls, len(seen), len(failed))
	}
}

func TestCallsGoToGatewaysThatAreWell(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		well []bool
		want string
	}{
		"all":             {[]bool{true, true, true}, "012012"},
		"all but one":     {[]bool{true, false, true}, "022022"},
		"one":             {[]bool{false, true, false}, "111111"},
		"none: as if all": {[]bool{false, false, false}, "012012"},
	} {
		tr := &Traffic{gateways: []string{"0", "1", "2"}, well: make([]atomic.Bool, 3)}
		for i, well := range test.well {
			tr.well[i].Store(well)
		}
		got := ""
		for n := range int64(6) {
			got += tr.pick(n)
		}
		if got != test.want {
			t.Errorf("%s: calls go to %s, want %s", name, got, test.want)
		}
	}
}

func TestEveryWrongAnswerIsAFailure(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"as it should be": slow,
		"another status":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"another text":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "slow") },
		"a cut answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			slow(w, r)
		},
		"no answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		tr := &Traffic{function: "f", client: http.DefaultClient, gateways: []string{server(t, answer)}, answered: map[string]time.Time{}, well: make([]atomic.Bool, 1)}
		tr.call(7)
		if failed := tr.Failures(); len(failed) == 0 != (name == "as it should be") || tr.calls.Load() != 1 {
			t.Errorf("%s: %d calls, failed %v", name, tr.calls.Load(), failed)
		}
	}
}
