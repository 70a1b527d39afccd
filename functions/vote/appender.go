package vote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// stream is the key of the votes, incarnation that of the id of its data. Only the Redis image creates both, hence
// NOMKSTREAM below.
const (
	stream      = "votes"
	incarnation = "votes:inc"
)

var errNoStream = errors.New("the stream does not exist in this Redis")

// appender appends votes to the stream of this node's Redis.
type appender struct {
	client *redis.Client
	inc    atomic.Pointer[string] // as the last probe found it
}

// own is this node's incarnation, or empty before the first probe.
func (a *appender) own() string {
	if inc := a.inc.Load(); inc != nil {
		return *inc
	}
	return ""
}

// newAppender connects lazily: while Redis is down the replica is unready, but it runs.
func newAppender(socket, user, password string) *appender {
	redis.SetLogger(silence{})
	a := &appender{}
	a.client = redis.NewClient(&redis.Options{
		Network: "unix", Addr: socket, Username: user, Password: password,
		// The user capture may not run what RESP3, CLIENT SETINFO and maintenance notifications need.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		// A repeated XADD is a second entry. The voter repeats an unknown outcome, with the same sequence.
		MaxRetries:            -1,
		ContextTimeoutEnabled: true,
		// By default five attempts, 100 ms apart, would add half a second to each failing vote.
		DialerRetries: 1,
		DialTimeout:   300 * time.Millisecond, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		PoolSize: 64, MinIdleConns: 8, PoolTimeout: 500 * time.Millisecond,
	})
	return a
}

func (a *appender) close() error { return a.client.Close() }

// writer sends pipelines of captured votes. ARCHITECTURE.md has the entry's fields, and worker/drain/entry.go reads them. It
// belongs to one goroutine and uses its commands again, with other arguments.
type writer struct {
	pipe     redis.Pipeliner
	inc      *redis.StringCmd
	commands [maxBatch]xadd
	batch    [1 + maxBatch]redis.Cmder // what is sent
}

// xadd appends one vote. Plain and marked share args; marked has all of them, and says that there is one copy.
type xadd struct {
	args          [16]any
	plain, marked *redis.StringCmd
}

func (a *appender) newWriter() *writer {
	ctx := context.Background() // The connection's timeouts bound a pipeline. A voter who leaves does not withdraw the vote.
	w := &writer{pipe: a.client.Pipeline(), inc: redis.NewStringCmd(ctx, "GET", incarnation)}
	w.batch[0] = w.inc
	for i := range w.commands {
		c := &w.commands[i]
		c.args = [16]any{"XADD", stream, "NOMKSTREAM", "*", "p", nil, "v", nil, "c", nil, "s", nil, "t", nil, "k", "1"}
		c.plain, c.marked = redis.NewStringCmd(ctx, c.args[:14]...), redis.NewStringCmd(ctx, c.args[:]...)
	}
	return w
}

// set returns the command that appends e. Its arguments are pointers where a value would be copied to the heap.
func (c *xadd) set(e *entry) *redis.StringCmd {
	c.args[5], c.args[7], c.args[9], c.args[11], c.args[13] = e.poll.id, &e.voter, e.choice, &e.seq, &e.at
	if e.single {
		return unanswered(c.marked)
	}
	return unanswered(c.plain)
}

// unanswered takes the reply of the time before off a command: it must never stand for one that did not come.
func unanswered(c *redis.StringCmd) *redis.StringCmd {
	c.SetVal("")
	c.SetErr(nil)
	return c
}

// append sends one XADD per entry, waits for all replies and sets each entry's own place or error. It reads the
// incarnation in the same pipeline, so both are of the same server.
func (w *writer) append(batch []*entry) {
	for i, e := range batch {
		w.batch[1+i] = w.commands[i].set(e)
	}
	unanswered(w.inc)
	ctx := context.Background()
	_ = w.pipe.BatchProcess(ctx, w.batch[:1+len(batch)]...) // only gathers
	// Exec returns the first command's error; each command has its own.
	_, _ = w.pipe.Exec(ctx)
	now := time.Now()
	for i, e := range batch {
		e.stored = now
		e.place.incarnation = w.inc.Val()
		e.place.id, e.err = w.batch[1+i].(*redis.StringCmd).Result()
		if e.err != nil {
			e.err = classify(e.err)
		} else if e.place.id == "" || len(e.place.incarnation) != incarnationLength {
			e.err = fmt.Errorf("%w: entry %q of incarnation %q", errUnknown, e.place.id, e.place.incarnation)
		}
	}
}

// appendMarked stores once more, in parts of maxBatch, votes that turned out to have one copy, now with the mark that says so.
// The worker counts a vote once. One that is refused now is stored all the same, without the mark: nobody may be told that it is
// not.
func (w *writer) appendMarked(votes []*entry) {
	for part := range slices.Chunk(votes, maxBatch) {
		for _, e := range part {
			e.single = true
		}
		w.append(part)
		for _, e := range part {
			if e.err != nil && !errors.Is(e.err, errUnknown) {
				e.err = fmt.Errorf("%w: noting that it has one copy: %v", errUnknown, e.err) //nolint:errorlint // the cause is errNotStored, which is false here
			}
		}
	}
}

// probe asks whether Redis would take an XADD, without writing. The genesis entry has the id 0-1, so an existing stream
// refuses that id as too small. Before that, Redis checks the user, its memory and its disk.
func (a *appender) probe(ctx context.Context) error {
	inc, err := a.client.Get(ctx, incarnation).Result()
	if err != nil {
		return fmt.Errorf("reading the incarnation: %w", classify(err))
	}
	if len(inc) != incarnationLength {
		return fmt.Errorf("%w: the incarnation is %q: it must be a UUID", errNotStored, inc)
	}
	a.inc.Store(&inc)
	err = a.client.Do(ctx, "XADD", stream, "NOMKSTREAM", "0-1", "kind", "probe").Err()
	if err == nil || strings.HasPrefix(err.Error(), "ERR The ID specified in XADD is equal or smaller") {
		return nil
	}
	return classify(err)
}

// refusals begin the error replies of commands that Redis did not run.
var refusals = []string{"OOM ", "MISCONF ", "NOPERM ", "NOAUTH ", "WRONGPASS ", "LOADING "}

// classify tells a vote that was certainly not stored from one that may have been. Every other error is unknown:
// a wrong "unknown" costs the voter one more press, a wrong "not stored" breaks a promise.
func classify(err error) error {
	if errors.Is(err, redis.Nil) {
		return fmt.Errorf("%w: %w", errNotStored, errNoStream)
	}
	for _, prefix := range refusals {
		if strings.HasPrefix(err.Error(), prefix) {
			return fmt.Errorf("%w: %w", errNotStored, err)
		}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %w", errNotStored, err)
	}
	if errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("%w: %w", errNotStored, err)
	}
	return fmt.Errorf("%w: %w", errUnknown, err)
}

// silence drops the library's own log line per failed dial. The gate logs each change once.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
