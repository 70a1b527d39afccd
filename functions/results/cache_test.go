package results

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// newTestCache renders an answer to the time of its count.
func newTestCache(read func(context.Context) (*count, error)) *cache {
	return &cache{read: read, logger: slog.New(slog.DiscardHandler), render: func(c *count, stale bool) (*answer, error) {
		return &answer{stale: stale, json: []byte(c.asOf.String())}, nil
	}}
}

func TestOneReadingServesEverybody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		readings := 0
		c := newTestCache(func(context.Context) (*count, error) {
			readings++
			time.Sleep(100 * time.Millisecond)
			return &count{asOf: time.Now()}, nil
		})
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if c.get(t.Context()) == nil {
					t.Error("no answer")
				}
			})
		}
		group.Wait()
		c.get(t.Context())
		if readings != 1 {
			t.Errorf("%d readings for 51 requests within a second, want 1", readings)
		}
		time.Sleep(freshFor)
		c.get(t.Context())
		if readings != 2 {
			t.Errorf("%d readings after a second, want 2", readings)
		}
	})
}

func TestAFailedReadingIsNotRepeatedForASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		readings, failure := 0, error(nil)
		c := newTestCache(func(context.Context) (*count, error) {
			readings++
			return &count{asOf: time.Now()}, failure
		})
		first := c.get(t.Context())
		failure = errors.New("away")
		time.Sleep(freshFor)
		for range 10 {
			if a := c.get(t.Context()); a == nil || !a.stale || string(a.json) != string(first.json) {
				t.Errorf("answer while failing = %+v, want the first one, stale", a)
			}
		}
		if readings != 2 {
			t.Errorf("%d readings, want 2", readings)
		}
		failure = nil
		time.Sleep(freshFor)
		if a := c.get(t.Context()); a.stale {
			t.Error("still stale after a good reading")
		}
	})
}

func TestAHangingReadingKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := false
		c := newTestCache(func(ctx context.Context) (*count, error) {
			if hang {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &count{asOf: time.Now()}, nil
		})
		c.get(t.Context())
		hang = true
		time.Sleep(freshFor)
		start := time.Now()
		if a := c.get(t.Context()); a == nil || !a.stale {
			t.Errorf("answer while hanging = %+v, want the last one, stale", a)
		}
		if waited := time.Since(start); waited != patience {
			t.Errorf("waited %v, want %v", waited, patience)
		}
		time.Sleep(readTimeout)
	})
}
