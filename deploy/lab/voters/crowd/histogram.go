package crowd

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Buckets are 32 to each doubling, so a quantile is at most 1/32 (3.1 %) too high, and never too low.
// Below 32 µs a bucket is 1 µs wide. The last bucket begins at about 70 minutes: longer is counted there.
const (
	subBits = 5
	octaves = 28
	buckets = octaves << subBits
	unit    = time.Microsecond
)

// Histogram counts latencies. The zero value is ready; any number of goroutines may use it. It takes 7 KiB.
type Histogram struct {
	counts [buckets]atomic.Int64
	total  atomic.Int64
	worst  atomic.Int64
}

// Add counts one latency; a negative one counts as zero.
func (h *Histogram) Add(d time.Duration) {
	us := max(int64(d/unit), 0)
	h.counts[bucket(us)].Add(1)
	h.total.Add(1)
	for worst := h.worst.Load(); us > worst; worst = h.worst.Load() {
		if h.worst.CompareAndSwap(worst, us) {
			return
		}
	}
}

// Count is the number of latencies added.
func (h *Histogram) Count() int64 { return h.total.Load() }

// Max is the longest latency, exact to the microsecond.
func (h *Histogram) Max() time.Duration { return time.Duration(h.worst.Load()) * unit }

// Quantile returns the upper edge of the bucket that holds the q-th part of the latencies, 0 < q ≤ 1. It is
// never more than Max, and 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.total.Load()
	rank := max(int64(q*float64(total)+0.999999), 1)
	for i := range h.counts {
		if rank -= h.counts[i].Load(); rank <= 0 {
			return min(time.Duration(upper(i))*unit, h.Max())
		}
	}
	return h.Max()
}

// bucket is the position of a latency of us microseconds: the exponent of its highest bit and the subBits below it.
func bucket(us int64) int {
	octave := bits.Len64(uint64(us)) - subBits - 1
	if octave < 0 {
		return int(us)
	}
	return min((octave<<subBits)+int(us>>octave), buckets-1)
}

// upper is the greatest latency that bucket i holds.
func upper(i int) int64 {
	octave := i>>subBits - 1
	if octave < 0 {
		return int64(i)
	}
	mantissa := int64(i - octave<<subBits)
	return (mantissa+1)<<octave - 1
}
