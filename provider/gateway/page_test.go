package gateway

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"waggle/provider/feed"
)

// While a function starts, a person gets a page that renews itself; everybody else is held.
func TestWaitingPage(t *testing.T) {
	t.Parallel()
	const get, html = " HTTP/1.1\r\nHost: h\r\n", "Accept: text/html\r\n"
	p := newControl(t)
	p.wake = func(string) {} // the provider has been told; the replica comes when this test says so
	r := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "awake") })
	table := func(revision uint64, replicas ...feed.Replica) feed.Table {
		plain, own, holds := function("plain", replicas...), function("own", replicas...), function("holds", replicas...)
		own.WaitingText, holds.HoldBrowsers = "Gleich <geht> es los.", true
		return feed.Table{Epoch: "e", Revision: revision, Functions: []feed.Function{holds, own, plain}}
	}
	provided := under(t, p)
	e := start(t, func(c *Config) { provided(c); c.WaitingPageAfter = 20 * time.Millisecond })
	p.hub.Publish(table(1))
	for e.registry.Lookup([]byte("plain")) == nil {
		time.Sleep(time.Millisecond)
	}
	for path, says := range map[string]string{"plain": "This page tries again by itself.", "own": "Gleich &lt;geht&gt; es los."} {
		resp, body := e.exchange(t, "GET /function/"+path+"/a?b"+get+html+"Sec-Fetch-Mode: navigate\r\n\r\n")
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(body, `http-equiv="refresh" content="1"`) || !strings.Contains(body, says) {
			t.Errorf("%s: got %s %v %q", path, resp.Status, resp.Header, body)
		}
	}
	held := map[string]func() (*http.Response, string){}
	for name, raw := range map[string]string{
		"program":             "GET /function/plain" + get,
		"form sent":           "POST /function/plain" + get + "Content-Length: 0\r\n" + html,
		"script of a page":    "GET /function/plain" + get + html + "Sec-Fetch-Mode: cors\r\n",
		"annotation to hold":  "GET /function/holds" + get + html,
		"program, own text":   "GET /function/own" + get + "Accept: application/json\r\n",
		"browser's HEAD only": "HEAD /function/plain" + get + html,
	} {
		c, in := e.dial(t)
		_, _ = io.WriteString(c, raw+"\r\n")
		method, _, _ := strings.Cut(raw, " ")
		held[name] = func() (*http.Response, string) { return readResponse(t, in, method) }
	}
	queued := func() (n int) {
		for _, s := range e.registry.Sets() {
			n += s.Queued()
		}
		return n
	}
	for queued() < len(held) {
		time.Sleep(time.Millisecond)
	}
	p.hub.Publish(table(2, r))
	for name, answer := range held {
		if resp, body := answer(); resp.StatusCode != 200 || body != "awake" && resp.Request.Method != "HEAD" {
			t.Errorf("%s: got %s %q", name, resp.Status, body)
		}
	}
	if resp, body := e.exchange(t, "GET /function/plain/a?b"+get+html+"\r\n"); resp.StatusCode != 200 || body != "awake" {
		t.Errorf("renewed: got %s %q", resp.Status, body)
	}
}

// A function whose replicas are busy is no function that starts: a browser keeps its place.
func TestBrowserWaitsForABusyFunction(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	r := newReplica(t, func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-leave })
	one := function("one", r)
	one.MaxInflight = 1
	e := start(t, func(c *Config) { c.WaitingPageAfter = time.Millisecond }, one)
	const raw = "GET /function/one HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n"
	s := e.registry.Lookup([]byte("one"))
	for s.Ready() == 0 { // else the first request gets the page, as it should
		time.Sleep(time.Millisecond)
	}
	first, fromFirst := e.dial(t)
	_, _ = io.WriteString(first, raw)
	<-entered
	second, fromSecond := e.dial(t)
	_, _ = io.WriteString(second, raw)
	for s.Queued() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(30 * time.Millisecond) // what a page would have come after, many times
	leave <- struct{}{}
	<-entered
	leave <- struct{}{}
	for _, in := range []*bufio.Reader{fromFirst, fromSecond} {
		if resp, body := readResponse(t, in, "GET"); resp.StatusCode != 200 {
			t.Errorf("got %s %q", resp.Status, body)
		}
	}
}
