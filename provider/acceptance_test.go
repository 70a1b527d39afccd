package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
	"waggle/provider/feed"
)

// asGateway in the environment of a test process makes it the program itself, so that a test can kill it.
const asGateway = "WAGGLE_TEST_AS_GATEWAY"

func TestMain(m *testing.M) {
	if os.Getenv(asGateway) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a gateway in a process of its own, as the environment of a real one makes it.
type process struct {
	t    *testing.T
	env  []string
	addr string
	log  bytes.Buffer
	cmd  *exec.Cmd
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill is kill -9.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // that it was killed is known
}

// chance is a number from 0 to below 1 that depends on its arguments alone.
func chance(of ...any) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, of...)
	return float64(h.Sum64()%10_000) / 10_000
}

// doomed calls always fail.
func doomed(id string) bool { return chance("doomed", id) < 0.01 }

// world is all that is not the gateway: a function, a receiver of callbacks, and what they have seen.
type world struct {
	mu      sync.Mutex
	runs    map[string]int    // guarded by mu
	success map[string]int    // guarded by mu
	told    map[string]string // guarded by mu; by call, the status that its callback named
	posts   map[string]int    // guarded by mu
}

// function fails three times in ten: half of that with 500, the rest with 503, which says when to come back.
func (w *world) function(rw http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/callback") {
		w.callback(rw, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	id := r.Header.Get("X-Call-Id")
	w.mu.Lock()
	w.runs[id]++
	run := w.runs[id]
	w.mu.Unlock()
	switch c := chance(id, run); {
	case r.URL.Path == "/_/health":
	case string(body) != "body of "+id || r.URL.RawQuery != "call="+id:
		http.Error(rw, "another call's body", 400)
	case doomed(id) || c < 0.15:
		http.Error(rw, "failed", 500)
	case c < 0.3:
		rw.Header().Set("Retry-After", "1")
		http.Error(rw, "busy", http.StatusServiceUnavailable)
	default:
		w.mu.Lock()
		w.success[id]++
		w.mu.Unlock()
		io.WriteString(rw, "result of "+id)
	}
}

// callback fails one time in ten.
func (w *world) callback(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	id := r.Header.Get("X-Call-Id")
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.posts[id]++; chance("callback", id, w.posts[id]) < 0.1 {
		rw.WriteHeader(500)
		return
	}
	w.told[id] = r.Header.Get("X-Function-Status")
	if w.told[id] == "200" && string(body) != "result of "+id {
		w.told[id] = "another call's result"
	}
}

// newProcess starts a gateway with a queue, a table and settings that retry fast.
func newProcess(t *testing.T, function http.Handler, env ...string) *process {
	t.Helper()
	r := harness.QueueRedis(t)
	functions := httptest.NewServer(function)
	hub, err := feed.NewHub(feed.HubConfig{Waker: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	hub.Publish(feed.Table{Epoch: "e", Revision: 1, Functions: []feed.Function{{Name: "flaky", Namespace: "openfaas-fn", Service: "flaky", Desired: 1, Scale: feed.Scale{Min: 1, Max: 1},
		HealthPath: "/_/health", Replicas: []feed.Replica{{ID: "r", Address: functions.Listener.Addr().String(), State: feed.Ready}}}}})
	provider := httptest.NewServer(hub.Handler())
	t.Cleanup(func() { functions.Close(); provider.CloseClientConnections(); provider.Close() })
	secrets := t.TempDir()
	if err := os.WriteFile(filepath.Join(secrets, "redis-queue"), []byte(harness.RedisPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, addr: harness.FreeAddr(t)}
	_, port, _ := net.SplitHostPort(p.addr)
	_, metrics, _ := net.SplitHostPort(harness.FreeAddr(t))
	p.env = []string{asGateway + "=1", "role=gateway", "port=" + port, "metrics_port=" + metrics, "functions_provider_url=" + provider.URL, "basic_auth=false",
		"secret_mount_path=" + secrets, "async_redis_socket=" + r.Socket(), "async_callback_networks=127.0.0.0/8", "log_level=error",
		"initial_retry_wait=20ms", "max_retry_wait=200ms", "max_retry_attempts=10"}
	p.env = append(p.env, env...)
	p.start()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the gateway said:\n%s", p.log.String())
		}
	})
	return p
}

type nobody struct{ feed.Waker }

// TestAcceptance is the promise: 5,000 calls are accepted, some of a function that fails three times in ten, while the
// gateway is killed twice. Every one is completed or a dead letter, every callback is delivered, nothing is lost.
func TestAcceptance(t *testing.T) {
	t.Parallel()
	const calls = 5000
	w := &world{runs: map[string]int{}, success: map[string]int{}, told: map[string]string{}, posts: map[string]int{}}
	callbacks := httptest.NewServer(http.HandlerFunc(w.callback))
	t.Cleanup(callbacks.Close)
	p := newProcess(t, http.HandlerFunc(w.function))
	begun := time.Now()
	next, accepted := make(chan int), make(chan struct{}, calls)
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for n := range next {
				id := fmt.Sprintf("call-%d", n)
				callback := callbacks.URL + "/callback"
				if n%2 == 0 {
					callback = "http://gateway:8080/function/flaky/callback"
				}
				p.submit(t, id, callback)
				accepted <- struct{}{}
			}
		})
	}
	go func() {
		defer close(next)
		for n := range calls {
			select {
			case next <- n:
			case <-t.Context().Done():
				return
			}
		}
	}()
	for n := 1; n <= calls; n++ {
		<-accepted
		if n == calls/3 || n == 2*calls/3 {
			p.kill()
			p.start()
		}
	}
	clients.Wait()
	took := time.Since(begun)
	w.settle(t, calls)
	t.Logf("%d calls accepted in %s, all settled after %s", calls, took.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	w.judge(t, calls, p)
}

// submit sends a call until it is acknowledged. After an answer that never came the same id says whether it was taken.
func (p *process) submit(t *testing.T, id, callback string) {
	for t.Context().Err() == nil {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.addr+"/async-function/flaky/path?call="+id, strings.NewReader("body of "+id))
		if err != nil {
			t.Error(err)
			return
		}
		request.Header.Set("X-Call-Id", id)
		if callback != "" {
			request.Header.Set("X-Callback-Url", callback)
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusAccepted || response.StatusCode == http.StatusConflict {
				return
			}
		}
		time.Sleep(20 * time.Millisecond) // a client's patience while the gateway is away
	}
}

// settle waits until every call's callback has been delivered.
func (w *world) settle(t *testing.T, calls int) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		told := len(w.told)
		w.mu.Unlock()
		if told == calls {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d callbacks were delivered", told, calls)
		}
	}
}

func (w *world) judge(t *testing.T, calls int, p *process) {
	t.Helper()
	dead := p.deadLetters(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	runs, dooms := 0, 0
	for n := range calls {
		id := fmt.Sprintf("call-%d", n)
		want := "200"
		if doomed(id) {
			dooms++
			want = w.told[id] // whichever of its failures came last
			if want == "200" || w.success[id] > 0 || !dead[id] {
				t.Errorf("%s can only fail: told %s, %d successes, dead letter: %v", id, want, w.success[id], dead[id])
			}
		}
		if w.told[id] != want || (w.success[id] == 0) != doomed(id) {
			t.Errorf("%s: its callback was told %q after %d runs, %d of them successes", id, w.told[id], w.runs[id], w.success[id])
		}
		runs += w.runs[id]
	}
	if len(dead) != dooms {
		t.Errorf("%d dead letters, want %d", len(dead), dooms)
	}
	t.Logf("%d runs, %d dead letters", runs, dooms)
}

// deadLetters waits until nothing else is left and lists them.
func (p *process) deadLetters(t *testing.T) map[string]bool {
	t.Helper()
	get := func(path string, into any) {
		t.Helper()
		response, err := http.Get("http://" + p.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if err := json.NewDecoder(response.Body).Decode(into); err != nil || response.StatusCode != 200 {
			t.Fatalf("%s: %s, %v", path, response.Status, err)
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var o struct{ Pending, Running, Callbacks int }
		if c, err := net.Dial("tcp", p.addr); err == nil {
			c.Close()
		} else if time.Now().Before(deadline) {
			continue // it is starting
		}
		if get("/system/queue", &o); o.Pending+o.Running+o.Callbacks == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left are %+v", o)
		}
	}
	var letters []struct {
		ID string `json:"call_id"`
	}
	get("/system/queue/dead?limit=1000", &letters)
	dead := map[string]bool{}
	for _, l := range letters {
		dead[l.ID] = true
	}
	return dead
}
