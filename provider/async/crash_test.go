package async

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"waggle/provider/queued"
)

// errKilled is what Redis commands return after the process was "killed".
var errKilled = errors.New("killed")

// killer lets a number of commands reach Redis; then the process is dead as far as Redis can tell.
type killer struct {
	mu   sync.Mutex
	left int           // guarded by mu
	dead chan struct{} // closed once nothing passes any more
}

func newKiller(after int) *killer { return &killer{left: after, dead: make(chan struct{})} }

// pass takes up to n of what is left.
func (k *killer) pass(n int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n = min(n, k.left)
	k.left -= n
	if k.left == 0 {
		select {
		case <-k.dead:
		default:
			close(k.dead)
		}
	}
	return n
}

func (k *killer) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook. Only what writes counts, so that each crash point means something.
func (k *killer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if writes(cmd) && k.pass(1) == 0 || !writes(cmd) && k.isDead() {
			cmd.SetErr(errKilled)
			return errKilled
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook cuts a pipeline in two: what was sent before the kill is done, the answers are never seen.
func (k *killer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		n := 0
		for n < len(cmds) && (writes(cmds[n]) && k.pass(1) == 1 || !writes(cmds[n]) && !k.isDead()) {
			n++
		}
		if n > 0 {
			if err := next(ctx, cmds[:n]); err != nil && !errors.Is(err, redis.Nil) {
				return err
			}
		}
		if n == len(cmds) {
			return nil
		}
		for _, cmd := range cmds {
			cmd.SetErr(errKilled)
		}
		return errKilled
	}
}

func (k *killer) isDead() bool {
	select {
	case <-k.dead:
		return true
	default:
		return false
	}
}

func writes(cmd redis.Cmder) bool {
	switch strings.ToLower(cmd.Name()) {
	case "hset", "hdel", "zadd", "zrem", "set":
		return true
	}
	return false
}

// outside is what functions and callbacks see: whatever happens to the queue, they remember.
type outside struct {
	mu        sync.Mutex
	runs      map[string]int // guarded by mu
	delivered map[string]int // guarded by mu; callbacks that were answered with 200
	posts     map[string]int // guarded by mu
	// functionFails and callbackFails say how often the first attempts fail.
	functionFails, callbackFails map[string]int
}

func (o *outside) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Call-Id")
	o.mu.Lock()
	defer o.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/function/taker") {
		o.posts[id]++
		if o.posts[id] <= o.callbackFails[id] {
			w.WriteHeader(500)
			return
		}
		o.delivered[id]++
		return
	}
	o.runs[id]++
	if o.runs[id] <= o.functionFails[id] {
		w.WriteHeader(500)
		return
	}
	io.WriteString(w, "result of "+id)
}

// count is how often a function ran and a callback was delivered.
func (o *outside) count(id string) (runs, delivered int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.runs[id], o.delivered[id]
}

// rename makes one call fail as often as another was to.
func (o *outside) rename(from, to string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.functionFails[to], o.callbackFails[to] = o.functionFails[from], o.callbackFails[from]
}

// A process is killed between any two writes, and so is the next one. An accepted call is still made and its
// callback delivered, or it is a dead letter. What is done with never comes back.
func TestKillBetweenAnyTwoWritesLosesNothingAndRevivesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	raw := redis.NewClient(&redis.Options{Network: "unix", Addr: s.cfg.Socket, Password: s.cfg.Password, DisableIdentity: true, ReadTimeout: time.Minute})
	t.Cleanup(func() { _ = raw.Close() })
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		k := &crash{rt: rt, t: t, system: s, raw: raw, accepted: map[string]bool{}, done: map[string][2]int{},
			outside: &outside{runs: map[string]int{}, delivered: map[string]int{}, posts: map[string]int{}, functionFails: map[string]int{}, callbackFails: map[string]int{}}}
		k.cfg = s.cfg
		k.cfg.prefix, k.cfg.MaxRetryAttempts, k.cfg.InitialRetryWait, k.cfg.StopTimeout = fmt.Sprintf("async:p%d:", n), 2, 0, 0
		s.serve(k.outside.ServeHTTP)
		for i := range rapid.IntRange(1, 4).Draw(rt, "calls") {
			id := fmt.Sprint("c", i)
			k.outside.functionFails[id] = rapid.IntRange(0, 4).Draw(rt, "failures of "+id)
			k.outside.callbackFails[id] = rapid.IntRange(0, 4).Draw(rt, "failed callbacks of "+id)
			c := call(id)
			if rapid.Bool().Draw(rt, "callback of "+id) {
				c.Callback = "http://gateway:8080/function/taker"
			}
			k.calls = append(k.calls, c)
		}
		for range rapid.IntRange(1, 3).Draw(rt, "kills") {
			k.life(rapid.IntRange(1, 45).Draw(rt, "writes before the kill"))
		}
		k.life(1 << 30)
		k.judge()
	})
}

// crash is one case of that test.
type crash struct {
	rt       *rapid.T
	t        *testing.T
	system   *system
	cfg      Config
	raw      *redis.Client
	outside  *outside
	calls    []queued.Call
	accepted map[string]bool
	// done holds, for what Redis no longer knows as queued, how often it had run and been delivered by then.
	done map[string][2]int
}

// life runs a process until it is killed after so many writes, or until nothing is left to do.
func (k *crash) life(writes int) {
	q, err := New(k.cfg)
	if err != nil {
		k.rt.Fatal(err)
	}
	kill := newKiller(writes)
	q.store.client.AddHook(kill)
	life := k.system.start(q)
	for i, c := range k.calls {
		select {
		case <-kill.dead:
		case <-q.loaded:
			if k.accepted[c.ID] {
				continue
			}
			if err := q.Enqueue(k.t.Context(), c); err == nil {
				k.accepted[c.ID] = true
			} else if kill.isDead() { // the client tries again, as another call
				k.calls[i] = call(c.ID+"x", func(next *queued.Call) { next.Callback = c.Callback })
				k.outside.rename(c.ID, k.calls[i].ID)
			}
		}
	}
	eventually(k.t, func() error {
		if n := q.index.size(); n > 0 && !kill.isDead() {
			return fmt.Errorf("%d calls are left", n)
		}
		return nil
	})
	life.stop()
	if n := testutil.ToFloat64(q.metrics.lost); n > 0 {
		k.rt.Fatalf("%g calls were queued and incomplete", n)
	}
	for _, c := range k.calls {
		_, known := k.done[c.ID]
		if k.accepted[c.ID] && !known && !k.in("due", c.ID) && !k.in("dead", c.ID) {
			runs, delivered := k.outside.count(c.ID)
			k.done[c.ID] = [2]int{runs, delivered}
		}
	}
}

func (k *crash) in(set, id string) bool {
	return k.raw.ZScore(k.t.Context(), k.cfg.prefix+set, id).Err() == nil
}

func (k *crash) judge() {
	for _, c := range k.calls {
		runs, delivered := k.outside.count(c.ID)
		dead := k.in("dead", c.ID)
		if !k.accepted[c.ID] {
			k.rt.Fatalf("%s was never accepted although the last process lived", c.ID)
		}
		if runs == 0 {
			k.rt.Fatalf("%s was accepted and never made", c.ID)
		}
		if c.Callback != "" && delivered == 0 && !dead {
			k.rt.Fatalf("%s has vanished without its callback", c.ID)
		}
		if runs <= k.outside.functionFails[c.ID] && !dead {
			k.rt.Fatalf("%s has vanished after %d runs, all of which failed", c.ID, runs)
		}
		if before, known := k.done[c.ID]; known && before != [2]int{runs, delivered} {
			k.rt.Fatalf("%s was done after %v runs and deliveries, and has %d and %d now", c.ID, before, runs, delivered)
		}
	}
	k.swept()
}

// swept wants nothing to be left of what is done with once the sweep has been there.
func (k *crash) swept() {
	q, err := New(k.cfg)
	if err != nil {
		k.rt.Fatal(err)
	}
	defer q.Close()
	ctx := k.t.Context()
	if err := q.load(ctx); err != nil {
		k.rt.Fatal(err)
	}
	k.system.sweep(q, k.system.sweep(q, nil))
	dead := k.raw.ZCard(ctx, k.cfg.prefix+"dead").Val()
	for _, hash := range []string{"calls", "state"} {
		if n := k.raw.HLen(ctx, k.cfg.prefix+hash).Val(); n != dead {
			k.rt.Fatalf("%s has %d entries, there are %d dead letters", hash, n, dead)
		}
	}
	if n := k.raw.HLen(ctx, k.cfg.prefix+"results").Val(); n > dead {
		k.rt.Fatalf("%d results of %d dead letters", n, dead)
	}
	if n := k.raw.ZCard(ctx, k.cfg.prefix+"due").Val(); n != 0 {
		k.rt.Fatalf("%d calls are still due", n)
	}
}
