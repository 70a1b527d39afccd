package chain

import (
	"context"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"waggle/deploy/lab/harness/chrome"
)

const (
	recorded = `document.title.startsWith('Recorded: ') && document.readyState === 'complete'`
	say      = `document.getElementById('say').textContent`
)

func press(choice string) chrome.Step {
	return chromedp.Click(chromedp.CSS(`button[value="` + choice + `"]`))
}

// A press on a phone without a network is sent once the network is back, and is one vote in Postgres, whatever is pressed
// meanwhile.
func TestOffline(t *testing.T) {
	s := start(t)
	s.work()
	tab := chrome.Visitor(t, chrome.Start(t, ""), s.url+"/vote?poll=pets", 360)
	chrome.Run(t, tab, chrome.Offline(true)...)
	chrome.Run(t, tab, press("cats"))
	chrome.Await(t, tab, say+`.includes('Trying again')`)
	chrome.Run(t, tab, press("cats"), press("dogs")) // without an effect: the first press waits
	if n := s.captured(); n != 0 {
		t.Errorf("%d votes captured without a network", n)
	}
	chrome.Run(t, tab, chrome.Offline(false)...)
	chrome.Await(t, tab, recorded)
	s.counted()
	if got := s.db.SQL("SELECT poll, choice, seq FROM vote"); got != "1|1|1" {
		t.Errorf("rows %q, want one, of cats", got)
	}
	if got := s.db.SQL("SELECT choice, sum(n) FROM tally GROUP BY choice HAVING sum(n) <> 0"); got != "1|1" {
		t.Errorf("tally %q, want one vote of cats", got)
	}
}

// The link "Is my vote counted?" of the ballot leads to what became of the vote, in each state that there is.
func TestReceiptFromTheBallot(t *testing.T) {
	s := start(t)
	browser := chrome.Start(t, "")
	const node = `UPDATE drain_stream SET `
	vote := func(poll, choice string) context.Context {
		tab := chrome.Visitor(t, browser, s.url+"/vote?poll="+poll, 360)
		chrome.Run(t, tab, press(choice))
		chrome.Await(t, tab, recorded)
		return tab
	}
	// look follows the link of a ballot; the page that it was on is left.
	look := func(tab context.Context, want string) {
		t.Helper()
		chrome.Run(t, tab, chromedp.Click(chromedp.CSS(`summary`)))
		chrome.Press(t, tab, `details a`)
		if got := chrome.Text(t, tab, `document.querySelector('[role=status]').textContent`); !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	again := func(tab context.Context, want string) { // looks the same receipt up once more
		t.Helper()
		chrome.Run(t, tab, chromedp.Reload())
		chrome.Await(t, tab, `document.readyState === 'complete' && document.querySelector('[role=status]') !== null`)
		if got := chrome.Text(t, tab, `document.querySelector('[role=status]').textContent`); !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}

	first := vote("pets", "cats")
	look(first, "waits to be counted")
	stop := s.work()
	s.counted()
	again(first, "This vote is counted.")

	changed := chrome.Beside(t, first, s.url+"/vote?poll=pets", 360)
	chrome.Run(t, changed, press("dogs"))
	chrome.Await(t, changed, recorded+` && document.querySelector('button[value=dogs]').getAttribute('aria-pressed') === 'true'`)
	s.counted()
	again(first, "A later vote of the same voter replaced this one")
	look(changed, "This vote is counted.")

	unknown := vote("new", "yes")
	s.counted()
	look(unknown, "no valid vote")
	stop()

	waits := vote("pets", "cats")
	s.db.SQL(node + `seen_at = now() - interval '1 hour'`)
	look(waits, "cannot be reached since ")
	s.db.SQL(node + `state = 'retired'`)
	again(waits, "This vote is lost")
}

// With cookies blocked nobody can vote; the page says so, and what to do.
func TestBlockedCookies(t *testing.T) {
	s := start(t)
	tab := chrome.Visitor(t, chrome.Start(t, chrome.NoCookies), s.url+"/vote?poll=pets", 360)
	for range 2 {
		chrome.Press(t, tab, `button[value="cats"]`)
		chrome.Await(t, tab, `document.title.startsWith('Not recorded: ') && document.readyState === 'complete'`)
		if got := chrome.Text(t, tab, `document.querySelector('main').innerText`); !strings.Contains(got, "allow cookies for this site") {
			t.Errorf("with cookies blocked:\n%s", got)
		}
	}
	if n := s.captured(); n != 0 {
		t.Errorf("%d votes captured", n)
	}
}
