// Package results is the count: the OpenFaaS function that shows each poll's tally and the ledger behind it.
//
// In: a GET. Out: pages that work without JavaScript and refresh themselves with it, JSON, CSV or a stream of
// server-sent events. They are made from the tally's views in Postgres by a role that may read nothing else. For a
// receipt the answer is what became of its vote.
//
// It guarantees that an answer is at most a few seconds old or marked stale with its time. Tally and ledger are of
// one moment. A poll is called final, and the ledger whole, only when nothing is known that may still change it. All
// replicas together read the count from Postgres about once a second, however many readers there are. A poll with results
// "closed" shows nothing before it closes.
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
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// handler serves the function. It is safe for concurrent use.
type handler struct {
	polls    []poll
	links    links
	logger   *slog.Logger
	receipts *receiptStore

	view    atomic.Pointer[view]
	first   chan struct{} // closed when there is a view
	end     context.CancelFunc
	watch   sync.WaitGroup
	streams atomic.Int64
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
	h := &handler{polls: c.polls, links: links{vote: c.voteURL}, logger: logger, receipts: newReceiptStore(pool), first: make(chan struct{})}
	w := &watcher{publish: h.publish, logger: logger, dial: func(ctx context.Context) (link, error) {
		return dial(ctx, poolConfig.ConnConfig, c.polls)
	}}
	if c.siblings != "" {
		w.fallback = siblings{address: c.siblings, polls: c.polls}.count
	}
	ctx, h.end = context.WithCancel(ctx)
	h.watch.Go(func() { w.run(ctx) })
	logger.Info("results starting", "polls", len(c.polls), "postgres_host", c.host, "postgres_port", c.port,
		"postgres_database", c.database, "postgres_user", c.user, "postgres_sslmode", c.sslmode, "siblings", c.siblings)
	return h, nil
}

// Shutdown closes the connections, waiting for what runs.
func (h *handler) Shutdown(ctx context.Context) error {
	h.end()
	closed := make(chan struct{})
	go func() {
		h.watch.Wait()
		h.receipts.close()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("closing the connections to Postgres"), ctx.Err())
	}
}

// publish makes a count what everybody sees. One goroutine calls it.
func (h *handler) publish(c *count, stale bool) {
	before := h.view.Load()
	// Postgres's clock, so that all replicas say the same of polls and ages; nearly ours while it does not answer.
	now := c.asOf
	if stale && time.Now().After(now) {
		now = time.Now()
	}
	v, err := newView(newReport(h.polls, c, now, stale), h.links, before)
	if err != nil {
		h.logger.Error("preparing the results failed", "error", err)
		return
	}
	h.view.Store(v)
	if before == nil {
		close(h.first)
		return
	}
	before.release()
	close(before.newer)
}

// current waits for the first view if there is none yet. It returns nil if none comes within the time that a new
// replica needs to reach a Postgres that answers.
func (h *handler) current(ctx context.Context) *view {
	if v := h.view.Load(); v != nil {
		return v
	}
	timer := time.NewTimer(readTimeout)
	defer timer.Stop()
	select {
	case <-h.first:
	case <-timer.C:
	case <-ctx.Done():
	}
	return h.view.Load()
}

// ServeHTTP answers GET / in the form that was asked for.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", policy)
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Vary", "Accept, Accept-Language")
	header.Set("Cache-Control", "no-store")
	q, p := h.question(r)
	switch {
	case p != nil:
	case r.URL.Path != "/" && r.URL.Path != "":
		p = &problem{http.StatusNotFound, "not_found", "There is nothing here; the results are at the function's root."}
	case r.Method == http.MethodOptions:
		allowReading(header)
		header.Set("Allow", methods)
		header.Set("Access-Control-Allow-Methods", methods)
		header.Set("Access-Control-Allow-Headers", "If-None-Match")
		header.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", methods)
		p = &problem{http.StatusMethodNotAllowed, "bad_method", "Only " + methods + "."}
	}
	switch {
	case p != nil:
		p.answer(w, q.form)
	case q.receipt != nil:
		h.answerReceipt(w, r, q)
	default:
		h.answerCount(w, r, q)
	}
}

const methods = "GET, HEAD, OPTIONS"

// allowReading lets pages of other sites read what anybody may read: no cookie is involved.
func allowReading(header http.Header) {
	header.Set("Access-Control-Allow-Origin", "*")
	header.Set("Access-Control-Expose-Headers", "ETag")
}

var contentTypes = map[format]string{
	formatHTML: "text/html; charset=utf-8", formatJSON: "application/json", formatCSV: "text/csv; charset=utf-8; header=present",
	formatEvents: "text/event-stream",
}

func (h *handler) answerCount(w http.ResponseWriter, r *http.Request, q question) {
	v := h.current(r.Context())
	if v == nil {
		answerUnavailable(w, q.form)
		return
	}
	if q.form.format == formatEvents {
		h.stream(w, r, q, v)
		return
	}
	body, err := v.render(q.form)
	if err != nil {
		h.logger.Error("rendering the results failed", "error", err)
		p := &problem{http.StatusInternalServerError, "internal", "The results cannot be shown."}
		p.answer(w, q.form)
		return
	}
	header := w.Header()
	header.Set("Cache-Control", "public, max-age=1")
	header.Set("Content-Type", contentTypes[q.form.format])
	switch q.form.format {
	case formatCSV:
		header.Set("Content-Disposition", `inline; filename="results.csv"`)
		fallthrough
	case formatJSON:
		allowReading(header)
		etag := v.etag(q.form)
		header.Set("ETag", etag)
		if matches(r.Header.Values("If-None-Match"), etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // The client may be gone; there is nobody to tell.
}

// matches reports whether one of the tags of an If-None-Match is ours; the comparison is the weak one of RFC 9110.
func matches(lines []string, etag string) bool {
	for _, tag := range strings.Split(strings.Join(lines, ","), ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" || strings.TrimPrefix(tag, "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// answerUnavailable is for a replica that knows no count. The page asks again by itself.
func answerUnavailable(w http.ResponseWriter, form variant) {
	w.Header().Set("Retry-After", "2")
	if form.format == formatHTML {
		writeTemplate(w, http.StatusServiceUnavailable, "unavailable", struct {
			L     *language
			Style any
		}{form.lang, style})
		return
	}
	p := &problem{http.StatusServiceUnavailable, "unavailable", languages[0].Text("unavailable")}
	p.answer(w, form)
}
