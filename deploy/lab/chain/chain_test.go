// Package chain tests what a vote passes through as a whole, with programs' requests and with a browser. One process has the
// ballot, a real Redis, a worker, a real Postgres and the results.
package chain

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
	"waggle/functions/results"
	"waggle/functions/vote"
	"waggle/worker/drain"
	"waggle/worker/store"
)

// patience bounds every wait; the machine may be busy.
const patience = time.Minute

// polls: the worker does not know the last one.
const pollFile = `{"polls":[
	{"id":1,"slug":"pets","question":"Which pet?","opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live",
	 "options":[{"id":1,"slug":"cats","name":"Cats"},{"id":2,"slug":"dogs","name":"Dogs"}]},
	{"id":2,"slug":"new","question":"A new one?","opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live",
	 "options":[{"id":1,"slug":"yes","name":"Yes"},{"id":2,"slug":"no","name":"No"}]}]}`

// system is all of it. No worker runs before the test starts one.
type system struct {
	t     *testing.T
	redis *harness.RedisServer
	db    *harness.Database
	store *store.Store
	dir   string
	url   string
}

// start is not for parallel tests: the functions read the environment.
func start(t *testing.T) *system {
	t.Helper()
	db := harness.Postgres(t)
	return startOn(t, db, db.Host(), db.DSN("waggle_drain"))
}

// startOn counts in a database that is found by one of the hosts.
func startOn(t *testing.T, db *harness.Database, hosts, drainDSN string) *system {
	t.Helper()
	s := &system{t: t, redis: harness.Redis(t), db: db, dir: t.TempDir()}
	if _, err := store.Migrate(t.Context(), s.db.DSN("waggle_admin")); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.store, err = store.New(store.Config{DSN: drainDSN}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.store.Close)
	for name, text := range map[string]string{
		"voter-keys": "poll:" + strings.Repeat("c3", 32) + "\nk1:" + strings.Repeat("a1", 32), "redis-capture": harness.RedisPassword,
		"postgres-results": "any", "polls": pollFile, "worker-polls": pollFile[:strings.Index(pollFile, ",\n\t{\"id\":2")] + "]}",
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"secret_mount_path": s.dir, "redis_socket": s.redis.Socket(), "copies": "1", "results_url": "/results", "vote_url": "/vote",
		"postgres_host": hosts, "postgres_port": strconv.Itoa(s.db.Port()), "postgres_database": s.db.Name(),
	} {
		t.Setenv(name, value)
	}
	// The functions log with the default logger.
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(before) })
	mux := http.NewServeMux()
	s.serve(mux, "/vote", vote.New)
	s.serve(mux, "/results", results.New)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// serve puts a function where a gateway would have it, once it is ready.
func (s *system) serve(mux *http.ServeMux, path string, build func(context.Context) (http.Handler, error)) {
	s.t.Helper()
	handler, err := build(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	if function, ok := handler.(interface{ Ready() error }); ok {
		s.until(path+" is ready", func() bool { return function.Ready() == nil })
	}
	s.t.Cleanup(func() {
		if err := handler.(interface{ Shutdown(context.Context) error }).Shutdown(context.Background()); err != nil {
			s.t.Error(err)
		}
	})
	mux.Handle(path, http.StripPrefix(path, handler))
	mux.Handle(path+"/", http.StripPrefix(path, handler))
}

// work starts a worker and returns what stops it.
func (s *system) work() (stop func()) {
	s.t.Helper()
	polls, err := drain.LoadPolls(filepath.Join(s.dir, "worker-polls"))
	if err != nil {
		s.t.Fatal(err)
	}
	worker, err := drain.New(drain.Config{
		Worker: "w", Store: s.store, Polls: polls, User: "drain", Password: harness.RedisPassword, PollInterval: 5 * time.Millisecond,
		ScanInterval: 20 * time.Millisecond, StealAfter: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
		Resolve: func(context.Context) ([]string, error) { return []string{s.redis.Addr()}, nil },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("the worker ended with %v", err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// until waits for something.
func (s *system) until(what string, done func() bool) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			s.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// captured is how many votes Redis has; counted waits until Postgres has them all.
func (s *system) captured() int {
	s.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s.redis.Do("XLEN", "votes")))
	if err != nil {
		s.t.Fatal(err)
	}
	return n - 1 // without the genesis entry
}

func (s *system) counted() {
	s.t.Helper()
	n := strconv.Itoa(s.captured())
	s.until(n+" votes are counted", func() bool { return s.db.SQL("SELECT coalesce(sum(n), 0) FROM drain_stream") == n })
}

// get and send make a program's requests with a cookie.
func (s *system) get(path, cookie string, header ...string) (*http.Response, string) {
	return s.send("GET", path, cookie, "", header...)
}

func (s *system) send(method, path, cookie, body string, header ...string) (*http.Response, string) {
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return &http.Response{}, ""
	}
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Error(err)
		return &http.Response{}, ""
	}
	defer answer.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(answer.Body); err != nil {
		s.t.Error(err)
	}
	return answer, text.String()
}
