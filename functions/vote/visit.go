package vote

import (
	"net/http"
	"strings"
	"time"
)

// visit is one request with what the handler needs to know of it, read once.
type visit struct {
	w       http.ResponseWriter
	r       *http.Request
	now     time.Time
	cookies cookies
	// token is the voter's; without a voter the request had no valid one.
	token token
	// slug is the poll that the address names, or empty. paper is that poll's, or that of the only poll, or nil.
	slug  string
	paper *ballotPaper
	// body is what the Content-Type announces, answer what the client understands.
	body   bodyKind
	answer answerKind
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
	v := &visit{w: w, r: r, now: h.now(), cookies: cookies{secure: h.origins.secure() || isHTTPS(r)}, body: readBodyKind(r)}
	v.answer = v.readAnswerKind()
	v.token = h.readVoter(v)
	v.slug = h.readSlug(r)
	switch {
	case v.slug != "":
		v.paper = h.papers[v.slug]
	case len(h.polls) == 1:
		v.paper = h.papers[h.polls[0].Slug]
	}
	return v
}

// readVoter returns the first valid token: a site beside this one may have set a cookie of the same name, and browsers
// send both, in an order that they choose.
func (h *handler) readVoter(v *visit) token {
	for _, text := range v.cookies.values(v.r, tokenName) {
		if t, err := h.keys.readToken(text, v.now); err == nil {
			return t
		}
	}
	return token{}
}

// readSlug returns the first poll of the query that there is, else the first.
func (h *handler) readSlug(r *http.Request) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	slugs := r.URL.Query()["poll"]
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

// known reports whether the request came with a valid token.
func (v *visit) known() bool { return v.token.voter != "" }

// fromBrowser reports whether a page could have sent the request: each browser's form post has one of these headers.
// Other clients need no nonce, because nobody can trick them into a post.
func (v *visit) fromBrowser() bool {
	h := v.r.Header
	return h["Origin"] != nil || h["Sec-Fetch-Site"] != nil || h["Referer"] != nil || v.answer == pageAnswer
}

// giveToken sets a new token as a cookie if the request had none.
func (h *handler) giveToken(v *visit) {
	if v.known() {
		return
	}
	v.token = newToken(v.now)
	v.cookies.setToken(v.w, h.keys.signToken(v.token), v.token.exp-v.now.Unix())
}
