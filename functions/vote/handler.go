// Package vote is the ballot paper: the OpenFaaS function that shows a poll and captures votes.
//
// In: a GET, answered with a page that works without JavaScript and a signed token as a cookie; a POST of a form or
// of JSON with that token. Out: one entry per vote in the stream of this node's Redis, and a signed receipt.
// It guarantees that it confirms a vote only after Redis, which syncs its log first, has answered for that vote;
// that a vote it did not confirm can be sent again without harm, because it keeps its sequence; and that the id in
// the voter's cookie goes nowhere: the stream gets a keyed hash of it, logs and metrics get neither.
package vote

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"
)

// handler serves the function. It is safe for concurrent use.
type handler struct {
	keys    *keys
	papers  map[string]*ballotPaper
	polls   []poll
	replica string
	capture *capture
	gate    *gate
	stats   *stats
	logger  *slog.Logger
	origin  *http.CrossOriginProtection
	end     context.CancelFunc // ends the probe
	now     func() time.Time
}

// New is the function's start: see README.md of the template go-http. ctx ends when the function stops.
func New(ctx context.Context) (http.Handler, error) {
	c, err := configFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	return newHandler(ctx, c, slog.Default())
}

func newHandler(ctx context.Context, c config, logger *slog.Logger) (*handler, error) {
	h := &handler{
		keys: c.keys, papers: map[string]*ballotPaper{}, polls: c.polls, replica: c.replica,
		gate: newGate(logger), stats: &stats{}, logger: logger,
		origin: http.NewCrossOriginProtection(), now: time.Now,
	}
	for i := range c.polls {
		paper, err := newPaper(&c.polls[i], c.polls, c.keys, c.resultsURL)
		if err != nil {
			return nil, fmt.Errorf("preparing poll %s: %w", c.polls[i].Slug, err)
		}
		h.papers[paper.poll.Slug] = paper
	}
	h.capture = newCapture(newStore(c.socket, c.user, c.password), h.gate, h.stats)
	ctx, h.end = context.WithCancel(ctx)
	h.capture.start(ctx)
	logger.Info("vote starting", "polls", h.slugs(), "redis_socket", c.socket, "redis_user", c.user, "signing_key", c.keys.signing.kid)
	return h, nil
}

// Ready is nil while this node's Redis takes votes.
func (h *handler) Ready() error { return h.gate.err() }

// Shutdown sends what is queued and closes the connections.
func (h *handler) Shutdown(ctx context.Context) error {
	h.end()
	return h.capture.close(ctx)
}

// ServeHTTP routes by path and method. GET never votes.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setHeaders(w.Header())
	switch {
	case strings.HasPrefix(r.URL.Path, "/receipt/"):
		if allow(w, r, http.MethodGet, http.MethodHead) {
			h.verify(w, r)
		}
	case r.URL.Path != "/" && r.URL.Path != "":
		answerProblem(w, r, &problem{http.StatusNotFound, "not_found", "There is nothing here; the ballot is at the function's root."})
	case r.Method == http.MethodPost:
		h.vote(w, r)
	case allow(w, r, http.MethodGet, http.MethodHead, http.MethodPost):
		h.show(w, r)
	}
}

func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	answerProblem(w, r, &problem{http.StatusMethodNotAllowed, "bad_method", "Only " + strings.Join(methods, ", ") + "."})
	return false
}

// show answers GET: the page, or the polls as JSON. Whoever has no valid token gets one.
func (h *handler) show(w http.ResponseWriter, r *http.Request) {
	paper := h.asked(r)
	if slug := r.URL.Query().Get("poll"); paper == nil && slug != "" {
		answerProblem(w, r, &problem{http.StatusNotFound, "unknown_poll",
			fmt.Sprintf("There is no poll %s; there are: %s.", quoted(slug), strings.Join(h.slugs(), ", "))})
		return
	}
	if paper == nil {
		paper = h.current()
	}
	c := newCookies(r)
	now := h.now()
	t, err := h.keys.readToken(c.token(r), now)
	if err != nil {
		t = newToken(now)
		c.setToken(w, h.keys.signToken(t), t.exp-now.Unix())
	}
	if wantsJSON(r) {
		h.answerPolls(w, now)
		return
	}
	h.answerPage(w, r, http.StatusOK, paper, t, nil)
}

// vote answers POST. The order of the checks is that of their cost, and nothing is stored before all have passed.
func (h *handler) vote(w http.ResponseWriter, r *http.Request) {
	if !h.sameOrigin(r) {
		h.answerForeign(w, r)
		return
	}
	form, ok := contentType(r)
	if !ok {
		h.reject(w, r, nil, token{}, &problem{http.StatusUnsupportedMediaType, "bad_type",
			"The Content-Type must be application/x-www-form-urlencoded or application/json."})
		return
	}
	b, p := readBallot(w, r, form)
	if p != nil {
		h.reject(w, r, nil, token{}, p)
		return
	}
	now := h.now()
	c := newCookies(r)
	t, err := h.keys.readToken(c.token(r), now)
	if err != nil {
		t = newToken(now)
		c.setToken(w, h.keys.signToken(t), t.exp-now.Unix())
		h.reject(w, r, h.papers[b.poll], t, noToken(r))
		return
	}
	paper, chosen, p := h.find(b, h.asked(r))
	if p != nil {
		h.reject(w, r, paper, t, p)
		return
	}
	seq, p := h.sequence(r, b, t, paper, form)
	if p != nil {
		h.reject(w, r, paper, t, p)
		return
	}
	entry, err := h.capture.add(paper.args, chosen.arg, paper.pseudonym(t.voter), seq, now)
	if err != nil {
		h.answerNotRecorded(w, r, paper, t, seq, err)
		return
	}
	h.stats.recorded.Add(1)
	receipt := h.keys.signReceipt(t.voter, paper.poll.ID, chosen.option.ID, seq, entry, h.replica)
	t.seq, t.exp = min(seq+1, maxSeq), now.Add(tokenLife).Unix()
	c.setVoted(w, h.keys.signToken(t), receipt, paper.poll.ID)
	h.answerRecorded(w, r, paper, chosen.option, seq, receipt)
}

// sequence decides the vote's place among the voter's votes: the token's sequence, or the form's if that is higher,
// as it is when a slow reply to an older press has put an older cookie back. The form's is signed by its nonce.
// A form that stayed open in another tab has a lower one; pressing it is the voter's newest wish all the same.
func (h *handler) sequence(r *http.Request, b ballot, t token, paper *ballotPaper, form bool) (int64, *problem) {
	if !form || (b.nonce == "" && !fromBrowser(r)) {
		return t.seq, nil
	}
	if b.seq == 0 || !h.keys.nonceValid(b.nonce, t.voter, paper.poll.ID, b.seq) {
		return 0, &problem{http.StatusForbidden, "stale_form",
			"This ballot paper was not made for this browser, or is too old. Here is a new one: please press again."}
	}
	return max(t.seq, b.seq), nil
}

// fromBrowser tells whether a page could have sent the request: any browser's form post has one of these.
// Other clients need no nonce, as nobody can trick them into a post.
func fromBrowser(r *http.Request) bool {
	h := r.Header
	return h["Origin"] != nil || h["Sec-Fetch-Site"] != nil || h["Referer"] != nil || acceptsHTML(r)
}

// sameOrigin is http.CrossOriginProtection with the host that the browser saw.
func (h *handler) sameOrigin(r *http.Request) bool {
	host := r.Host
	if forwarded := r.Header.Get("X-Forwarded-Host"); forwarded != "" {
		host = forwarded
	}
	return h.origin.Check(&http.Request{Method: r.Method, Host: host, Header: r.Header, URL: r.URL}) == nil
}

// asked is the poll that the address names, or the only one; else nil.
func (h *handler) asked(r *http.Request) *ballotPaper {
	if r.URL.RawQuery != "" {
		if slug := r.URL.Query().Get("poll"); slug != "" {
			return h.papers[slug]
		}
	}
	if len(h.polls) == 1 {
		return h.papers[h.polls[0].Slug]
	}
	return nil
}

// current is the first poll that is open, or the first.
func (h *handler) current() *ballotPaper {
	for i := range h.polls {
		if h.polls[i].state(h.now()) == "open" {
			return h.papers[h.polls[i].Slug]
		}
	}
	return h.papers[h.polls[0].Slug]
}

func (h *handler) slugs() []string {
	slugs := make([]string, len(h.polls))
	for i := range h.polls {
		slugs[i] = h.polls[i].Slug
	}
	return slugs
}
