package vote

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"waggle/deploy/lab/harness/chrome"
)

const (
	someCode    = "0123456789ABCDEF"
	anotherCode = "GHJKMNPQRSTVWXYZ"
)

// browserPolls has a poll for each way to vote, and pages that are hard to lay out.
func browserPolls(t *testing.T, p *provider) []poll {
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
		strings.Replace(poll(7, "future", two, `"mode":"last","zone":"Europe/Berlin"`), "2020", "2099", 1),
		poll(8, "sso", two, ssoPoll(p)),
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
	key           signingKey // of the sign-in provider
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
	b := &chromium{key: ecKey(t, "k1")}
	p := newProvider(t)
	p.publish(b.key.published())
	polls := browserPolls(t, p)
	files := fstest.MapFS{"images/anna.svg": {Data: []byte(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8" width="160" height="160"><circle cx="4" cy="4" r="4" fill="#a06"/></svg>`)},
		"codes/once.codes": {Data: listOfPoll(3, someCode, anotherCode)}}
	b.bundle = setup(t, func(c *config) { c.polls, c.codeFiles, c.imageFiles, c.resultsURL = polls, files, files, "/results" })
	server := httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(server.Close)
	b.ctx, b.url = chrome.Start(t, ""), server.URL
	return b
}

// visitor opens an address as somebody new.
func (b *chromium) visitor(t *testing.T, target string, width int64, before ...chrome.Step) context.Context {
	t.Helper()
	return chrome.Visitor(t, b.ctx, b.url+target, width, before...)
}

func (b *chromium) visit(t *testing.T, ctx context.Context, target string) {
	t.Helper()
	chrome.Visit(t, ctx, b.url+target)
}

const (
	recorded = `document.title.startsWith('Recorded: ') && document.readyState === 'complete'`
	mainText = `document.querySelector('main').innerText`
)

func pressOn(choice string) chrome.Step {
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
	t.Run("sign-in", b.testSSO)
	t.Run("layout", b.testLayout)
	t.Run("contrast", b.testContrast)
	t.Run("forced colours", b.testForcedColours)
	t.Run("names and roles", b.testNamesAndRoles)
	t.Run("screenshots", b.testScreenshots)
}

func (b *chromium) testVote(t *testing.T) {
	n := len(b.stored())
	ctx := b.visitor(t, "/?poll=last", 360)
	chrome.Run(t, ctx, pressOn("anna"))
	chrome.Await(t, ctx, recorded)
	if got := chrome.Text(t, ctx, mainText); !strings.Contains(got, "Your vote is in") || !strings.Contains(got, "You voted for Anna.") || !strings.Contains(got, "You can change it until") {
		t.Errorf("after the vote:\n%s", got)
	}
	chrome.Run(t, ctx, pressOn("bert"))
	chrome.Await(t, ctx, recorded+` && document.querySelector('button[value=bert]').getAttribute('aria-pressed') === 'true' && !document.querySelector('form').hasAttribute('aria-busy')`)
	chrome.Run(t, ctx, chromedp.Reload())
	chrome.Await(t, ctx, recorded)
	b.visit(t, ctx, "/?poll=closed")
	chrome.Run(t, ctx, chromedp.NavigateBack())
	chrome.Await(t, ctx, recorded+` && document.querySelectorAll('button[aria-pressed=true]').length === 1`)
	if votes, voters := b.votesOf("1", n); len(votes) != 2 || votes[0][:2] != "1/" || votes[1][:2] != "2/" || votes[0][2:] >= votes[1][2:] || voters != 1 {
		t.Errorf("stored %v of %d voters", votes, voters)
	}
}

func (b *chromium) testWithoutScript(t *testing.T) {
	n := len(b.stored())
	ctx := b.visitor(t, "/?poll=last", 360, chrome.NoScript())
	chrome.Press(t, ctx, `button[value="anna"]`)
	if html := chrome.Value(t, ctx, chromedp.OuterHTML(chromedp.CSS("html"))); !strings.Contains(html, "<title>Recorded: ") {
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
	chrome.Run(t, ctx, pressOn("anna"))
	chrome.Await(t, ctx, `document.getElementById('say').textContent.includes('Trying again')`)
	chrome.Run(t, ctx, pressOn("bert")) // not before the first press has an answer
	chrome.Run(t, ctx, chromedp.Reload())
	chrome.Await(t, ctx, `document.getElementById('say').textContent.includes('Trying again') && document.querySelector('button[value=anna]').getAttribute('aria-pressed') === 'true'`)
	if b.posts.Load() < posts+2 {
		t.Errorf("%d posts, want one before the reload and one after", b.posts.Load()-posts)
	}
	b.before.Store(false)
	chrome.Await(t, ctx, recorded)
	if votes, _ := b.votesOf("1", n); len(votes) != 1 || votes[0][:2] != "1/" {
		t.Errorf("stored %v, want Anna once", votes)
	}
}

func (b *chromium) testLostAnswer(t *testing.T) {
	n := len(b.stored())
	ctx := b.visitor(t, "/?poll=last", 360)
	b.after.Store(true)
	defer b.after.Store(false)
	chrome.Run(t, ctx, pressOn("bert"))
	chrome.Await(t, ctx, `document.getElementById('say').textContent.includes('Trying again')`)
	b.after.Store(false)
	chrome.Await(t, ctx, recorded)
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
	chrome.Run(t, ctx, chrome.Command(network.ClearBrowserCookies, cdp.Empty{}), pressOn("anna"))
	chrome.Await(t, ctx, `document.title.startsWith('Not recorded: ') && document.readyState === 'complete'`)
	if got := chrome.Text(t, ctx, mainText); !strings.Contains(got, "please press again") {
		t.Errorf("with no cookie:\n%s", got)
	}
	chrome.Run(t, ctx, pressOn("anna"))
	chrome.Await(t, ctx, recorded)
}

func (b *chromium) testFirst(t *testing.T) {
	n := len(b.stored())
	one := b.visitor(t, "/?poll=first", 768)
	two := chrome.Beside(t, one, b.url+"/?poll=first", 768)
	chrome.Run(t, one, pressOn("anna"))
	chrome.Await(t, one, recorded)
	chrome.Run(t, two, pressOn("bert"))
	chrome.Await(t, two, recorded)
	if got := chrome.Text(t, two, mainText); !strings.Contains(got, "Your first vote, for Anna, counts; this press changed nothing.") || strings.Contains(got, "Your vote for Donau") {
		t.Errorf("after the second press:\n%s", got)
	}
	if got := chrome.Text(t, two, `String(document.querySelectorAll('button').length)`); got != "0" {
		t.Errorf("%s buttons after the vote", got)
	}
	if votes, _ := b.votesOf("2", n); len(votes) != 1 || votes[0][:2] != "1/" {
		t.Errorf("stored %v", votes)
	}
}

func (b *chromium) testOnce(t *testing.T) {
	n := len(b.stored())
	ctx := b.visitor(t, "/?poll=once", 360)
	chrome.Run(t, ctx, chromedp.SetValue(chromedp.CSS("#code"), "0000-0000-0000-0000"), pressOn("anna"))
	chrome.Await(t, ctx, `document.title.startsWith('Not recorded: ') && document.readyState === 'complete'`)
	if got := chrome.Text(t, ctx, mainText); !strings.Contains(got, "This ballot code is not valid") {
		t.Errorf("with a wrong code:\n%s", got)
	}
	chrome.Run(t, ctx, chromedp.SetValue(chromedp.CSS("#code"), "0123 4567 89ab cdef"), pressOn("anna"))
	chrome.Await(t, ctx, recorded)
	// The same code on another device, by its link.
	other := b.visitor(t, "/?poll=once&code="+someCode, 360)
	chrome.Run(t, other, pressOn("bert"))
	chrome.Await(t, other, recorded)
	if votes, voters := b.votesOf("3", n); len(votes) != 2 || voters != 1 || votes[0] >= votes[1] {
		t.Errorf("stored %v of %d voters", votes, voters)
	}
}

// signedIn is what a proxy that signs people in adds to each request of a browser.
func (b *chromium) signedIn(t *testing.T, changes map[string]any) chrome.Step {
	t.Helper()
	token := b.key.token(t, claimsWith(time.Now(), changes))
	return chrome.Command(network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{Headers: network.Headers{"Authorization": "Bearer " + token}})
}

func (b *chromium) testSSO(t *testing.T) {
	n := len(b.stored())
	// Nobody is signed in: a link instead of a form.
	stranger := b.visitor(t, "/?poll=sso", 360)
	if got := chrome.Text(t, stranger, `[document.querySelectorAll('form').length, document.querySelector('a.button').href].join(' ')`); got != "0 https://id.example/in" {
		t.Errorf("without a sign-in: %s", got)
	}
	one := b.visitor(t, "/?poll=sso", 360, b.signedIn(t, nil))
	chrome.Run(t, one, pressOn("anna"))
	chrome.Await(t, one, recorded)
	if got := chrome.Text(t, one, mainText); !strings.Contains(got, "You voted for Anna.") {
		t.Errorf("after the vote:\n%s", got)
	}
	// The same person on another device, and somebody else at the first one.
	other := b.visitor(t, "/?poll=sso", 360, b.signedIn(t, nil))
	chrome.Run(t, other, pressOn("bert"))
	chrome.Await(t, other, recorded)
	chrome.Run(t, one, b.signedIn(t, map[string]any{"sub": "bea"}))
	b.visit(t, one, "/?poll=sso")
	if got := chrome.Text(t, one, mainText); strings.Contains(got, "Anna.") {
		t.Errorf("somebody else sees the vote of who was here before:\n%s", got)
	}
	// A sign-in that has expired since the page was shown.
	chrome.Run(t, other, b.signedIn(t, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}))
	b.visit(t, other, "/?poll=sso")
	if got := chrome.Text(t, other, `String(document.querySelectorAll('form').length)`); got != "0" {
		t.Errorf("%s forms with an expired sign-in", got)
	}
	if votes, voters := b.votesOf("8", n); len(votes) != 2 || voters != 1 || votes[0][:2] != "1/" || votes[1][:2] != "2/" {
		t.Errorf("stored %v of %d voters, want two of one subject", votes, voters)
	}
}

// testLayout: nothing is wider than a phone at 200 % text, in either direction; fifty options are.
func (b *chromium) testLayout(t *testing.T) {
	for _, target := range []string{"/?poll=last", "/?poll=fifty", "/?poll=arabic", "/?poll=closed", "/?poll=future", "/?poll=once", "/?poll=sso", "/?poll=nothing"} {
		ctx := b.visitor(t, target, 360)
		got := chrome.Text(t, ctx, `(() => {
			document.documentElement.style.fontSize = '200%';
			const wide = [...document.querySelectorAll('main *')].filter(e => { const r = e.getBoundingClientRect(); return r.right > innerWidth + 1 || r.left < -1; }).map(e => e.outerHTML.slice(0, 60));
			return document.documentElement.scrollWidth + ' ' + wide.slice(0, 3).join(' ');
		})()`)
		if got != "360 " {
			t.Errorf("%s at 200 %% text is %s wide, want 360", target, got)
		}
	}
	ctx := b.visitor(t, "/?poll=arabic", 768)
	if got := chrome.Text(t, ctx, `[document.documentElement.dir, document.documentElement.lang, getComputedStyle(document.querySelector('h1')).direction].join(' ')`); got != "rtl ar ltr" {
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
		ctx := b.visitor(t, "/?poll=last", 768, chrome.Media("", "prefers-color-scheme", scheme))
		check := func(state string) {
			if poor := chrome.Text(t, ctx, contrastScript); poor != "" {
				t.Errorf("%s, %s:\n%s", scheme, state, poor)
			}
		}
		check("ballot")
		chrome.Run(t, ctx, pressOn("anna"))
		chrome.Await(t, ctx, recorded)
		check("recorded")
		for _, target := range []string{"/?poll=closed", "/?poll=future", "/?poll=once", "/?poll=sso", "/?poll=nothing"} {
			b.visit(t, ctx, target)
			check(target)
		}
	}
}

func (b *chromium) testForcedColours(t *testing.T) {
	ctx := b.visitor(t, "/?poll=last", 768, chrome.Media("", "forced-colors", "active"))
	chrome.Run(t, ctx, pressOn("anna"))
	chrome.Await(t, ctx, recorded)
	got := chrome.Text(t, ctx, `(() => {
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
	for _, target := range []string{"/?poll=last", "/?poll=fifty", "/?poll=once", "/?poll=closed", "/?poll=future", "/?poll=sso", "/?poll=nothing"} {
		ctx := b.visitor(t, target, 360)
		wrong := chrome.Text(t, ctx, `(() => {
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
	pages := func(suffix string, width int64, before ...chrome.Step) {
		take := func(name string, ctx context.Context) {
			chrome.Picture(t, ctx, fmt.Sprintf("%s-%d-%s", name, width, suffix))
		}
		ctx := b.visitor(t, "/?poll=last", width, before...)
		take("ballot", ctx)
		chrome.Run(t, ctx, pressOn("anna"))
		chrome.Await(t, ctx, recorded)
		take("recorded", ctx)
		chrome.Run(t, ctx, chromedp.Click(chromedp.CSS("summary")))
		take("receipt", ctx)
		chrome.Run(t, ctx, chrome.Command(network.ClearBrowserCookies, cdp.Empty{}), pressOn("bert"))
		chrome.Await(t, ctx, `document.title.startsWith('Not recorded: ') && document.readyState === 'complete'`)
		take("refused", ctx)
		ctx = b.visitor(t, "/?poll=first", width, before...)
		chrome.Run(t, ctx, pressOn("anna"))
		chrome.Await(t, ctx, recorded)
		take("first", ctx)
		b.visit(t, ctx, "/?poll=first&kept=1")
		take("kept", ctx)
		for _, slug := range []string{"fifty", "arabic", "once", "sso", "closed", "future", "nothing"} {
			b.visit(t, ctx, "/?poll="+slug)
			take(slug, ctx)
		}
		b.visit(t, ctx, "/receipt/x")
		take("no-receipt", ctx)
	}
	for _, width := range []int64{360, 768, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			pages(scheme, width, chrome.Media("", "prefers-color-scheme", scheme))
		}
	}
	pages("forced", 768, chrome.Media("", "forced-colors", "active"))
}
