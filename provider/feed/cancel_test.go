package feed

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// listen runs a client that hands over what it is told to cancel.
func listen(t *testing.T, url string) <-chan string {
	t.Helper()
	told := make(chan string, 100)
	start(t, ClientConfig{URL: url, Cancelled: func(id string) { told <- id }})
	return told
}

func expect(t *testing.T, told <-chan string, want ...string) {
	t.Helper()
	for _, id := range want {
		select {
		case got := <-told:
			if got != id {
				t.Errorf("told to cancel %q, want %q", got, id)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("never told to cancel %q", id)
		}
	}
}

func TestEveryGatewayIsToldToCancel(t *testing.T) {
	t.Parallel()
	h := newHub(t, noWaker)
	s := newServer(t, h.Handler())
	h.Publish(Table{Epoch: "e", Revision: 1})
	one, other := listen(t, s.URL), listen(t, s.URL)
	asking := start(t, ClientConfig{URL: s.URL})
	await(t, asking, revision(1))
	for _, id := range []string{"a", "b"} {
		if err := asking.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, one, "a", "b")
	expect(t, other, "a", "b")
	// A gateway that was away hears of them when it is back.
	expect(t, listen(t, s.URL), "a", "b")
	h.Publish(Table{Epoch: "e", Revision: 2})
	await(t, asking, revision(2))
}

// TestCancelOfAnUnknownCall has two gateways answer for a call that one, none or perhaps somebody has.
func TestCancelOfAnUnknownCall(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		has     map[string]bool // what each gateway that listens answers
		reports []string        // gateways that reported lately
		want    error
	}{
		"one has it":                   {has: map[string]bool{"a": false, "b": true}, reports: []string{"a", "b"}},
		"nobody has it":                {has: map[string]bool{"a": false, "b": false}, reports: []string{"a", "b"}, want: ErrUnknownCall},
		"nobody that has not reported": {has: map[string]bool{"a": false, "b": false}, want: ErrUnknownCall},
		"one is away":                  {has: map[string]bool{"a": false}, reports: []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := NewHub(HubConfig{Waker: noWaker, Heartbeat: 20 * time.Millisecond, CancelWait: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			s := newServer(t, h.Handler())
			h.Publish(Table{Epoch: "e", Revision: 1})
			var asking *Client
			var answering sync.WaitGroup
			for gateway, known := range tc.has {
				var c *Client
				answer := func(id string) {
					if err := c.AnswerCancel(t.Context(), CancelAnswer{Cancel: id, Gateway: gateway, Epoch: "1", Known: known}); err != nil {
						t.Error(err)
					}
				}
				told := make(chan string, 1)
				c = start(t, ClientConfig{URL: s.URL, Cancelled: func(id string) { told <- id }})
				await(t, c, revision(1))
				answering.Go(func() { answer(<-told) })
				asking = c
			}
			for _, gateway := range tc.reports {
				h.loads.add(Report{Gateway: gateway, Epoch: "1"}, time.Now())
			}
			if err := asking.Cancel(t.Context(), "x"); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			answering.Wait()
		})
	}
}

func TestCancelsAreForgotten(t *testing.T) {
	t.Parallel()
	var c cancels
	c.init()
	t0 := time.Unix(1000, 0)
	for n := range maxCancels + 2 {
		c.add(fmt.Appendf(nil, "%d\n", n), t0.Add(time.Duration(n)))
	}
	lines, seen, more := c.after(0, t0)
	if got := strings.Count(string(lines), "\n"); got != maxCancels || seen != maxCancels+2 || !strings.HasPrefix(string(lines), "2\n3\n") {
		t.Errorf("%d lines after %d cancellations: %.20q", got, seen, lines)
	}
	if lines, _, _ := c.after(seen-1, t0); string(lines) != fmt.Sprintf("%d\n", maxCancels+1) {
		t.Errorf("got %q, want the newest alone", lines)
	}
	select {
	case <-more:
		t.Error("more are promised")
	default:
	}
	c.add([]byte("last\n"), t0.Add(cancelMemory+time.Second))
	<-more
	if lines, _, _ := c.after(0, t0.Add(cancelMemory+time.Second)); string(lines) != "last\n" {
		t.Errorf("a minute later there are still %.40q", lines)
	}
}

func TestCancelIsRefusedByName(t *testing.T) {
	t.Parallel()
	h := newHub(t, noWaker)
	for _, body := range []string{`{}`, `{"cancel":"a b"}`, `{"cancel":"-a"}`, `{"cancel":"` + strings.Repeat("x", 129) + `"}`} {
		w := httptest.NewRecorder()
		h.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/feed/cancel", strings.NewReader(body)))
		if w.Code != 400 || !strings.Contains(w.Body.String(), "legal are 1 to 128 letters") {
			t.Errorf("%s: got %d %q", body, w.Code, w.Body)
		}
	}
}

func FuzzCallID(f *testing.F) {
	for _, s := range []string{"", "a", "3f2c-9", "..", "a/b", "a%2e", strings.Repeat("x", 128), "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if !ValidCallID(id) {
			return
		}
		r, err := http.NewRequest(http.MethodDelete, "http://g/async-function/"+id, nil)
		if err != nil || r.URL.EscapedPath() != "/async-function/"+id || len(id) > maxCallID || strings.ContainsAny(id, "/?\"\\\r\n ") {
			t.Errorf("%q passes: %v", id, err)
		}
	})
}
