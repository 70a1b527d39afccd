package vote

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browserTime bounds one visit on a busy machine.
const browserTime = 2 * time.Minute

const (
	someCode    = "0123456789ABCDEF"
	anotherCode = "GHJKMNPQRSTVWXYZ"
)

// browserPolls has a poll for each way to vote, and pages that are hard to lay out.
func browserPolls(t *testing.T) []poll {
	t.Helper()
	poll := func(id int, slug, options, more string) string {
		return fmt.Sprintf(`{"id":%d,"slug":%q,"question":"Anna or Bert?","opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","results":"live",
			"options":[%s],%s}`, id, slug, options, more)
	}
	two := `{"id":1,"slug":"anna","name":"Anna","image":"anna.svg"},{"id":2,"slug":"bert","name":"Donaudampfschifffahrtsgesellschaftskapitän"}`
	var fifty []string
	for i := range 50 {
		fifty = append(fifty, fmt.Sprintf(`{"id":%d,"slug":"o%d","name":"Option %d"}`, i+1, i+1, i+1))
	}
	polls, err := parsePolls([]byte(`{"polls":[` + strings.Join([]string{
		poll(1, "last", two, `"mode":"last","zone":"Europe/Berlin","organiser":"Town","contact":"mailto:a@b.example","privacy":"https://b.example/"`),
		poll(2, "first", two, `"mode":"first"`),
		poll(3, "once", two, `"mode":"once","may_change":true`),
		poll(4, "fifty", strings.Join(fifty, ","), `"mode":"last"`),
		poll(5, "arabic", two, `"mode":"last","lang":"ar"`),
		strings.Replace(poll(6, "closed", two, `"mode":"last"`), "2100", "2021", 1),
	}, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return polls
}

// chromium is a browser with one server of the function in front of a real Redis.
type chromium struct {
	*bundle
	ctx context.Context
	url string
	// before drops requests, after drops answers, as a bad network does; posts counts what came.
	before, after atomic.Bool
	posts         atomic.Int64
}

func (b *chromium) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		b.posts.Add(1)
		if b.before.Load() {
			panic(http.ErrAbortHandler)
		}
		if b.after.Load() {
			b.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
	}
	b.ServeHTTP(w, r)
}

// openBrowser fails the test where chromium is not installed.
func openBrowser(t *testing.T) *chromium {
	t.Helper()
	polls := browserPolls(t)
	files := fstest.MapFS{"images/anna.svg": {Data: []byte(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8" width="160" height="160"><circle cx="4" cy="4" r="4" fill="#a06"/></svg>`)},
		"codes/once.codes": {Data: listOfPoll(3, someCode, anotherCode)}}
	b := &chromium{}
	b.bundle = setup(t, func(c *config) { c.polls, c.codeFiles, c.imageFiles, c.resultsURL = polls, files, files, "/results" })
	server := httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(server.Close)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()))...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting chromium, which the Debian package chromium has: %v", err)
	}
	b.ctx, b.url = ctx, server.URL
	return b
}

// visitor opens an address as somebody new, in a browser context with no cookies. What the page asks of other hosts, or
// throws, fails the test.
func (b *chromium) visitor(t *testing.T, target string, width int64, before ...chromedp.Action[chromedp.Void]) context.Context {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	return b.open(t, ctx, target, width, before...)
}

// open is for a context that has no tab yet.
func (b *chromium) open(t *testing.T, ctx context.Context, target string, width int64, before ...chromedp.Action[chromedp.Void]) context.Context {
	t.Helper()
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, b.url) && !strings.HasPrefix(e.Request.URL, "data:") {
				t.Errorf("%s asks for %s", target, e.Request.URL)
			}
		case *runtime.EventExceptionThrown:
			t.Errorf("%s: %s", target, e.ExceptionDetails.Text)
		}
	}); err != nil {
		t.Fatal(err)
	}
	// The first steps start the tab, which lives as long as their context; so only what follows has a bound.
	run(t, ctx, command(network.Enable, network.EnableParams{}), chromedp.EmulateViewport(width, 800))
	ctx, cancel := context.WithTimeout(ctx, browserTime)
	t.Cleanup(cancel)
	run(t, ctx, before...)
	b.visit(t, ctx, target)
	return ctx
}

func (b *chromium) visit(t *testing.T, ctx context.Context, target string) {
	t.Helper()
	for {
		err := chromedp.Do(ctx, chromedp.Navigate(b.url+target))
		// Chromium cuts its connections when any network of the machine comes or goes, as those of containers do.
		if err != nil && strings.Contains(err.Error(), "ERR_NETWORK_CHANGED") && ctx.Err() == nil {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// media emulates a feature such as a colour scheme.
func media(feature ...string) chromedp.Action[chromedp.Void] {
	params := emulation.SetEmulatedMediaParams{}
	for i := 0; i+1 < len(feature); i += 2 {
		params.Features = append(params.Features, &emulation.MediaFeature{Name: feature[i], Value: feature[i+1]})
	}
	return command(emulation.SetEmulatedMedia, params)
}

func run(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

func value[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func text(t *testing.T, ctx context.Context, script string) string {
	t.Helper()
	return value(t, ctx, chromedp.Evaluate[string](script))
}

// await waits until a script is true, across pages.
func await(t *testing.T, ctx context.Context, script string) {
	t.Helper()
	for {
		_, err := chromedp.Run(ctx, chromedp.Poll[bool](script, chromedp.WithPollingTimeout(browserTime)))
		if err == nil {
			return
		}
		left := strings.Contains(err.Error(), "navigated") || strings.Contains(err.Error(), "context was destroyed") || strings.Contains(err.Error(), "Cannot find context")
		if !left || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

const (
	recorded = `document.title.startsWith('Recorded: ') && document.readyState === 'complete'`
	mainText = `document.querySelector('main').innerText`
)

func pressOn(choice string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(`button[value="` + choice + `"]`))
}

// votesOf are the stored votes of a poll since n: choice and sequence, and how many voters they are of.
func (b *chromium) votesOf(poll string, n int) (votes []string, voters int) {
	seen := map[string]bool{}
	for _, entry := range b.stored()[n:] {
		if entry[1] == poll {
			votes = append(votes, entry[3]+"/"+entry[4])
			seen[entry[2]] = true
		}
	}
	return votes, len(seen)
}

func TestBrowser(t *testing.T) {
	b := openBrowser(t)
	t.Run("vote, change, back and reload", b.testVote)
	t.Run("without script", b.testWithoutScript)
	t.Run("a bad network", b.testBadNetwork)
	t.Run("an answer that is lost", b.testLostAnswer)
	t.Run("cookies cleared", b.testCookiesCleared)
	t.Run("the first vote counts, in two tabs", b.testFirst)
	t.Run("ballot codes", b.testOnce)
	t.Run("layout", b.testLayout)
	t.Run("contrast", b.testContrast)
	t.Run("forced colours", b.testForcedColours)
	t.Run("names and roles", b.testNamesAndRoles)
	t.Run("screenshots", b.testScreenshots)
}

func (b *chromium) testVote(t *testing.T) {
	n := len(b.stored())
	ctx := b.visitor(t, "/?poll=last", 360)
	run(t, ctx, pressOn("anna"))
	await(t, ctx, recorded)
	if got := text(t, ctx, mainText); !strings.Contains(got, "Your vote is in") || !strings.Contains(got, "You voted for Anna.") || !strings.Contains(got, "You can change it until") {
		t.Errorf("after the vote:\n%s", got)
	}
	run(t, ctx, pressOn("bert"))
	await(t, ctx, recorded+` && document.querySelector('button[value=bert]').getAttribute('aria-pressed') === 'true' && !document.querySelector('form').hasAttribute('aria-busy')`)
	run(t, ctx, chromedp.Reload())
	await(t, ctx, recorded)
	b.visit(t, ctx, "/?poll=closed")
	run(t, ctx, chromedp.NavigateBack())
	await(t, ctx, recorded+` && document.querySelectorAll('button[aria-pressed=true]').length === 1`)
	if votes, voters := b.votesOf("1", n); len(votes) != 2 || votes[0][:2] != "1/" || votes[1][:2] != "2/" || votes[0][2:] >= votes[1][2:] || voters != 1 {
		t.Errorf("stored %v of %d voters", votes, voters)
	}
}

func (b *chromium) testWithoutScript(t *testing.T) {
	n := len(b.stored())
	ctx := b.visitor(t, "/?poll=last", 360, command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	if _, err := chromedp.RunResponse(ctx, pressOn("anna")); err != nil {
		t.Fatal(err)
	}
	if html := value(t, ctx, chromedp.OuterHTML(chromedp.CSS("html"))); !strings.Contains(html, "<title>Recorded: ") {
		t.Errorf("after the vote:\n%s", html)
	}
	if votes, _ := b.votesOf("1", n); len(votes) != 1 {
		t.Errorf("stored %v", votes)
	}
}

// testBadNetwork: the script goes on with the same ballot, also after a reload, until it is acknowledged.
func (b *chromium) testBadNetwork(t *testing.T) {
	n, posts := len(b.stored()), b.posts.Load()
	ctx := b.visitor(t, "/?poll=last", 360)
	b.before.Store(true)
	defer b.before.Store(false)
	run(t, ctx, pressOn("anna"))
	await(t, ctx, `document.getElementById('say').textContent.includes('Trying again')`)
	run(t, ctx, pressOn("bert")) // not before the first press has an answer
	run(t, ctx, chromedp.Reload())
	await(t, ctx, `document.getElementById('say').textContent.includes('Trying again') && document.querySelector('button[value=anna]').getAttribute('aria-pressed') === 'true'`)
	if b.posts.Load() < posts+2 {
		t.Errorf("%d posts, want one before the reload and one after", b.posts.Load()-posts)
	}
	b.before.Store(false)
	await(t, ctx, recorded)
	if votes, _ := b.votesOf("1", n); len(votes) != 1 || votes[0][:2] != "1/" {
		t.Errorf("stored %v, want Anna once", votes)
	}
}

func (b *chromium) testLostAnswer(t *testing.T) {
	n := len(b.stored())
	ctx := b.visitor(t, "/?poll=last", 360)
	b.after.Store(true)
	defer b.after.Store(false)
	run(t, ctx, pressOn("bert"))
	await(t, ctx, `document.getElementById('say').textContent.includes('Trying again')`)
	b.after.Store(false)
	await(t, ctx, recorded)
	votes, voters := b.votesOf("1", n)
	if len(votes) < 2 || voters != 1 {
		t.Errorf("stored %v of %d voters, want the same vote again", votes, voters)
	}
	for _, vote := range votes {
		if vote != votes[0] || vote[:2] != "2/" {
			t.Errorf("stored %v: one press, and more than one sequence or choice", votes)
		}
	}
}

func (b *chromium) testCookiesCleared(t *testing.T) {
	ctx := b.visitor(t, "/?poll=last", 360)
	run(t, ctx, command(network.ClearBrowserCookies, cdp.Empty{}), pressOn("anna"))
	await(t, ctx, `document.title.startsWith('Not recorded: ') && document.readyState === 'complete'`)
	if got := text(t, ctx, mainText); !strings.Contains(got, "please press again") {
		t.Errorf("with no cookie:\n%s", got)
	}
	run(t, ctx, pressOn("anna"))
	await(t, ctx, recorded)
}

func (b *chromium) testFirst(t *testing.T) {
	n := len(b.stored())
	one := b.visitor(t, "/?poll=first", 768)
	two, cancel := chromedp.NewContext(one)
	t.Cleanup(cancel)
	two = b.open(t, two, "/?poll=first", 768)
	run(t, one, pressOn("anna"))
	await(t, one, recorded)
	run(t, two, pressOn("bert"))
	await(t, two, recorded)
	if got := text(t, two, mainText); !strings.Contains(got, "Your first vote, for Anna, counts; this press changed nothing.") || strings.Contains(got, "Your vote for Donau") {
		t.Errorf("after the second press:\n%s", got)
	}
	if got := text(t, two, `String(document.querySelectorAll('button').length)`); got != "0" {
		t.Errorf("%s buttons after the vote", got)
	}
	if votes, _ := b.votesOf("2", n); len(votes) != 1 || votes[0][:2] != "1/" {
		t.Errorf("stored %v", votes)
	}
}

func (b *chromium) testOnce(t *testing.T) {
	n := len(b.stored())
	ctx := b.visitor(t, "/?poll=once", 360)
	run(t, ctx, chromedp.SetValue(chromedp.CSS("#code"), "0000-0000-0000-0000"), pressOn("anna"))
	await(t, ctx, `document.title.startsWith('Not recorded: ') && document.readyState === 'complete'`)
	if got := text(t, ctx, mainText); !strings.Contains(got, "This ballot code is not valid") {
		t.Errorf("with a wrong code:\n%s", got)
	}
	run(t, ctx, chromedp.SetValue(chromedp.CSS("#code"), "0123 4567 89ab cdef"), pressOn("anna"))
	await(t, ctx, recorded)
	// The same code on another device, by its link.
	other := b.visitor(t, "/?poll=once&code="+someCode, 360)
	run(t, other, pressOn("bert"))
	await(t, other, recorded)
	if votes, voters := b.votesOf("3", n); len(votes) != 2 || voters != 1 || votes[0] >= votes[1] {
		t.Errorf("stored %v of %d voters", votes, voters)
	}
}

// testLayout: nothing is wider than a phone at 200 % text, in either direction; fifty options are.
func (b *chromium) testLayout(t *testing.T) {
	for _, target := range []string{"/?poll=last", "/?poll=fifty", "/?poll=arabic", "/?poll=closed", "/?poll=once", "/?poll=nothing"} {
		ctx := b.visitor(t, target, 360)
		got := text(t, ctx, `(() => {
			document.documentElement.style.fontSize = '200%';
			const wide = [...document.querySelectorAll('main *')].filter(e => { const r = e.getBoundingClientRect(); return r.right > innerWidth + 1 || r.left < -1; }).map(e => e.outerHTML.slice(0, 60));
			return document.documentElement.scrollWidth + ' ' + wide.slice(0, 3).join(' ');
		})()`)
		if got != "360 " {
			t.Errorf("%s at 200 %% text is %s wide, want 360", target, got)
		}
	}
	ctx := b.visitor(t, "/?poll=arabic", 768)
	if got := text(t, ctx, `[document.documentElement.dir, document.documentElement.lang, getComputedStyle(document.querySelector('h1')).direction].join(' ')`); got != "rtl ar ltr" {
		t.Errorf("the Arabic page with an English question: %s", got)
	}
}

// contrastScript returns what has too little contrast by WCAG 2.2. It needs 4.5 for text, 3 for the edges of controls
// and for the focus ring.
const contrastScript = `(() => {
	const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
	const rgb = text => text.match(/[\d.]+/g).map(Number);
	const light = text => { const [r, g, b] = rgb(text); return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
	const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return 'rgb(255,255,255)'; };
	const poor = [];
	for (const e of document.querySelectorAll('main *')) {
		const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
		if (own && ratio(getComputedStyle(e).color, behind(e)) < 4.5) poor.push('text ' + e.outerHTML.slice(0, 80));
		if (e.matches('button, input:not([type=hidden]), .panel, .note') && ratio(getComputedStyle(e).borderTopColor, behind(e.parentElement)) < 3) poor.push('edge ' + e.outerHTML.slice(0, 80));
	}
	for (const e of document.querySelectorAll('button, a, summary, input:not([type=hidden])')) {
		if (!e.checkVisibility()) continue;
		e.focus({focusVisible: true});
		const s = getComputedStyle(e);
		if (s.outlineStyle === 'none' || parseFloat(s.outlineWidth) < 2 || ratio(s.outlineColor, behind(e.parentElement)) < 3) poor.push('focus ' + s.outline + ' ' + e.outerHTML.slice(0, 80));
	}
	return poor.join('\n');
})()`

func (b *chromium) testContrast(t *testing.T) {
	for _, scheme := range []string{"light", "dark"} {
		ctx := b.visitor(t, "/?poll=last", 768, media("prefers-color-scheme", scheme))
		check := func(state string) {
			if poor := text(t, ctx, contrastScript); poor != "" {
				t.Errorf("%s, %s:\n%s", scheme, state, poor)
			}
		}
		check("ballot")
		run(t, ctx, pressOn("anna"))
		await(t, ctx, recorded)
		check("recorded")
		for _, target := range []string{"/?poll=closed", "/?poll=once", "/?poll=nothing"} {
			b.visit(t, ctx, target)
			check(target)
		}
	}
}

func (b *chromium) testForcedColours(t *testing.T) {
	ctx := b.visitor(t, "/?poll=last", 768, media("forced-colors", "active"))
	run(t, ctx, pressOn("anna"))
	await(t, ctx, recorded)
	got := text(t, ctx, `(() => {
		const [a, b] = ['anna', 'bert'].map(c => getComputedStyle(document.querySelector('button[value=' + c + ']')).borderTopWidth);
		return [matchMedia('(forced-colors: active)').matches, a !== b].join(' ');
	})()`)
	if got != "true true" {
		t.Errorf("forced colours, and the choice looks different: %s", got)
	}
}

// Names and roles, by axe-core's rules: one h1, headings in steps, a legend, labelled fields, pictures with a text.
// Every option says whether it is pressed. Targets have at least 24 pixels, ids are unique, and focus follows the
// page's order.
func (b *chromium) testNamesAndRoles(t *testing.T) {
	for _, target := range []string{"/?poll=last", "/?poll=fifty", "/?poll=once", "/?poll=closed", "/?poll=nothing"} {
		ctx := b.visitor(t, target, 360)
		wrong := text(t, ctx, `(() => {
			const wrong = [], all = s => [...document.querySelectorAll(s)];
			if (all('h1').length !== 1) wrong.push('h1');
			for (const e of all('fieldset')) if (!e.querySelector('legend').textContent.trim()) wrong.push('legend');
			for (const e of all('[aria-labelledby],[aria-describedby]')) for (const id of (e.getAttribute('aria-labelledby') || e.getAttribute('aria-describedby')).split(' ')) if (!document.getElementById(id)) wrong.push('label ' + id);
			for (const e of all('input:not([type=hidden])')) if (!e.labels.length) wrong.push('field ' + e.name);
			for (const e of all('img')) if (!e.hasAttribute('alt')) wrong.push('picture');
			for (const e of all('button')) if (!['true', 'false'].includes(e.getAttribute('aria-pressed'))) wrong.push('state of ' + e.textContent);
			for (const e of all('a,button,summary')) { const r = e.getBoundingClientRect(); if (r.height < 24 || !e.textContent.trim()) wrong.push('target ' + e.textContent + ' ' + r.height); }
			if (all('[tabindex]').some(e => e.tabIndex > 0)) wrong.push('focus order');
			const ids = all('[id]').map(e => e.id); if (new Set(ids).size !== ids.length) wrong.push('an id twice');
			if (!document.documentElement.lang || !document.title || !document.querySelector('main')) wrong.push('language, title or main');
			return wrong.join(', ');
		})()`)
		if wrong != "" {
			t.Errorf("%s: %s", target, wrong)
		}
	}
}

// testScreenshots writes pictures for people: go test -run TestBrowser -artifacts -outputdir DIR.
func (b *chromium) testScreenshots(t *testing.T) {
	take := func(ctx context.Context, name string) {
		picture := value(t, ctx, chromedp.FullScreenshot(100))
		if len(picture) == 0 {
			t.Errorf("%s is empty", name)
		}
		if err := os.WriteFile(filepath.Join(t.ArtifactDir(), name+".png"), picture, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{360, 768, 1280} {
			ctx := b.visitor(t, "/?poll=last", width, media("prefers-color-scheme", scheme))
			take(ctx, fmt.Sprintf("ballot-%d-%s", width, scheme))
			run(t, ctx, pressOn("anna"))
			await(t, ctx, recorded)
			take(ctx, fmt.Sprintf("recorded-%d-%s", width, scheme))
		}
		for _, slug := range []string{"fifty", "arabic", "once", "closed", "nothing"} {
			take(b.visitor(t, "/?poll="+slug, 360, media("prefers-color-scheme", scheme)), slug+"-"+scheme)
		}
	}
}
