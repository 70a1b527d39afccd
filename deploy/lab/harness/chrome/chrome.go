// Package chrome drives Chromium for tests of pages: what a page shows, what it asks of whom, and how it looks.
//
// In: the address of a server that the test runs. Out: what scripts of the test find on the page, and pictures. It
// guarantees that a page which asks anything of another host, or throws, fails the test; and that nothing of the browser
// outlives it. Chromium is the Debian package of that name; where it is missing, the test fails.
package chrome

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Patience bounds one visit on a busy machine.
const Patience = 2 * time.Minute

// Step is something that is done in a tab.
type Step = chromedp.Action[chromedp.Void]

// NoCookies are the preferences of a browser that blocks all cookies.
const NoCookies = `{"profile":{"default_content_setting_values":{"cookies":2}}}`

// Start starts a browser that ends with the test. Preferences is the JSON of its profile; empty are the defaults.
func Start(t *testing.T, preferences string) (browser context.Context) {
	t.Helper()
	profile := t.TempDir()
	if preferences != "" {
		if err := os.MkdirAll(filepath.Join(profile, "Default"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(profile, "Default", "Preferences"), []byte(preferences), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.UserDataDir(profile))...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting chromium, which the Debian package chromium has: %v", err)
	}
	return ctx
}

// Visitor opens an address as somebody new, in a browser context with no cookies, in a window of so many pixels, after the
// steps.
func Visitor(t *testing.T, browser context.Context, address string, width int64, before ...Step) (tab context.Context) {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	return open(t, ctx, address, width, before...)
}

// Beside is Visitor in another tab of the same visitor.
func Beside(t *testing.T, other context.Context, address string, width int64, before ...Step) (tab context.Context) {
	t.Helper()
	ctx, cancel := chromedp.NewContext(other)
	t.Cleanup(cancel)
	return open(t, ctx, address, width, before...)
}

// open is for a context that has no tab yet.
func open(t *testing.T, ctx context.Context, address string, width int64, before ...Step) context.Context {
	t.Helper()
	own, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			if asked, err := url.Parse(e.Request.URL); err != nil || asked.Host != own.Host && asked.Scheme != "data" {
				t.Errorf("%s asks for %s", address, e.Request.URL)
			}
		case *runtime.EventExceptionThrown:
			t.Errorf("%s: %s", address, e.ExceptionDetails.Text)
		}
	}); err != nil {
		t.Fatal(err)
	}
	// The first steps start the tab, which lives as long as their context; so only what follows has a bound.
	Run(t, ctx, Command(network.Enable, network.EnableParams{}), chromedp.EmulateViewport(width, 800))
	ctx, cancel := context.WithTimeout(ctx, Patience)
	t.Cleanup(cancel)
	Run(t, ctx, before...)
	Visit(t, ctx, address)
	return ctx
}

// Visit opens an address in a tab.
func Visit(t *testing.T, tab context.Context, address string) {
	t.Helper()
	for {
		err := chromedp.Do(tab, chromedp.Navigate(address))
		// Chromium cuts its connections when any network of the machine comes or goes, as those of containers do.
		if err != nil && strings.Contains(err.Error(), "ERR_NETWORK_CHANGED") && tab.Err() == nil {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

// Command is a command of the DevTools protocol as a step.
func Command[P, R any](c cdp.Command[P, R], params P) Step {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// Media emulates a medium, or none, and features such as a colour scheme: names and values in turn.
func Media(medium string, feature ...string) Step {
	params := emulation.SetEmulatedMediaParams{Media: medium}
	for i := 0; i+1 < len(feature); i += 2 {
		params.Features = append(params.Features, &emulation.MediaFeature{Name: feature[i], Value: feature[i+1]})
	}
	return Command(emulation.SetEmulatedMedia, params)
}

// NoScript switches scripts off.
func NoScript() Step {
	return Command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
}

// Offline takes the tab off the network, or puts it back, and lets its page know.
func Offline(off bool) []Step {
	return []Step{
		Command(network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
			MatchedNetworkConditions: []*network.Conditions{{Offline: off, DownloadThroughput: -1, UploadThroughput: -1}},
		}),
		Command(network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: off, DownloadThroughput: -1, UploadThroughput: -1}),
	}
}

// Run does steps, one after the other.
func Run(t *testing.T, tab context.Context, steps ...Step) {
	t.Helper()
	if err := chromedp.Do(tab, steps...); err != nil {
		t.Fatal(err)
	}
}

// Value does what has a result.
func Value[T any](t *testing.T, tab context.Context, action chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(tab, action)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Text is the string that a script returns.
func Text(t *testing.T, tab context.Context, script string) string {
	t.Helper()
	return Value(t, tab, chromedp.Evaluate[string](script))
}

// Await waits until a script is true, across pages.
func Await(t *testing.T, tab context.Context, script string) {
	t.Helper()
	for {
		_, err := chromedp.Run(tab, chromedp.Poll[bool](script, chromedp.WithPollingTimeout(Patience)))
		if err == nil {
			return
		}
		left := strings.Contains(err.Error(), "navigated") || strings.Contains(err.Error(), "context was destroyed") || strings.Contains(err.Error(), "Cannot find context")
		if !left || tab.Err() != nil {
			t.Fatalf("waiting for %s: %v", script, err)
		}
	}
}

// Press clicks what a CSS selector finds and waits for the page that follows.
func Press(t *testing.T, tab context.Context, selector string) {
	t.Helper()
	if _, err := chromedp.RunResponse(tab, chromedp.Click(chromedp.CSS(selector))); err != nil {
		t.Fatal(err)
	}
}

// Keep writes a file for people: go test -run TestBrowser -artifacts -outputdir DIR.
func Keep(t *testing.T, name string, content []byte) {
	t.Helper()
	if len(content) == 0 {
		t.Errorf("%s is empty", name)
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Picture keeps a picture of the whole page.
func Picture(t *testing.T, tab context.Context, name string) {
	t.Helper()
	for {
		picture, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
		// Right after a navigation Chromium may still be changing the process that has the page.
		if err != nil && strings.Contains(err.Error(), "Not attached to an active page") && tab.Err() == nil {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		Keep(t, name+".png", picture)
		return
	}
}
