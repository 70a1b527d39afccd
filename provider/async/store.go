package async

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"waggle/provider/queued"
)

// The keys, and what each holds per call id:
//
//	calls    hash  the call as it came (record.go); never changed
//	state    hash  how far it has come, JSON; it is the truth where the sets disagree
//	results  hash  the function's answer, until the callback has been delivered
//	due      zset  when it is to be attempted next, Unix ms
//	dead     zset  when it became a dead letter, Unix ms
//	owner    string  the process that makes the calls; it expires unless that renews it
//
// There is no transaction. The order of writes keeps the state sound after each of them: state, then call, then
// due; the reverse when a call is removed. So a call is in the set due exactly if it was stored whole and is
// not done with. A state in neither set was left by an interrupted write, and sweep.go removes it.
type keys struct{ calls, state, results, due, dead, owner string }

// store has every command that is sent to Redis. Each write returns after Redis has it on disk.
type store struct {
	client *redis.Client
	keys   keys
}

const (
	// writeTimeout bounds one exchange with Redis: a disk's slow moments last less.
	writeTimeout = 3 * time.Second
	// maxStored bounds a record or result that is read back: the largest legal one, 64 MiB, with its header.
	maxStored = 65 << 20
	// page is how many members are read at once: replies stay below a megabyte.
	page = 1000
)

// newStore connects lazily: a Redis that is down costs asynchronous calls, nothing else.
func newStore(cfg Config) *store {
	redis.SetLogger(silence{})
	p := cfg.prefix
	return &store{
		keys: keys{calls: p + "calls", state: p + "state", results: p + "results", due: p + "due", dead: p + "dead", owner: p + "owner"},
		client: redis.NewClient(&redis.Options{
			Network: "unix", Addr: cfg.Socket, Password: cfg.Password,
			Protocol: 2, DisableIdentity: true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
			// The command that follows an unknown outcome is decided here.
			MaxRetries: -1, DialerRetries: 1,
			ContextTimeoutEnabled: true,
			DialTimeout:           300 * time.Millisecond, ReadTimeout: writeTimeout, WriteTimeout: writeTimeout,
			PoolSize: 64, PoolTimeout: time.Second,
		}),
	}
}

// silence drops the library's own log lines, one per failed dial: each change of state is logged once, here.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

func (s *store) close() error { return s.client.Close() }

// put stores a new call. One that failed half-way is undone by remove.
func (s *store) put(ctx context.Context, id string, st state, record []byte, due int64) error {
	pipe := s.client.Pipeline()
	pipe.HSet(ctx, s.keys.state, id, st.encode())
	pipe.HSet(ctx, s.keys.calls, id, record)
	pipe.ZAdd(ctx, s.keys.due, redis.Z{Score: float64(due), Member: id})
	_, err := pipe.Exec(ctx)
	return err
}

// postpone sets a later attempt. XX: a call that another process has finished meanwhile does not come back.
func (s *store) postpone(ctx context.Context, id string, st state, due int64) error {
	pipe := s.client.Pipeline()
	pipe.HSet(ctx, s.keys.state, id, st.encode())
	pipe.ZAddXX(ctx, s.keys.due, redis.Z{Score: float64(due), Member: id})
	_, err := pipe.Exec(ctx)
	return err
}

// keep stores a result that is to be delivered. Step by step, since a write that is refused for want of memory must not
// be followed by one that is not.
func (s *store) keep(ctx context.Context, id string, st state, result []byte, due int64) error {
	if err := s.client.HSet(ctx, s.keys.results, id, result).Err(); err != nil {
		return err
	}
	return s.postpone(ctx, id, st, due)
}

// remove ends calls, dead letters or not.
func (s *store) remove(ctx context.Context, ids ...string) error {
	members := make([]any, len(ids))
	for i, id := range ids {
		members[i] = id
	}
	pipe := s.client.Pipeline()
	pipe.ZRem(ctx, s.keys.due, members...)
	pipe.ZRem(ctx, s.keys.dead, members...)
	pipe.HDel(ctx, s.keys.calls, ids...)
	pipe.HDel(ctx, s.keys.results, ids...)
	pipe.HDel(ctx, s.keys.state, ids...)
	_, err := pipe.Exec(ctx)
	return err
}

// bury makes a call a dead letter.
func (s *store) bury(ctx context.Context, id string, st state, at int64) error {
	if err := s.client.HSet(ctx, s.keys.state, id, st.encode()).Err(); err != nil {
		return err
	}
	if err := s.client.ZAdd(ctx, s.keys.dead, redis.Z{Score: float64(at), Member: id}).Err(); err != nil {
		return err
	}
	pipe := s.client.Pipeline()
	pipe.ZRem(ctx, s.keys.due, id)
	if !st.Owed {
		pipe.HDel(ctx, s.keys.results, id)
	}
	_, err := pipe.Exec(ctx)
	return err
}

// revive queues a dead letter again.
func (s *store) revive(ctx context.Context, id string, st state, due int64) error {
	if err := s.client.HSet(ctx, s.keys.state, id, st.encode()).Err(); err != nil {
		return err
	}
	if err := s.client.ZAdd(ctx, s.keys.due, redis.Z{Score: float64(due), Member: id}).Err(); err != nil {
		return err
	}
	return s.client.ZRem(ctx, s.keys.dead, id).Err()
}

var (
	// errGone means that a call is not (or no longer) to be attempted.
	errGone = errors.New("the call is not in Redis any more")
	// errUnreadable means that what is stored makes no sense.
	errUnreadable = errors.New("the stored call is unreadable")
)

func (s *store) call(ctx context.Context, id string) (queued.Call, error) {
	raw, err := s.load(ctx, s.keys.calls, id)
	if err != nil {
		return queued.Call{}, err
	}
	c, err := decodeCall(id, raw)
	if err != nil {
		return queued.Call{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return c, nil
}

func (s *store) result(ctx context.Context, id string) (*result, error) {
	raw, err := s.load(ctx, s.keys.results, id)
	if err != nil {
		return nil, err
	}
	r, err := decodeResult(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return r, nil
}

// load reads the value of a call that is due. It asks for the length first, so that no reply takes all memory.
func (s *store) load(ctx context.Context, key, id string) ([]byte, error) {
	pipe := s.client.Pipeline()
	due := pipe.ZScore(ctx, s.keys.due, id)
	length := pipe.Do(ctx, "HSTRLEN", key, id)
	_, _ = pipe.Exec(ctx) // each command has its own error
	if err := due.Err(); errors.Is(err, redis.Nil) {
		return nil, errGone
	} else if err != nil {
		return nil, err
	}
	n, err := length.Int64()
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, errGone
	case n > maxStored:
		return nil, fmt.Errorf("%w: %d bytes, legal are %d", errUnreadable, n, maxStored)
	}
	return s.client.HGet(ctx, key, id).Bytes()
}

// reading is what Redis is asked each second.
type reading struct {
	owner     string // "": nobody
	due, dead int64
	// used and most are the memory that Redis takes and may take; most 0 is no bound.
	used, most int64
}

func (s *store) read(ctx context.Context) (reading, error) {
	pipe := s.client.Pipeline()
	owner := pipe.Get(ctx, s.keys.owner)
	due, dead := pipe.ZCard(ctx, s.keys.due), pipe.ZCard(ctx, s.keys.dead)
	memory := pipe.Info(ctx, "memory")
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, err := range []error{owner.Err(), due.Err(), dead.Err(), memory.Err()} {
		if err != nil && !errors.Is(err, redis.Nil) {
			return reading{}, err
		}
	}
	l := reading{owner: owner.Val(), due: due.Val(), dead: dead.Val()}
	for line := range strings.Lines(memory.Val()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "used_memory":
			l.used, _ = strconv.ParseInt(value, 10, 64)
		case "maxmemory":
			l.most, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return l, nil
}

// members reads a set page by page. A member that is in it all the while is given, perhaps more than once.
func (s *store) members(ctx context.Context, set string, each func(ids []string, scores []int64) error) error {
	return pages(func(cursor uint64) *redis.ScanCmd { return s.client.ZScan(ctx, set, cursor, "", page) }, func(ids, texts []string) error {
		scores := make([]int64, len(ids))
		for i, text := range texts {
			score, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return fmt.Errorf("reading the score of %s: %w", ids[i], err)
			}
			scores[i] = int64(score)
		}
		return each(ids, scores)
	})
}

// eachState reads all states page by page.
func (s *store) eachState(ctx context.Context, each func(ids, texts []string) error) error {
	return pages(func(cursor uint64) *redis.ScanCmd { return s.client.HScan(ctx, s.keys.state, cursor, "", page) }, each)
}

// pages follows a scan that gives names and values in turn to its end.
func pages(scan func(cursor uint64) *redis.ScanCmd, each func(names, values []string) error) error {
	for cursor := uint64(0); ; {
		pairs, next, err := scan(cursor).Result()
		if err != nil {
			return err
		}
		var names, values []string
		for i := 0; i+1 < len(pairs); i += 2 {
			names, values = append(names, pairs[i]), append(values, pairs[i+1])
		}
		if err := each(names, values); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// states reads the states of ids; "" stands for none.
func (s *store) states(ctx context.Context, ids []string) ([]string, error) {
	texts := make([]string, len(ids))
	if len(ids) == 0 {
		return texts, nil
	}
	values, err := s.client.HMGet(ctx, s.keys.state, ids...).Result()
	if err != nil {
		return nil, err
	}
	for i, v := range values {
		texts[i], _ = v.(string)
	}
	return texts, nil
}

// queued says which of ids are in one of the sets.
func (s *store) queued(ctx context.Context, ids []string) ([]bool, error) {
	in := make([]bool, len(ids))
	if len(ids) == 0 {
		return in, nil
	}
	for _, set := range []string{s.keys.due, s.keys.dead} {
		// ZMSCORE gives nil for what is not there, which the client cannot tell from 0: hence ZSCORE for each.
		pipe := s.client.Pipeline()
		scores := make([]*redis.FloatCmd, len(ids))
		for i, id := range ids {
			scores[i] = pipe.ZScore(ctx, set, id)
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
		for i, score := range scores {
			if err := score.Err(); err != nil && !errors.Is(err, redis.Nil) {
				return nil, err
			}
			in[i] = in[i] || score.Err() == nil
		}
	}
	return in, nil
}

// removeOrphans removes calls that are in neither set and whose states are still as given. KEYS are state, due, dead,
// calls and results; ARGV are ids and states in turn; it answers how many were removed. Repeated, it does nothing: a call
// that was stored in between has another state, or is due. It looks and removes in one step, as no client could.
var removeOrphans = redis.NewScript(`
local removed = 0
for i = 1, #ARGV, 2 do
	local id = ARGV[i]
	if redis.call('HGET', KEYS[1], id) == ARGV[i + 1] and not redis.call('ZSCORE', KEYS[2], id) and not redis.call('ZSCORE', KEYS[3], id) then
		redis.call('HDEL', KEYS[4], id)
		redis.call('HDEL', KEYS[5], id)
		redis.call('HDEL', KEYS[1], id)
		removed = removed + 1
	end
end
return removed`)

// removeOrphans takes ids and states in turn.
func (s *store) removeOrphans(ctx context.Context, orphans []any) (int64, error) {
	if len(orphans) == 0 {
		return 0, nil
	}
	k := s.keys
	return removeOrphans.Eval(ctx, s.client, []string{k.state, k.due, k.dead, k.calls, k.results}, orphans...).Int64()
}

// letter is the state of a call that is a dead letter.
func (s *store) letter(ctx context.Context, id string) (st state, dead bool, err error) {
	pipe := s.client.Pipeline()
	score, text := pipe.ZScore(ctx, s.keys.dead, id), pipe.HGet(ctx, s.keys.state, id)
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, err := range []error{score.Err(), text.Err()} {
		if errors.Is(err, redis.Nil) {
			return state{}, false, nil
		} else if err != nil {
			return state{}, false, err
		}
	}
	st, err = decodeState(text.Val())
	return st, err == nil && st.Phase == buried, nil // a state that makes no sense is no letter's
}

// oldestDead gives dead letters, oldest first: those that died before the time, and as many more as are to go.
func (s *store) oldestDead(ctx context.Context, before int64, more int64) ([]string, error) {
	pipe := s.client.Pipeline()
	old := pipe.ZRangeByScore(ctx, s.keys.dead, &redis.ZRangeBy{Min: "-inf", Max: strconv.FormatInt(before, 10), Count: page})
	var most *redis.StringSliceCmd
	if more > 0 {
		most = pipe.ZRange(ctx, s.keys.dead, 0, min(more, page)-1)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	ids := old.Val()
	if most != nil && len(most.Val()) > len(ids) {
		ids = most.Val() // the old ones are among them
	}
	return ids, nil
}

// newestDead gives the newest dead letters with the times at which they died.
func (s *store) newestDead(ctx context.Context, limit int64) ([]redis.Z, error) {
	return s.client.ZRevRangeWithScores(ctx, s.keys.dead, 0, limit-1).Result()
}

// ownerLease is how long a silent process stays the owner: several polls of a Redis that answers slowly.
const ownerLease = 10 * time.Second

// own makes epoch the owner, whoever was.
func (s *store) own(ctx context.Context, epoch string) error {
	return s.client.Set(ctx, s.keys.owner, epoch, ownerLease).Err()
}

// claim makes epoch the owner unless somebody is.
func (s *store) claim(ctx context.Context, epoch string) (claimed bool, err error) {
	return s.client.SetNX(ctx, s.keys.owner, epoch, ownerLease).Result()
}

// renew keeps the owner, who should be the caller: nothing is lost by renewing another's lease.
func (s *store) renew(ctx context.Context) error {
	return s.client.PExpire(ctx, s.keys.owner, ownerLease).Err()
}

// disown leaves the queue to whoever asks next, if epoch is the owner. If another has taken it over in between, that one
// claims it again.
func (s *store) disown(ctx context.Context, epoch string) error {
	owner, err := s.client.Get(ctx, s.keys.owner).Result()
	if err != nil || owner != epoch {
		return err
	}
	return s.client.Del(ctx, s.keys.owner).Err()
}

// notStored reports whether err proves that Redis did not run the command.
func notStored(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed)
}

// doubtful reports whether a command that failed with err may have been run all the same.
func doubtful(err error) bool { return !notStored(err) && !answered(err) }

// answered reports whether err is an answer of Redis, which then did not run that command.
func answered(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}
