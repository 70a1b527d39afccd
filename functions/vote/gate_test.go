package vote

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestGate(t *testing.T) {
	t.Parallel()
	lost, refused := errUnknown, errNotStored
	tests := map[string]struct {
		learn []error // nil is a success
		open  bool
	}{
		"success":                               {[]error{nil}, true},
		"one refusal shuts":                     {[]error{nil, refused}, false},
		"two lost connections do not":           {[]error{nil, lost, lost}, true},
		"three in a row do":                     {[]error{nil, lost, lost, lost}, false},
		"a success between starts over":         {[]error{nil, lost, lost, nil, lost, lost}, true},
		"just opened, one lost connection does": {[]error{lost}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(slog.New(slog.DiscardHandler))
			if g.err() == nil {
				t.Error("open before anything is known")
			}
			g.open()
			for _, err := range test.learn {
				g.observe([]*entry{{err: err}, {}})
			}
			if got := g.err() == nil; got != test.open {
				t.Errorf("open = %t (%v), want %t", got, g.err(), test.open)
			}
		})
	}
}

func TestGateWatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		results := []error{errors.Join(errNotStored, errNoStream), nil, nil, errors.Join(errNotStored, errNoStream)}
		go g.watch(ctx, func(context.Context) error {
			err := results[0]
			if len(results) > 1 {
				results = results[1:]
			}
			return err
		})
		for i, open := range []bool{false, true, true, false} {
			synctest.Wait()
			if got := g.err() == nil; got != open {
				t.Errorf("after probe %d: open = %t, want %t", i+1, got, open)
			}
			time.Sleep(probeEvery)
		}
	})
}
