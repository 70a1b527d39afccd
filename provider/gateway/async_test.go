package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waggle/provider/feed"
	"waggle/provider/queued"
)

// fakeQueue notes what it is given. The calls that it "has" are those it has noted.
type fakeQueue struct {
	mu        sync.Mutex
	calls     []queued.Call // guarded by mu
	cancelled []string      // guarded by mu
	refusal   error
}

type queueRefusal struct{ status int }

func (r queueRefusal) Error() string   { return "the queue says no" }
func (r queueRefusal) HTTPStatus() int { return r.status }

func (q *fakeQueue) Enqueue(_ context.Context, call queued.Call) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refusal != nil {
		return fmt.Errorf("enqueuing: %w", q.refusal)
	}
	call.Header, call.Body = append([]byte(nil), call.Header...), append([]byte(nil), call.Body...)
	q.calls = append(q.calls, call)
	return nil
}

func (q *fakeQueue) Cancel(_ context.Context, id string) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.cancelled = append(q.cancelled, id)
	for _, call := range q.calls {
		if call.ID == id {
			return true, nil
		}
	}
	return false, nil
}

func (q *fakeQueue) Pending(string) (all, due int) { return 3, 2 }

func (q *fakeQueue) Inspect(_ context.Context, method, target string) (int, []byte) {
	if method == "GET" {
		return 200, fmt.Appendf(nil, "{%q:%q}\n", method, target)
	}
	return 404, []byte("no such dead letter")
}

func (q *fakeQueue) only(t *testing.T) queued.Call {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.calls) != 1 {
		t.Fatalf("%d calls were queued, want 1", len(q.calls))
	}
	return q.calls[0]
}

func withQueue(q Queue) func(*Config) {
	return func(c *Config) { c.Queue, c.MaxAsyncBody = q, 100_000 }
}

func TestAsyncCallIsQueuedAsSent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		target, fields, body string
		want                 queued.Call
	}{
		"bare":      {"f", "", "", queued.Call{Address: "f", Target: "/"}},
		"namespace": {"f.openfaas-fn/", "Content-Length: 2\r\n", "hi", queued.Call{Address: "f.openfaas-fn", Target: "/", Body: []byte("hi")}},
		"untouched": {"f/a//b%2Fc?x=1&y=%20", "", "", queued.Call{Address: "f", Target: "/a//b%2Fc?x=1&y=%20"}},
		"query":     {"f?q", "", "", queued.Call{Address: "f", Target: "/?q"}},
		"callback":  {"f", "x-callback-url: http://h/x\r\n", "", queued.Call{Address: "f", Target: "/", Callback: "http://h/x"}},
		"chunks": {"f", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nLeft: out\r\n\r\n",
			queued.Call{Address: "f", Target: "/", Body: []byte("abcde")}},
		"long": {"f", "Content-Length: 100000\r\n", strings.Repeat("0123456789", 10_000),
			queued.Call{Address: "f", Target: "/", Body: []byte(strings.Repeat("0123456789", 10_000))}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := &fakeQueue{}
			e := start(t, withQueue(q), function("f"))
			c, in := e.dial(t)
			before := time.Now()
			_, _ = io.WriteString(c, "POST /async-function/"+tc.target+" HTTP/1.1\r\nHost: h\r\n"+tc.fields+"\r\n"+tc.body+"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
			resp, body := readResponse(t, in, "POST")
			if resp.StatusCode != 202 || body != "" || resp.Header.Get("X-Start-Time") == "" {
				t.Fatalf("got %s %q %v", resp.Status, body, resp.Header)
			}
			if next, _ := readResponse(t, in, "GET"); next.StatusCode != 200 {
				t.Errorf("the request behind it got %s", next.Status)
			}
			got := q.only(t)
			if got.Address != tc.want.Address || got.Function != "f.openfaas-fn" || got.Target != tc.want.Target || got.Callback != tc.want.Callback || string(got.Body) != string(tc.want.Body) {
				t.Errorf("queued %.300q", fmt.Sprintf("%+v", got))
			}
			if got.ID != resp.Header.Get("X-Call-Id") || len(got.ID) != 36 || got.Accepted.Before(before) {
				t.Errorf("queued as %q at %s, answered %q", got.ID, got.Accepted, resp.Header.Get("X-Call-Id"))
			}
		})
	}
}

func TestAsyncCallKeepsItsHeader(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{}
	e := start(t, withQueue(q), function("f"))
	resp, _ := e.exchange(t, "POST /async-function/f HTTP/1.1\r\nHost: votes.example.org\r\nX-Call-Id: mine-1\r\nAuthorization: Bearer t\r\n"+
		"X-Forwarded-For: 203.0.113.7\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-Start-Time: 1\r\nContent-Length: 1\r\nX-Odd: \xff\r\n\r\nx")
	if resp.StatusCode != 202 || resp.Header.Get("X-Call-Id") != "mine-1" {
		t.Fatalf("got %s %v", resp.Status, resp.Header)
	}
	call := q.only(t)
	want := "X-Call-Id: mine-1\r\nAuthorization: Bearer t\r\nX-Odd: \xff\r\nX-Forwarded-Host: votes.example.org\r\n" +
		"X-Forwarded-For: 203.0.113.7, 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Start-Time: " + resp.Header.Get("X-Start-Time") + "\r\n"
	if call.ID != "mine-1" || string(call.Header) != want {
		t.Errorf("queued %q with\n%q\nwant\n%q", call.ID, call.Header, want)
	}
}

func TestAsyncClientThatWaitsBeforeItSends(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{}
	e := start(t, withQueue(q), function("f"))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "POST /async-function/f HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	line, err := in.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	_, _ = in.ReadString('\n')
	_, _ = io.WriteString(c, "hello")
	if resp, body := readResponse(t, in, "POST"); resp.StatusCode != 202 {
		t.Fatalf("got %s %q", resp.Status, body)
	}
	if call := q.only(t); string(call.Body) != "hello" || strings.Contains(string(call.Header), "Expect") {
		t.Errorf("queued %q with %q", call.Body, call.Header)
	}
}

func TestAsyncRefusals(t *testing.T) {
	t.Parallel()
	const post = "POST /async-function/f HTTP/1.1\r\nHost: h\r\n"
	for name, tc := range map[string]struct {
		raw    string
		queue  Queue
		status int
		says   string
	}{
		"no queue":         {post + "\r\n", nil, 404, "not configured"},
		"unknown function": {"POST /async-function/nobody HTTP/1.1\r\nHost: h\r\n\r\n", &fakeQueue{}, 404, "no such function"},
		"another method":   {"GET /async-function/f HTTP/1.1\r\nHost: h\r\n\r\n", &fakeQueue{}, 405, "POST for a call, DELETE"},
		"id of nonsense":   {post + "X-Call-Id: a b\r\n\r\n", &fakeQueue{}, 400, "1 to 128 letters"},
		"another protocol": {post + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", &fakeQueue{}, 400, "cannot change its protocol"},
		"among others":     {post + "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\nUpgrade: x\r\n\r\n", &fakeQueue{}, 400, "cannot change its protocol"},
		"two callbacks":    {post + "X-Callback-Url: http://a\r\nX-Callback-URL: http://b\r\n\r\n", &fakeQueue{}, 400, "more than one"},
		"announced long":   {post + "Content-Length: 100001\r\n\r\n", &fakeQueue{}, 413, "legal are 100000 bytes"},
		"chunked long":     {post + "Transfer-Encoding: chunked\r\n\r\n186a1\r\n" + strings.Repeat("x", 100_001) + "\r\n", &fakeQueue{}, 413, "legal are 100000 bytes"},
		"bad chunk":        {post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", &fakeQueue{}, 400, "chunk size"},
		"queue says no":    {post + "\r\n", &fakeQueue{refusal: queueRefusal{429}}, 429, "the queue says no"},
		"queue is broken":  {post + "\r\n", &fakeQueue{refusal: errors.New("broken")}, 502, "broken"},
		"cancel nonsense":  {"DELETE /async-function/a/b HTTP/1.1\r\nHost: h\r\n\r\n", &fakeQueue{}, 400, "1 to 128 letters"},
		"cancel elsewhere": {"DELETE /async-function/x HTTP/1.1\r\nHost: h\r\n\r\n", &fakeQueue{}, 503, "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, withQueue(tc.queue), function("f"))
			resp, body := e.exchange(t, tc.raw)
			if resp.StatusCode != tc.status || !strings.Contains(body, tc.says) || resp.Header.Get("X-OpenFaaS-Internal") != "gateway" {
				t.Errorf("got %s %q, want %d with %q", resp.Status, body, tc.status, tc.says)
			}
			if retry := resp.Header.Get("Retry-After") != ""; retry != (tc.status == 429 || tc.status == 503) {
				t.Errorf("Retry-After is there: %v", retry)
			}
			if e.asyncBudget.Used() != 0 {
				t.Errorf("%d bytes are still taken", e.asyncBudget.Used())
			}
		})
	}
}

// The queue makes a call as a request to this gateway. What would then be refused is refused before it is queued:
// here heads that are legal only as long as nothing is added to them.
func TestAsyncCallThatIsAcceptedCanBeMade(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(http.ResponseWriter, *http.Request) {})
	answers := map[int]int{} // by status
	for name, head := range map[string]func(n int) string{
		"fields": func(n int) string { return strings.Repeat("A:b\r\n", 99-n) },
		"bytes":  func(n int) string { return "A:" + strings.Repeat("b", 16_300-20*n) + "\r\n" },
		"host": func(n int) string {
			return strings.Repeat("A:b\r\n", 50) + "Host: " + strings.Repeat("h", 8_200-20*n) + "\r\n"
		},
	} {
		for n := range 16 {
			q := &fakeQueue{}
			e := start(t, withQueue(q), function("f", r))
			fields := head(n)
			if name != "host" {
				fields += "Host: h\r\n"
			}
			resp, body := e.exchange(t, "POST /async-function/f HTTP/1.1\r\n"+fields+"\r\n")
			answers[resp.StatusCode]++
			if resp.StatusCode == 431 && strings.Contains(body, "for an asynchronous call") {
				continue
			}
			if resp.StatusCode != 202 {
				t.Fatalf("%s, %d less: %s %q", name, n, resp.Status, body)
			}
			request, err := http.NewRequest(http.MethodPost, "http://gateway/function/f/", nil)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(q.only(t).Header)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
				request.Header.Add(key, value)
			}
			request.Header.Set("User-Agent", "waggle")
			within := e.within(t)
			within.Transport.(*http.Transport).DisableCompression = true // which would add a field
			response, err := within.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			if response.Body.Close(); response.StatusCode != 200 {
				t.Errorf("%s, %d less: accepted, and refused with %s when it is made", name, n, response.Status)
			}
		}
	}
	if answers[202] == 0 || answers[431] == 0 {
		t.Errorf("not both sides of the bounds were tried: %v", answers)
	}
}

func TestAsyncBodyHasTheBoundOfEveryBodyToo(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{}
	e := start(t, func(c *Config) { withQueue(q)(c); c.MaxBody = 10 }, function("f"))
	if resp, body := e.exchange(t, "POST /async-function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n12345678901"); resp.StatusCode != 413 || !strings.Contains(body, "legal are 10 bytes") {
		t.Errorf("got %s %q", resp.Status, body)
	}
}

// An empty id is none; the function gets the one that the client is told.
func TestAsyncCallWithAnEmptyIDGetsOne(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{}
	e := start(t, withQueue(q), function("f"))
	resp, _ := e.exchange(t, "POST /async-function/f HTTP/1.1\r\nHost: h\r\nX-Call-Id: \r\n\r\n")
	id := resp.Header.Get("X-Call-Id")
	if call := q.only(t); id == "" || call.ID != id || !strings.HasPrefix(string(call.Header), "X-Forwarded-Host: h\r\n") || strings.Count(string(call.Header), "X-Call-Id: "+id) != 1 {
		t.Errorf("answered %q, queued %q with %q", id, call.ID, call.Header)
	}
}

// A body that never falls silent, and never ends, does not keep its room.
func TestAsyncBodyThatTricklesIsGivenUp(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{}
	e := start(t, func(c *Config) { withQueue(q)(c); c.ReadTimeout = time.Second }, function("f"))
	c, in := e.dial(t)
	_, _ = io.WriteString(c, "POST /async-function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n")
	go func() {
		for range 50 {
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	if resp, body := readResponse(t, in, "POST"); resp.StatusCode != 408 {
		t.Errorf("got %s %q", resp.Status, body)
	}
}

func TestPatienceWithABody(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		arrived     int
		since, want time.Duration
	}{
		{0, 0, time.Minute},
		{0, 20 * time.Second, 40 * time.Second},
		{0, 61 * time.Second, 1},
		{60 * slowest, time.Minute, time.Minute},
		{60 * slowest, 90 * time.Second, 30 * time.Second},
	} {
		if got := patience(tc.arrived, time.Minute, tc.since); got != tc.want {
			t.Errorf("%d bytes in %s: %s, want %s", tc.arrived, tc.since, got, tc.want)
		}
	}
}

func TestAsyncBodiesShareTheirRoom(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{}
	e := start(t, withQueue(q), function("f"))
	e.asyncBudget.Add(intakeRoom - 10) // what others are sending
	resp, body := e.exchange(t, "POST /async-function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n12345678901")
	if resp.StatusCode != 429 || !strings.Contains(body, "bytes at once") {
		t.Errorf("got %s %q", resp.Status, body)
	}
	if resp, _ := e.exchange(t, "POST /async-function/f HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n1234567890"); resp.StatusCode != 202 {
		t.Errorf("what fits got %s", resp.Status)
	}
}

func TestInnerCallKeepsTheTimeOfItsAcceptance(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["X-Start-Time"]) })
	e := start(t, nil, function("f", r))
	request, err := http.NewRequest(http.MethodPost, "http://gateway/function/f", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Start-Time", "1700000000000000001")
	response, err := e.within(t).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); string(body) != "[1700000000000000001]" {
		t.Errorf("the function got %s", body)
	}
}

func TestCancelHereAndElsewhere(t *testing.T) {
	t.Parallel()
	p := newControl(t)
	p.hub.Publish(feed.Table{Epoch: "e", Revision: 1, Functions: []feed.Function{function("f")}})
	here, there := &fakeQueue{}, &fakeQueue{}
	gateway := func(q Queue) *edge {
		e := start(t, func(c *Config) { under(t, p)(c); withQueue(q)(c) })
		for _, _, known := e.Function("x"); !known; _, _, known = e.Function("x") {
			time.Sleep(time.Millisecond)
		}
		return e
	}
	e := gateway(here)
	gateway(there)
	e.exchange(t, "POST /async-function/f HTTP/1.1\r\nHost: h\r\nX-Call-Id: ours\r\n\r\n")
	there.calls = append(there.calls, queued.Call{ID: "theirs"})
	for id, want := range map[string]int{"ours": 202, "theirs": 202, "nobodys": 404} {
		if resp, body := e.exchange(t, "DELETE /async-function/"+id+" HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != want {
			t.Errorf("%s: %s %q", id, resp.Status, body)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		there.mu.Lock()
		told := fmt.Sprint(there.cancelled)
		there.mu.Unlock()
		if strings.Contains(told, "theirs") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the other gateway was told of %s", told)
		}
	}
	// More than are legal within a second, which may be over by the time the last one comes.
	for {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
		for ok := true; ok; ok, _ = e.asked.take(time.Now()) {
		}
		resp, body := e.exchange(t, "DELETE /async-function/flood HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp.StatusCode == 429 && strings.Contains(body, "legal are 200 a second") {
			break
		}
		if resp.StatusCode != 404 {
			t.Fatalf("%s %q", resp.Status, body)
		}
	}
}

// shakyQueue cannot be reached at first.
type shakyQueue struct {
	fakeQueue
	tries     atomic.Int32
	cancelled chan string
}

func (q *shakyQueue) Cancel(ctx context.Context, id string) (bool, error) {
	if id == "slow" {
		<-ctx.Done()
		return true, ctx.Err()
	}
	if q.tries.Add(1) < 3 {
		return true, queueRefusal{503}
	}
	q.cancelled <- id
	return true, nil
}

// The other gateway has told its client that the call will be cancelled.
func TestCancellationFromElsewhereOutlastsAQueueThatIsAway(t *testing.T) {
	t.Parallel()
	q := &shakyQueue{cancelled: make(chan string, 1)}
	e := start(t, withQueue(q), function("f"))
	e.cancelled("slow") // holds the others up once at most
	e.cancelled("c")
	select {
	case id := <-q.cancelled:
		if id != "c" {
			t.Errorf("%s was cancelled", id)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("not cancelled: tried %d times", q.tries.Load())
	}
}

func TestOperatorsLookIntoTheQueue(t *testing.T) {
	t.Parallel()
	e := start(t, func(c *Config) { under(t, newControl(t))(c); withQueue(&fakeQueue{})(c) })
	for raw, want := range map[string]string{
		"GET /system/queue HTTP/1.1\r\nHost: h\r\n":               "401",
		"GET /system/queue HTTP/1.1\r\nHost: h\r\nA":              `200 {"GET":""}`,
		"GET /system/queue/dead?limit=3 HTTP/1.1\r\nHost: h\r\nA": `200 {"GET":"/dead?limit=3"}`,
		"POST /system/queue/dead/x HTTP/1.1\r\nHost: h\r\nA":      "404 no such dead letter",
		"GET /system/queues HTTP/1.1\r\nHost: h\r\nA":             "202", // the provider's
	} {
		raw = strings.TrimSuffix(raw, "A") + map[bool]string{true: "Authorization: " + basic("admin:s3cret") + "\r\n"}[strings.HasSuffix(raw, "A")] + "\r\n"
		resp, body := e.exchange(t, raw)
		if got := fmt.Sprint(resp.StatusCode, " ", body); !strings.HasPrefix(got, want) {
			t.Errorf("%.40q got %q, want %q", raw, got, want)
		}
	}
	if resp, _ := start(t, nil).exchange(t, "GET /system/queue HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 404 {
		t.Errorf("without a queue: %s", resp.Status)
	}
}
