package vote

import (
	"hash/maphash"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// limiters are a poll's bounds on this replica: R replicas let through up to R times as much.
type limiters struct{ voter, network *limiter }

func newLimiters(l *limits) *limiters {
	if l == nil {
		return &limiters{}
	}
	return &limiters{voter: newLimiter(l.VoterPerMinute), network: newLimiter(l.NetworkPerMinute)}
}

// limiter bounds what each key may do in a minute, by the generic cell rate algorithm (ITU-T I.371). Each ballot
// moves a key's time ahead by one interval. It may be a minute ahead of the clock. It is safe for concurrent use; a
// nil limiter bounds nothing.
type limiter struct {
	interval time.Duration
	seed     maphash.Seed
	shards   [64]limiterShard
}

type limiterShard struct {
	// mu guards ahead.
	mu sync.Mutex
	// ahead is up to when each key is charged; keys of the past are swept when the map is full.
	ahead map[string]time.Time
}

// maxKeys bounds the memory of a shard; all shards together take some 30 MB.
const maxKeys = 4096

func newLimiter(perMinute int) *limiter {
	if perMinute == 0 {
		return nil
	}
	l := &limiter{interval: time.Minute / time.Duration(perMinute), seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].ahead = map[string]time.Time{}
	}
	return l
}

// take charges a key for one ballot. It returns 0, or for how long the key must wait.
func (l *limiter) take(key string, now time.Time) time.Duration {
	if l == nil {
		return 0
	}
	s := &l.shards[maphash.String(l.seed, key)%uint64(len(l.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.ahead[key]
	if at.Before(now) {
		at = now
	}
	if wait := at.Add(l.interval).Sub(now) - time.Minute; wait > 0 {
		return wait
	}
	if len(s.ahead) >= maxKeys {
		s.sweep(now)
	}
	s.ahead[key] = at.Add(l.interval)
	return 0
}

// sweep needs the lock. Where no key is of the past, all are dropped: to be too kind is better than to turn voters away.
func (s *limiterShard) sweep(now time.Time) {
	for key, at := range s.ahead {
		if at.Before(now) {
			delete(s.ahead, key)
		}
	}
	if len(s.ahead) >= maxKeys {
		clear(s.ahead)
	}
}

// limit charges a key and returns a refusal if it is over its bound.
func (v *visit) limit(l *limiter, key string) *problem {
	wait := l.take(key, v.now)
	if wait <= 0 {
		return nil
	}
	seconds := strconv.Itoa(int((wait + time.Second - 1) / time.Second))
	v.w.Header()["Retry-After"] = []string{seconds}
	return newProblem(http.StatusTooManyRequests, "too_many", seconds)
}

// network is what a household or campus shares of its address: 32 bits of IPv4, 56 of IPv6. The address is the one that
// the gateway saw, the last of X-Forwarded-For, less as many as there are trusted proxies before the gateway.
func (v *visit) network(trusted int) string {
	hops := headerElements(v.r, "X-Forwarded-For")
	if len(hops) == 0 {
		hops = []string{v.r.RemoteAddr}
	}
	hop := hops[max(0, len(hops)-1-trusted)]
	address, err := netip.ParseAddr(strings.Trim(hop, "[]"))
	if err != nil {
		with, err := netip.ParseAddrPort(hop)
		if err != nil {
			return hop[:min(len(hop), 64)]
		}
		address = with.Addr()
	}
	address = address.Unmap().WithZone("")
	bits := 32
	if address.Is6() {
		bits = 56
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return hop
	}
	return prefix.String()
}
