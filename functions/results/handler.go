// Package results is the count: the OpenFaaS function that shows each poll's tally and the ledger behind it.
//
// In: a GET. Out: a page that works without JavaScript, or JSON, read from the tally's views in Postgres as a role
// that may read nothing else. It guarantees that an answer is at most a second old or marked stale with its time,
// that tally and ledger are of one moment, that Postgres is asked at most once a second however many look, and that
// a poll with results "closed" shows nothing before it closes.
package results

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// handler serves the function. It is safe for concurrent use.
type handler struct {
	store *store
	cache *cache
}

// New is the function's start: see README.md of the template go-http. Postgres need not be there yet.
func New(ctx context.Context) (http.Handler, error) {
	c, err := configFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	return newHandler(ctx, c, slog.Default())
}

func newHandler(ctx context.Context, c config, logger *slog.Logger) (*handler, error) {
	poolConfig, err := c.pool()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("preparing the connections to Postgres: %w", err)
	}
	h := &handler{store: &store{pool: pool}}
	h.cache = &cache{read: h.store.read, logger: logger, render: func(n *count, stale bool) (*answer, error) {
		return renderAnswer(newReport(c.polls, n, time.Now(), stale), c.voteURL)
	}}
	logger.Info("results starting", "polls", len(c.polls), "postgres_host", c.host, "postgres_port", c.port,
		"postgres_database", c.database, "postgres_user", c.user, "postgres_sslmode", c.sslmode)
	return h, nil
}

// Shutdown closes the connections, waiting for a reading that runs.
func (h *handler) Shutdown(ctx context.Context) error {
	closed := make(chan struct{})
	go func() {
		h.store.close()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("closing the connections to Postgres"), ctx.Err())
	}
}

// ServeHTTP answers GET / in the form that was asked for.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", policy)
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Vary", "Accept")
	header.Set("Cache-Control", "no-store")
	if r.URL.Path != "/" && r.URL.Path != "" {
		http.Error(w, "There is nothing here; the results are at the function's root.", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "Only GET and HEAD.", http.StatusMethodNotAllowed)
		return
	}
	query := r.URL.Query()
	asJSON := strings.Contains(r.Header.Get("Accept"), "application/json") && !strings.Contains(r.Header.Get("Accept"), "text/html")
	switch format := query.Get("format"); format {
	case "":
	case "json", "html":
		asJSON = format == "json"
	default:
		http.Error(w, fmt.Sprintf("format=%s: must be json or html.", quoted(format)), http.StatusBadRequest)
		return
	}
	a := h.cache.get(r.Context())
	switch {
	case a == nil:
		header.Set("Retry-After", "2")
		answerUnavailable(w, asJSON)
	case asJSON:
		send(w, "application/json", a.json)
	case query.Get("live") == "0":
		send(w, "text/html; charset=utf-8", a.still)
	default:
		send(w, "text/html; charset=utf-8", a.moving)
	}
}

func send(w http.ResponseWriter, kind string, body []byte) {
	header := w.Header()
	header.Set("Cache-Control", "public, max-age=1")
	header.Set("Content-Type", kind)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // The client may be gone; there is nobody to tell.
}

// answerUnavailable is for a replica that has never read a count. The page asks again by itself.
func answerUnavailable(w http.ResponseWriter, asJSON bool) {
	kind, body := "text/html; charset=utf-8", `<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3">`+
		"<title>Results</title><p>The count cannot be read just now. Votes are being recorded all the same; this page tries again by itself.</p></html>\n"
	if asJSON {
		kind, body = "application/json", `{"status":"error","code":"unavailable","message":"The count cannot be read just now."}`+"\n"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write([]byte(body))
}
