package results

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"waggle/deploy/lab/harness"
	"waggle/deploy/lab/harness/chrome"
)

// browser is Chromium with one server of the function in front of a real Postgres.
type browser struct {
	ctx context.Context
	url string
	d   *harness.Database
}

// openBrowser fails the test where chromium is not installed.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	d := harness.Postgres(t)
	fill(t, d)
	// Turnout of the last minutes, one of them the best.
	d.SQL(`INSERT INTO turnout SELECT 1, extract(epoch FROM now())::bigint / 60 - n, 1, 1 + (n * 7) % 11 FROM generate_series(0, 60) n;
		INSERT INTO poll_entries VALUES (1, 1, 1530), (1, 2, 20)`)
	h := setup(t, d)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	<-h.first
	return &browser{ctx: chrome.Start(t, ""), url: server.URL, d: d}
}

// tab opens an address in a new tab of a given width, after some steps.
func (b *browser) tab(t *testing.T, target string, width int64, before ...chrome.Step) context.Context {
	t.Helper()
	return chrome.Visitor(t, b.ctx, b.url+target, width, before...)
}

func TestBrowser(t *testing.T) {
	b := openBrowser(t)
	t.Run("live update keeps focus, scroll and page", b.testLive)
	t.Run("the sheet", b.testSheet)
	t.Run("right to left", b.testRightToLeft)
	t.Run("large text on a phone", b.testLargeText)
	t.Run("contrast", b.testContrast)
	t.Run("forced colours", b.testForcedColours)
	t.Run("print", b.testPrint)
	t.Run("receipt", b.testReceipt)
	t.Run("without script", b.testWithoutScript)
	t.Run("names and roles", b.testNamesAndRoles)
	t.Run("screenshots", b.testScreenshots)
}

func (b *browser) testLive(t *testing.T) {
	ctx := b.tab(t, "/", 360)
	before := chrome.Text(t, ctx, `window.stayed = true; document.querySelector('footer nav li:last-child a').focus(); scrollTo(0, 300);
		document.querySelector('#options-1 .total').textContent + '|' + scrollY + '|' + document.activeElement.textContent`)
	b.d.SQL(`UPDATE tally SET n = n + 1000 WHERE poll = 1 AND choice = 1 AND shard = 0`)
	chrome.Value(t, ctx, chromedp.Poll[bool](`document.querySelector('#options-1 .total').textContent === '1,021 votes'`, chromedp.WithPollingTimeout(chrome.Patience)))
	after := chrome.Text(t, ctx, `(window.stayed ? '' : 'reloaded ') + document.querySelector('#options-1 .total').textContent + '|' + scrollY + '|' + document.activeElement.textContent`)
	if want := strings.Replace(before, "21 votes", "1,021 votes", 1); after != want {
		t.Errorf("after the update: %q, want %q", after, want)
	}
	// The tests after this one read the page as it was.
	b.d.SQL(`UPDATE tally SET n = n - 1000 WHERE poll = 1 AND choice = 1 AND shard = 0`)
	chrome.Value(t, ctx, chromedp.Poll[bool](`document.querySelector('#options-1 .total').textContent === '21 votes'`, chromedp.WithPollingTimeout(chrome.Patience)))
}

func (b *browser) testSheet(t *testing.T) {
	ctx := b.tab(t, "/?view=sheet&poll=past", 1280)
	sheet := chrome.Text(t, ctx, `document.querySelector('main').innerText`)
	for _, part := range []string{"Announcer’s sheet", "Past?", "Not final", "the self-checks have not run since voting closed", "node2 is silent since", "Option"} {
		if !strings.Contains(sheet, part) {
			t.Errorf("the sheet lacks %q:\n%s", part, sheet)
		}
	}
	if first := chrome.Text(t, ctx, `document.querySelector('#options-3 tbody tr').innerText.replace(/\s+/g, ' ')`); !strings.HasPrefix(first, "1 No 3") {
		t.Errorf("the first row of the sheet is %q, want the winner", first)
	}
}

func (b *browser) testRightToLeft(t *testing.T) {
	ctx := b.tab(t, "/?lang=ar", 768)
	got := chrome.Text(t, ctx, `(() => {
		const bar = document.querySelector('#options-1 .leads .bar'), rect = bar.querySelector('rect');
		const outer = bar.getBoundingClientRect(), inner = rect.getBoundingClientRect();
		return [document.documentElement.dir, document.documentElement.lang, outer.right - inner.right < 3 && inner.left - outer.left > 20,
			getComputedStyle(document.querySelector('#question-1')).direction, document.documentElement.scrollWidth <= innerWidth].join(' ');
	})()`)
	// The question is English, so it keeps its own direction.
	if want := "rtl ar true ltr true"; got != want {
		t.Errorf("the Arabic page: %q, want %q", got, want)
	}
}

func (b *browser) testLargeText(t *testing.T) {
	for _, target := range []string{"/", "/?view=sheet", "/?lang=de", "/?lang=ar&view=sheet", "/?receipt=x"} {
		ctx := b.tab(t, target, 360)
		got := chrome.Text(t, ctx, `(() => {
			document.documentElement.style.fontSize = '200%';
			for (const e of document.querySelectorAll('h2, .options th')) e.textContent += ' Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung';
			const wide = [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(e).position !== 'absolute').map(e => e.tagName + '.' + e.className);
			return document.documentElement.scrollWidth + ' ' + wide.slice(0, 5).join(' ');
		})()`)
		if got != "360 " {
			t.Errorf("%s at 200 %% text is %s wide, want 360", target, got)
		}
	}
}

// contrastScript returns what has too little contrast, by WCAG 2.2: 4.5 for text, 3 for the edges of bars and panels.
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
		if (e.matches('rect, .chart path') && ratio(getComputedStyle(e).fill, behind(e.closest('.bar, .chart'))) < 3) poor.push('fill ' + e.outerHTML.slice(0, 80));
		if (e.matches('.bar, .panel, .badge, textarea, button') && ratio(getComputedStyle(e).borderTopColor, behind(e.parentElement)) < 3) poor.push('edge ' + e.outerHTML.slice(0, 80));
	}
	return poor.join('\n');
})()`

func (b *browser) testContrast(t *testing.T) {
	for _, scheme := range []string{"light", "dark"} {
		for _, target := range []string{"/", "/?view=sheet", "/?receipt=x"} {
			ctx := b.tab(t, target, 768, chrome.Media("", "prefers-color-scheme", scheme))
			if poor := chrome.Text(t, ctx, contrastScript); poor != "" {
				t.Errorf("%s, %s: too little contrast:\n%s", target, scheme, poor)
			}
		}
	}
}

func (b *browser) testForcedColours(t *testing.T) {
	ctx := b.tab(t, "/", 768, chrome.Media("", "forced-colors", "active"))
	got := chrome.Text(t, ctx, `(() => {
		const bar = document.querySelector('#options-1 .bar');
		return [matchMedia('(forced-colors: active)').matches, getComputedStyle(bar.querySelector('rect')).fill === getComputedStyle(bar).backgroundColor].join(' ');
	})()`)
	if got != "true false" {
		t.Errorf("forced colours, and a bar like its track: %s, want true false", got)
	}
}

func (b *browser) testPrint(t *testing.T) {
	ctx := b.tab(t, "/?view=sheet", 768, chrome.Media("print"))
	if got := chrome.Text(t, ctx, `getComputedStyle(document.querySelector('footer nav')).display + ' ' + getComputedStyle(document.body).backgroundColor`); got != "none rgb(255, 255, 255)" {
		t.Errorf("links and paper in print: %s", got)
	}
	pdf := chrome.Value(t, ctx, func(ctx context.Context, target *chromedp.Target) ([]byte, error) {
		r, err := cdp.Call(ctx, target, page.PrintToPDF, page.PrintToPDFParams{})
		return r.Data, err
	})
	chrome.Keep(t, "sheet.pdf", pdf)
}

func (b *browser) testReceipt(t *testing.T) {
	b.d.SQL(fmt.Sprintf(`INSERT INTO vote (poll, voter, choice, seq, ts, eid) VALUES (1, '%s', 1, 2, 1, '%s'); UPDATE drain_stream SET pos = '100-1' WHERE node = 'node1'`,
		strings.Repeat("01", 16), eid(100, 1, 1)))
	ctx := b.tab(t, "/", 360)
	chrome.Run(t, ctx, chromedp.Click(chromedp.CSS(`a[href="?receipt="]`)), chromedp.WaitVisible(chromedp.CSS(`#receipt`)))
	for _, test := range []struct{ receipt, want string }{
		{receiptText(1, 2, incarnation1, "100-1"), "This vote is counted."},
		{receiptText(1, 2, incarnation1, "200-1"), "waits to be counted"},
		{receiptText(1, 2, incarnation2, "100-1"), "cannot be reached since "},
		{"7K3M-Q2ZD", "This is no receipt of this ballot"},
	} {
		b.d.SQL(`UPDATE drain_stream SET seen_at = now() WHERE node = 'node1'`) // on a slow machine the browser takes longer than a node may be silent
		chrome.Run(t, ctx, chromedp.SetValue(chromedp.CSS(`#receipt`), test.receipt))
		chrome.Press(t, ctx, `button`)
		if got := chrome.Text(t, ctx, `document.querySelector('[role=status]').textContent`); !strings.Contains(got, test.want) {
			t.Errorf("receipt %s: %q, want %q", test.receipt, got, test.want)
		}
	}
}

func (b *browser) testWithoutScript(t *testing.T) {
	ctx := b.tab(t, "/", 360, chrome.NoScript())
	html := chrome.Value(t, ctx, chromedp.OuterHTML(chromedp.CSS("html")))
	if !strings.Contains(html, "21 votes") || !strings.Contains(html, `http-equiv="refresh"`) {
		t.Errorf("without script:\n%s", html)
	}
}

// Names and roles, as axe-core's rules ask: one h1, headings in steps, labelled sections and fields, cells below headings,
// targets of at least 24 pixels.
func (b *browser) testNamesAndRoles(t *testing.T) {
	for _, target := range []string{"/", "/?view=sheet", "/?receipt=x"} {
		ctx := b.tab(t, target, 360)
		wrong := chrome.Text(t, ctx, `(() => {
			const wrong = [], all = s => [...document.querySelectorAll(s)];
			if (all('h1').length !== 1) wrong.push('h1');
			let level = 1;
			for (const h of all('h1,h2,h3,h4')) { const n = +h.tagName[1]; if (n > level + 1) wrong.push('heading ' + h.textContent); level = n; }
			for (const e of all('[aria-labelledby],[aria-describedby]')) for (const id of (e.getAttribute('aria-labelledby') || e.getAttribute('aria-describedby')).split(' ')) if (!document.getElementById(id)) wrong.push('label ' + id);
			for (const e of all('textarea,input:not([type=hidden])')) if (!e.labels.length) wrong.push('field ' + e.name);
			for (const e of all('svg')) if (e.getAttribute('aria-hidden') !== 'true' && !e.getAttribute('aria-label')) wrong.push('picture');
			for (const e of all('a,button')) { const r = e.getBoundingClientRect(); if (r.height < 24 || !e.textContent.trim()) wrong.push('target ' + e.textContent + ' ' + r.height); }
			const ids = all('[id]').map(e => e.id); if (new Set(ids).size !== ids.length) wrong.push('an id twice');
			if (!document.documentElement.lang || !document.title) wrong.push('language or title');
			return wrong.join(', ');
		})()`)
		if wrong != "" {
			t.Errorf("%s: %s", target, wrong)
		}
	}
}

func (b *browser) testScreenshots(t *testing.T) {
	ctx := b.tab(t, "/", 360)
	take := func(name, target string, width int64, scheme string) {
		chrome.Run(t, ctx, chromedp.EmulateViewport(width, 800), chrome.Media("", "prefers-color-scheme", scheme))
		chrome.Visit(t, ctx, b.url+target)
		chrome.Picture(t, ctx, fmt.Sprintf("%s-%d-%s", name, width, scheme))
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{360, 768, 1280} {
			take("results", "/", width, scheme)
			take("sheet", "/?view=sheet", width, scheme)
		}
		take("arabic", "/?lang=ar", 768, scheme)
		take("receipt", "/?receipt="+receiptText(1, 2, incarnation2, "100-1"), 360, scheme)
	}
	// Every vote is there, and the self-checks have run since the poll closed.
	b.d.SQL(`DELETE FROM drain_gap; UPDATE drain_stream SET lost = 0, added = n, seen_at = now();
		INSERT INTO drain_check VALUES ('tally', 0, '', now()), ('ledger', 0, '', now())`)
	chrome.Visit(t, ctx, b.url+"/?poll=past")
	chrome.Await(t, ctx, `document.querySelector('.badge.good') !== null`)
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{360, 1280} {
			take("final", "/?poll=past", width, scheme)
			take("final-sheet", "/?poll=past&view=sheet", width, scheme)
		}
	}
}
