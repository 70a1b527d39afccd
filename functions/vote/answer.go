package vote

import (
	_ "embed"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

//go:embed openapi.json
var openAPI []byte

// Header values that every reply shares; nothing may write into them.
var (
	noStore     = []string{"no-store"}
	varyCookie  = []string{"Cookie, Accept, Accept-Language, Authorization"}
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

// noToken refuses a ballot without a valid token: 401 if there was none, 403 if it was another's.
func (h *handler) noToken(v *visit) *problem {
	p := newProblem(http.StatusUnauthorized, "no_token")
	if v.cookies.has(v.r, tokenName) {
		p = newProblem(http.StatusForbidden, "foreign_token")
	}
	if v.answer != pageAnswer {
		p.text = "No vote was recorded: the request had no valid token. This reply sets one as a cookie; send it back. " +
			"With curl: curl -c jar -b jar URL, then the same POST with -c jar -b jar."
	}
	return p
}

// reject answers a ballot that cannot count.
func (h *handler) reject(v *visit, p *problem) {
	h.stats.rejected.Add(1)
	if p.code != "cross_origin" {
		h.answerFailed(v, p)
		return
	}
	// Browsers keep our cookie out of a request of another site, but store one from its answer. A new token would
	// replace the voter's own, and the voter could vote twice; so there is none, and the page links to the ballot.
	if v.answer != pageAnswer {
		h.answerProblem(v, p)
		return
	}
	if v.paper == nil {
		v.paper = h.current()
	}
	h.sendPage(v, p.status, view{problem: p.in(v.language())})
}

// answerFailed shows a browser the ballot again with a note, so that a voter never sees a bare error.
func (h *handler) answerFailed(v *visit, p *problem) {
	switch p.code {
	case "no_login":
		v.w.Header()["Www-Authenticate"] = []string{"Bearer"}
	case "no_token":
		v.w.Header()["Www-Authenticate"] = []string{`Cookie realm="vote"`}
	case "try_again", "unconfirmed":
		v.w.Header()["Retry-After"] = retryAfter
	}
	if v.answer == pageAnswer || !v.known() && p.status != http.StatusNotFound {
		h.giveToken(v)
	}
	if v.answer != pageAnswer {
		h.answerProblem(v, p)
		return
	}
	h.answerPage(v, p.status, p)
}

// answerNotRecorded is the 503 of a vote with sequence seq that Redis did not confirm. The cookie keeps its sequence,
// so the same request again is the same vote. A gateway that knows the function to be idempotent first repeats it on
// another replica. The form on the page has the next sequence. So a new press is newer than this vote, which may have
// been stored, whatever the clocks of the two nodes say. With note the page promises neither this vote nor the one
// before. Where the first vote counts, it keeps the voter to the same choice.
func (h *handler) answerNotRecorded(v *visit, seq int64, note string, err error) {
	p := newProblem(http.StatusServiceUnavailable, "unconfirmed")
	v.token.seq = min(seq+1, maxSeq)
	if errors.Is(err, errNotStored) {
		h.stats.refused.Add(1)
		p.code = "try_again"
	} else {
		h.stats.unconfirmed.Add(1)
		v.cookies.setPending(v.w, note, v.paper.poll.ID)
		v.pending = note
	}
	h.answerFailed(v, p)
}

var pages = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

func (h *handler) answerPage(v *visit, status int, p *problem) {
	if v.paper == nil {
		v.paper = h.current()
	}
	poll := v.paper.poll
	shown := view{token: v.token, code: v.code, nonce: h.keys.nonce(v.token.voter, poll.ID, v.token.seq), kept: poll.KeepsFirst() && v.query.Has("kept")}
	voter := ""
	if poll.Mode == modeSSO {
		// Whoever is signed in sees their own vote, and not that of who used this browser before.
		subject, problem := v.paper.login.subject(v)
		if shown.signedIn = problem == nil; shown.signedIn {
			voter = v.paper.pseudonym(poll.SSO.identity(subject))
		}
	}
	shown.standing = h.standingOf(v, voter)
	if p != nil {
		shown.problem = p.in(v.language())
	}
	h.sendPage(v, status, shown)
}

func (h *handler) sendPage(v *visit, status int, shown view) {
	buffer := pages.Get().(*[]byte)
	page := v.paper.sheets[v.language()].page((*buffer)[:0], shown, v.paper.poll.state(v.now))
	v.w.Header()["Content-Type"] = htmlType
	send(v.w, status, page)
	*buffer = page
	pages.Put(buffer)
}

// answerRecorded confirms. A form's sender is redirected, so that reloading the page does not post again.
func (h *handler) answerRecorded(v *visit, chosen *option, seq int64, receipt string) {
	if v.answer != jsonAnswer {
		v.redirect(v.paper.location, "Recorded: ", chosen.Slug, receipt)
		return
	}
	// Where the first vote of a code or a subject counts, another browser may have sent one: nothing is said then.
	counts := !v.paper.poll.KeepsFirst() || !v.paper.poll.sharesVoters()
	v.answerVote("recorded", counts, counts, chosen.Slug, seq, receipt)
}

// answerKept says that an earlier vote counts and that this press changed nothing.
func (h *handler) answerKept(v *visit) {
	h.stats.kept.Add(1)
	if v.answer != jsonAnswer {
		v.redirect(v.paper.kept, "Unchanged: ", v.standing.chosen.Slug, v.standing.receipt)
		return
	}
	r, _, _ := h.keys.readReceipt(v.standing.receipt)
	v.answerVote("unchanged", true, false, v.standing.chosen.Slug, r.seq, v.standing.receipt)
}

// redirect leads to the poll's page. The location is a query alone: only the gateway knows under which path the browser
// sees this function.
func (v *visit) redirect(location []string, what, choice, receipt string) {
	v.w.Header()["Location"] = location
	v.w.Header()["Content-Type"] = textType
	out := append(v.scratch[:0], what...)
	out = append(out, choice...)
	out = append(out, ". Receipt: "...)
	out = append(out, receipt...)
	v.scratch = append(out, '\n')
	send(v.w, http.StatusSeeOther, v.scratch)
}

// answerVote tells a program what became of a ballot. counts says whether it changed the count, if known says so.
// Every value has only characters that JSON leaves as they are.
func (v *visit) answerVote(status string, known, counts bool, choice string, seq int64, receipt string) {
	out := append(v.scratch[:0], `{"status":"`...)
	out = append(out, status...)
	if known {
		out = append(out, `","counts":`...)
		out = strconv.AppendBool(out, counts)
		out = append(out, `,"poll":"`...)
	} else {
		out = append(out, `","poll":"`...)
	}
	out = append(out, v.paper.poll.Slug...)
	out = append(out, `","choice":"`...)
	out = append(out, choice...)
	out = append(out, `","seq":`...)
	out = strconv.AppendInt(out, seq, 10)
	out = append(out, `,"receipt":"`...)
	out = append(out, receipt...)
	out = append(out, `","reference":"`...)
	out = appendReference(out, receipt)
	v.scratch = append(out, "\"}\n"...)
	v.w.Header()["Content-Type"] = jsonType
	send(v.w, http.StatusOK, v.scratch)
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

// verify answers GET /receipt/<receipt>: whether this system signed it. Whether the vote is counted the results know.
func (h *handler) verify(v *visit) {
	text := strings.TrimPrefix(v.r.URL.Path, "/receipt/")
	receipt, _, ok := h.keys.readReceipt(text)
	if !ok || receipt.entry == "" {
		h.answerProblem(v, newProblem(http.StatusNotFound, "bad_receipt"))
		return
	}
	if v.answer == pageAnswer {
		h.answerBare(v, http.StatusOK, v.language().text("signed"), v.language().text("reference")+": "+reference(text))
		return
	}
	v.answerJSON(http.StatusOK, map[string]any{
		"status": "signed", "poll_id": receipt.poll, "seq": receipt.seq, "incarnation": receipt.incarnation, "entry": receipt.entry,
		"reference": reference(text),
	})
}

// answerProblem is the answer without a ballot.
func (h *handler) answerProblem(v *visit, p *problem) {
	text := p.in(v.language())
	switch v.answer {
	case jsonAnswer:
		v.answerJSON(p.status, map[string]string{"status": "error", "code": p.code, "message": text})
	case pageAnswer:
		if p.code == "unknown_poll" {
			text = v.language().text(p.code) // the page lists the polls by their questions
		}
		h.answerBare(v, p.status, text, "")
	default:
		v.w.Header()["Content-Type"] = textType
		send(v.w, p.status, []byte(text+"\n"))
	}
}

// answerBare is a page without a ballot, which leads to the ballots.
func (h *handler) answerBare(v *visit, status int, title, text string) {
	v.w.Header()["Content-Type"] = htmlType
	send(v.w, status, barePage(v.language(), title, text, v.root(), h.polls))
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

// short is the longest answer of which net/http finds out the length by itself.
const short = 2048

func send(w http.ResponseWriter, status int, body []byte) {
	if len(body) > short {
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // The client may be gone; there is nobody to tell.
}
