package crowd

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketsAreOrderedAndFine(t *testing.T) {
	t.Parallel()
	for i := 1; i < buckets; i++ {
		low, high := upper(i-1)+1, upper(i)
		if bucket(low) != i || bucket(high) != i {
			t.Fatalf("bucket %d holds %d to %d, yet they go to %d and %d", i, low, high, bucket(low), bucket(high))
		}
		if float64(high-low) > float64(low)/32 {
			t.Fatalf("bucket %d is %d to %d: wider than 1/32", i, low, high)
		}
	}
	if got := bucket(math.MaxInt64); got != buckets-1 {
		t.Errorf("the longest latency goes to bucket %d of %d", got, buckets)
	}
}

func TestQuantileIsNeverTooLowAndHardlyTooHigh(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		latencies := rapid.SliceOfN(rapid.Int64Range(0, 1e10), 1, 200).Draw(t, "microseconds")
		q := rapid.Float64Range(0.001, 1).Draw(t, "q")
		var h Histogram
		for _, us := range latencies {
			h.Add(time.Duration(us) * time.Microsecond)
		}
		slices.Sort(latencies)
		exact := latencies[max(int(math.Ceil(q*float64(len(latencies))-1e-6)), 1)-1]
		got := h.Quantile(q).Microseconds()
		if exact < upper(buckets-2) && (got < exact || float64(got) > float64(exact)*33/32+1) {
			t.Fatalf("quantile %v of %v is %d, got %d", q, latencies, exact, got)
		}
		if h.Max().Microseconds() != latencies[len(latencies)-1] || h.Count() != int64(len(latencies)) {
			t.Fatalf("max %v of %d", h.Max(), h.Count())
		}
	})
}

func TestEmptyHistogram(t *testing.T) {
	t.Parallel()
	var h Histogram
	if h.Quantile(0.99) != 0 || h.Max() != 0 || h.Count() != 0 {
		t.Errorf("got %v, %v, %d", h.Quantile(0.99), h.Max(), h.Count())
	}
}

func BenchmarkHistogramAdd(b *testing.B) {
	var h Histogram
	b.ReportAllocs()
	for b.Loop() {
		h.Add(1234567)
	}
}
