package main

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestWatchGoesOnOnlyAfterTheStart(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		up     time.Duration
		checks int
	}{
		"of unknown age": {0, 1},
		"starting":       {59 * time.Second, 1},
		"up":             {time.Minute, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checks, down := 0, errors.New("down")
			err := watch(t.Context(), tc.up, func(context.Context) error {
				if checks++; checks == 2 {
					return down
				}
				return nil
			})
			if checks != tc.checks || errors.Is(err, down) != (tc.checks == 2) {
				t.Errorf("%d checks and %v, want %d, of which the second fails", checks, err, tc.checks)
			}
		})
	}
}
