package vote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// onePoll is a poll file with one poll, pets, of the given further fields.
func onePoll(t testing.TB, fields string) []poll {
	t.Helper()
	if !strings.Contains(fields, `"closes"`) {
		fields = `"opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z",` + fields
	}
	polls, err := parsePolls([]byte(`{"polls":[{"id":1,"slug":"pets","question":"Anna or Bert?","results":"live",
		"options":[{"id":1,"slug":"anna","name":"Anna"},{"id":2,"slug":"bert","name":"Bert"}],` + fields + `}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return polls
}

// listOf makes a list of codes for poll 1.
func listOf(codes ...string) []byte { return listOfPoll(1, codes...) }

func listOfPoll(poll int32, codes ...string) []byte {
	var hashes [][]byte
	for _, code := range codes {
		hash := codeHash(poll, code)
		hashes = append(hashes, hash[:])
	}
	slices.SortFunc(hashes, bytes.Compare)
	return bytes.Join(hashes, nil)
}

func TestTheFirstVoteCounts(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *config) { c.polls = onePoll(t, `"mode":"first"`) })
	j := jar{}
	form := press(t, b.send("GET", "/", "", j, browser).Body.String(), "anna")
	if w := b.send("POST", "/", form, j, browser); w.Code != 303 {
		t.Fatalf("vote = %d %s", w.Code, w.Body)
	}
	receipt := j["waggle-receipt-1"]
	page := b.send("GET", "/?poll=pets", "", j, browser).Body.String()
	if strings.Contains(page, "<button") || !strings.Contains(page, "Anna</strong>") || !strings.Contains(page, "It cannot be changed.") {
		t.Errorf("the page after the vote:\n%s", page)
	}
	// A form of another tab, which was rendered before the vote.
	again := b.send("POST", "/", strings.Replace(form, "anna", "bert", 1), j, browser)
	if again.Code != 303 || again.Header().Get("Location") != "?poll=pets&kept=1" {
		t.Fatalf("second press = %d %v %s", again.Code, again.Header(), again.Body)
	}
	page = b.send("GET", "/"+again.Header().Get("Location"), "", j, browser).Body.String()
	if !strings.Contains(page, `Your first vote, for <strong dir="auto">Anna</strong>, counts; this press changed nothing.`) || strings.Contains(page, `value="bert"`) {
		t.Errorf("the page after the second press:\n%s", page)
	}
	code, reply := b.json(`{"choice":"bert"}`, j)
	if code != 200 || reply["status"] != "unchanged" || reply["counts"] != false || reply["choice"] != "anna" || reply["receipt"] != receipt {
		t.Errorf("second press as JSON = %d %v", code, reply)
	}
	if stored := b.stored(); len(stored) != 1 || j["waggle-receipt-1"] != receipt {
		t.Errorf("stored %v; the receipt is the first one: %t", stored, j["waggle-receipt-1"] == receipt)
	}
}

// TestAnUnconfirmedFirstVoteIsNotReplaced: it may be stored, and then it counts; another choice must not be confirmed.
func TestAnUnconfirmedFirstVoteIsNotReplaced(t *testing.T) {
	t.Parallel()
	first := func(c *config) { c.polls = onePoll(t, `"mode":"first"`) }
	b := setup(t, first)
	lossy := newLossy(t, b.redis.Socket())
	other := setupWith(t, func(c *config) { first(c); c.socket = lossy.path })
	other.probe()
	j := jar{}
	page := b.send("GET", "/", "", j, browser).Body.String()
	lossy.drop.Store(true)
	failed := other.send("POST", "/", press(t, page, "anna"), j, browser)
	if body := failed.Body.String(); failed.Code != 503 || !strings.Contains(body, `value="anna"`) || strings.Contains(body, `value="bert"`) {
		t.Fatalf("vote without an answer = %d %s", failed.Code, body)
	}
	if page := b.send("GET", "/", "", j, browser).Body.String(); strings.Contains(page, `value="bert"`) || !strings.Contains(page, "not confirmed yet") || strings.Contains(page, "<summary>") {
		t.Errorf("the page after a reload:\n%s", page)
	}
	if code, reply := b.json(`{"choice":"bert"}`, j); code != 409 || reply["code"] != "pending" {
		t.Errorf("another choice = %d %v", code, reply)
	}
	if w := b.send("GET", "/receipt/"+j["waggle-receipt-1"], "", nil, nil); w.Code != 404 {
		t.Errorf("the note of an unconfirmed vote is a receipt: %d", w.Code)
	}
	if code, reply := b.json(`{"choice":"anna"}`, j); code != 200 || reply["counts"] != true {
		t.Errorf("the same choice = %d %v", code, reply)
	}
	for _, entry := range b.stored() {
		if entry[3] != "1" {
			t.Errorf("stored %v", entry)
		}
	}
}

// TestAnUnconfirmedChangeIsNotDenied: it may be stored, so the page promises neither this vote nor the one before.
func TestAnUnconfirmedChangeIsNotDenied(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	lossy := newLossy(t, b.redis.Socket())
	other := setupWith(t, func(c *config) { c.socket = lossy.path })
	other.probe()
	j := jar{}
	page := b.send("GET", "/?poll=pets", "", j, browser).Body.String()
	b.send("POST", "/", press(t, page, "cats"), j, browser)
	page = b.send("GET", "/?poll=pets", "", j, browser).Body.String()
	lossy.drop.Store(true)
	failed := other.send("POST", "/", press(t, page, "dogs"), j, browser)
	after := b.send("GET", "/?poll=pets", "", j, browser).Body.String()
	if failed.Code != 503 || strings.Contains(failed.Body.String(), "stands") || strings.Contains(after, "Your vote is in") || !strings.Contains(after, "not confirmed yet") {
		t.Fatalf("vote without an answer = %d:\n%s\nand after a reload:\n%s", failed.Code, failed.Body, after)
	}
	b.send("POST", "/", press(t, after, "cats"), j, browser)
	if page := b.send("GET", "/?poll=pets", "", j, browser).Body.String(); !strings.Contains(page, "Your vote is in") || !strings.Contains(page, `aria-pressed="true" value="cats"`) && !strings.Contains(page, `value="cats" aria-pressed="true"`) {
		t.Errorf("after another press:\n%s", page)
	}
}

func TestSentencesFitTheState(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	now := time.Now()
	b.now = func() time.Time { return now }
	for slug, want := range map[string]string{"past": "This poll closed on", "future": "This poll opens on"} {
		j := jar{}
		b.send("GET", "/", "", j, browser)
		token := b.tokenOf(j)
		paper := b.papers[slug]
		r := receipt{poll: paper.poll.ID, voter: paper.pseudonym(token.voter), seq: 1, incarnation: strings.Repeat("a", 36), entry: "1-1"}
		j[fmt.Sprintf("waggle-receipt-%d", paper.poll.ID)] = b.keys.signReceipt(r, token.voter, 1)
		for method, status := range map[string]int{"GET": 200, "POST": 409} {
			w := b.send(method, "/?poll="+slug, "poll="+slug+"&choice=yes", j, browser)
			page := w.Body.String()
			if w.Code != status || !strings.Contains(page, want) || !strings.Contains(page, `Your vote for <strong dir="auto">Yes</strong> stands.`) {
				t.Errorf("%s of %s = %d:\n%s", method, slug, w.Code, page)
			}
			for _, wrong := range []string{"change your mind", "change it until", "Open until", "<button", "Your vote is in"} {
				if strings.Contains(page, wrong) {
					t.Errorf("%s of %s says %q:\n%s", method, slug, wrong, page)
				}
			}
			if strings.Contains(page, "<title>Not recorded: ") != (method == "POST") {
				t.Errorf("%s of %s: the title:\n%s", method, slug, page)
			}
		}
	}
}

func TestBallotCodes(t *testing.T) {
	t.Parallel()
	const code, second = "0123456789ABCDEF", "GHJKMNPQRSTVWXYZ"
	for _, change := range []bool{true, false} {
		b := setup(t, func(c *config) {
			c.polls = onePoll(t, fmt.Sprintf(`"mode":"once","may_change":%t`, change))
			c.codeFiles = fstest.MapFS{"codes/pets.codes": {Data: listOf(code, second)}}
		})
		for name, test := range map[string]struct {
			code, want string
		}{"none": {"", "no_code"}, "wrong": {"0123456789ABCDEG", "bad_code"}, "short": {"0123", "bad_code"}, "long": {code + "0", "bad_code"}, "foreign letters": {"0123456789ABCDE!", "bad_code"}} {
			if status, reply := b.json(`{"choice":"anna","code":"`+test.code+`"}`, b.voter()); status != 403 || reply["code"] != test.want {
				t.Errorf("%s = %d %v", name, status, reply)
			}
		}
		phone, laptop := jar{}, jar{}
		page := b.send("GET", "/?poll=pets&code=none&code="+code, "", phone, browser).Body.String()
		if !strings.Contains(page, `name="code" value="`+code+`"`) {
			t.Errorf("the address's code is not in the form:\n%s", page)
		}
		if w := b.send("POST", "/", press(t, page, "anna")+"&code="+code, phone, browser); w.Code != 303 {
			t.Fatalf("vote = %d %s", w.Code, w.Body)
		}
		later := time.Now().Add(2 * time.Second)
		b.now = func() time.Time { return later }
		b.send("GET", "/", "", laptop, nil)
		status, reply := b.json(`{"choice":"bert","code":"0123 4567-89ab-cdef"}`, laptop)
		if _, told := reply["counts"]; status != 200 || told != change || change && reply["counts"] != true {
			t.Errorf("may_change %t: the same code in another browser = %d %v", change, status, reply)
		}
		if stored := b.stored(); len(stored) != 2 || stored[0][2] != stored[1][2] || stored[0][4] >= stored[1][4] {
			t.Errorf("may_change %t: stored %v, want one voter, and the later press with the higher sequence", change, stored)
		}
		// The next person at this laptop has a code of their own.
		if w := b.send("GET", "/?poll=pets", "", laptop, browser); !strings.Contains(w.Body.String(), "<form") {
			t.Errorf("may_change %t: no form for another code:\n%s", change, w.Body)
		}
		status, reply = b.json(`{"choice":"anna","code":"`+second+`"}`, laptop)
		if stored := b.stored(); status != 200 || reply["status"] != "recorded" || len(stored) != 3 || stored[2][2] == stored[1][2] {
			t.Errorf("may_change %t: another code in the same browser = %d %v", change, status, reply)
		}
		if !change {
			if status, reply := b.json(`{"choice":"bert","code":"`+second+`"}`, laptop); reply["status"] != "unchanged" || len(b.stored()) != 3 {
				t.Errorf("the same code in the same browser = %d %v", status, reply)
			}
		}
	}
	if _, err := readCodes(fstest.MapFS{}, "pets"); err == nil || !strings.Contains(err.Error(), "make codes") {
		t.Errorf("no list: %v", err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *config) {
		c.polls = onePoll(t, `"mode":"last","limits":{"voter_per_minute":3,"network_per_minute":5}`)
		c.trusted = 1
	})
	now := time.Now()
	b.now = func() time.Time { return now }
	from := func(network string) map[string]string {
		return map[string]string{"Content-Type": "application/json", "X-Forwarded-For": "203.0.113.9, " + network + ", 10.0.0.1"}
	}
	send := func(j jar, network string) *http.Response {
		return b.send("POST", "/", `{"choice":"anna"}`, j, from(network)).Result()
	}
	one, two := b.voter(), b.voter()
	for i := range 3 {
		if r := send(one, "192.0.2.1"); r.StatusCode != 200 {
			t.Fatalf("vote %d = %d", i, r.StatusCode)
		}
	}
	if r := send(one, "192.0.2.1"); r.StatusCode != 429 || r.Header.Get("Retry-After") != "20" {
		t.Errorf("a voter's fourth vote in a minute = %d, Retry-After %s", r.StatusCode, r.Header.Get("Retry-After"))
	}
	if r := send(two, "192.0.2.1"); r.StatusCode != 200 {
		t.Errorf("the network's fifth = %d", r.StatusCode)
	}
	if r := send(two, "192.0.2.1"); r.StatusCode != 429 || r.Header.Get("Retry-After") != "12" {
		t.Errorf("the network's sixth = %d, Retry-After %s", r.StatusCode, r.Header.Get("Retry-After"))
	}
	if r := send(two, "2001:db8::1"); r.StatusCode != 200 {
		t.Errorf("another network = %d", r.StatusCode)
	}
	now = now.Add(20 * time.Second)
	if r := send(one, "192.0.2.1"); r.StatusCode != 200 {
		t.Errorf("after Retry-After = %d", r.StatusCode)
	}
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	for hops, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "evil, 192.0.2.1": "192.0.2.1/32", "192.0.2.1:99": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8:0:1234::1": "2001:db8:0:1200::/56", "[2001:db8::1]:443": "2001:db8::/56", "fe80::1%eth0": "fe80::/56", "unknown": "unknown", "": "",
	} {
		v := &visit{r: &http.Request{Header: http.Header{"X-Forwarded-For": {hops}}}}
		if got := v.network(0); got != want {
			t.Errorf("%q is of network %q, want %q", hops, got, want)
		}
	}
}

func TestTheLimiterForgetsKeysInTheEnd(t *testing.T) {
	t.Parallel()
	l := newLimiter(1)
	now := time.Now()
	for i := range 2 * len(l.shards) * maxKeys {
		l.take(fmt.Sprint(i), now)
	}
	for i := range l.shards {
		if n := len(l.shards[i].ahead); n > maxKeys {
			t.Errorf("shard %d has %d keys, bound %d", i, n, maxKeys)
		}
	}
	if newLimiter(0).take("x", now) != 0 {
		t.Error("no bound bounds")
	}
}

func TestLanguages(t *testing.T) {
	t.Parallel()
	for _, l := range languages[1:] {
		for key, text := range english.texts {
			for _, place := range []string{"{0}", "{1}", "{day}", "{month}", "{year}", "{time}", "{zone}"} {
				if strings.Contains(text, place) != strings.Contains(l.texts[key], place) {
					t.Errorf("%s: message %s is %q, in English %q", l.code, key, l.texts[key], text)
				}
			}
			if l.texts[key] == "" {
				t.Errorf("%s has no message %s", l.code, key)
			}
		}
		if len(l.texts) != len(english.texts) || len(strings.Fields(l.texts["months"])) != 12 {
			t.Errorf("%s has %d messages, English %d", l.code, len(l.texts), len(english.texts))
		}
	}
	b := setup(t, func(c *config) {
		c.polls = append(onePoll(t, `"mode":"last","zone":"Europe/Berlin","organiser":"Die <Stadt>","contact":"mailto:a@b.example","texts":{"intro":"Bitte & danke"}`),
			onePoll(t, `"mode":"last","lang":"ar"`)...)
		c.polls[1].ID, c.polls[1].Slug = 2, "arabic"
	})
	for name, test := range map[string]struct {
		accept, target string
		want           []string
	}{
		"German":            {"fr, de-AT;q=0.8, en;q=0.5", "/?poll=pets", []string{`<html lang="de" dir="ltr">`, "Ihre letzte Stimme zählt", "1. Januar 2100, 01:00 CET (1. Januar 2100, 00:00 UTC)", "Es fragt: Die &lt;Stadt&gt;", `href="mailto:a@b.example"`, "Bitte &amp; danke"}},
		"Spanish":           {"es", "/?poll=pets", []string{`<html lang="es"`, "cuenta su último voto"}},
		"none of ours":      {"fr", "/?poll=pets", []string{`<html lang="en"`}},
		"hostile":           {strings.Repeat("x;q=", 500), "/?poll=pets", []string{`<html lang="en"`}},
		"the poll's":        {"de", "/?poll=arabic", []string{`<html lang="ar" dir="rtl">`, `<h1 dir="auto">`}},
		"a missing page":    {"de", "/nothing/here", []string{`<html lang="de"`, "Hier ist nichts", `href="../?poll=pets"`}},
		"an unknown poll":   {"de", "/?poll=x", []string{"Diese Abstimmung gibt es nicht", `href="?poll=pets"`}},
		"a foreign receipt": {"de", "/receipt/x", []string{"nicht von uns", `href="../?poll=pets"`}},
	} {
		w := b.send("GET", test.target, "", jar{}, with(browser, "Accept-Language", test.accept))
		for _, part := range test.want {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("%s: the page lacks %q:\n%s", name, part, w.Body)
			}
		}
		if w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s is %s", name, w.Header().Get("Content-Type"))
		}
	}
	w := b.send("POST", "/", "poll=pets&choice=<b>", b.voter(), with(browser, "Accept-Language", "de"))
	if !strings.Contains(w.Body.String(), "steht nicht auf diesem Stimmzettel; es gibt: anna, bert") || !strings.Contains(w.Body.String(), "<title>Nicht gespeichert: ") {
		t.Errorf("an unknown choice in German:\n%s", w.Body)
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{"images/README.md": {Data: []byte("x")}, "images/anna.svg": {Data: []byte("<svg/>")}}
	images, err := readImages(files)
	if err != nil {
		t.Fatal(err)
	}
	b := setup(t, nil)
	b.images = images
	w := b.send("GET", "/?image=anna.svg", "", nil, nil)
	if w.Code != 200 || w.Header().Get("Content-Type") != "image/svg+xml" || w.Header().Get("Set-Cookie") != "" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("image = %d %v", w.Code, w.Header())
	}
	if again := b.send("GET", "/?image=anna.svg", "", nil, map[string]string{"If-None-Match": w.Header().Get("Etag")}); again.Code != 304 {
		t.Errorf("the same image again = %d", again.Code)
	}
	for _, name := range []string{"README.md", "../polls.go", "none.png"} {
		if w := b.send("GET", "/?image="+name, "", nil, nil); w.Code != 404 {
			t.Errorf("image %s = %d", name, w.Code)
		}
	}
	files["images/big.png"] = &fstest.MapFile{Data: make([]byte, maxImage+1)}
	if _, err := readImages(files); err == nil || !strings.Contains(err.Error(), "big.png") {
		t.Errorf("an image that is too large: %v", err)
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	w := b.send("GET", "/openapi.json", "", nil, nil)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct{ Responses map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != 200 || doc.OpenAPI != "3.1.0" {
		t.Fatalf("openapi.json = %d, %v", w.Code, err)
	}
	for _, status := range []string{"200", "303", "400", "401", "403", "404", "409", "413", "415", "429", "503"} {
		if doc.Paths["/"]["post"].Responses[status] == nil {
			t.Errorf("it does not describe %s", status)
		}
	}
}
