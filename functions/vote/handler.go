// Package vote is the ballot paper: the OpenFaaS function that shows a poll and captures votes.
//
// In: a GET, answered with a page that works without JavaScript and a signed token as a cookie. A POST of a form or
// of JSON carries that token. Out: one entry per vote in the stream of this node's Redis, and a signed receipt.
//
// It confirms a vote only after Redis, which syncs its log first, has answered for that vote. A vote that it did not
// confirm can be sent again without harm, because it keeps its sequence. The id in the voter's cookie goes nowhere:
// the stream gets a keyed hash of it, logs and metrics get neither.
//
// A receipt names the vote's place, the incarnation and entry of a stream, so that the results can look the vote up.
// Type receipt has its form.
//
// Reading order:
//
//	handler.go                routes
//	visit.go                  what came in: poll, cookies, token, choice
//	ballot.go                 what a voter sent
//	capture.go                batches
//	appender.go               the stream of this node
//	copies.go, peers.go       the second copy
//	receipt.go                the receipt
//	answer.go, page.go        what the voter sees
//	code.go, codes.go         a ballot code, and how it is found among a poll's
package vote

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// handler serves the function. It is safe for concurrent use.
type handler struct {
	keys    *keys
	papers  map[string]*ballotPaper
	polls   []poll
	slugs   string
	codes   map[string]*codeList
	images  map[string]image
	trusted int
	// sharesVoters: there is a poll whose voters may come from several browsers.
	sharesVoters bool
	capture      *capture
	gate         *gate
	stats        *stats
	logger       *slog.Logger
	origins      *origins
	end          context.CancelFunc // ends the probe and the readers of keys
	logins       sync.WaitGroup
	now          func() time.Time
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
		keys: c.keys, papers: map[string]*ballotPaper{}, polls: c.polls, codes: map[string]*codeList{}, trusted: c.trusted,
		gate: newGate(logger), stats: &stats{}, logger: logger,
		origins: c.origins, now: time.Now,
	}
	var err error
	if h.images, err = readImages(c.imageFiles); err != nil {
		return nil, err
	}
	slugs := make([]string, len(c.polls))
	for i := range c.polls {
		slugs[i] = c.polls[i].Slug
		if err := h.prepare(&c.polls[i], c); err != nil {
			return nil, fmt.Errorf("preparing poll %s: %w", slugs[i], err)
		}
	}
	h.slugs = strings.Join(slugs, ", ")
	h.capture = newCapture(newAppender(c.socket, c.user, c.password), h.gate, h.stats)
	ctx, h.end = context.WithCancel(ctx)
	if c.copies != oneCopy {
		h.capture.copies = newCopier(c.copies, h.capture.appender, newPeers(c, h.capture.appender.own, logger), h.stats)
	}
	h.capture.start(ctx)
	for _, paper := range h.papers {
		if paper.login != nil {
			h.logins.Go(func() { paper.login.run(ctx) })
		}
	}
	logger.Info("vote starting", "polls", slugs, "redis_socket", c.socket, "redis_user", c.user, "signing_key", c.keys.signing.kid,
		"public_origins", c.origins.public, "results_url", c.resultsURL, "trusted_proxies", c.trusted, "copies", c.copies.String())
	return h, nil
}

// prepare makes what a poll's pages and voters need.
func (h *handler) prepare(p *poll, c config) error {
	paper, err := h.newPaper(p, c.polls, c.resultsURL)
	if err != nil {
		return err
	}
	for _, o := range p.Options {
		if o.Image != "" && h.images[o.Image].data == nil {
			return fmt.Errorf("option %s: there is no file functions/vote/images/%s", o.Slug, o.Image)
		}
	}
	paper.limits = newLimiters(p.Limits)
	switch p.Mode {
	case modeOnce:
		if h.codes[p.Slug], err = readCodes(c.codeFiles, p.Slug); err != nil {
			return err
		}
	case modeSSO:
		paper.login = newLogin(p.SSO, h.logger, h.now)
	}
	h.sharesVoters = h.sharesVoters || p.sharesVoters()
	h.papers[p.Slug] = paper
	return nil
}

// Ready is nil while this node's Redis, and as many others as the setting copies demands, take votes.
func (h *handler) Ready() error { return h.capture.ready() }

// Shutdown sends what is queued and closes the connections.
func (h *handler) Shutdown(ctx context.Context) error {
	h.end()
	h.logins.Wait() // their requests end with the context
	return h.capture.close(ctx)
}

// ServeHTTP routes by path and method. GET never votes.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setHeaders(w.Header())
	v := h.newVisit(w, r)
	defer v.free()
	path := r.URL.Path
	switch {
	case path != "/" && path != "" && path != "/openapi.json" && !strings.HasPrefix(path, "/receipt/"):
		h.answerProblem(v, newProblem(http.StatusNotFound, "not_found"))
	case r.Method == http.MethodPost && len(path) <= 1:
		h.vote(v)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		allowed := "GET, HEAD"
		if len(path) <= 1 {
			allowed += ", POST"
		}
		w.Header().Set("Allow", allowed)
		h.answerProblem(v, newProblem(http.StatusMethodNotAllowed, "bad_method", allowed))
	case path == "/openapi.json":
		w.Header()["Content-Type"] = jsonType
		send(w, http.StatusOK, openAPI)
	case len(path) > 1:
		h.verify(v)
	default:
		h.show(v)
	}
}

// show answers GET: the page, an image of it, or the polls as JSON. Whoever has no valid token gets one.
func (h *handler) show(v *visit) {
	if name := v.query.Get("image"); name != "" {
		h.answerImage(v, name)
		return
	}
	if v.paper == nil && v.slug != "" {
		h.answerProblem(v, h.unknownPoll(v.slug))
		return
	}
	if v.known() {
		h.advanceToken(v)
	} else {
		h.giveToken(v)
	}
	if v.answer == jsonAnswer {
		h.answerPolls(v)
		return
	}
	h.answerPage(v, http.StatusOK, nil)
}

// vote answers POST. The order of the checks is that of their cost, and nothing is stored before all have passed.
func (h *handler) vote(v *visit) {
	b, chosen, identity, p := h.judge(v)
	if p != nil {
		h.reject(v, p)
		return
	}
	seq, p := h.sequence(v, b)
	if p != nil {
		h.reject(v, p)
		return
	}
	poll, voter := v.paper.poll, v.paper.pseudonym(identity)
	if poll.KeepsFirst() {
		switch v.standing = h.standingOf(v, voter); {
		case v.standing.pending && v.standing.chosen != chosen.option:
			h.reject(v, newProblem(http.StatusConflict, "pending", v.standing.chosen.Name))
			return
		case v.standing.chosen != nil && !v.standing.pending:
			h.answerKept(v)
			return
		}
	}
	at, err := h.capture.add(v.r.Context(), v.paper.args, chosen.arg, voter, seq, v.received)
	if err != nil {
		note := receipt{poll: poll.ID, voter: voter, seq: seq}
		h.answerNotRecorded(v, seq, h.keys.signReceipt(note, v.token.voter, chosen.option.ID), err)
		return
	}
	h.stats.recorded.Add(1)
	text := h.setVoted(v, receipt{poll: poll.ID, voter: voter, seq: seq, incarnation: at.incarnation, entry: at.id}, chosen.option.ID)
	h.answerRecorded(v, chosen.option, seq, text)
}

// setVoted gives the browser the token of the next vote and the receipt of this one, whose text it returns.
func (h *handler) setVoted(v *visit, r receipt, choice int16) string {
	v.token.seq, v.token.exp = min(r.seq+1, maxSeq), v.now.Add(tokenLife).Unix()
	out := v.cookies.end(h.keys.appendToken(v.cookies.begin(v.scratch[:0], tokenName), v.token), life)
	second := len(out)
	out = v.cookies.begin(out, v.paper.receiptCookie)
	from := len(out)
	out = h.keys.appendReceipt(out, r, v.token.voter, choice)
	to := len(out)
	v.scratch = v.cookies.end(out, life)
	lines := string(v.scratch)
	v.w.Header()["Set-Cookie"] = []string{lines[:second], lines[second:]}
	return lines[from:to]
}

// judge reads a ballot and says for what it is and who votes, or why it cannot count.
func (h *handler) judge(v *visit) (b ballot, chosen *paperOption, identity string, p *problem) {
	if !h.origins.allows(v.r) {
		return b, nil, "", h.refuseForeign(v)
	}
	if v.body == otherBody {
		return b, nil, "", &problem{status: http.StatusUnsupportedMediaType, code: "bad_type",
			text: "The Content-Type must be application/x-www-form-urlencoded or application/json."}
	}
	if b, p = readBallot(v); p != nil {
		return b, nil, "", p
	}
	v.code = b.code
	if !v.known() {
		if b.poll != "" {
			v.paper = h.papers[b.poll]
		}
		return b, nil, "", h.noToken(v)
	}
	if chosen, p = h.find(v, b); p != nil {
		return b, nil, "", p
	}
	if bound := v.paper.limits.network; bound != nil {
		if p = v.limit(bound, v.network(h.trusted)); p != nil {
			return b, nil, "", p
		}
	}
	if identity, p = h.identify(v, b); p != nil {
		return b, nil, "", p
	}
	return b, chosen, identity, v.limit(v.paper.limits.voter, identity)
}

// sequence decides the vote's place among the voter's votes. It is the token's sequence, or the form's if that is
// higher. A slow reply to an older press may have put an older cookie back. The nonce signs the form's sequence. A
// form that stayed open in another tab has a lower sequence. Submitting it still makes the newest vote.
func (h *handler) sequence(v *visit, b ballot) (int64, *problem) {
	if v.body != formBody || (b.nonce == "" && !v.fromBrowser()) {
		return v.token.seq, nil
	}
	if b.seq == 0 || !h.keys.nonceValid(b.nonce, v.token.voter, v.paper.poll.ID, b.seq) {
		return 0, newProblem(http.StatusForbidden, "stale_form")
	}
	return max(v.token.seq, b.seq), nil
}

// unknownPoll refuses a poll that is not in the poll file.
func (h *handler) unknownPoll(slug string) *problem {
	return newProblem(http.StatusNotFound, "unknown_poll", quoted(slug), h.slugs)
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
