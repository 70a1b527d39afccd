package swarm_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// TestScaleFrom: whoever decides on a number that is no longer so changes nothing.
func TestScaleFrom(t *testing.T) {
	t.Parallel()
	_, cluster := newCluster(t)
	deploy(t, cluster, "fn", 2)
	for _, step := range []struct {
		from, to uint64
		err      error
		want     uint64
	}{
		{2, 5, nil, 5},
		{2, 1, swarm.ErrMoved, 5}, // the autoscaler, which has not heard of a raise
		{5, 5, nil, 5},
		{0, 5, nil, 5}, // what is wanted is so
		{5, 0, nil, 0},
		{5, 4, swarm.ErrMoved, 0}, // a removal that a sleep came before
		{0, 3, nil, 3},
		{3, 10_001, swarm.ErrInvalid, 3},
	} {
		if err := cluster.ScaleFrom(t.Context(), "", "fn", step.from, step.to); !errors.Is(err, step.err) {
			t.Errorf("from %d to %d: %v, want %v", step.from, step.to, err, step.err)
		}
		if status, err := cluster.Status(t.Context(), "", "fn", false); err != nil || status.Replicas != step.want {
			t.Errorf("from %d to %d: %d replicas, %v; want %d", step.from, step.to, status.Replicas, err, step.want)
		}
	}
	if err := cluster.ScaleFrom(t.Context(), "", "none", 1, 2); !errors.Is(err, swarm.ErrNotFound) {
		t.Errorf("of no function: %v", err)
	}
}

// TestOfTwoWhoScaleAtOnceOneDoes: both have read the same number.
func TestOfTwoWhoScaleAtOnceOneDoes(t *testing.T) {
	t.Parallel()
	engine, one := newCluster(t)
	other, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	deploy(t, one, "fn", 1)
	for n := uint64(1); n < 40; n += 2 {
		var errs [2]error
		var group sync.WaitGroup
		for i, cluster := range []*swarm.Cluster{one, other} {
			group.Go(func() { errs[i] = cluster.ScaleFrom(t.Context(), "", "fn", n, n+1+uint64(i)) })
		}
		group.Wait()
		status, err := one.Status(t.Context(), "", "fn", false)
		if moved := errors.Join(errs[:]...); err != nil || !errors.Is(moved, swarm.ErrMoved) || (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("from %d: %v and %v, then %d replicas, %v", n, errs[0], errs[1], status.Replicas, err)
		}
		if err := one.Scale(t.Context(), "", "fn", n+2); err != nil {
			t.Fatal(err)
		}
	}
}

// TestScaleFromDoesNotWait: its callers decide again each second.
func TestScaleFromDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, cluster := updating(t, (*swarmtest.Engine).Monitor)
		began := time.Now()
		if err := cluster.ScaleFrom(t.Context(), "", "fn", 2, 4); !errors.Is(err, swarm.ErrUpdating) || !errors.Is(err, swarm.ErrUnavailable) {
			t.Errorf("during an update: %v", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %s", took)
		}
		wantFunction(t, cluster, "bad", 2)
		within(t, 16*time.Second) // then callers matter more than the way back
		if err := cluster.ScaleFrom(t.Context(), "", "fn", 2, 4); err != nil {
			t.Errorf("16 s later: %v", err)
		}
		wantFunction(t, cluster, "bad", 4)
	})
}
