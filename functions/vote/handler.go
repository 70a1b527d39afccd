// Package vote is the ballot paper: the OpenFaaS function that shows a poll and captures votes.
//
// In: a GET, answered with a page that works without JavaScript and a signed token as a cookie; a POST of a form or
// of JSON with that token. Out: one entry per vote in the stream of this node's Redis, and a signed receipt.
// It guarantees that it confirms a vote only after Redis, which syncs its log first, has answered for that vote;
// that a vote it did not confirm can be sent again without harm, because it keeps its sequence; and that the id in
// the voter's cookie goes nowhere: the stream gets a keyed hash of it, logs and metrics get neither.
//
// A receipt names the vote's place, the incarnation and entry of a stream, so that the results can look the vote up;
// type receipt has its form.
package vote

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// handler serves the function. It is safe for concurrent use.
type handler struct {
	keys    *keys
	papers  map[string]*ballotPaper
	polls   []poll
	capture *capture
	gate    *gate
	stats   *stats
	logger  *slog.Logger
	origins *origins
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
		keys: c.keys, papers: map[string]*ballotPaper{}, polls: c.polls,
		gate: newGate(logger), stats: &stats{}, logger: logger,
		origins: c.origins, now: time.Now,
	}
	for i := range c.polls {
		paper, err := newPaper(&c.polls[i], c.polls, c.keys, c.resultsURL)
		if err != nil {
			return nil, fmt.Errorf("preparing poll %s: %w", c.polls[i].Slug, err)
		}
		h.papers[paper.poll.Slug] = paper
	}
	h.capture = newCapture(newAppender(c.socket, c.user, c.password), h.gate, h.stats)
	ctx, h.end = context.WithCancel(ctx)
	h.capture.start(ctx)
	logger.Info("vote starting", "polls", h.slugs(), "redis_socket", c.socket, "redis_user", c.user, "signing_key", c.keys.signing.kid,
		"public_origins", c.origins.public, "results_url", c.resultsURL)
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
	v := h.newVisit(w, r)
	switch {
	case strings.HasPrefix(r.URL.Path, "/receipt/"):
		if v.allow(http.MethodGet, http.MethodHead) {
			h.verify(v)
		}
	case r.URL.Path != "/" && r.URL.Path != "":
		v.answerProblem(&problem{http.StatusNotFound, "not_found", "There is nothing here; the ballot is at the function's root."})
	case r.Method == http.MethodPost:
		h.vote(v)
	case v.allow(http.MethodGet, http.MethodHead, http.MethodPost):
		h.show(v)
	}
}

func (v *visit) allow(methods ...string) bool {
	if slices.Contains(methods, v.r.Method) {
		return true
	}
	v.w.Header().Set("Allow", strings.Join(methods, ", "))
	v.answerProblem(&problem{http.StatusMethodNotAllowed, "bad_method", "Only " + strings.Join(methods, ", ") + "."})
	return false
}

// show answers GET: the page, or the polls as JSON. Whoever has no valid token gets one.
func (h *handler) show(v *visit) {
	if v.paper == nil && v.slug != "" {
		v.answerProblem(h.unknownPoll(v.slug))
		return
	}
	h.giveToken(v)
	if v.answer == jsonAnswer {
		h.answerPolls(v)
		return
	}
	h.answerPage(v, http.StatusOK, nil)
}

// vote answers POST. The order of the checks is that of their cost, and nothing is stored before all have passed.
func (h *handler) vote(v *visit) {
	if !h.origins.allows(v.r) {
		h.answerForeign(v)
		return
	}
	if v.body == otherBody {
		h.reject(v, &problem{http.StatusUnsupportedMediaType, "bad_type",
			"The Content-Type must be application/x-www-form-urlencoded or application/json."})
		return
	}
	b, p := readBallot(v)
	if p != nil {
		h.reject(v, p)
		return
	}
	if !v.known() {
		if b.poll != "" {
			v.paper = h.papers[b.poll]
		}
		h.reject(v, v.noToken())
		return
	}
	chosen, p := h.find(v, b)
	if p != nil {
		h.reject(v, p)
		return
	}
	seq, p := h.sequence(v, b)
	if p != nil {
		h.reject(v, p)
		return
	}
	poll, voter := v.paper.poll, v.paper.pseudonym(v.token.voter)
	at, err := h.capture.add(v.paper.args, chosen.arg, voter, seq, v.now)
	if err != nil {
		h.answerNotRecorded(v, seq, err)
		return
	}
	h.stats.recorded.Add(1)
	receipt := h.keys.signReceipt(receipt{poll: poll.ID, voter: voter, seq: seq, incarnation: at.incarnation, entry: at.id},
		v.token.voter, chosen.option.ID)
	v.token.seq, v.token.exp = min(seq+1, maxSeq), v.now.Add(tokenLife).Unix()
	v.cookies.setVoted(v.w, h.keys.signToken(v.token), receipt, poll.ID)
	h.answerRecorded(v, chosen.option, seq, receipt)
}

// sequence decides the vote's place among the voter's votes. It is the token's sequence, or the form's if that is higher:
// a slow reply to an older press may have put an older cookie back. The nonce signs the form's sequence.
// A form that stayed open in another tab has a lower sequence; pressing it is the voter's newest wish all the same.
func (h *handler) sequence(v *visit, b ballot) (int64, *problem) {
	if v.body != formBody || (b.nonce == "" && !v.fromBrowser()) {
		return v.token.seq, nil
	}
	if b.seq == 0 || !h.keys.nonceValid(b.nonce, v.token.voter, v.paper.poll.ID, b.seq) {
		return 0, &problem{http.StatusForbidden, "stale_form",
			"This ballot paper was not made for this browser, or is too old. Here is a new one: please press again."}
	}
	return max(v.token.seq, b.seq), nil
}

// unknownPoll refuses a poll that is not in the poll file.
func (h *handler) unknownPoll(slug string) *problem {
	return &problem{http.StatusNotFound, "unknown_poll",
		fmt.Sprintf("There is no poll %s; there are: %s.", quoted(slug), strings.Join(h.slugs(), ", "))}
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
