package vote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
)

func TestRefusalsOfRedis(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*harness.RedisServer){
		"no stream":     func(r *harness.RedisServer) { r.Do("DEL", stream) },
		"out of memory": func(r *harness.RedisServer) { r.Do("CONFIG", "SET", "maxmemory", "1") },
		"no permission": func(r *harness.RedisServer) { r.Do("ACL", "SETUSER", "capture", "-xadd") },
		"dead":          func(r *harness.RedisServer) { r.Kill() },
		"disk fails": func(r *harness.RedisServer) {
			// A directory where the snapshot goes makes the snapshot fail, and Redis then refuses writes: MISCONF.
			if err := os.Mkdir(filepath.Join(filepath.Dir(r.Socket()), "dump.rdb"), 0o700); err != nil {
				t.Fatal(err)
			}
			r.Do("CONFIG", "SET", "save", "3600 1")
			r.Do("BGSAVE")
			for !strings.Contains(r.Do("INFO", "persistence"), "rdb_last_bgsave_status:err") {
			}
		},
	}
	for name, breakIt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			j := b.voter()
			if code, reply := b.json(`{"poll":"pets","choice":"cats"}`, j); code != 200 {
				t.Fatalf("vote before = %d %v", code, reply)
			}
			before := b.tokenOf(j)
			breakIt(b.redis)
			w := b.send("POST", "/", `{"poll":"pets","choice":"cats"}`, j, map[string]string{"Content-Type": "application/json"})
			// A connection that dies under the first command is unknown; everything else is a clear refusal.
			if w.Code != 503 || w.Header().Get("Retry-After") == "" {
				t.Errorf("vote = %d %v %s", w.Code, w.Header(), w.Body)
			}
			if name != "dead" && !strings.Contains(w.Body.String(), `"try_again"`) {
				t.Errorf("vote = %s, want try_again", w.Body)
			}
			if got := b.tokenOf(j); got != before {
				t.Errorf("the token moved from %+v to %+v", before, got)
			}
			b.json(`{"poll":"pets","choice":"cats"}`, j)
			b.probe()
			if err := b.Ready(); err == nil || !errors.Is(err, errNotStored) {
				t.Errorf("Ready = %v, want unready for a refusal", err)
			}
			page := b.send("POST", "/", "poll=pets&choice=cats&seq=2&nonce="+b.keys.nonce(before.voter, 1, 2), j, browser)
			if page.Code != 503 || !strings.Contains(page.Body.String(), "press again") || !strings.Contains(page.Body.String(), "<form") {
				t.Errorf("a browser gets %d\n%s", page.Code, page.Body)
			}
		})
	}
}

func TestProbeWritesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	before := b.redis.Do("XINFO", "STREAM", stream)
	for range 3 {
		if err := b.capture.appender.probe(context.Background()); err != nil {
			t.Errorf("probing a healthy Redis: %v", err)
		}
	}
	if after := b.redis.Do("XINFO", "STREAM", stream); after != before {
		t.Errorf("the stream was\n%s\nand is\n%s", before, after)
	}
	b.redis.Do("XTRIM", stream, "MAXLEN", "0")
	if err := b.capture.appender.probe(context.Background()); err != nil || b.redis.Do("XLEN", stream) != "0" {
		t.Errorf("probing a drained stream: %v", err)
	}
}

func TestWrongPasswordAndNoSocketAreNotStored(t *testing.T) {
	t.Parallel()
	r := harness.Redis(t)
	for name, change := range map[string]func(*config){
		"wrong password": func(c *config) { c.socket, c.password = r.Socket(), "wrong" },
		"unknown user":   func(c *config) { c.socket, c.user = r.Socket(), "nobody" },
		"no socket":      func(c *config) { c.socket = "/nonexistent/redis.sock" },
	} {
		b := setupWith(t, change)
		if err := b.capture.appender.probe(context.Background()); !errors.Is(err, errNotStored) {
			t.Errorf("%s: %v, want not stored", name, err)
		}
	}
}

// TestTheQueueIsBounded fills a queue of one place.
func TestTheQueueIsBounded(t *testing.T) {
	t.Parallel()
	c := newCapture(nil, newGate(nil), &stats{})
	c.queue = make(chan *entry, 1)
	if err := c.enqueue(&entry{}); err != nil {
		t.Fatal(err)
	}
	if err := c.enqueue(&entry{}); !errors.Is(err, errQueueFull) {
		t.Errorf("a full queue: %v", err)
	}
	c.closed = true
	if err := c.enqueue(&entry{}); !errors.Is(err, errStopping) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestAVoteThatNobodyWaitsForIsRefused(t *testing.T) {
	t.Parallel()
	gone, leave := context.WithCancel(t.Context())
	leave()
	for name, tc := range map[string]struct {
		client context.Context
		queued time.Time
		want   error
	}{
		"it waited too long":  {t.Context(), time.Now().Add(-2 * maxQueueWait), errTooLate},
		"its client has left": {gone, time.Now(), errClientLeft},
	} {
		for _, first := range []bool{true, false} {
			c := newCapture(nil, newGate(nil), &stats{})
			stale := &entry{queued: tc.queued, client: tc.client, done: make(chan struct{}, 1)}
			fresh := &entry{queued: time.Now(), client: t.Context(), done: make(chan struct{}, 1)}
			begin, next := fresh, stale
			if first {
				begin, next = stale, fresh
			}
			c.queue <- next
			if batch := c.collect([]*entry{begin}); len(batch) != 1 || batch[0] != fresh {
				t.Errorf("%s: batch = %v", name, batch)
			}
			<-stale.done
			if !errors.Is(stale.err, errNotStored) || !errors.Is(stale.err, tc.want) {
				t.Errorf("%s: error = %v", name, stale.err)
			}
		}
	}
}

// TestAPressWithoutAnAnswerNeverBeatsALaterOne: the request of the first press is handled last, as by a replica that was
// frozen meanwhile.
func TestAPressWithoutAnAnswerNeverBeatsALaterOne(t *testing.T) {
	t.Parallel()
	now := time.Now()
	start := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).UnixNano(), 10) }
	for name, tc := range map[string]struct {
		reload        bool
		first, second string // X-Start-Time
	}{
		"by the sequence of the page, by a clock that is ahead": {true, start(-time.Second), start(-time.Hour)},
		"by the gateway's time on one and the same page":        {false, start(-time.Minute), start(-time.Second)},
	} {
		for _, kind := range []string{"application/x-www-form-urlencoded", "application/json"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				b := setup(t, nil)
				j := b.voter()
				page := func() token {
					if tc.reload {
						b.send("GET", "/", "", j, browser)
					}
					return b.tokenOf(j)
				}
				press := func(j jar, p token, choice, at string) {
					body := fmt.Sprintf("poll=pets&choice=%s&seq=%d&nonce=%s", choice, p.seq, b.keys.nonce(p.voter, 1, p.seq))
					if kind == "application/json" {
						body = fmt.Sprintf(`{"poll":"pets","choice":"%s"}`, choice)
					}
					if w := b.send("POST", "/", body, j, map[string]string{"Content-Type": kind, "X-Start-Time": at}); w.Code >= 400 {
						t.Fatalf("press = %d %s", w.Code, w.Body)
					}
				}
				first := page()
				frozen := maps.Clone(j)
				second := page()
				press(j, second, "dogs", tc.second)
				press(frozen, first, "cats", tc.first)
				key := func(vote []string) [2]int64 {
					seq, _ := strconv.ParseInt(vote[4], 10, 64)
					at, _ := strconv.ParseInt(vote[5], 10, 64)
					return [2]int64{seq, at}
				}
				votes := b.stored()
				dogs, cats := key(votes[0]), key(votes[1])
				if slices.Compare(dogs[:], cats[:]) <= 0 {
					t.Errorf("the later press has the order key %v, the one without an answer %v", dogs, cats)
				}
			})
		}
	}
}

func TestAStartInTheFutureIsNow(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, header := range []string{"", "x", "-5", "0", strconv.FormatInt(now.Add(time.Hour).UnixNano(), 10), "99999999999999999999"} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set("X-Start-Time", header)
		if got := received(r, now); !got.Equal(now) {
			t.Errorf("X-Start-Time %q: received at %v, want now", header, got)
		}
	}
}

func TestShutdownFinishesWhatIsQueued(t *testing.T) {
	t.Parallel()
	r := harness.Redis(t)
	polls, err := parsePolls([]byte(pollFile))
	if err != nil {
		t.Fatal(err)
	}
	s := newAppender(r.Socket(), "capture", harness.RedisPassword)
	c := newCapture(s, newGate(nil), &stats{})
	args := &pollArgs{id: int64(polls[0].ID)}
	var queued []*entry
	for i := range 10 {
		e := &entry{poll: args, choice: int64(1), voter: "v", seq: int64(i + 1), at: time.Now().UnixMilli(), queued: time.Now(), client: t.Context(), done: make(chan struct{}, 1)}
		queued = append(queued, e)
		if err := c.enqueue(e); err != nil {
			t.Fatal(err)
		}
	}
	c.group.Go(c.write)
	if err := c.close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, e := range queued {
		if <-e.done; e.err != nil || e.place.id == "" {
			t.Errorf("queued vote: %q, %v", e.place.id, e.err)
		}
	}
}

func BenchmarkVote(b *testing.B) {
	s := setup(b, nil)
	paper, voter := s.papers["pets"], newVoter()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.capture.add(context.Background(), paper.args, paper.options[0].arg, paper.pseudonym(voter), 1, time.Now()); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkPage(b *testing.B) {
	s := setup(b, nil)
	j := s.voter()
	b.ReportAllocs()
	for b.Loop() {
		s.send("GET", "/", "", j, browser)
	}
}
