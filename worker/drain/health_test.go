package drain

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestAWorkerIsHealthyUntilItsScansStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &Drain{}
		time.Sleep(time.Hour)
		if err := d.Healthy(); err != nil {
			t.Errorf("waiting for its schema: %v", err)
		}
		d.beat.Store(time.Now().UnixNano())
		time.Sleep(stalled)
		if err := d.Healthy(); err != nil {
			t.Errorf("just within the bound: %v", err)
		}
		time.Sleep(time.Second)
		if d.Healthy() == nil {
			t.Error("healthy without a scan")
		}
	})
}

// A self-check's figures are one worker's at a time: two would add up to twice a drift, and old ones raise a false alarm.
func TestTheFiguresOfSelfChecksMoveWithThem(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.worker("w1", nil)
	d.live.Store(&[]string{"w1"})
	if err := d.verify(t.Context()); err != nil || testutil.CollectAndCount(d.metrics.drift) == 0 {
		t.Fatalf("the only worker has no figures of its checks, %v", err)
	}
	other := "w2"
	for owns("w1", "verify", []string{"w1", other}) {
		other += "x"
	}
	d.live.Store(&[]string{"w1", other})
	if err := d.verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := testutil.CollectAndCount(d.metrics.drift); n != 0 {
		t.Errorf("%d figures of checks stay when another worker makes them", n)
	}
	d.metrics.up.WithLabelValues("n1").Set(1)
	d.metrics.lag.WithLabelValues("n1").Set(2)
	d.metrics.lost.WithLabelValues("n1").Set(3)
	d.metrics.held.WithLabelValues("n1").Set(4)
	d.metrics.forget("n1")
	for name, gauge := range map[string]*prometheus.GaugeVec{"up": d.metrics.up, "pending": d.metrics.lag, "lost": d.metrics.lost, "held": d.metrics.held} {
		if testutil.CollectAndCount(gauge) != 0 {
			t.Errorf("%s of a node stays when another worker drains it", name)
		}
	}
}
