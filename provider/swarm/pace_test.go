package swarm

import (
	"slices"
	"testing"
	"time"
)

// polls gives the times, from the start, of all polls within so long, each of which takes cost; told says whether events
// tell of tasks. At what it finds calm or a move is up to found.
func polls(told bool, within, cost time.Duration, found func(p *pace, now time.Time) (calm bool)) []time.Duration {
	start := time.Unix(1e9, 0)
	var p pace
	var at []time.Duration
	for now := start; now.Sub(start) <= within; now = p.due {
		at = append(at, now.Sub(start))
		p.begin(now)
		now = now.Add(cost)
		p.end(now, found(&p, now), told)
	}
	return at
}

func TestPace(t *testing.T) {
	t.Parallel()
	ms := func(all ...int) (list []time.Duration) {
		for _, n := range all {
			list = append(list, time.Duration(n)*time.Millisecond)
		}
		return list
	}
	movesOnce := func(p *pace, now time.Time) bool {
		if p.moving.IsZero() {
			p.moved(now)
		}
		return false
	}
	for name, test := range map[string]struct {
		told         bool
		within, cost time.Duration
		found        func(*pace, time.Time) bool
		want         []time.Duration
	}{
		"calm":                      {false, 2 * time.Second, 0, func(*pace, time.Time) bool { return true }, ms(0, 800, 1600)},
		"something moves":           {false, time.Second, 0, movesOnce, ms(0, 50, 150, 350, 550, 750, 950)},
		"it goes on moving":         {false, 200 * time.Millisecond, 0, func(p *pace, now time.Time) bool { p.moved(now); return false }, ms(0, 50, 100, 150, 200)},
		"polling is expensive":      {false, time.Second, 100 * time.Millisecond, movesOnce, ms(0, 300, 600, 900)},
		"polling is very expensive": {false, 4 * time.Second, time.Second, movesOnce, ms(0, 1800, 3600)},
		"calm, told by events":      {true, 11 * time.Second, 0, func(*pace, time.Time) bool { return true }, ms(0, 5000, 10_000)},
		"moves, told by events":     {true, 3 * time.Second, 0, movesOnce, ms(0, 800, 1600, 2400)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := polls(test.told, test.within, test.cost, test.found); !slices.Equal(got, test.want) {
				t.Errorf("polled at %v, want %v", got, test.want)
			}
		})
	}
	t.Run("what cannot be placed is not polled closely for ever", func(t *testing.T) {
		t.Parallel()
		all := polls(false, time.Minute, 0, movesOnce)
		if last := all[len(all)-1] - all[len(all)-2]; last != pollCalm {
			t.Errorf("after a minute without a move the polls are %s apart, want %s", last, pollCalm)
		}
	})
}

func TestPaceHastens(t *testing.T) {
	t.Parallel()
	start := time.Unix(1e9, 0)
	var p pace
	p.begin(start)
	p.end(start.Add(100*time.Millisecond), true, false)
	p.hint(start.Add(110 * time.Millisecond))
	if got, want := p.due.Sub(start), 300*time.Millisecond; got != want {
		t.Errorf("a poll that took 100 ms is followed by one at %s, want %s", got, want)
	}
	p.hint(start.Add(290 * time.Millisecond))
	if got, want := p.due.Sub(start), 300*time.Millisecond; got != want {
		t.Errorf("heard of more, the poll is at %s, want still %s", got, want)
	}
}
