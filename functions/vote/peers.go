package vote

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// slowAfter is when a copy is sent to the next peer as well, and the slow one is left out until it has answered again. A disk
	// that is only busy answers within it.
	slowAfter = 150 * time.Millisecond
	// copyTimeout bounds all attempts together: with it, what Redis and the queue may take stays below exec_timeout.
	copyTimeout = 2 * time.Second
	// refreshEvery is how soon a new or returned peer is used, and how soon an idle replica notices that a peer is
	// gone. refreshTimeout is what a slow one has for connecting, logging in and answering.
	refreshEvery   = time.Second
	refreshTimeout = 2 * time.Second
	// forgetAfter is how long a peer that DNS does not name may go without an answer: DNS leaves out living nodes.
	forgetAfter = time.Minute
)

// peers are the Redis servers of the other capture nodes. It is safe for concurrent use.
type peers struct {
	resolve func(context.Context) ([]string, error)
	dial    func(addr string) *redis.Client
	replica string        // sets the order of preference
	own     func() string // this node's incarnation; empty while it is not known
	logger  *slog.Logger
	list    atomic.Pointer[[]*peer] // in the order of preference
	count   atomic.Int64            // how many were usable when they were last asked; -1 before the first time
}

// peer is one server. Usable means that it is another node and answered when it was last asked; slow, that it took long. A slow
// peer is used when there is no quick one: a vote that waits for it has its second copy all the same.
type peer struct {
	addr        string
	client      *redis.Client
	incarnation atomic.Pointer[string]
	usable      atomic.Bool
	slow        atomic.Bool
	answered    time.Time // of the refreshing goroutine alone
}

func newPeers(c config, own func() string, logger *slog.Logger) *peers {
	replica, _ := os.Hostname() // only to tell replicas apart; without it they all prefer the same peer
	p := &peers{resolve: c.peers, replica: replica, own: own, logger: logger}
	p.dial = func(addr string) *redis.Client {
		return redis.NewClient(&redis.Options{
			Addr: addr, Username: c.copyUser, Password: c.copyPassword,
			// As in newAppender: the user may append, and no command is repeated behind our back.
			Protocol: 2, DisableIdentity: true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
			MaxRetries:               -1, ContextTimeoutEnabled: true, DialerRetries: 1,
			DialTimeout: time.Second, ReadTimeout: copyTimeout, WriteTimeout: copyTimeout,
			PoolSize: 16, PoolTimeout: 500 * time.Millisecond,
		})
	}
	p.list.Store(&[]*peer{})
	p.count.Store(-1)
	return p
}

// looked reports whether the peers have been asked, knowing which of them is this very node.
func (p *peers) looked() bool { return p.count.Load() >= 0 }

// usable lists the peers to send to, the preferred one first, slow ones last.
func (p *peers) usable() []*peer {
	var quick, slow []*peer
	for _, peer := range *p.list.Load() {
		switch {
		case !peer.usable.Load():
		case peer.slow.Load():
			slow = append(slow, peer)
		default:
			quick = append(quick, peer)
		}
	}
	return append(quick, slow...)
}

func (p *peers) any() bool {
	return slices.ContainsFunc(*p.list.Load(), func(peer *peer) bool { return peer.usable.Load() })
}

// store returns nil when one peer, which is not the origin, has the command's entry on disk. It sends it to the
// preferred one, and to the next as soon as that one fails or is slow. A vote on three nodes does no harm.
func (p *peers) store(origin string, command []any) error {
	left := slices.DeleteFunc(p.usable(), func(peer *peer) bool { return *peer.incarnation.Load() == origin })
	ctx, cancel := context.WithTimeout(context.Background(), copyTimeout)
	defer cancel()
	errs := make(chan error, len(left))
	slow := time.NewTimer(slowAfter)
	defer slow.Stop()
	err, waiting := errNoPeer, 0
	var last *peer
	for {
		if waiting == 0 {
			if len(left) == 0 {
				return err
			}
			last, left = p.send(ctx, left, command, errs), left[1:]
			waiting++
			slow.Reset(slowAfter)
		}
		select {
		case err = <-errs:
			if err == nil {
				return nil
			}
			waiting--
		case <-slow.C:
			if !last.slow.Load() { // of a slow one it was expected
				last.usable.Store(false)
			}
			if len(left) > 0 {
				last, left = p.send(ctx, left, command, errs), left[1:]
				waiting++
				slow.Reset(slowAfter)
			}
		case <-ctx.Done():
			return fmt.Errorf("copying to another node: %w", ctx.Err())
		}
	}
}

func (p *peers) send(ctx context.Context, left []*peer, command []any, errs chan<- error) *peer {
	to := left[0]
	go func() {
		err := to.client.Do(ctx, command...).Err()
		if err != nil {
			to.usable.Store(false)
		}
		errs <- err
	}()
	return to
}

// watch keeps the list up to date until ctx ends, then closes the connections.
func (p *peers) watch(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	defer p.close()
	for {
		p.refresh(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *peers) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	named, err := p.resolve(ctx)
	if err != nil {
		p.logger.Debug("looking up the other capture nodes failed", "error", err)
	}
	now := time.Now()
	list := slices.DeleteFunc(slices.Clone(*p.list.Load()), func(known *peer) bool {
		gone := !slices.Contains(named, known.addr) && now.Sub(known.answered) > forgetAfter
		if gone {
			known.usable.Store(false)
			_ = known.client.Close() // nothing is left to fail
		}
		return gone
	})
	for _, addr := range named {
		if !slices.ContainsFunc(list, func(known *peer) bool { return known.addr == addr }) {
			list = append(list, &peer{addr: addr, client: p.dial(addr), answered: now})
		}
	}
	p.probe(ctx, list)
	slices.SortFunc(list, func(a, b *peer) int { return strings.Compare(p.rank(a), p.rank(b)) })
	p.list.Store(&list)
	if p.own() == "" {
		return
	}
	if n := int64(len(p.usable())); p.count.Swap(n) != n {
		p.logger.Info("other capture nodes in reach", "nodes", n)
	}
}

// rank orders peers differently in each replica, so that replicas spread over them (rendezvous hashing).
func (p *peers) rank(to *peer) string {
	name := to.addr
	if inc := to.incarnation.Load(); inc != nil {
		name = *inc
	}
	sum := sha256.Sum256([]byte(p.replica + " " + name))
	return string(sum[:])
}

// probe asks all at once whether they would take a copy.
func (p *peers) probe(ctx context.Context, list []*peer) {
	done := make(chan struct{}, len(list))
	for _, peer := range list {
		go func() {
			defer func() { done <- struct{}{} }()
			began := time.Now()
			inc, err := peer.ask(ctx)
			if err != nil {
				peer.usable.Store(false)
				return
			}
			peer.answered = time.Now()
			peer.incarnation.Store(&inc)
			own := p.own()
			peer.slow.Store(time.Since(began) > slowAfter)
			peer.usable.Store(own != "" && inc != own)
		}()
	}
	for range list {
		<-done
	}
}

// ask returns the server's incarnation if it would take a copy. It writes nothing: the id 0-0 is never legal, and Redis says
// so after it has checked the user, its memory and its disk.
func (to *peer) ask(ctx context.Context) (string, error) {
	pipe := to.client.Pipeline()
	inc := pipe.Get(ctx, incarnation)
	refused := pipe.Do(ctx, "XADD", copiesKey+"probe", "NOMKSTREAM", "0-0", "kind", "probe")
	_, _ = pipe.Exec(ctx) // each command has its own error
	if err := refused.Err(); err == nil || !strings.HasPrefix(err.Error(), "ERR The ID specified in XADD must be greater than 0-0") {
		return "", errors.Join(errors.New("the node takes no copies"), err)
	}
	return inc.Result()
}

func (p *peers) close() {
	for _, peer := range *p.list.Load() {
		peer.usable.Store(false)
		_ = peer.client.Close() // nothing is left to fail
	}
}

// lookUp resolves host:port to the addresses behind the name, afresh at each call.
func lookUp(hostPort string) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		host, port, err := net.SplitHostPort(hostPort)
		if err != nil {
			return nil, err
		}
		hosts, err := net.DefaultResolver.LookupHost(ctx, host)
		for i, address := range hosts {
			hosts[i] = net.JoinHostPort(address, port)
		}
		return hosts, err
	}
}
