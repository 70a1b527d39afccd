package vote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// stream is the key of ARCHITECTURE.md; the Redis image alone creates it, hence NOMKSTREAM below.
const stream = "votes"

var errNoStream = errors.New("the stream does not exist in this Redis")

// store is this node's Redis: the only place that talks to it.
type store struct{ client *redis.Client }

// newStore connects lazily: a Redis that is down makes the replica unready, not crash.
func newStore(socket, user, password string) *store {
	redis.SetLogger(silence{})
	return &store{client: redis.NewClient(&redis.Options{
		Network: "unix", Addr: socket, Username: user, Password: password,
		// RESP2 without CLIENT SETINFO and maintenance notifications: the user capture may do none of it.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		// An XADD that is repeated is a second entry, so an unknown outcome goes to the voter, who has the sequence.
		MaxRetries:            -1,
		ContextTimeoutEnabled: true,
		// The default of five attempts 100 ms apart would add half a second to each failing vote.
		DialerRetries: 1,
		DialTimeout:   300 * time.Millisecond, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		PoolSize: 64, MinIdleConns: 8, PoolTimeout: 500 * time.Millisecond,
	})}
}

func (s *store) close() error { return s.client.Close() }

// writer builds pipelines; each belongs to one goroutine and keeps its argument slices.
type writer struct {
	client *redis.Client
	args   [maxBatch][14]any
}

func (s *store) newWriter() *writer {
	w := &writer{client: s.client}
	for i := range w.args {
		w.args[i] = [14]any{"XADD", stream, "NOMKSTREAM", "*", "p", nil, "v", nil, "c", nil, "s", nil, "t", nil}
	}
	return w
}

// append sends one XADD per entry and notes each entry's own outcome. It returns when all are answered.
func (w *writer) append(batch []*entry) {
	ctx := context.Background() // Bounded by the connection's timeouts; a voter who leaves takes no vote back.
	pipe := w.client.Pipeline()
	commands := make([]*redis.Cmd, len(batch))
	for i, e := range batch {
		args := w.args[i][:]
		args[5], args[7], args[9], args[11], args[13] = e.poll.id, e.voter, e.choice, e.seq, e.at
		commands[i] = pipe.Do(ctx, args...)
	}
	// The error of Exec is the first command's; each command has its own.
	_, _ = pipe.Exec(ctx)
	for i, e := range batch {
		e.id, e.err = commands[i].Text()
		if e.err != nil {
			e.err = classify(e.err)
		} else if e.id == "" {
			e.err = fmt.Errorf("%w: empty reply", errUnknown)
		}
	}
}

// probe asks whether an XADD would be taken, without writing: the id 0-1 is the genesis entry's, so a stream that
// exists refuses it as too small, after Redis has checked the user, its memory and its disk.
func (s *store) probe(ctx context.Context) error {
	err := s.client.Do(ctx, "XADD", stream, "NOMKSTREAM", "0-1", "kind", "probe").Err()
	if err == nil || strings.HasPrefix(err.Error(), "ERR The ID specified in XADD is equal or smaller") {
		return nil
	}
	return classify(err)
}

// refusals are the error replies with which Redis says that it did not run the command.
var refusals = []string{"OOM ", "MISCONF ", "NOPERM ", "NOAUTH ", "WRONGPASS ", "LOADING "}

// classify tells a vote that was certainly not stored from one that may have been. What is not on the list is
// unknown: a wrong "unknown" costs the voter one more press, a wrong "not stored" a promise.
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

// silence drops the library's own log lines, one per failed dial: the gate logs each change once.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
