package async

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"waggle/deploy/lab/harness"
	"waggle/provider/feed"
	"waggle/provider/queued"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// system is one Redis, a gateway that stands for the real one, and functions and callbacks made of handlers.
type system struct {
	t     testing.TB
	redis *harness.RedisServer
	*edge
	cfg Config
}

// edge is a Gateway whose functions are one HTTP server; /function/ and whatever else is asked of it go to handle.
type edge struct {
	server *httptest.Server

	mu        sync.Mutex
	handle    http.HandlerFunc         // guarded by mu
	functions map[string]feed.Function // guarded by mu
	unknown   bool                     // guarded by mu; no table has come
}

func newEdge(t testing.TB) *edge {
	t.Helper()
	e := &edge{functions: map[string]feed.Function{"f.openfaas-fn": {Name: "f", Namespace: "openfaas-fn"}},
		handle: func(http.ResponseWriter, *http.Request) {}}
	e.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		handle := e.handle
		e.mu.Unlock()
		handle(w, r)
	}))
	t.Cleanup(e.server.Close)
	return e
}

// Dial implements Gateway.
func (e *edge) Dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", e.server.Listener.Addr().String())
}

// Function implements Gateway.
func (e *edge) Function(label string) (feed.Function, bool, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn, found := e.functions[label]
	return fn, found && !e.unknown, !e.unknown
}

// serve makes handle answer from now on.
func (e *edge) serve(handle http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handle = handle
}

// change changes what there is of function f; deploy false removes it.
func (e *edge) change(deploy bool, adjust func(*feed.Function)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn := feed.Function{Name: "f", Namespace: "openfaas-fn"}
	if adjust != nil {
		adjust(&fn)
	}
	delete(e.functions, "f.openfaas-fn")
	if deploy {
		e.functions["f.openfaas-fn"] = fn
	}
}

// newSystem starts a Redis and configures a queue for it that retries fast.
func newSystem(t testing.TB) *system {
	t.Helper()
	r := harness.QueueRedis(t)
	return &system{t: t, redis: r, edge: newEdge(t), cfg: Config{
		Socket: r.Socket(), Password: harness.RedisPassword, MaxRetryAttempts: 3, InitialRetryWait: time.Millisecond, MaxRetryWait: 5 * time.Millisecond,
		CallbackNetworks: []string{"127.0.0.0/8"}, StopTimeout: 20 * time.Second, Logger: slog.New(slog.DiscardHandler),
	}}
}

// queue is one life of a queue.
type queue struct {
	*Queue
	stop func()
}

// run begins a life of the queue with the settings of now.
func (s *system) run() *queue {
	s.t.Helper()
	cfg := s.cfg
	cfg.Registerer = prometheus.NewRegistry()
	q, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.start(q)
}

// unstarted is a queue whose Run does nothing behind the test's back.
func (s *system) unstarted() *Queue {
	s.t.Helper()
	q, err := New(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = q.Close() })
	close(q.loaded)
	return q
}

// registry is what the life's metrics are on.
func (q *queue) registry() prometheus.Gatherer { return q.cfg.Registerer.(prometheus.Gatherer) }

func (s *system) start(q *Queue) *queue {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx, s) }()
	life := &queue{Queue: q}
	life.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
		if err := q.Close(); err != nil {
			s.t.Errorf("Close: %v", err)
		}
	})
	s.t.Cleanup(life.stop)
	return life
}

// call is a call of function f.
func call(id string, adjust ...func(*queued.Call)) queued.Call {
	c := queued.Call{ID: id, Address: "f", Function: "f.openfaas-fn", Target: "/", Header: []byte("X-Call-Id: " + id + "\r\n"), Accepted: time.Now()}
	for _, a := range adjust {
		a(&c)
	}
	return c
}

func (q *queue) enqueue(t testing.TB, c queued.Call) {
	t.Helper()
	if err := q.Enqueue(t.Context(), c); err != nil {
		t.Fatalf("enqueuing %s: %v", c.ID, err)
	}
}

// buries waits until the queue has n dead letters. Redis has each before the queue does.
func (q *queue) buries(t testing.TB, n int) {
	t.Helper()
	eventually(t, func() error {
		if got := q.index.deadLetters(); got != n {
			return fmt.Errorf("the queue has %d dead letters, want %d", got, n)
		}
		return nil
	})
}

// eventually waits until check returns nil.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// contents is what Redis holds: how many calls, states, results, due and dead ones.
func (s *system) contents() [5]int64 {
	s.t.Helper()
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: s.cfg.Socket, Password: s.cfg.Password, DisableIdentity: true, ReadTimeout: time.Minute})
	defer client.Close()
	ctx := context.Background()
	return [5]int64{client.HLen(ctx, "async:calls").Val(), client.HLen(ctx, "async:state").Val(), client.HLen(ctx, "async:results").Val(),
		client.ZCard(ctx, "async:due").Val(), client.ZCard(ctx, "async:dead").Val()}
}

// holds waits until Redis holds that.
func (s *system) holds(want [5]int64) {
	s.t.Helper()
	eventually(s.t, func() error {
		if got := s.contents(); got != want {
			return fmt.Errorf("redis holds %v (calls, states, results, due, dead), want %v", got, want)
		}
		return nil
	})
}

// sink notes requests.
type sink struct {
	mu   sync.Mutex
	seen []seen // guarded by mu
}

type seen struct {
	method, uri, body string
	header            http.Header
}

func (k *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) { k.note(r) }

func (k *sink) note(r *http.Request) int {
	body, _ := io.ReadAll(r.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = append(k.seen, seen{r.Method, r.RequestURI, string(body), r.Header})
	return len(k.seen)
}

func (k *sink) all() []seen {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]seen(nil), k.seen...)
}

// await waits for n requests and returns them.
func (k *sink) await(t testing.TB, n int) []seen {
	t.Helper()
	eventually(t, func() error {
		if got := len(k.all()); got < n {
			return fmt.Errorf("%d requests came, want %d", got, n)
		}
		return nil
	})
	return k.all()
}

// newSink serves a sink at an address of its own.
func newSink(t testing.TB) (k *sink, url string) {
	t.Helper()
	k = &sink{}
	s := httptest.NewServer(k)
	t.Cleanup(s.Close)
	return k, s.URL
}

// before is called with what is about to be sent to Redis; an error of it stands for Redis's.
type before func(cmds []redis.Cmder) error

// DialHook implements redis.Hook.
func (before) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (b before) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := b([]redis.Cmder{cmd}); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (b before) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := b(cmds); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}
