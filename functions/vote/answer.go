package vote

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Header values that every reply shares; nothing may write into them.
var (
	noStore     = []string{"no-store"}
	varyCookie  = []string{"Cookie, Accept"}
	policyValue = []string{policy}
	noSniff     = []string{"nosniff"}
	// same-origin, not no-referrer: with the latter browsers send "Origin: null" with the form.
	referrer   = []string{"same-origin"}
	htmlType   = []string{"text/html; charset=utf-8"}
	jsonType   = []string{"application/json"}
	textType   = []string{"text/plain; charset=utf-8"}
	retryAfter = []string{"1"}
)

// setHeaders: a cached Set-Cookie would give many people one identity, hence no-store on everything.
func setHeaders(header http.Header) {
	header["Cache-Control"] = noStore
	header["Vary"] = varyCookie
	header["Content-Security-Policy"] = policyValue
	header["X-Content-Type-Options"] = noSniff
	header["Referrer-Policy"] = referrer
}

func acceptsHTML(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

// wantsJSON: a client that sends JSON or asks for it, and no browser.
func wantsJSON(r *http.Request) bool {
	if strings.Contains(r.Header.Get("Accept"), "application/json") && !acceptsHTML(r) {
		return true
	}
	form, ok := contentType(r)
	return r.Method == http.MethodPost && ok && !form
}

// contentType tells a form from JSON; ok is false for anything else.
func contentType(r *http.Request) (form, ok bool) {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	kind = strings.TrimSpace(kind)
	switch {
	case strings.EqualFold(kind, "application/x-www-form-urlencoded"):
		return true, true
	case strings.EqualFold(kind, "application/json"):
		return false, true
	}
	return false, false
}

func noToken(r *http.Request) *problem {
	text := "Your vote is not recorded yet: your browser had no valid ballot token. It has one now: please press again. " +
		"If you keep seeing this, allow cookies for this site."
	if !acceptsHTML(r) {
		text = "No vote was recorded: the request had no valid token. This reply sets one as a cookie; send it back. " +
			"With curl: curl -c jar -b jar URL, then the same POST with -c jar -b jar."
	}
	return &problem{http.StatusForbidden, "no_token", text}
}

// reject answers a ballot that cannot count, in the sender's language; paper and t may be zero.
func (h *handler) reject(w http.ResponseWriter, r *http.Request, paper *ballotPaper, t token, p *problem) {
	h.stats.rejected.Add(1)
	h.answerFailed(w, r, paper, t, p)
}

// answerForeign refuses a ballot that another site sent. Browsers keep our cookie out of such a request and would
// still store one from its answer, so there is no new token: it would replace the voter's own and with it the identity
// that keeps a vote from counting twice. The page leads to the ballot instead of holding one.
func (h *handler) answerForeign(w http.ResponseWriter, r *http.Request) {
	h.stats.rejected.Add(1)
	p := &problem{http.StatusForbidden, "cross_origin", "This ballot came from another site. Open the ballot here and press again."}
	if wantsJSON(r) || !acceptsHTML(r) {
		answerProblem(w, r, p)
		return
	}
	paper := h.asked(r)
	if paper == nil {
		paper = h.current()
	}
	h.sendPage(w, p.status, paper, view{problem: p})
}

// answerFailed shows a browser the ballot again with a note, so that a voter never sees a bare error.
func (h *handler) answerFailed(w http.ResponseWriter, r *http.Request, paper *ballotPaper, t token, p *problem) {
	if wantsJSON(r) || !acceptsHTML(r) {
		answerProblem(w, r, p)
		return
	}
	if paper == nil {
		paper = h.asked(r)
	}
	if paper == nil {
		paper = h.current()
	}
	now := h.now()
	if t.voter == "" {
		c := newCookies(r)
		var err error
		if t, err = h.keys.readToken(c.token(r), now); err != nil {
			t = newToken(now)
			c.setToken(w, h.keys.signToken(t), t.exp-now.Unix())
		}
	}
	h.answerPage(w, r, p.status, paper, t, p)
}

// answerNotRecorded is the 503 of a vote with sequence seq that Redis did not confirm. The token stays as it is, so the
// same request again is the same vote again; a gateway that knows the function to be idempotent sends it first, to
// another replica. The form on the page is of the next sequence if the vote may have been stored: what the voter
// presses there is newer than it, whatever the clocks of the two nodes say.
func (h *handler) answerNotRecorded(w http.ResponseWriter, r *http.Request, paper *ballotPaper, t token, seq int64, err error) {
	p := &problem{http.StatusServiceUnavailable, "unconfirmed",
		"Your vote is not confirmed. Please press again: it counts once, however often you press."}
	t.seq = seq
	if errors.Is(err, errNotStored) {
		h.stats.refused.Add(1)
		p.code, p.text = "try_again", "Your vote could not be recorded just now. Please press again."
	} else {
		h.stats.unconfirmed.Add(1)
		t.seq = min(seq+1, maxSeq)
	}
	w.Header()["Retry-After"] = retryAfter
	h.answerFailed(w, r, paper, t, p)
}

var pages = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

func (h *handler) answerPage(w http.ResponseWriter, r *http.Request, status int, paper *ballotPaper, t token, p *problem) {
	v := view{token: t, problem: p, nonce: h.keys.nonce(t.voter, paper.poll.ID, t.seq)}
	if text := newCookies(r).receipt(r, paper.poll.ID); text != "" {
		if v.chosen = h.keys.chosen(text, t.voter, paper.poll); v.chosen != nil {
			v.receipt = text
		}
	}
	h.sendPage(w, status, paper, v)
}

func (h *handler) sendPage(w http.ResponseWriter, status int, paper *ballotPaper, v view) {
	buffer := pages.Get().(*[]byte)
	page := paper.page((*buffer)[:0], v, h.now())
	w.Header()["Content-Type"] = htmlType
	send(w, status, page)
	*buffer = page
	pages.Put(buffer)
}

// answerRecorded confirms: a form's sender is redirected, so that reloading the page does not post again.
func (h *handler) answerRecorded(w http.ResponseWriter, r *http.Request, paper *ballotPaper, chosen *option, seq int64, receipt string) {
	if !wantsJSON(r) {
		// A query alone, because the address under which the browser knows this function is the gateway's affair.
		w.Header()["Location"] = []string{"?poll=" + paper.poll.Slug}
		w.Header()["Content-Type"] = textType
		send(w, http.StatusSeeOther, []byte("Recorded: "+chosen.Slug+". Receipt: "+receipt+"\n"))
		return
	}
	out := make([]byte, 0, 512) // every value is of characters that JSON leaves as they are
	out = append(out, `{"status":"recorded","poll":"`...)
	out = append(out, paper.poll.Slug...)
	out = append(out, `","choice":"`...)
	out = append(out, chosen.Slug...)
	out = append(out, `","seq":`...)
	out = strconv.AppendInt(out, seq, 10)
	out = append(out, `,"receipt":"`...)
	out = append(out, receipt...)
	out = append(out, "\"}\n"...)
	w.Header()["Content-Type"] = jsonType
	send(w, http.StatusOK, out)
}

// answerPolls lists the polls for programs.
func (h *handler) answerPolls(w http.ResponseWriter, now time.Time) {
	type listed struct {
		poll
		State string `json:"state"`
	}
	reply := struct {
		Polls []listed `json:"polls"`
	}{Polls: make([]listed, len(h.polls))}
	for i, p := range h.polls {
		reply.Polls[i] = listed{poll: p, State: p.state(now)}
	}
	answerJSON(w, http.StatusOK, reply)
}

// verify answers GET /receipt/<receipt>: whether this system signed it. Whether the vote is counted is not known here.
func (h *handler) verify(w http.ResponseWriter, r *http.Request) {
	receipt, _, ok := h.keys.readReceipt(strings.TrimPrefix(r.URL.Path, "/receipt/"))
	if !ok {
		answerProblem(w, r, &problem{http.StatusNotFound, "bad_receipt", "This receipt is not one of ours."})
		return
	}
	answerJSON(w, http.StatusOK, map[string]any{
		"status": "signed", "poll_id": receipt.poll, "seq": receipt.seq, "entry": receipt.entry, "replica": receipt.replica,
	})
}

func answerProblem(w http.ResponseWriter, r *http.Request, p *problem) {
	if wantsJSON(r) {
		answerJSON(w, p.status, map[string]string{"status": "error", "code": p.code, "message": p.text})
		return
	}
	w.Header()["Content-Type"] = textType
	send(w, p.status, []byte(p.text+"\n"))
}

func answerJSON(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, "encoding the answer", http.StatusInternalServerError)
		return
	}
	w.Header()["Content-Type"] = jsonType
	send(w, status, append(body, '\n'))
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body) // The client may be gone; there is nobody to tell.
}
