package gateway

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/provider/feed"
)

// The route table is the only place that knows a path: no other file of the package has one in a string.
func TestRoutesAreInOnePlace(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{metricsPath}
	for _, r := range routes {
		if name := strings.Trim(r.path, "/*"); name != "" {
			paths = append(paths, "/"+name)
		}
	}
	if len(paths) < 5 || len(files) < 20 {
		t.Fatalf("%d paths and %d files: the test is broken", len(paths), len(files))
	}
	for _, file := range files {
		if file == "routes.go" || strings.HasSuffix(file, "_test.go") {
			continue
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(syntax, func(n ast.Node) bool {
			if _, imported := n.(*ast.ImportSpec); imported {
				return false
			}
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			text, _ := strconv.Unquote(literal.Value)
			for _, path := range paths {
				if strings.Contains(text, path) {
					t.Errorf("%s knows the path %s: %.60q", file, path, text)
				}
			}
			return true
		})
	}
}

func TestRouteOf(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]struct {
		path, rest, counted string
	}{
		"/function/f/x?y":         {path: "/function/", rest: "f/x?y"},
		"/function":               {rest: "/function"},
		"/functions/":             {rest: "/functions/"},
		"/async-function/f":       {path: "/async-function/", rest: "f", counted: "/async-function/"},
		"/system/queue":           {path: "/system/queue", counted: "/system/queue"},
		"/system/queue?limit=3":   {path: "/system/queue", rest: "?limit=3", counted: "/system/queue"},
		"/system/queue/dead?a":    {path: "/system/queue/", rest: "dead?a", counted: "/system/queue/dead"},
		"/system/queue/dead/x":    {path: "/system/queue/", rest: "dead/x", counted: "/system/queue/dead/"},
		"/system/queue/else":      {path: "/system/queue/", rest: "else", counted: "/system/other"},
		"/system/queues":          {path: "/system/", rest: "queues", counted: "/system/other"},
		"/system/function/f?u=1":  {path: "/system/", rest: "function/f?u=1", counted: "/system/function/"},
		"/system/functions":       {path: "/system/", rest: "functions", counted: "/system/functions"},
		"/system/functionsomehow": {path: "/system/", rest: "functionsomehow", counted: "/system/other"},
		"/healthz":                {path: "/healthz"},
		"/healthz?verbose":        {path: "/healthz", rest: "?verbose"},
		"/healthz/":               {rest: "/healthz/"},
		"/":                       {path: "/"},
		"/?lang=de":               {path: "/", rest: "?lang=de"},
		"//":                      {rest: "//"},
		"/ui/":                    {rest: "/ui/"},
		"*":                       {path: "*"},
	} {
		r, rest := routeOf([]byte(target))
		if counted := r.fold([]byte(target)); r.path != want.path || string(rest) != want.rest || counted != want.counted {
			t.Errorf("%s: got path %q, rest %q, counted as %q; want %q, %q, %q", target, r.path, rest, counted, want.path, want.rest, want.counted)
		}
	}
}

func TestHomeLinksWhatIsThere(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]*edge{"with": start(t, nil, function("vote")), "without": start(t, nil)} {
		resp, body := e.exchange(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !strings.Contains(body, "/system/") {
			t.Errorf("%s: %s %q", name, resp.Status, body)
		}
		if strings.Contains(body, `href="/function/vote"`) != (name == "with") || strings.Contains(body, "/function/results") {
			t.Errorf("%s: %q", name, body)
		}
		if resp, _ := e.exchange(t, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"); resp.StatusCode != 405 {
			t.Errorf("%s, POST: %s", name, resp.Status)
		}
	}
}

// TestCallsOfOtherOrigins has a page of a.example and one of b.example call functions that allow a.example, anybody, or say
// for themselves.
func TestCallsOfOtherOrigins(t *testing.T) {
	t.Parallel()
	own := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", r.Method)
		if r.URL.Path == "/own" {
			w.Header().Set("Access-Control-Allow-Origin", "https://own.example")
		}
	})
	some, all, none := function("some", own), function("all", own), function("none", own)
	some.CORS = &feed.CORS{Origins: []string{"https://c.example", "https://a.example"}, Credentials: true}
	all.CORS = &feed.CORS{Origins: []string{"*"}}
	e := start(t, withQueue(&fakeQueue{}), some, all, none)
	for name, tc := range map[string]struct {
		request string
		status  int
		header  map[string]string // "" for one that must not be there
	}{
		"preflight":             {"OPTIONS /function/some", 204, map[string]string{"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Methods": "PATCH", "Access-Control-Allow-Headers": "x-a, x-b", "Access-Control-Allow-Credentials": "true", "Vary": "Origin", "X-Seen": ""}},
		"preflight, async":      {"OPTIONS /async-function/some", 204, map[string]string{"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Methods": "PATCH"}},
		"preflight, any":        {"OPTIONS /function/all", 204, map[string]string{"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "", "Vary": ""}},
		"preflight, foreign":    {"OPTIONS /function/some b", 204, map[string]string{"Access-Control-Allow-Origin": "", "Access-Control-Allow-Methods": "", "Vary": "Origin"}},
		"preflight, own":        {"OPTIONS /function/none/own", 200, map[string]string{"Access-Control-Allow-Origin": "https://own.example", "X-Seen": "OPTIONS"}},
		"preflight, async, own": {"OPTIONS /async-function/none/own", 200, map[string]string{"Access-Control-Allow-Origin": "https://own.example", "X-Seen": "OPTIONS"}},
		"call":                  {"GET /function/some", 200, map[string]string{"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Expose-Headers": "X-Call-Id", "Vary": "Origin", "X-Seen": "GET"}},
		"call, own":             {"GET /function/some/own", 200, map[string]string{"Access-Control-Allow-Origin": "https://own.example"}},
		"call, foreign":         {"GET /function/some b", 200, map[string]string{"Access-Control-Allow-Origin": ""}},
		"call, async":           {"POST /async-function/some", 202, map[string]string{"Access-Control-Allow-Origin": "https://a.example"}},
		"call, no annotation":   {"GET /function/none", 200, map[string]string{"Access-Control-Allow-Origin": "", "Vary": ""}},
		"other methods, async":  {"PUT /async-function/some", 405, nil},
	} {
		origin := "https://a.example"
		request, foreign := strings.CutSuffix(tc.request, " b")
		if foreign {
			origin = "https://b.example"
		}
		raw := request + " HTTP/1.1\r\nHost: h\r\nOrigin: " + origin + "\r\n"
		if strings.HasPrefix(request, "OPTIONS") {
			raw += "Access-Control-Request-Method: PATCH\r\nAccess-Control-Request-Headers: x-a, x-b\r\n"
		}
		resp, body := e.exchange(t, raw+"\r\n")
		if resp.StatusCode != tc.status {
			t.Errorf("%s: %s %q", name, resp.Status, body)
		}
		for field, want := range tc.header {
			if got := strings.Join(resp.Header[http.CanonicalHeaderKey(field)], "+"); got != want {
				t.Errorf("%s: %s is %q, want %q", name, field, got, want)
			}
		}
	}
}

// People get refusals as pages, which renew themselves where waiting helps; programs get a line.
func TestRefusalsAsPages(t *testing.T) {
	t.Parallel()
	busy := function("busy")
	busy.Desired = 1
	e := start(t, func(c *Config) { c.HoldTimeout, c.Home = time.Millisecond, "/function/vote" }, busy)
	const html = "Accept: application/xml\r\nAccept: text/html,*/*;q=0.8\r\n"
	for name, tc := range map[string]struct {
		raw           string
		status        int
		page, renewed bool
		says          string
	}{
		"no function":           {"GET /function/nobody?<b> HTTP/1.1\r\nHost: h\r\n" + html, 404, true, false, "no function at this address"},
		"no function, program":  {"GET /function/nobody HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n", 404, false, false, "no such function\n"},
		"none ready":            {"GET /function/busy HTTP/1.1\r\nHost: h\r\n" + html, 503, true, true, "tries again by itself"},
		"none ready, form sent": {"POST /function/busy HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n" + html, 503, false, false, "no replica became ready within 1ms, the gateway's hold_timeout\n"},
	} {
		resp, body := e.exchange(t, tc.raw+"\r\n")
		page := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
		renewed := strings.Contains(body, `http-equiv="refresh"`)
		if resp.StatusCode != tc.status || page != tc.page || renewed != tc.renewed || !strings.Contains(body, tc.says) || resp.Header.Get("X-OpenFaaS-Internal") == "" {
			t.Errorf("%s: got %s, page %t, renewed %t, %q", name, resp.Status, page, renewed, body)
		}
	}
	if resp, _ := e.exchange(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 302 || resp.Header.Get("Location") != "/function/vote" {
		t.Errorf("home: %s to %q", resp.Status, resp.Header.Get("Location"))
	}
	for home, legal := range map[string]bool{"": true, "/x": true, "https://h/x": true, "x": false, "javascript:x": false, "/a\r\nB: c": false} {
		cfg := Config{Table: &feed.Table{Epoch: "test"}, Home: home}
		if _, err := New(cfg); (err == nil) != legal {
			t.Errorf("home %q: %v", home, err)
		}
	}
}
