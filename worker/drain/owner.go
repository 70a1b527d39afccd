package drain

import (
	"cmp"
	"hash/fnv"
)

// owns reports whether worker is the one among live that should drain a stream. It uses rendezvous hashing: when a
// worker comes or goes, only its own streams move. A worker that sees no living worker at all owns everything. The
// list comes from Postgres, and draining twice is merely wasteful.
func owns(worker, stream string, live []string) bool {
	for _, other := range live {
		if other != worker && cmp.Or(cmp.Compare(weight(other, stream), weight(worker, stream)), cmp.Compare(other, worker)) > 0 {
			return false
		}
	}
	return true
}

func weight(worker, stream string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(worker))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(stream))
	// FNV's high bits hardly depend on the last bytes of short inputs; the finaliser of MurmurHash3 spreads them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// claim reserves an incarnation for an address of this process.
func (d *Drain) claim(inc, addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if holder, ok := d.claimed[inc]; ok && holder != addr {
		return false
	}
	d.claimed[inc] = addr
	return true
}

func (d *Drain) isClaimed(inc string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.claimed[inc]
	return ok
}

func (d *Drain) unclaim(inc string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.claimed, inc)
}
