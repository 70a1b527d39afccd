package vote

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// visit is one request with what the handler needs to know of it, read once.
type visit struct {
	w   http.ResponseWriter
	r   *http.Request
	now time.Time
	// received is when the gateway took the request: a replica that was frozen, or is busy, gets to it later.
	received time.Time
	cookies  cookies
	// token is the voter's; without a voter the request had no valid one.
	token token
	// slug is the poll that the address names, or empty. paper is that poll's, or that of the only poll, or nil.
	slug  string
	paper *ballotPaper
	// query is the address's; code the ballot code that it or the ballot brought.
	query url.Values
	code  string
	// standing is the voter's vote in the paper's poll as far as is known; see standingOf.
	standing standing
	// pending is the note of a vote of this very visit that nobody confirmed.
	pending string
	// tongue is the language of the answer; see language.
	tongue *language
	// body is what the Content-Type announces, answer what the client understands.
	body   bodyKind
	answer answerKind
	// scratch is what the ballot is read into, and then where the answer is made.
	scratch []byte
}

// visits are used again: a vote would need three kilobytes otherwise.
var visits = sync.Pool{New: func() any { return &visit{scratch: make([]byte, 0, maxBody)} }}

// free ends the visit. Nothing that outlives the request may refer to it, or to its scratch.
func (v *visit) free() {
	*v = visit{scratch: v.scratch[:0]}
	visits.Put(v)
}

type bodyKind int

const (
	otherBody bodyKind = iota
	formBody
	jsonBody
)

type answerKind int

const (
	textAnswer answerKind = iota
	pageAnswer
	jsonAnswer
)

func (h *handler) newVisit(w http.ResponseWriter, r *http.Request) *visit {
	v := visits.Get().(*visit)
	v.w, v.r, v.now, v.body = w, r, h.now(), readBodyKind(r)
	v.cookies.secure = h.origins.secure() || isHTTPS(r)
	v.received = received(r, v.now)
	v.answer = v.readAnswerKind()
	v.token = h.readVoter(v)
	if r.URL.RawQuery != "" {
		v.query = r.URL.Query()
		v.slug = h.readSlug(v.query["poll"])
		for _, v.code = range v.query["code"] {
			if _, ok := normalCode(v.code); ok {
				break
			}
		}
	}
	switch {
	case v.slug != "":
		v.paper = h.papers[v.slug]
	case len(h.polls) == 1:
		v.paper = h.papers[h.polls[0].Slug]
	}
	return v
}

// readVoter returns the first valid token. A site beside this one may have set a cookie of the same name, and
// browsers send both, in an order that they choose.
func (h *handler) readVoter(v *visit) token {
	var found token
	v.cookies.each(v.r, tokenName, func(text string) bool {
		t, err := h.keys.readToken(text, v.now)
		if err == nil {
			found = t
		}
		return err == nil
	})
	return found
}

// readSlug returns the first poll that there is, else the first.
func (h *handler) readSlug(slugs []string) string {
	for _, slug := range slugs {
		if h.papers[slug] != nil {
			return slug
		}
	}
	return strings.Join(slugs[:min(1, len(slugs))], "")
}

func readBodyKind(r *http.Request) bodyKind {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	kind = strings.TrimSpace(kind)
	switch {
	case strings.EqualFold(kind, "application/x-www-form-urlencoded"):
		return formBody
	case strings.EqualFold(kind, "application/json"):
		return jsonBody
	}
	return otherBody
}

// readAnswerKind: JSON is for a client that asks for it or sends it, and accepts no page.
func (v *visit) readAnswerKind() answerKind {
	accept := strings.Join(v.r.Header["Accept"], ",")
	page := strings.Contains(accept, "text/html")
	switch {
	case v.r.Method == http.MethodPost && v.body == jsonBody, strings.Contains(accept, "application/json") && !page:
		return jsonAnswer
	case page:
		return pageAnswer
	}
	return textAnswer
}

// language is that of the poll, else the one that the client prefers. It is looked up when it is first needed.
func (v *visit) language() *language {
	code := ""
	if v.paper != nil {
		code = v.paper.poll.Lang
	}
	if v.tongue == nil || code != "" && v.tongue.code != code {
		v.tongue = languageOf(code, strings.Join(v.r.Header["Accept-Language"], ","))
	}
	return v.tongue
}

// root leads from this address to the function's own: links are relative, because only the gateway knows under which
// path the browser sees the function.
func (v *visit) root() string {
	return strings.Repeat("../", max(0, strings.Count(v.r.URL.Path, "/")-1))
}

// known reports whether the request came with a valid token.
func (v *visit) known() bool { return v.token.voter != "" }

// fromBrowser reports whether a page could have sent the request: each browser's form post has one of these headers.
// Other clients need no nonce, because nobody can trick them into a post.
func (v *visit) fromBrowser() bool {
	h := v.r.Header
	return h["Origin"] != nil || h["Sec-Fetch-Site"] != nil || h["Referer"] != nil || v.answer == pageAnswer
}

// received is X-Start-Time, Unix nanoseconds. The gateway sets it and drops what a client sends under that name. It is never
// in the future: a gateway whose clock is ahead must not make a vote that nothing beats.
func received(r *http.Request, now time.Time) time.Time {
	text := r.Header.Get("X-Start-Time")
	if text == "" {
		return now // without the error that parsing it would make
	}
	start, err := strconv.ParseInt(text, 10, 64)
	if at := time.Unix(0, start); err == nil && start > 0 && at.Before(now) {
		return at
	}
	return now
}

// advanceToken gives the voter a sequence above that of every page shown before. A press on an earlier page may have
// got no answer. A press on this page beats it, whenever that one is stored.
func (h *handler) advanceToken(v *visit) {
	v.token.seq, v.token.exp = min(v.token.seq+1, maxSeq), v.now.Add(tokenLife).Unix()
	if h.sharesVoters {
		v.token.seq = max(v.token.seq, v.now.Unix())
	}
	v.cookies.setToken(v.w, h.keys.signToken(v.token), v.token.exp-v.now.Unix())
}

// giveToken sets a new token as a cookie if the request had none. Where voters may come from several browsers, it
// also raises the sequence to the time in seconds. Their cookies do not know each other, so the clock orders their
// votes.
func (h *handler) giveToken(v *visit) {
	now := v.now.Unix()
	switch {
	case !v.known():
		v.token = newToken(v.now)
	case !h.sharesVoters || v.token.seq >= now:
		return
	}
	if h.sharesVoters {
		v.token.seq = max(v.token.seq, now)
	}
	v.cookies.setToken(v.w, h.keys.signToken(v.token), v.token.exp-now)
}
