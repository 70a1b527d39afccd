package vote

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
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

func (v *visit) noToken() *problem {
	text := "Your vote is not recorded yet: your browser had no valid ballot token. It has one now: please press again. " +
		"If you keep seeing this, allow cookies for this site."
	if v.answer != pageAnswer {
		text = "No vote was recorded: the request had no valid token. This reply sets one as a cookie; send it back. " +
			"With curl: curl -c jar -b jar URL, then the same POST with -c jar -b jar."
	}
	return &problem{http.StatusForbidden, "no_token", text}
}

// reject answers a ballot that cannot count.
func (h *handler) reject(v *visit, p *problem) {
	h.stats.rejected.Add(1)
	h.answerFailed(v, p)
}

// answerForeign refuses a ballot that another site sent. Browsers keep our cookie out of such a request, but store one
// from its answer. A new token would replace the voter's own, and the voter could vote twice; so there is none, and the
// page links to the ballot instead of having a form.
func (h *handler) answerForeign(v *visit) {
	h.stats.rejected.Add(1)
	p := h.refuseForeign(v)
	if v.answer != pageAnswer {
		v.answerProblem(p)
		return
	}
	if v.paper == nil {
		v.paper = h.current()
	}
	h.sendPage(v, p.status, view{problem: p})
}

// answerFailed shows a browser the ballot again with a note, so that a voter never sees a bare error.
func (h *handler) answerFailed(v *visit, p *problem) {
	if v.answer == pageAnswer || p.code == "no_token" {
		h.giveToken(v)
	}
	if v.answer != pageAnswer {
		v.answerProblem(p)
		return
	}
	h.answerPage(v, p.status, p)
}

// answerNotRecorded is the 503 of a vote with sequence seq that Redis did not confirm. The cookie keeps its sequence, so
// the same request again is the same vote again; a gateway that knows the function to be idempotent repeats it first, on
// another replica. If the vote may have been stored, the form on the page has the next sequence: a new press then is
// newer, whatever the clocks of the two nodes say.
func (h *handler) answerNotRecorded(v *visit, seq int64, err error) {
	p := &problem{http.StatusServiceUnavailable, "unconfirmed",
		"Your vote is not confirmed. Please press again: it counts once, however often you press."}
	v.token.seq = seq
	if errors.Is(err, errNotStored) {
		h.stats.refused.Add(1)
		p.code, p.text = "try_again", "Your vote could not be recorded just now. Please press again."
	} else {
		h.stats.unconfirmed.Add(1)
		v.token.seq = min(seq+1, maxSeq)
	}
	v.w.Header()["Retry-After"] = retryAfter
	h.answerFailed(v, p)
}

var pages = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

func (h *handler) answerPage(v *visit, status int, p *problem) {
	if v.paper == nil {
		v.paper = h.current()
	}
	shown := view{token: v.token, problem: p, nonce: h.keys.nonce(v.token.voter, v.paper.poll.ID, v.token.seq)}
	for _, text := range v.cookies.receipts(v.r, v.paper.poll.ID) {
		if shown.chosen = h.keys.chosen(text, v.token.voter, v.paper.poll); shown.chosen != nil {
			shown.receipt = text
			break
		}
	}
	h.sendPage(v, status, shown)
}

func (h *handler) sendPage(v *visit, status int, shown view) {
	buffer := pages.Get().(*[]byte)
	page := v.paper.page((*buffer)[:0], shown, v.now)
	v.w.Header()["Content-Type"] = htmlType
	send(v.w, status, page)
	*buffer = page
	pages.Put(buffer)
}

// answerRecorded confirms. A form's sender is redirected, so that reloading the page does not post again.
func (h *handler) answerRecorded(v *visit, chosen *option, seq int64, receipt string) {
	slug := v.paper.poll.Slug
	if v.answer != jsonAnswer {
		// The location is a query alone: only the gateway knows under which path the browser sees this function.
		v.w.Header()["Location"] = []string{"?poll=" + slug}
		v.w.Header()["Content-Type"] = textType
		send(v.w, http.StatusSeeOther, []byte("Recorded: "+chosen.Slug+". Receipt: "+receipt+"\n"))
		return
	}
	out := make([]byte, 0, 512) // every value has only characters that JSON leaves as they are
	out = append(out, `{"status":"recorded","poll":"`...)
	out = append(out, slug...)
	out = append(out, `","choice":"`...)
	out = append(out, chosen.Slug...)
	out = append(out, `","seq":`...)
	out = strconv.AppendInt(out, seq, 10)
	out = append(out, `,"receipt":"`...)
	out = append(out, receipt...)
	out = append(out, `","reference":"`...)
	out = append(out, reference(receipt)...)
	out = append(out, "\"}\n"...)
	v.w.Header()["Content-Type"] = jsonType
	send(v.w, http.StatusOK, out)
}

// answerPolls lists the polls for programs.
func (h *handler) answerPolls(v *visit) {
	type listed struct {
		poll
		State string `json:"state"`
	}
	reply := struct {
		Polls []listed `json:"polls"`
	}{Polls: make([]listed, len(h.polls))}
	for i, p := range h.polls {
		reply.Polls[i] = listed{poll: p, State: p.state(v.now)}
	}
	v.answerJSON(http.StatusOK, reply)
}

// verify answers GET /receipt/<receipt>: whether this system signed it. Whether the vote is counted is not known here.
func (h *handler) verify(v *visit) {
	receipt, _, ok := h.keys.readReceipt(strings.TrimPrefix(v.r.URL.Path, "/receipt/"))
	if !ok {
		v.answerProblem(&problem{http.StatusNotFound, "bad_receipt", "This receipt is not one of ours."})
		return
	}
	v.answerJSON(http.StatusOK, map[string]any{
		"status": "signed", "poll_id": receipt.poll, "seq": receipt.seq, "incarnation": receipt.incarnation, "entry": receipt.entry,
	})
}

// answerProblem is the bare answer, without a ballot.
func (v *visit) answerProblem(p *problem) {
	if v.answer == jsonAnswer {
		v.answerJSON(p.status, map[string]string{"status": "error", "code": p.code, "message": p.text})
		return
	}
	v.w.Header()["Content-Type"] = textType
	send(v.w, p.status, []byte(p.text+"\n"))
}

func (v *visit) answerJSON(status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(v.w, "encoding the answer", http.StatusInternalServerError)
		return
	}
	v.w.Header()["Content-Type"] = jsonType
	send(v.w, status, append(body, '\n'))
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body) // The client may be gone; there is nobody to tell.
}
