package feed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wakerFunc is a Waker made of a function.
type wakerFunc func(ctx context.Context, name, namespace string) error

func (f wakerFunc) Wake(ctx context.Context, name, namespace string) error {
	return f(ctx, name, namespace)
}

var noWaker = wakerFunc(func(context.Context, string, string) error { return nil })

func newHub(t *testing.T, waker Waker) *Hub {
	t.Helper()
	h, err := NewHub(HubConfig{Waker: waker, Heartbeat: 20 * time.Millisecond, CancelWait: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newServer(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

// start runs a client against url until the test ends.
func start(t *testing.T, cfg ClientConfig) *Client {
	t.Helper()
	cfg.MaxBackoff = 20 * time.Millisecond
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

// await returns the first snapshot that satisfies ok.
func await(t *testing.T, c *Client, ok func(Table) bool) Table {
	t.Helper()
	for {
		snap := c.Newest()
		if ok(snap.Table) {
			return snap.Table
		}
		select {
		case <-snap.Changed:
		case <-t.Context().Done():
			t.Fatalf("no such table; newest is %+v", snap.Table)
		}
	}
}

func revision(n uint64) func(Table) bool { return func(t Table) bool { return t.Revision == n } }

func TestTableReachesEveryClientThatConnectsBeforeOrAfterIt(t *testing.T) {
	t.Parallel()
	h := newHub(t, noWaker)
	s := newServer(t, h.Handler())
	early := start(t, ClientConfig{URL: s.URL})
	want := Table{Epoch: "e", Revision: 1, Functions: []Function{{Name: "vote", Namespace: "openfaas-fn",
		Replicas: []Replica{{ID: "t1", Address: "10.0.0.1:8080", Node: "n1", State: Ready}}}}}
	h.Publish(want)
	late := start(t, ClientConfig{URL: s.URL + "/"})
	for name, c := range map[string]*Client{"early": early, "late": late} {
		got := await(t, c, revision(1))
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s client got %+v, want %+v", name, got, want)
		}
		if since, gone := c.GoneSince(); gone {
			t.Errorf("%s client says the provider is gone since %s", name, since)
		}
	}
}

func TestClientKeepsNewestTable(t *testing.T) {
	t.Parallel()
	c, err := NewClient(ClientConfig{URL: "http://localhost"})
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		in   Table
		want string
	}{
		{Table{Epoch: "a", Revision: 5}, "a5"},
		{Table{Epoch: "a", Revision: 4}, "a5"},
		{Table{Epoch: "a", Revision: 5}, "a5"},
		{Table{Epoch: "a", Revision: 6}, "a6"},
		{Table{Epoch: "", Revision: 9}, "a6"},
		{Table{Epoch: "b", Revision: 1}, "b1"},
	}
	for _, s := range steps {
		c.take(s.in)
		if got := c.Newest().Table; fmt.Sprint(got.Epoch, got.Revision) != fmt.Sprint(s.want[:1], s.want[1:]) {
			t.Errorf("after %s%d the newest is %s%d, want %s", s.in.Epoch, s.in.Revision, got.Epoch, got.Revision, s.want)
		}
	}
}

func TestClientReconnectsAndKeepsTableWhileProviderIsAway(t *testing.T) {
	t.Parallel()
	h := newHub(t, noWaker)
	var down atomic.Bool
	var kill sync.Map // of the connections' cancel functions
	s := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		kill.Store(r, cancel)
		defer cancel()
		h.Handler().ServeHTTP(w, r.WithContext(ctx))
	}))
	c := start(t, ClientConfig{URL: s.URL})
	h.Publish(Table{Epoch: "a", Revision: 1})
	await(t, c, revision(1))
	down.Store(true)
	kill.Range(func(_, cancel any) bool { cancel.(context.CancelFunc)(); return true })
	for gone := false; !gone; {
		_, gone = c.GoneSince()
	}
	if got := c.Newest().Table; got.Revision != 1 {
		t.Fatalf("table was lost with the provider: %+v", got)
	}
	h.Publish(Table{Epoch: "a", Revision: 2})
	down.Store(false)
	await(t, c, revision(2))
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	t.Parallel()
	var streams atomic.Int32
	s := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := streams.Add(1)
		fmt.Fprintf(w, `{"epoch":"a","revision":%d}`+"\n", n)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	c := start(t, ClientConfig{URL: s.URL, Watchdog: 50 * time.Millisecond})
	await(t, c, func(t Table) bool { return t.Revision > 1 }) // only another stream brings that
}

func TestLoadReportsArriveWithBasicAuth(t *testing.T) {
	t.Parallel()
	h := newHub(t, noWaker)
	s := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "admin" || password != "pw" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.Handler().ServeHTTP(w, r)
	}))
	var sent atomic.Uint64
	start(t, ClientConfig{URL: s.URL, User: "admin", Password: "pw", ReportEvery: 5 * time.Millisecond, Report: func() Report {
		return Report{Gateway: "g", Epoch: "e", At: time.Now(), Functions: []Load{{Name: "vote", Completed: sent.Add(1)}}}
	}})
	for h.Invocations("vote", "") < 3 {
		if t.Context().Err() != nil {
			t.Fatal("no report arrived")
		}
	}
}

func TestCountersNeverFall(t *testing.T) {
	t.Parallel()
	// Gateways restart, reports are lost, repeated and overtaken; the sum must never fall and must end as the truth.
	rapid.Check(t, func(rt *rapid.T) {
		var b loadBook
		b.init()
		now := time.Unix(0, 0)
		k := key{"vote", "openfaas-fn"}
		type process struct {
			epoch           int
			life            uint64
			count, reported uint64 // in this life
		}
		gateways := make([]process, rapid.IntRange(1, 4).Draw(rt, "gateways"))
		var truth, last uint64
		report := func(i int, life, n uint64) {
			b.add(Report{Gateway: fmt.Sprint(i), Epoch: fmt.Sprint(gateways[i].epoch),
				Functions: []Load{{Name: k.name, Namespace: k.namespace, Life: life, Started: n, Completed: n}}}, now)
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			i := rapid.IntRange(0, len(gateways)-1).Draw(rt, "gateway")
			g := &gateways[i]
			switch rapid.SampledFrom([]string{"count", "report", "stale", "absent", "removed and here again", "stale of before", "restart"}).Draw(rt, "step") {
			case "count":
				g.count += rapid.Uint64Range(1, 9).Draw(rt, "n")
			case "report":
				report(i, g.life, g.count)
				truth += g.count - g.reported
				g.reported = g.count
			case "stale":
				report(i, g.life, g.reported/2)
			case "absent":
				b.add(Report{Gateway: fmt.Sprint(i), Epoch: fmt.Sprint(g.epoch)}, now)
			case "removed and here again":
				g.life, g.count, g.reported = g.life+1, 0, 0
				report(i, g.life, 0)
			case "stale of before":
				if g.life > 0 {
					report(i, g.life-1, rapid.Uint64Range(1, 9).Draw(rt, "n"))
				}
			case "restart":
				*g = process{epoch: g.epoch + 1}
			}
			got := b.invocations(k)
			if got < last || got != truth {
				rt.Fatalf("sum is %d, was %d, truth %d", got, last, truth)
			}
			last = got
		}
	})
}

// A report may have been made before its gateway knew that a function is gone.
func TestRemovedFunctionStaysForgotten(t *testing.T) {
	t.Parallel()
	var b loadBook
	b.init()
	now := time.Unix(0, 0)
	k := key{"f", "openfaas-fn"}
	report := func(life, completed uint64) {
		b.add(Report{Gateway: "g", Epoch: "e", Functions: []Load{{Name: k.name, Namespace: k.namespace, Life: life, Started: completed + 1, Completed: completed, Inflight: 1}}}, now)
	}
	report(1, 100)
	b.forget(k, now)
	report(1, 101)
	if loads := b.all(now).Gateways[0].Functions; len(loads) != 0 || b.invocations(k) != 0 {
		t.Errorf("a report that crossed the removal brought it back: %+v", loads)
	}
	report(2, 3) // deployed again, which the gateway has seen
	if got := b.all(now).Gateways[0].Functions[0]; got.Completed != 3 || got.Inflight != 1 || b.invocations(k) != 3 {
		t.Errorf("the new one counts %+v", got)
	}
	b.forget(k, now)
	b.published(Table{Functions: []Function{{Name: k.name, Namespace: k.namespace}}})
	report(2, 5) // deployed again so soon that the gateway saw no removal
	if got := b.invocations(k); got != 2 {
		t.Errorf("the next one counts %d", got)
	}
	b.forget(k, now)
	for range 2 {
		now = now.Add(crossing)
		b.add(Report{Gateway: "g", Epoch: "e"}, now)
	}
	if n := len(b.gateways[gatewayProcess{"g", "e"}].loads); n != 0 {
		t.Errorf("%d functions are remembered long after their removal", n)
	}
}

// However slowly a table comes, it is no silence.
func TestLongTableOverASlowLineArrives(t *testing.T) {
	t.Parallel()
	s := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/feed/table" {
			return
		}
		out := http.NewResponseController(w)
		_, _ = io.WriteString(w, `{"epoch":"a","revision":1,"functions":[`)
		for range 20 {
			_, _ = io.WriteString(w, "  ")
			_ = out.Flush()
			time.Sleep(50 * time.Millisecond)
		}
		_, _ = io.WriteString(w, "]}\n")
		_ = out.Flush()
		<-r.Context().Done()
	}))
	c := start(t, ClientConfig{URL: s.URL, Watchdog: 500 * time.Millisecond})
	select {
	case <-c.Newest().Changed:
	case <-time.After(15 * time.Second):
		t.Error("it did not arrive")
	}
}

func TestWakesOfOneFunctionShareOneCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g wakeGroup
		var calls, answered atomic.Int32
		release := make(chan struct{})
		boom := errors.New("boom")
		for range 20 {
			go func() {
				if err := g.do(t.Context(), key{"vote", "fn"}, func() error { calls.Add(1); <-release; return boom }); errors.Is(err, boom) {
					answered.Add(1)
				}
			}()
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		if calls.Load() != 1 || answered.Load() != 20 {
			t.Errorf("%d calls answered %d of 20 callers", calls.Load(), answered.Load())
		}
		if err := g.do(t.Context(), key{"vote", "fn"}, func() error { return nil }); err != nil {
			t.Errorf("a call after the shared one got its error: %v", err)
		}
	})
}

func TestWakeAnswers(t *testing.T) {
	t.Parallel()
	h := newHub(t, wakerFunc(func(_ context.Context, name, namespace string) error {
		switch name {
		case "gone":
			return fmt.Errorf("looking up gone: %w", ErrUnknownFunction)
		case "broken":
			return errors.New("swarm says no")
		default:
			return nil
		}
	}))
	s := newServer(t, h.Handler())
	c, err := NewClient(ClientConfig{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	if err := c.Wake(t.Context(), "vote", "openfaas-fn"); err != nil {
		t.Errorf("waking a function: %v", err)
	}
	if err := c.Wake(t.Context(), "gone", ""); !errors.Is(err, ErrUnknownFunction) {
		t.Errorf("waking an unknown function: %v", err)
	}
	if err := c.Wake(t.Context(), "broken", ""); err == nil || !strings.Contains(err.Error(), "swarm says no") {
		t.Errorf("waking with a broken swarm: %v", err)
	}
}

func TestDeployedIsAskedOfSwarm(t *testing.T) {
	t.Parallel()
	h, err := NewHub(HubConfig{Waker: noWaker, Deployed: func(_ context.Context, name, namespace string) (bool, error) {
		if name == "broken" {
			return false, errors.New("swarm says no")
		}
		return name == "vote" && namespace == "dev", nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(ClientConfig{URL: newServer(t, h.Handler()).URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	for name, want := range map[string]bool{"vote": true, "gone": false} {
		if deployed, err := c.Deployed(t.Context(), name, "dev"); err != nil || deployed != want {
			t.Errorf("%s: got %v, %v", name, deployed, err)
		}
	}
	if _, err := c.Deployed(t.Context(), "broken", ""); err == nil {
		t.Error("a Swarm that could not be asked passes for an answer")
	}
}

func TestUnreachableReplicasAreRemembered(t *testing.T) {
	t.Parallel()
	h := newHub(t, noWaker)
	now := time.Now()
	h.loads.add(Report{Gateway: "a", Epoch: "1", Unreachable: []Unreachable{{ID: "r", Reason: "older"}}}, now.Add(-time.Second))
	h.loads.add(Report{Gateway: "b", Epoch: "1", Unreachable: []Unreachable{{ID: "r", Reason: "newer"}}}, now)
	h.loads.add(Report{Gateway: "c", Epoch: "1", Unreachable: []Unreachable{{ID: "gone", Reason: "x"}}}, now.Add(-time.Minute))
	if got := h.Unreachable(); len(got) != 1 || got["r"].Reason != "newer" {
		t.Errorf("got %v", got)
	}
}

func TestBadInputIsRefusedByName(t *testing.T) {
	t.Parallel()
	h := newHub(t, noWaker)
	for name, tc := range map[string]struct {
		path, body string
		status     int
		says       string
	}{
		"not json":           {"/feed/load", "{", 400, "decoding the body"},
		"no gateway":         {"/feed/load", `{"epoch":"e"}`, 400, "gateway is 0 characters"},
		"no epoch":           {"/feed/load", `{"gateway":"g"}`, 400, "epoch is 0 characters"},
		"no function name":   {"/feed/load", `{"gateway":"g","epoch":"e","functions":[{}]}`, 400, "functions[0].name"},
		"negative in-flight": {"/feed/load", `{"gateway":"g","epoch":"e","functions":[{"name":"f","inflight":-1}]}`, 400, "inflight -1"},
		"negative pending":   {"/feed/load", `{"gateway":"g","epoch":"e","functions":[{"name":"f","pending":-1}]}`, 400, "pending -1"},
		"repeated function":  {"/feed/load", `{"gateway":"g","epoch":"e","functions":[{"name":"f"},{"name":"f"}]}`, 400, "repeats f"},
		"negative counter":   {"/feed/load", `{"gateway":"g","epoch":"e","functions":[{"name":"f","started":-1}]}`, 400, "decoding the body"},
		"unreachable nobody": {"/feed/load", `{"gateway":"g","epoch":"e","unreachable":[{}]}`, 400, "unreachable[0]"},
		"answer of nobody":   {"/feed/cancelled", `{"cancel":"x"}`, 400, "a gateway of 0"},
		"huge report":        {"/feed/load", `{"gateway":"` + strings.Repeat("x", maxReport), 413, "larger than"},
		"wake nobody":        {"/feed/wake", `{}`, 400, `name is ""`},
		"huge wake":          {"/feed/wake", `{"name":"` + strings.Repeat("x", maxWake), 413, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			h.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, tc.path, strings.NewReader(tc.body)))
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.says) {
				t.Errorf("got %d %q, want %d with %q", w.Code, w.Body.String(), tc.status, tc.says)
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	if _, err := NewHub(HubConfig{Heartbeat: time.Minute}); err == nil ||
		!strings.Contains(err.Error(), "Waker") || !strings.Contains(err.Error(), "1m0s") {
		t.Errorf("NewHub: %v", err)
	}
	if _, err := NewClient(ClientConfig{URL: "provider:8081", Watchdog: -1}); err == nil ||
		!strings.Contains(err.Error(), "provider:8081") || !strings.Contains(err.Error(), "Watchdog") {
		t.Errorf("NewClient: %v", err)
	}
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"gateway":"g","epoch":"e","functions":[{"name":"f","started":2,"completed":1}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var r Report
		if json.Unmarshal(in, &r) != nil || r.validate() != nil {
			return
		}
		var b loadBook
		b.init()
		b.add(r, time.Unix(0, 0))
		before := b.all(time.Unix(0, 0))
		b.add(r, time.Unix(0, 0))
		if after := b.all(time.Unix(0, 0)); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Fatalf("a repeated report changed %v to %v", before, after)
		}
	})
}

// FuzzRoutes sends anything to the routes that take a body: an answer is never a server's error, and a refusal says why.
func FuzzRoutes(f *testing.F) {
	paths := []string{"/feed/wake", "/feed/load", "/feed/usage"}
	f.Add(uint8(0), []byte(`{"name":"f","namespace":"openfaas-fn"}`))
	f.Add(uint8(1), []byte(`{"gateway":"g","epoch":"e","functions":[{"name":"f","inflight":-1}]}`))
	f.Add(uint8(2), []byte(`{"replicas":[{"id":"t","cpu":1e308,"memory":-0}]}`))
	f.Add(uint8(2), []byte(`{`))
	f.Fuzz(func(t *testing.T, route uint8, body []byte) {
		h, err := NewHub(HubConfig{Waker: wakerFunc(func(context.Context, string, string) error { return ErrUnknownFunction })})
		if err != nil {
			t.Fatal(err)
		}
		path := paths[int(route)%len(paths)]
		recorder := httptest.NewRecorder()
		h.Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)))
		if code := recorder.Code; code != 202 && (code < 400 || code > 499 || recorder.Body.Len() == 0) {
			t.Errorf("%s %q: %d %q", path, body, code, recorder.Body)
		}
	})
}

// FuzzTableStream feeds a gateway anything in place of lines: none is longer than the bound, and all but the newest
// line's end is read.
func FuzzTableStream(f *testing.F) {
	f.Add([]byte("\n{\"epoch\":\"e\",\"revision\":1,\"functions\":[]}\n"), 16)
	f.Add([]byte("{\"epoch\":\"e\",\"revision\":18446744073709551616}\nx\n"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, buffer int) {
		in := bufio.NewReaderSize(bytes.NewReader(stream), 16+min(max(buffer, 0), 1<<16))
		var lines [][]byte
		for {
			line, err := readLine(in)
			if err != nil {
				break
			}
			lines = append(lines, bytes.Clone(line))
			var table Table
			_ = json.Unmarshal(line, &table) // what is no table ends the stream, and the next begins whole
		}
		whole := stream[:bytes.LastIndexByte(stream, '\n')+1]
		if got := append(bytes.Join(lines, emptyLine), emptyLine[:min(len(lines), 1)]...); !bytes.Equal(got, whole) {
			t.Errorf("read %q of %q", got, stream)
		}
	})
}
