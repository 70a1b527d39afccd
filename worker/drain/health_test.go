package drain

import (
	"testing"
	"testing/synctest"
	"time"
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
