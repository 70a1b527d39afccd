package usage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"waggle/provider/feed"
)

// table has one function with ready replicas of these ids, and one that still starts.
func table(revision uint64, ids ...string) feed.Table {
	f := feed.Function{Name: "f", Replicas: []feed.Replica{{ID: "starting", Address: "starting:8080", State: feed.Starting}}}
	for _, id := range ids {
		f.Replicas = append(f.Replicas, feed.Replica{ID: id, Address: id + ":8080", State: feed.Ready})
	}
	return feed.Table{Epoch: "e", Revision: revision, Functions: []feed.Function{f}}
}

// bench is a reader in a bubble of its own time, with replicas that are functions and a provider that keeps the newest.
type bench struct {
	*Reader
	mu       sync.Mutex
	table    feed.Table
	asked    map[string][]time.Time
	answer   func(address string) (cpu, memory float64, err error)
	newest   map[string]feed.Usage
	refusing bool
}

// inBubble runs a test beside a reader.
func inBubble(t *testing.T, first feed.Table, answer func(address string) (cpu, memory float64, err error), test func(t *testing.T, b *bench)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{table: first, asked: map[string][]time.Time{}, newest: map[string]feed.Usage{}, answer: answer}
		registry := prometheus.NewRegistry()
		reader, err := New(Config{Registerer: registry,
			Table: func() feed.Table { b.mu.Lock(); defer b.mu.Unlock(); return b.table },
			Report: func(_ context.Context, r feed.UsageReport) error {
				b.mu.Lock()
				defer b.mu.Unlock()
				if b.refusing {
					return errors.New("away")
				}
				for _, u := range r.Replicas {
					b.newest[u.ID] = u
				}
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		reader.fetch = func(_ context.Context, address string) (sample, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.asked[address] = append(b.asked[address], time.Now())
			cpu, memory, err := b.answer(address)
			return sample{time.Now(), cpu, memory}, err
		}
		b.Reader = reader
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() { over <- reader.Run(ctx) }()
		test(t, b)
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// busy is a replica that uses a quarter of a processor.
func busy(string) (cpu, memory float64, err error) {
	return float64(time.Now().UnixNano()) / 1e9 / 4, 1 << 20, nil
}

func TestUsageIsReported(t *testing.T) {
	inBubble(t, table(1, "a", "b"), busy, func(t *testing.T, b *bench) {
		time.Sleep(6 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.newest) != 2 || b.newest["a"].Memory != 1<<20 || b.newest["a"].CPU < 249 || b.newest["a"].CPU > 251 {
			t.Errorf("six seconds after the start known are %v, want 250 of a and b", b.newest)
		}
		if len(b.asked["starting:8080"]) != 0 {
			t.Error("a replica that is not ready was asked")
		}
	})
}

func TestAReplicaIsAskedOnceAnInterval(t *testing.T) {
	inBubble(t, table(1, "a"), busy, func(t *testing.T, b *bench) {
		time.Sleep(10 * time.Minute)
		b.mu.Lock()
		defer b.mu.Unlock()
		if n := len(b.asked["a:8080"]); n < 55 || n > 67 {
			t.Errorf("asked %d times in ten minutes, want about 60", n)
		}
	})
}

func TestWithoutThePortAReplicaIsAskedRarely(t *testing.T) {
	inBubble(t, table(1, "a"), func(string) (float64, float64, error) { return 0, 0, errors.New("refused") }, func(t *testing.T, b *bench) {
		time.Sleep(time.Hour)
		b.mu.Lock()
		if n := len(b.asked["a:8080"]); n < 10 || n > 18 {
			t.Errorf("asked %d times in an hour, want about 14", n)
		}
		if len(b.newest) != 0 {
			t.Errorf("reported %v", b.newest)
		}
		b.answer = busy
		b.mu.Unlock()
		time.Sleep(10 * time.Minute)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.newest) != 1 {
			t.Error("once it answers it is not reported")
		}
		if n := testutil.ToFloat64(b.readings.WithLabelValues("failed")); n < 10 {
			t.Errorf("%g failures are counted", n)
		}
	})
}

func TestAReplicaThatLeftIsForgotten(t *testing.T) {
	inBubble(t, table(1, "a", "b"), busy, func(t *testing.T, b *bench) {
		time.Sleep(time.Minute)
		b.mu.Lock()
		b.table = table(2, "b")
		b.mu.Unlock()
		time.Sleep(time.Second)
		b.mu.Lock()
		clear(b.asked)
		clear(b.newest)
		b.mu.Unlock()
		time.Sleep(time.Minute)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.asked["a:8080"]) != 0 || len(b.newest) != 1 {
			t.Errorf("asked %v, reported %v; want b alone", maps.Keys(b.asked), b.newest)
		}
	})
}

func TestACounterThatBeginsAnewIsNoUsage(t *testing.T) {
	inBubble(t, table(1, "a"), busy, func(t *testing.T, b *bench) {
		time.Sleep(time.Minute)
		b.mu.Lock()
		restarted := time.Now()
		b.answer = func(string) (float64, float64, error) { return time.Since(restarted).Seconds() / 2, 1, nil }
		b.mu.Unlock()
		time.Sleep(time.Minute)
		b.mu.Lock()
		defer b.mu.Unlock()
		if u := b.newest["a"]; u.CPU < 499 || u.CPU > 501 {
			t.Errorf("after the counter's restart %v, want 500", u)
		}
	})
}

func TestReportsOutlastAProviderThatIsAway(t *testing.T) {
	inBubble(t, table(1, "a"), busy, func(t *testing.T, b *bench) {
		b.mu.Lock()
		b.refusing = true
		b.mu.Unlock()
		time.Sleep(time.Minute)
		b.mu.Lock()
		b.refusing = false
		b.mu.Unlock()
		time.Sleep(15 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.newest) != 1 {
			t.Error("with the provider back nothing is reported")
		}
	})
}

// TestManyReplicasAreSpread: a thousand that appear at once are not asked at once for ever.
func TestManyReplicasAreSpread(t *testing.T) {
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprint("r", i)
	}
	inBubble(t, table(1, ids...), busy, func(t *testing.T, b *bench) {
		time.Sleep(10 * time.Minute)
		b.mu.Lock()
		clear(b.asked)
		b.mu.Unlock()
		time.Sleep(10 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		perSecond := map[int64]int{}
		for _, times := range b.asked {
			for _, at := range times {
				perSecond[at.Unix()]++
			}
		}
		for second, n := range perSecond {
			if n > 300 {
				t.Errorf("%d of 1000 replicas are asked in second %d", n, second)
			}
		}
		if len(b.asked) < 700 || len(b.newest) != 1000 {
			t.Errorf("%d are asked in an interval, %d reported, want most and 1000", len(b.asked), len(b.newest))
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Interval: -1, Port: 70000})
	for _, want := range []string{"Table", "Interval", "Port"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}
