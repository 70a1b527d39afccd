// Package ratelimit bounds how many requests per second come from one part of the internet.
//
// It stands before routing in the gateway. In: a client's address and the time. Out: whether the request is within
// the rate. A part is an IPv4 /24 or an IPv6 /56. One household, office or rented machine has at least that much, so
// a client cannot escape by changing its address within it.
//
// Memory is fixed however many clients there are. Prefixes are not stored but hashed into two rows of buckets, as in
// a count-min sketch (Cormode, Muthukrishnan 2005) with conservative update. A prefix is wrongly held back only if it
// shares a bucket with a busy one in both rows. With 1,000 prefixes over their rate, that happens to one of 275,000
// others.
package ratelimit

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// buckets is the number in each of the two rows, a power of two: 8 MiB in all.
const buckets = 1 << 19

// Limiter is a token bucket for each prefix, in the form of the generic cell rate algorithm (ITU-T I.371). A bucket
// is the time at which it will be full again, so nothing has to refill it. It is for concurrent use and allocates
// nothing after New.
type Limiter struct {
	interval int64 // nanoseconds that one request costs
	depth    int64 // nanoseconds by which a bucket may be ahead of the clock: the burst
	seed     maphash.Seed
	rows     [2][]atomic.Int64 // nanoseconds, by the clock of Allow
}

// New returns a limiter of perSecond requests a second, more than 0, of which burst, 1 or more, may come at once.
func New(perSecond float64, burst int) *Limiter {
	interval := max(int64(float64(time.Second)/perSecond), 1)
	l := &Limiter{interval: interval, depth: interval * int64(burst), seed: maphash.MakeSeed()}
	for i := range l.rows {
		l.rows[i] = make([]atomic.Int64, buckets)
	}
	return l
}

// Allow takes a token of client's prefix at now and reports whether there was one. now is the time since a fixed
// moment, by a monotonic clock. An invalid address has a prefix of its own. The clock may lag and even go back a
// little: meanwhile tokens are not refilled.
func (l *Limiter) Allow(client netip.Addr, now time.Duration) bool {
	hash := maphash.Comparable(l.seed, prefix(client))
	a, b := &l.rows[0][hash%buckets], &l.rows[1][hash>>32%buckets]
	at := int64(now)
	full := max(min(a.Load(), b.Load()), at) + l.interval
	if full > at+l.depth {
		return false
	}
	raise(a, full)
	raise(b, full)
	return true
}

// raise makes bucket at least full. Two requests at the same moment may pay for one: a limit need not be exact, and a
// lock here would be one for all.
func raise(bucket *atomic.Int64, full int64) {
	for {
		old := bucket.Load()
		if old >= full || bucket.CompareAndSwap(old, full) {
			return
		}
	}
}

// prefix is the part of the internet that client counts for.
func prefix(client netip.Addr) netip.Prefix {
	client = client.Unmap()
	bits := 56
	if client.Is4() {
		bits = 24
	}
	p, err := client.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
