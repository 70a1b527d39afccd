package results

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"waggle/deploy/lab/harness"
)

func ask(h http.Handler, method, target string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Header = header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// A reader that has the numbers is told so, however often they were read again meanwhile.
func TestETag(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	first := get(h, "/", "text/csv")
	tag := first.Header().Get("ETag")
	if first.Code != 200 || !strings.HasPrefix(tag, `W/"`) || !strings.HasPrefix(first.Header().Get("Content-Type"), "text/csv") || first.Header().Get("Access-Control-Allow-Origin") != "*" {
		t.Fatalf("CSV = %d %v", first.Code, first.Header())
	}
	again := h.view.Load()
	<-again.newer
	for name, test := range map[string]struct {
		accept string
		tags   []string
		want   int
	}{
		"the same, read again": {"text/csv", []string{tag}, 304},
		"among others":         {"text/csv", []string{`"x", ` + tag}, 304},
		"in the second line":   {"text/csv", []string{`"x"`, tag}, 304},
		"any":                  {"text/csv", []string{"*"}, 304},
		"another":              {"text/csv", []string{`"x"`}, 200},
		"of another form":      {"application/json", []string{tag}, 200},
		"a page has none":      {"text/html", []string{tag, "*"}, 200},
	} {
		w := ask(h, "GET", "/", http.Header{"Accept": {test.accept}, "If-None-Match": test.tags})
		if w.Code != test.want || w.Code == 304 && w.Body.Len() > 0 {
			t.Errorf("%s = %d with %d bytes, want %d", name, w.Code, w.Body.Len(), test.want)
		}
	}
	d.SQL(`UPDATE tally SET n = n + 1 WHERE poll = 1 AND choice = 1 AND shard = 0`)
	until(t, h, func(r report) bool { return *r.Polls[0].Total == 22 })
	if w := ask(h, "GET", "/", http.Header{"Accept": {"text/csv"}, "If-None-Match": {tag}}); w.Code != 200 {
		t.Errorf("after a vote = %d, want 200", w.Code)
	}
}

func TestOtherSitesMayReadWhatIsNoPage(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	w := ask(h, "OPTIONS", "/?format=json", http.Header{"Origin": {"https://elsewhere.example"}, "Access-Control-Request-Method": {"GET"}, "Access-Control-Request-Headers": {"if-none-match"}})
	if w.Code != 204 || w.Header().Get("Access-Control-Allow-Origin") != "*" || w.Header().Get("Access-Control-Allow-Headers") != "If-None-Match" {
		t.Errorf("preflight = %d %v", w.Code, w.Header())
	}
	for accept, want := range map[string]string{"application/json": "*", "text/csv": "*", "text/html": ""} {
		if got := get(h, "/", accept).Header().Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("%s allows origin %q, want %q", accept, got, want)
		}
	}
}

func TestWhoAsksIsShown(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	page := get(h, "/?lang=de", "text/html").Body.String()
	for _, part := range []string{"Es fragt: Town &amp; co", `<a href="mailto:polls@town.example">Kontakt</a>`, `<a href="https://town.example/privacy">Datenschutz</a>`} {
		if strings.Count(page, part) != 1 {
			t.Errorf("the page has %q %d times, want once, below its poll", part, strings.Count(page, part))
		}
	}
	if body := get(h, "/?poll=pets", "application/json").Body.String(); !strings.Contains(body, `"organiser":"Town \u0026 co","contact":"mailto:polls@town.example","privacy":"https://town.example/privacy"`) {
		t.Errorf("JSON: %s", body)
	}
}

func TestOnePoll(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	var got report
	if err := json.Unmarshal(get(h, "/?poll=past", "application/json").Body.Bytes(), &got); err != nil || len(got.Polls) != 1 || got.Polls[0].Slug != "past" {
		t.Errorf("poll=past = %+v, %v", got.Polls, err)
	}
	page := get(h, "/?poll=past", "text/html").Body.String()
	if strings.Contains(page, "Cats") || !strings.Contains(page, "<title>Past? – Results</title>") || !strings.Contains(page, `href="?view=sheet&amp;poll=past"`) &&
		!strings.Contains(page, `href="?poll=past&amp;view=sheet"`) {
		t.Errorf("the page of one poll:\n%s", page)
	}
	h.polls[2].Lang = "es"
	for target, want := range map[string]string{"/?poll=past": "Resultados", "/?poll=past&lang=de": "Ergebnisse", "/?poll=pets": "Results", "/": "Results"} {
		if page := get(h, target, "text/html").Body.String(); !strings.Contains(page, "<h1>"+want+"</h1>") {
			t.Errorf("%s, of which poll past is in Spanish, is not %s", target, want)
		}
	}
	if w := get(h, "/?poll=nope", "text/html"); w.Code != 404 || !strings.Contains(w.Body.String(), "there are: pets, secret, past") || !strings.Contains(w.Body.String(), "<!doctype html>") {
		t.Errorf("an unknown poll = %d %s", w.Code, w.Body)
	}
}

// A watcher gets all parts of its page first, and then those that differ.
func TestStream(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	answer, err := http.Get(server.URL + "/?format=events&lang=de&poll=pets")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" || answer.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("stream = %d %v", answer.StatusCode, answer.Header)
	}
	lines := bufio.NewScanner(answer.Body)
	next := func() map[string]string {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				parts := map[string]string{}
				if err := json.Unmarshal([]byte(data), &parts); err != nil {
					t.Fatal(err)
				}
				return parts
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return nil
	}
	if all := next(); len(all) != 7 || !strings.Contains(all["options-1"], "21 Stimmen") {
		t.Errorf("first event: %q", all)
	}
	d.SQL(`UPDATE tally SET n = n + 1 WHERE poll = 1 AND choice = 1 AND shard = 0`)
	for {
		changed := next()
		if _, ok := changed["options-1"]; !ok {
			continue // the time of the count, or a node's
		}
		if !strings.Contains(changed["options-1"], "22 Stimmen") || changed["state-1"] != "" {
			t.Errorf("after a vote: %q", changed)
		}
		break
	}
	if parts := get(h, "/?format=events&once=1&poll=pets", "").Body.String(); !strings.Contains(parts, "22 votes") {
		t.Errorf("once = %s", parts)
	}
}

// Watchers beyond the bound are told to come back, and nobody else waits for them.
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	h.streams.Store(maxStreams)
	if w := get(h, "/?format=events", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one stream too many = %d %v", w.Code, w.Header())
	}
	if w := get(h, "/", "text/html"); w.Code != 200 {
		t.Errorf("a page beside them = %d", w.Code)
	}
	if n := h.streams.Load(); n != maxStreams {
		t.Errorf("%d streams are counted after one was refused, want %d", n, maxStreams)
	}
}
