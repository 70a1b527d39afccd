package vote

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var hidden = regexp.MustCompile(`name="(poll|seq|nonce)" value="([^"]*)"`)

// press takes the form off a page and fills in a choice.
func press(t *testing.T, page, choice string) string {
	t.Helper()
	found := hidden.FindAllStringSubmatch(page, -1)
	if len(found) != 3 {
		t.Fatalf("no form on the page:\n%s", page)
	}
	body := "choice=" + choice
	for _, field := range found {
		body += "&" + field[1] + "=" + field[2]
	}
	return body
}

func TestABrowserVotesAndChangesItsMind(t *testing.T) {
	t.Parallel()
	b, j := setup(t, nil), jar{}
	page := b.send("GET", "/?poll=pets", "", j, browser)
	if page.Code != 200 || !strings.Contains(page.Body.String(), "Cats or &lt;dogs&gt;?") {
		t.Fatalf("page = %d\n%s", page.Code, page.Body)
	}
	for i, choice := range []string{"cats", "dogs"} {
		voted := b.send("POST", "/?poll=pets", press(t, page.Body.String(), choice), j, browser)
		if voted.Code != 303 || voted.Header().Get("Location") != "?poll=pets" {
			t.Fatalf("vote %d = %d to %q: %s", i, voted.Code, voted.Header().Get("Location"), voted.Body)
		}
		page = b.send("GET", "/?poll=pets", "", j, browser)
		if want := map[string]string{"cats": "Cats", "dogs": "Dogs &amp; co"}[choice]; !strings.Contains(page.Body.String(), `You voted for <strong dir="auto">`+want+"</strong>.") {
			t.Errorf("the page after vote %d does not show %s:\n%s", i, want, page.Body)
		}
		if strings.Count(page.Body.String(), `aria-pressed="true"`) != 1 {
			t.Errorf("the page after vote %d does not mark the one choice", i)
		}
	}
	stored := b.stored()
	if len(stored) != 2 || stored[0][2] != stored[1][2] || stored[0][3] != "1" || stored[1][3] != "2" || stored[0][4] != "1" || stored[1][4] != "3" {
		t.Errorf("stored %v, want one voter's choices 1 and 2 with sequences 1 and 3: the page in between took one", stored)
	}
	if len(stored[0][2]) != 22 || strings.Contains(b.tokenOf(j).voter, stored[0][2]) {
		t.Errorf("the stream's voter is %q", stored[0][2])
	}
}

func TestAnAPIClientVotes(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	j := b.voter()
	code, reply := b.json(`{"poll":"pets","choice":"cats"}`, j)
	if code != 200 || reply["status"] != "recorded" || reply["choice"] != "cats" || reply["seq"] != 1.0 {
		t.Fatalf("vote = %d %v", code, reply)
	}
	receipt := reply["receipt"].(string)
	w := b.send("GET", "/receipt/"+receipt, "", nil, map[string]string{"Accept": "application/json"})
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"entry":"`+b.stored()[0][0]+`","incarnation":"`+b.redis.Incarnation()+`"`) {
		t.Errorf("receipt = %d %s", w.Code, w.Body)
	}
	if w := b.send("GET", "/receipt/"+receipt[:len(receipt)-4]+"AAAA", "", nil, nil); w.Code != 404 {
		t.Errorf("forged receipt = %d", w.Code)
	}
	if strings.Contains(receipt, b.tokenOf(j).voter) || strings.Contains(receipt, "cats") {
		t.Errorf("the receipt tells the voter or the choice: %s", receipt)
	}
	w = b.send("GET", "/", "", nil, map[string]string{"Accept": "application/json"})
	var list struct {
		Polls []struct{ Slug, State string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Polls) != 3 || list.Polls[1].State != "closed" {
		t.Errorf("polls = %s, %v", w.Body, err)
	}
}

func TestBallotsThatCannotCount(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	asJSON := map[string]string{"Content-Type": "application/json"}
	tests := map[string]struct {
		body   string
		header map[string]string
		token  bool
		want   int
		text   string
	}{
		"no token":                     {"poll=pets&choice=cats", nil, false, 401, "curl -c jar -b jar"},
		"no token, JSON":               {`{"poll":"pets","choice":"cats"}`, asJSON, false, 401, `"no_token"`},
		"no token, browser":            {"poll=pets&choice=cats", browser, false, 401, "please press again"},
		"forged token":                 {"poll=pets&choice=cats", map[string]string{"Cookie": "waggle=v1.x.1.1.k1.x"}, false, 403, "No vote was recorded"},
		"browser form without a nonce": {"poll=pets&choice=cats", browser, true, 403, "please press again"},
		"browser form, nonce invented": {"poll=pets&choice=cats&seq=1&nonce=k1.AAAA", browser, true, 403, "please press again"},
		"nonce invented, no browser":   {"poll=pets&choice=cats&seq=1&nonce=k1.AAAA", nil, true, 403, "please press again"},
		"old browser, Referer only":    {"poll=pets&choice=cats", map[string]string{"Referer": "http://evil.example/"}, true, 403, ""},
		"cross-site by Sec-Fetch-Site": {"poll=pets&choice=cats", with(browser, "Sec-Fetch-Site", "cross-site"), true, 403, "another site"},
		"cross-site by Origin":         {"poll=pets&choice=cats", map[string]string{"Origin": "http://evil.example"}, true, 403, "another site"},
		"Origin null":                  {"poll=pets&choice=cats", map[string]string{"Origin": "null"}, true, 403, "another site"},
		"cross-site JSON":              {`{"poll":"pets","choice":"cats"}`, with(asJSON, "Origin", "http://evil.example"), true, 403, `"cross_origin"`},
		"plain text":                   {`{"poll":"pets","choice":"cats"}`, map[string]string{"Content-Type": "text/plain"}, true, 415, ""},
		"multipart":                    {"x", map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, true, 415, ""},
		"too large":                    {"choice=" + strings.Repeat("a", maxBody), nil, true, 413, "4096"},
		"no poll":                      {"choice=cats", nil, true, 400, "pets, past, future"},
		"unknown poll":                 {"poll=pests&choice=cats", nil, true, 404, `"pests"`},
		"unknown choice":               {"poll=pets&choice=birds", nil, true, 400, "cats, dogs"},
		"no choice":                    {"poll=pets", nil, true, 400, "cats, dogs"},
		"unknown choice, browser":      {"poll=pets&choice=<b>", browser, true, 400, "&lt;b&gt;"},
		"before it opens":              {"poll=future&choice=yes", nil, true, 409, "opens on 1 January 2099"},
		"after it closed":              {"poll=past&choice=yes", nil, true, 409, "closed on 1 January 2021"},
		"after it closed, browser":     {"poll=past&choice=yes", browser, true, 409, "closed on 1 January 2021"},
	}
	for name, test := range tests {
		j := jar{}
		if test.token {
			j = b.voter()
		}
		w := b.send("POST", "/", test.body, j, test.header)
		if w.Code != test.want || !strings.Contains(w.Body.String(), test.text) {
			t.Errorf("%s = %d %s\nwant %d with %q", name, w.Code, w.Body, test.want, test.text)
		}
		if isPage := strings.Contains(w.Body.String(), "<!doctype html>"); isPage != (test.header["Accept"] != "") {
			t.Errorf("%s: a page: %t", name, isPage)
		}
		if _, given := j["waggle"]; !given && strings.Contains(name, "no token") {
			t.Errorf("%s: no token was given", name)
		}
	}
	if stored := b.stored(); len(stored) != 0 {
		t.Errorf("stored %v", stored)
	}
}

func TestSameOriginBehindAGateway(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for name, header := range map[string]map[string]string{
		"forwarded host":            {"Origin": "https://vote.example", "X-Forwarded-Host": "vote.example", "X-Forwarded-Proto": "https"},
		"forwarded host with port":  {"Origin": "http://vote.example:8080", "X-Forwarded-Host": "vote.example:8080"},
		"own host":                  {"Origin": "http://example.com"},
		"the browser says it is so": {"Sec-Fetch-Site": "same-origin", "Origin": "https://vote.example"},
	} {
		j := jar{}
		page := b.send("GET", "/?poll=pets", "", j, header)
		if w := b.send("POST", "/", press(t, page.Body.String(), "cats"), j, header); w.Code != 303 {
			t.Errorf("%s = %d %s", name, w.Code, w.Body)
		}
	}
}

func TestCookiesBehindTLS(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	https := map[string]string{"X-Forwarded-Proto": "https"}
	w := b.send("GET", "/", "", nil, https)
	cookie := w.Header().Get("Set-Cookie")
	for _, part := range []string{"__Host-waggle=v1.", "; Path=/", "; HttpOnly", "; SameSite=Lax", "; Secure"} {
		if !strings.Contains(cookie, part) {
			t.Errorf("cookie %q lacks %q", cookie, part)
		}
	}
	j := b.voter()
	if w := b.send("POST", "/", "poll=pets&choice=cats", j, https); w.Code != 401 {
		t.Errorf("a plain cookie behind TLS = %d, want it ignored", w.Code)
	}
	if w := b.send("POST", "/", "poll=pets&choice=cats", j, https); w.Code != 303 {
		t.Errorf("with the cookie of the reply = %d", w.Code)
	}
}

func TestSequences(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	at := func(seq int64, voter string) jar {
		return jar{"waggle": b.keys.signToken(token{voter: voter, seq: seq, exp: time.Now().Add(time.Hour).Unix()})}
	}
	tests := map[string]struct{ cookie, form, want int64 }{
		"the page's own":                            {5, 5, 5},
		"a page left open in another tab":           {7, 5, 7},
		"a slow reply has put an older cookie back": {5, 7, 7},
	}
	for name, test := range tests {
		voter := newVoter()
		j := at(test.cookie, voter)
		body := fmt.Sprintf("poll=pets&choice=cats&seq=%d&nonce=%s", test.form, b.keys.nonce(voter, 1, test.form))
		if w := b.send("POST", "/", body, j, browser); w.Code != 303 {
			t.Fatalf("%s = %d %s", name, w.Code, w.Body)
		}
		stored := b.stored()
		if got := stored[len(stored)-1][4]; got != strconv.FormatInt(test.want, 10) {
			t.Errorf("%s: stored sequence %s, want %d", name, got, test.want)
		}
		if got := b.tokenOf(j).seq; got != test.want+1 {
			t.Errorf("%s: next sequence %d, want %d", name, got, test.want+1)
		}
	}
	j := at(5, newVoter())
	if code, _ := b.json(`{"poll":"pets","choice":"nothing"}`, j); code != 400 || b.tokenOf(j).seq != 5 {
		t.Errorf("a rejected ballot = %d and moved the sequence to %d", code, b.tokenOf(j).seq)
	}
}

func TestEveryReplyIsPrivate(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *config) { c.resultsURL = "/function/results" })
	for target, want := range map[string]int{"/": 200, "": 200, "/?poll=nothing": 404, "/nothing": 404, "/receipt/x": 404} {
		w := b.send("GET", "http://f"+target, "", nil, nil)
		if w.Code != want {
			t.Errorf("GET %q = %d, want %d", target, w.Code, want)
		}
		if w.Header().Get("Cache-Control") != "no-store" || !strings.Contains(w.Header().Get("Vary"), "Cookie") ||
			!strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") ||
			w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("GET %q: headers %v", target, w.Header())
		}
	}
	for method, want := range map[string]int{"PUT": 405, "DELETE": 405, "HEAD": 200} {
		if w := b.send(method, "/", "", nil, nil); w.Code != want {
			t.Errorf("%s = %d, want %d", method, w.Code, want)
		}
	}
	page := b.send("GET", "/", "", nil, browser).Body.String()
	if strings.Count(page, "<script") != 1 || !strings.Contains(page, "<script>"+pageScript) || regexp.MustCompile(`(src|href|action)="(https?:)?//`).MatchString(page) {
		t.Errorf("the page has another script than ours, or another host:\n%s", page)
	}
	if len(page) > 6<<10 {
		t.Errorf("the page has %d bytes", len(page))
	}
	if w := b.send("GET", "/?poll=past", "", nil, browser); strings.Contains(w.Body.String(), "<button") || !strings.Contains(w.Body.String(), "closed on") {
		t.Errorf("a closed poll's page:\n%s", w.Body)
	}
}

func TestLogsTellNobody(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	j := b.voter()
	voter := b.tokenOf(j).voter
	b.json(`{"poll":"pets","choice":"cats"}`, j)
	b.redis.Kill()
	b.json(`{"poll":"pets","choice":"cats"}`, j)
	for _, secret := range []string{voter, "192.0.2.1", keyA, keyP, "cats", b.papers["pets"].pseudonym(voter)} {
		if strings.Contains(b.logs.String(), secret) {
			t.Errorf("the log has %q:\n%s", secret, b.logs)
		}
	}
	if !strings.Contains(b.logs.String(), "replica unready") {
		t.Errorf("the log does not tell that Redis is gone:\n%s", b.logs)
	}
}

var _ http.Handler = (*handler)(nil)
