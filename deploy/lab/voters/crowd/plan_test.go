package crowd

import (
	"math"
	"strings"
	"testing"
)

func TestSharesAreKept(t *testing.T) {
	t.Parallel()
	shares := Shares{Double: 0.1, Change: 0.2, Stale: 0.05, Replay: 0.15, Tabs: 0.15, Elsewhere: 0.1, Retry: 0.9, API: 0.3}
	const voters = 50_000
	var habits [Elsewhere + 1]float64
	var patient, api float64
	for i := range voters {
		p := planOf(7, i, shares)
		habits[p.habit]++
		if p.patient {
			patient++
		}
		if p.api {
			api++
		}
	}
	for what, pair := range map[string][2]float64{
		"once": {habits[Once], 0.25}, "double": {habits[Double], 0.1}, "change": {habits[Change], 0.2}, "stale": {habits[Stale], 0.05},
		"replay": {habits[Replay], 0.15}, "tabs": {habits[Tabs], 0.15}, "elsewhere": {habits[Elsewhere], 0.1},
		"retry": {patient, 0.9}, "api": {api, 0.3},
	} {
		if got := pair[0] / voters; math.Abs(got-pair[1]) > 0.01 {
			t.Errorf("%s: share %.3f, want %.2f", what, got, pair[1])
		}
	}
}

func TestPlansDependOnSeedAndNumberAlone(t *testing.T) {
	t.Parallel()
	shares := Shares{Double: 0.5, Retry: 0.5, API: 0.5}
	same := 0
	for i := range 100 {
		a, b, other := planOf(1, i, shares), planOf(1, i, shares), planOf(2, i, shares)
		if a.habit != b.habit || a.patient != b.patient || a.api != b.api {
			t.Fatalf("voter %d has two plans", i)
		}
		if a.habit == other.habit && a.patient == other.patient && a.api == other.api {
			same++
		}
	}
	if same == 100 {
		t.Error("the seed decides nothing")
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	p := planOf(1, 1, Shares{})
	if a, b := p.choose(1); a != 0 || b != 0 {
		t.Errorf("of one option: %d, %d", a, b)
	}
	seen := map[[2]int]bool{}
	for range 1000 {
		a, b := p.choose(3)
		if a == b || min(a, b) < 0 || max(a, b) > 2 {
			t.Fatalf("of three options: %d, %d", a, b)
		}
		seen[[2]int{a, b}] = true
	}
	if len(seen) != 6 {
		t.Errorf("only %d of 6 pairs were ever chosen", len(seen))
	}
}

func TestSharesValidate(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		shares Shares
		want   string
	}{
		"none":              {Shares{}, ""},
		"exactly all":       {Shares{Double: 0.1, Change: 0.2, Stale: 0.3, Replay: 0.2, Tabs: 0.2, Retry: 1, API: 1}, ""},
		"more than all":     {Shares{Double: 0.6, Change: 0.6}, "together they are at most 1"},
		"negative":          {Shares{Tabs: -0.1}, "tabs -0.1: a share is 0 to 1"},
		"above one":         {Shares{Retry: 1.1}, "retry 1.1: a share is 0 to 1"},
		"not even a number": {Shares{API: math.NaN()}, "api NaN: a share is 0 to 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := test.shares.validate()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
