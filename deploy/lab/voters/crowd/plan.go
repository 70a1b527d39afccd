package crowd

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// Habit is what a voter does besides pressing once.
type Habit uint8

const (
	// Once presses once.
	Once Habit = iota
	// Double votes, opens the ballot again and votes the same.
	Double
	// Change votes, opens the ballot again and votes something else.
	Change
	// Stale does as Change, and then the first form arrives once more, as from a proxy that repeats a request late.
	Stale
	// Replay sends the very same form again, as a reload does.
	Replay
	// Tabs opens the ballot once and presses different choices in two tabs at the same moment.
	Tabs
	// Elsewhere presses once. A voter who gets no answer leaves, and presses a different choice through another
	// gateway. By turns that is on the same page, as after the browser's Back, and on a new one.
	Elsewhere
)

// Shares are parts of all voters, each from 0 to 1. Habits exclude one another, so that their sum is at most 1 and
// whoever is left presses once; Retry and API apply to any voter.
type Shares struct {
	Double, Change, Stale, Replay, Tabs, Elsewhere float64
	// Retry is the part that presses again, the same form, until there is a usable answer.
	Retry float64
	// API is the part that speaks JSON instead of forms.
	API float64
}

func (s Shares) validate() error {
	var errs []error
	for name, share := range map[string]float64{
		"double": s.Double, "change": s.Change, "stale": s.Stale, "replay": s.Replay, "tabs": s.Tabs,
		"elsewhere": s.Elsewhere, "retry": s.Retry, "api": s.API,
	} {
		if !(share >= 0 && share <= 1) {
			errs = append(errs, fmt.Errorf("%s %v: a share is 0 to 1", name, share))
		}
	}
	// The sum of decimal fractions may pass 1 by a rounding error.
	if sum := s.Double + s.Change + s.Stale + s.Replay + s.Tabs + s.Elsewhere; sum > 1+1e-9 {
		errs = append(errs, fmt.Errorf("double+change+stale+replay+tabs+elsewhere %v: together they are at most 1", sum))
	}
	return errors.Join(errs...)
}

// plan is all that chance decides about a voter.
type plan struct {
	habit   Habit
	patient bool
	api     bool
	dice    *rand.Rand
}

// planOf gives voter number i of a run its plan. The same seed gives the same plans, in whatever order voters arrive.
func planOf(seed uint64, i int, s Shares) plan {
	dice := rand.New(rand.NewPCG(seed, uint64(i)))
	p := plan{habit: Once, dice: dice}
	at := dice.Float64()
	for _, h := range []struct {
		habit Habit
		share float64
	}{{Double, s.Double}, {Change, s.Change}, {Stale, s.Stale}, {Replay, s.Replay}, {Tabs, s.Tabs}, {Elsewhere, s.Elsewhere}} {
		if at < h.share {
			p.habit = h.habit
			break
		}
		at -= h.share
	}
	p.patient = dice.Float64() < s.Retry
	p.api = dice.Float64() < s.API
	return p
}

// choose takes two of so many options, at least 1: they differ if there are two.
func (p plan) choose(options int) (first, second int) {
	first = p.dice.IntN(options)
	if options == 1 {
		return first, first
	}
	return first, (first + 1 + p.dice.IntN(options-1)) % options
}
