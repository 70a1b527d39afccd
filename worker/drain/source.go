package drain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	streamKey      = "votes"
	incarnationKey = "votes:inc"
	tornKey        = "votes:torn"
	// readTimeout bounds one reading; a Redis that holds its connection and says nothing costs only its own stream.
	readTimeout = 5 * time.Second
	dialTimeout = 2 * time.Second
	// trimStep bounds one XTRIM, so that it stops Redis, and the voters, for about a millisecond.
	trimStep = 10_000
	// maxReply bounds what one reply may take of the worker's memory, in bytes. A full batch of votes takes under 1
	// MB, but who has the password of capture can add entries of any size. It is read whole, and rejects are kept in
	// duplicate.
	maxReply = 16 << 20
	// maxTrimSteps bounds one trim; the rest goes with the next.
	maxTrimSteps = 100
)

var (
	// errForeign means that what answers is not the stream it should be: never to be drained or trimmed.
	errForeign = errors.New("not the expected stream")
	// errMoved means that another incarnation answers at the address: start over with its own account.
	errMoved = errors.New("another incarnation answers at this address")
	// errTooLarge means that a reply was cut off.
	errTooLarge = fmt.Errorf("the reply has more than %d bytes", maxReply)
)

// source is one node's stream.
type source interface {
	// identify returns the incarnation, and the node if the genesis entry is still there.
	identify(ctx context.Context) (inc, node string, err error)
	// read reads at most count entries after the id, and the counters at that moment.
	read(ctx context.Context, inc, after string, count int) (reading, error)
	// trim removes entries before the id; a few may stay.
	trim(ctx context.Context, inc, before string) (removed int64, err error)
	// torn returns the id of the last note that the server's log was cut, or "0-0".
	torn(ctx context.Context) (string, error)
	// origins lists the incarnations of which this node holds copies.
	origins(ctx context.Context) ([]string, error)
	// copies, lastCopy and trimCopies are of the copies that this node holds of another one's entries.
	copies(ctx context.Context, origin string, set *copySet) error
	lastCopy(ctx context.Context, origin string) (string, error)
	trimCopies(ctx context.Context, origin, upTo string) error
	close() error
}

// redisSource is a source over TCP. Its client never repeats a command: the loop above decides what to do again.
type redisSource struct {
	client *redis.Client
	// dialled is set by each new connection and taken by the next reading: the server may have restarted in between.
	dialled atomic.Bool
	// most is the number of entries to ask for until the next identify, after replies were too large; 0 means any. Each such
	// reply costs the connection, and a new connection costs a reading of the whole backlog: forgotten too soon, there would be nothing else.
	most int
}

// quiet stops the library from printing lines of its own, once per process. What it prints it also returns, and
// errors are logged where they are handled.
var quiet = sync.OnceFunc(logging.Disable)

func dialRedis(addr, user, password string) *redisSource {
	quiet()
	s := &redisSource{}
	s.client = redis.NewClient(&redis.Options{
		OnConnect: func(context.Context, *redis.Conn) error { s.dialled.Store(true); return nil },
		Addr:      addr, Username: user, Password: password,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: dialTimeout, KeepAlive: time.Minute}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &boundedConn{Conn: conn}, nil
		},
		Protocol: 2, DisableIdentity: true, // RESP3 and CLIENT SETINFO need rights that the user does not have
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries:               -1, DialerRetries: 1,
		ContextTimeoutEnabled: true,
		DialTimeout:           dialTimeout, ReadTimeout: readTimeout, WriteTimeout: readTimeout,
		PoolSize: 2, PoolTimeout: readTimeout, // one reading ahead while a trim runs
	})
	return s
}

// boundedConn ends a connection whose reply exceeds maxReply. A connection has one request at a time, so each write
// starts a new reply.
type boundedConn struct {
	net.Conn
	read int
}

func (c *boundedConn) Write(p []byte) (int, error) {
	c.read = 0
	return c.Conn.Write(p)
}

func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.read += n; c.read > maxReply {
		return 0, errTooLarge
	}
	return n, err
}

// SyscallConn lets the pool see whether the other side has closed an idle connection.
func (c *boundedConn) SyscallConn() (syscall.RawConn, error) {
	conn, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return conn.SyscallConn()
}

func (s *redisSource) close() error { return s.client.Close() }

func (s *redisSource) identify(ctx context.Context) (inc, node string, err error) {
	s.most = 0
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	pipe := s.client.Pipeline()
	key := pipe.Get(ctx, incarnationKey)
	first := pipe.Do(ctx, "XRANGE", streamKey, genesisID, genesisID)
	_, _ = pipe.Exec(ctx) // each command has its own error
	inc, err = key.Result()
	if errors.Is(err, redis.Nil) {
		return "", "", fmt.Errorf("%w: key %s is missing", errForeign, incarnationKey)
	}
	if err != nil {
		return "", "", fmt.Errorf("reading the incarnation: %w", err)
	}
	reply, err := first.Result()
	if err != nil {
		return "", "", fmt.Errorf("reading the genesis entry: %w", err)
	}
	entries, err := parseEntries(reply)
	if err != nil || len(entries) == 0 {
		return inc, "", err
	}
	f := entries[0].fields
	if len(f) != 6 || f[0] != "kind" || f[1] != "genesis" || f[2] != "inc" || f[4] != "node" || f[5] == "" {
		return "", "", fmt.Errorf("%w: entry %s is no genesis", errForeign, genesisID)
	}
	if f[3] != inc {
		return "", "", fmt.Errorf("%w: the genesis entry is of incarnation %s, key %s says %s", errForeign, f[3], incarnationKey, inc)
	}
	return inc, f[5], nil
}

// read requests fewer entries while the next ones are too large to be read at once. A single entry that is too large
// stops this stream, which then turns missing in the ledger, and no other.
func (s *redisSource) read(ctx context.Context, inc, after string, count int) (reading, error) {
	reconnected := false
	for {
		some := min(count, cmp.Or(s.most, count))
		l, err := s.readOnce(ctx, inc, after, some)
		reconnected = reconnected || l.reconnected
		l.reconnected = reconnected
		if some == 1 || !errors.Is(err, errTooLarge) {
			return l, err
		}
		s.most = max(1, some/8)
	}
}

// readOnce sends everything in one pipeline on one connection, hence to one server process. The counters are read before and
// after the entries: when they agree, nothing was added in between.
func (s *redisSource) readOnce(ctx context.Context, inc, after string, count int) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	pipe := s.client.Pipeline()
	key := pipe.Get(ctx, incarnationKey)
	before := pipe.Do(ctx, "XINFO", "STREAM", streamKey)
	entries := pipe.Do(ctx, "XRANGE", streamKey, "("+after, "+", "COUNT", count)
	behind := pipe.Do(ctx, "XINFO", "STREAM", streamKey)
	_, _ = pipe.Exec(ctx) // each command has its own error
	reconnected := s.dialled.Swap(false)
	if err := sameIncarnation(key, inc); err != nil {
		return reading{reconnected: reconnected}, err
	}
	l, err := parseReading(before, entries, behind, count)
	l.reconnected = reconnected
	return l, err
}

func parseReading(before, entries, behind *redis.Cmd, count int) (reading, error) {
	first, err := parseInfo(before)
	if err != nil {
		return reading{}, err
	}
	reply, err := entries.Result()
	if err != nil {
		return reading{}, fmt.Errorf("reading entries: %w", err)
	}
	read, err := parseEntries(reply)
	if err != nil {
		return reading{}, err
	}
	// The later counters are the ones to keep: by the earlier ones more entries could be there than were ever added.
	l, err := parseInfo(behind)
	if err != nil {
		return reading{}, err
	}
	l.entries = read
	l.complete = len(read) < count && first.added == l.added && first.last == l.last
	return l, nil
}

// torn reads the notes of the Redis image, which finds at each start whether its log ends in the middle of a command.
func (s *redisSource) torn(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	reply, err := s.client.Do(ctx, "XREVRANGE", tornKey, "+", "-", "COUNT", 1).Result()
	if err != nil {
		return "", fmt.Errorf("reading the notes of cuts: %w", err)
	}
	notes, err := parseEntries(reply)
	if err != nil || len(notes) == 0 {
		return "0-0", err
	}
	return notes[0].id, nil
}

func sameIncarnation(key *redis.StringCmd, inc string) error {
	got, err := key.Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("reading the incarnation: %w", err)
	}
	if got != inc {
		return fmt.Errorf("%w: %q instead of %q", errMoved, got, inc)
	}
	return nil
}

// trim holds one connection and asks the server behind it who it is first. A connection that breaks is not replaced, so
// the trim cannot reach another server than the one that answered.
func (s *redisSource) trim(ctx context.Context, inc, before string) (removed int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	conn := s.client.Conn()
	defer func() { _ = conn.Close() }() // back to the pool; nothing is left to fail
	if err := sameIncarnation(conn.Get(ctx, incarnationKey), inc); err != nil {
		return 0, err
	}
	for range maxTrimSteps {
		n, err := conn.XTrimMinIDApprox(ctx, streamKey, before, trimStep).Result()
		if err != nil {
			return removed, fmt.Errorf("trimming: %w", err)
		}
		removed += n
		if n == 0 {
			break
		}
	}
	return removed, nil
}

// parseInfo reads the fields of XINFO STREAM that all versions since 7.0 have.
func parseInfo(cmd *redis.Cmd) (l reading, err error) {
	fields, err := cmd.Slice()
	if err != nil {
		return l, fmt.Errorf("reading the stream's counters: %w", err)
	}
	var haveAdded, haveHeld, haveLast bool
	for i := 0; i+1 < len(fields); i += 2 {
		switch fields[i] {
		case "length":
			var n int64
			n, haveHeld = fields[i+1].(int64)
			l.held += n
		case "entries-added":
			l.added, haveAdded = fields[i+1].(int64)
		case "last-generated-id":
			l.last, haveLast = fields[i+1].(string)
		case "first-entry":
			if first, ok := fields[i+1].([]any); ok && len(first) > 0 && first[0] == genesisID {
				l.held--
			}
		}
	}
	if !haveAdded || !haveHeld || !haveLast {
		return l, errors.New("reading the stream's counters: length, entries-added or last-generated-id is missing; Redis 7.0 or later is needed")
	}
	l.added-- // the genesis entry
	return l, nil
}

// parseEntries reads the reply of XRANGE without losing the order or the repetition of fields.
func parseEntries(reply any) ([]entry, error) {
	list, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("reading entries: the reply is a %T, not a list", reply)
	}
	entries := make([]entry, 0, len(list))
	for _, item := range list {
		pair, _ := item.([]any)
		if len(pair) != 2 {
			return nil, errors.New("reading entries: an entry is not an id with fields")
		}
		id, _ := pair[0].(string)
		at, err := parseID(id)
		if err != nil {
			return nil, fmt.Errorf("reading entries: %w", err)
		}
		values, _ := pair[1].([]any)
		e := entry{id: id, at: at, fields: make([]string, len(values))}
		for i, v := range values {
			e.fields[i], _ = v.(string)
		}
		entries = append(entries, e)
	}
	return entries, nil
}
