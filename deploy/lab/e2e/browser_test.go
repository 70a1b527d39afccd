//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"waggle/deploy/lab/harness/chrome"
)

// testBrowser votes in Chromium on the running system and changes the vote on a bad network. The count follows on an open
// page, and the receipt is looked up. The functions' own tests have the other cases.
func (s *system) testBrowser(t *testing.T) {
	browser := chrome.Start(t, "")
	count := chrome.Visitor(t, browser, s.Gateway+"/function/results", 360)
	chrome.Text(t, count, `window.stayed = true; document.querySelector('footer a').focus(); ''`)

	ballot := chrome.Visitor(t, browser, s.Gateway+"/function/vote", 360)
	press := func(choice string) chrome.Step {
		return chromedp.Click(chromedp.CSS(`button[value="` + choice + `"]`))
	}
	recorded := func(choice string) {
		t.Helper()
		chrome.Await(t, ballot, `document.readyState === 'complete' && document.title.startsWith('Recorded: ') &&
			document.querySelector('button[value=`+choice+`]').getAttribute('aria-pressed') === 'true'`)
	}
	chrome.Run(t, ballot, press("cats"))
	recorded("cats")
	chrome.Await(t, count, `document.querySelector('.total').textContent === '4 votes'`)

	chrome.Run(t, ballot, chrome.Offline(true)...)
	chrome.Run(t, ballot, press("dogs"))
	chrome.Await(t, ballot, `document.getElementById('say').textContent.includes('Trying again')`)
	chrome.Run(t, ballot, chrome.Offline(false)...)
	recorded("dogs")
	s.Counts(t, 10*time.Second, 1, 3)
	if got := chrome.Text(t, count, `[window.stayed, document.activeElement.matches('footer a'), document.querySelector('.total').textContent].join(' ')`); got != "true true 4 votes" {
		t.Errorf("the open page of results: stayed, focus, total = %q", got)
	}

	chrome.Run(t, ballot, chromedp.Click(chromedp.CSS(`summary`)))
	chrome.Press(t, ballot, `details a`)
	chrome.Await(t, ballot, `document.querySelector('[role=status]').textContent.includes('This vote is counted.')`)
}
