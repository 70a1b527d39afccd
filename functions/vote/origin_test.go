package vote

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestPublicOrigins(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"": "", "https://vote.example": "", "https://a.example, http://b.example:8080": "",
		"vote.example": `"vote.example"`, "https://vote.example/": "public_origins", "https://": "public_origins", "ftp://a": "public_origins",
		"https://a.example,x": `"x"`,
	} {
		_, err := parseOrigins(setting)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", setting, err, want)
		}
	}
}

// TestABareProxyInFront: it passes no Host on, so only public_origins can tell the ballot's own pages from others.
func TestABareProxyInFront(t *testing.T) {
	t.Parallel()
	named := func(c *config) { c.origins, _ = parseOrigins("http://vote.example http://vote.example:8080") }
	b, plain := setup(t, named), setup(t, nil)
	for origin, want := range map[string]int{"http://vote.example": 303, "http://vote.example:8080": 303, "https://vote.example": 403, "http://evil.example": 403} {
		header := map[string]string{"Accept": "text/html", "Origin": origin, "X-Forwarded-Host": "10.0.0.3:8080"}
		j := jar{}
		page := b.send("GET", "/?poll=pets", "", j, browser).Body.String()
		if w := b.send("POST", "/", press(t, page, "cats"), j, header); w.Code != want {
			t.Errorf("from %s = %d, want %d", origin, w.Code, want)
		}
		if w := plain.send("POST", "/", "poll=pets&choice=cats", nil, header); w.Code != 403 ||
			!strings.Contains(w.Body.String(), strings.TrimPrefix(origin, "http://")) || !strings.Contains(w.Body.String(), "10.0.0.3:8080") {
			t.Errorf("without the setting, from %s = %d %s", origin, w.Code, w.Body)
		}
	}
	for _, part := range []string{`"origin":"http`, `"hosts":["10.0.0.3:8080","example.com"]`, "public_origins"} {
		if !strings.Contains(plain.logs.String(), part) {
			t.Errorf("the log lacks %s:\n%s", part, plain.logs)
		}
	}
	if n := strings.Count(plain.logs.String(), "ballot from another site"); n > 1+int(time.Since(plain.started)/logEvery) {
		t.Errorf("%d lines in the log", n)
	}
}

// TestNamesThatOccurTwice: the first that is valid is taken, not the first.
func TestNamesThatOccurTwice(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	j := b.voter()
	code, reply := b.json(`{"poll":"pets","choice":"cats"}`, j)
	if code != 200 {
		t.Fatalf("vote = %d %v", code, reply)
	}
	tests := map[string]struct {
		header http.Header
		target string
		want   int
		text   string
	}{
		"foreign cookies before ours": {http.Header{"Cookie": {"waggle=x; waggle=v1.a.b.c.d.e; waggle-receipt-1=x; waggle=" + j["waggle"] +
			"; waggle-receipt-1=" + j["waggle-receipt-1"]}}, "/?poll=pets", 200, ">Cats</strong>"},
		"two Cookie lines":       {http.Header{"Cookie": {"waggle=x; waggle-receipt-1=y", "waggle=" + j["waggle"] + "; waggle-receipt-1=" + j["waggle-receipt-1"]}}, "/?poll=pets", 200, ">Cats</strong>"},
		"two polls in the query": {nil, "/?poll=nothing&poll=past", 200, "Past?"},
		"two Accept lines":       {http.Header{"Accept": {"image/png", "text/html"}}, "/?poll=pets", 200, "<!doctype html>"},
		"two schemes":            {http.Header{"X-Forwarded-Proto": {"", "wss, https, http"}}, "/?poll=pets", 200, ""},
	}
	for name, test := range tests {
		r := httptest.NewRequest("GET", test.target, nil)
		r.Header = test.header
		if r.Header == nil {
			r.Header = http.Header{}
		}
		w := httptest.NewRecorder()
		b.ServeHTTP(w, r)
		if w.Code != test.want || !strings.Contains(w.Body.String(), test.text) {
			t.Errorf("%s = %d %s", name, w.Code, w.Body)
		}
		if cookie := w.Header().Get("Set-Cookie"); name == "two schemes" && !strings.HasPrefix(cookie, "__Host-") {
			t.Errorf("%s: cookie %q", name, cookie)
		}
	}
	forwarded := http.Header{"Origin": {"http://vote.example"}, "X-Forwarded-Host": {"inner:8080", "other, vote.example"}, "Accept": {"text/html"}}
	r := httptest.NewRequest("POST", "/", strings.NewReader("poll=pets&choice=cats"))
	r.Header = forwarded
	if !b.origins.allows(r) {
		t.Error("a host that is named second is not ours")
	}
}
