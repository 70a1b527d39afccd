package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
)

// curve is a load: requests per second at each second.
type curve struct {
	name   string
	length float64
	rate   func(t float64) float64
}

// tuned are the curves that the constants of the decision were chosen on. u is what one replica carries at its share.
func tuned(u float64) []curve {
	return []curve{
		{"step", 420, func(t float64) float64 { return u * (0.9 + 8.1*pulse(t, 20, 260)) }},
		{"ramp", 660, func(t float64) float64 { return u * (0.9 + 14*ramp(t, 30, 330) - 14*ramp(t, 400, 580)) }},
		{"diurnal", 1440, func(t float64) float64 { return u * (6 - 5*math.Cos(2*math.Pi*t/1440)) }},
		{"spike train", 900, func(t float64) float64 { return u * (1.5 + 6.5*pulse(math.Mod(t, 90), 30, 42)) }},
		{"superbowl", 600, func(t float64) float64 { return u * max(0.02*pulse(t, 0, 20), ad(t, 20, 30, 60, 90, 28)) }},
		{"noise", 900, noise(u*6.4, 0.15, 5, 3)},
		{"square wave", 900, func(t float64) float64 { return u * (2 + 6*pulse(math.Mod(t, 120), 60, 120)) }},
		{"microbursts", 600, func(t float64) float64 { return max(u*0.5, 2000*pulse(math.Mod(t, 30), 10, 10.1)) }},
		{"single requests", 900, func(float64) float64 { return 0.05 }},
	}
}

// unseen draws curves from a seed: one to three shapes on a base, 15 minutes each.
func unseen(u float64, n int, seed uint64) []curve {
	list := make([]curve, n)
	for i := range list {
		list[i] = draw(u, i, rand.New(rand.NewPCG(seed, uint64(i))))
	}
	return list
}

func draw(u float64, i int, r *rand.Rand) curve {
	base := between(r, 0.2, 5)
	names := []string{fmt.Sprintf("%02d", i+1)}
	var parts []func(float64) float64
	for range 1 + r.IntN(3) {
		s := shapes[r.IntN(len(shapes))]
		names = append(names, s.name)
		parts = append(parts, s.draw(r))
	}
	return curve{strings.Join(names, " "), 900, func(t float64) float64 {
		sum := base
		for _, part := range parts {
			sum += part(t)
		}
		return u * max(sum, 0)
	}}
}

// shapes are what unseen curves are made of.
var shapes = []struct {
	name string
	draw func(r *rand.Rand) func(t float64) float64
}{
	{"step", func(r *rand.Rand) func(float64) float64 {
		at, size, long := between(r, 30, 400), between(r, 1, 14), between(r, 20, 300)
		return func(t float64) float64 { return size * pulse(t, at, at+long) }
	}},
	{"wave", func(r *rand.Rand) func(float64) float64 {
		period, size, phase := between(r, 60, 900), between(r, 0.5, 6), between(r, 0, 2*math.Pi)
		return func(t float64) float64 { return size * (1 + math.Sin(2*math.Pi*t/period+phase)) }
	}},
	{"ramp", func(r *rand.Rand) func(float64) float64 {
		at, up, stay, down, size := between(r, 20, 300), between(r, 10, 200), between(r, 0, 150), between(r, 10, 200), between(r, 2, 18)
		return func(t float64) float64 { return size * (ramp(t, at, at+up) - ramp(t, at+up+stay, at+up+stay+down)) }
	}},
	{"spikes", func(r *rand.Rand) func(float64) float64 {
		var starts []float64
		for t := between(r, 20, 120); t < 900; t += between(r, 20, 220) {
			starts = append(starts, t)
		}
		long, size := between(r, 2, 25), between(r, 2, 12)
		return func(t float64) float64 {
			for _, at := range starts {
				if t >= at && t < at+long {
					return size
				}
			}
			return 0
		}
	}},
	{"noise", func(r *rand.Rand) func(float64) float64 {
		return noise(between(r, 1, 6), between(r, 0.1, 0.5), between(r, 1, 20), r.Uint64())
	}},
	{"square", func(r *rand.Rand) func(float64) float64 {
		period, duty, size := between(r, 20, 400), between(r, 0.2, 0.8), between(r, 1, 8)
		return func(t float64) float64 { return size * pulse(math.Mod(t, period), 0, duty*period) }
	}},
	{"ad", func(r *rand.Rand) func(float64) float64 {
		at, up, size, half := between(r, 20, 300), between(r, 5, 60), between(r, 5, 20), between(r, 30, 150)
		return func(t float64) float64 { return ad(t, at, up, 0, half, size) }
	}},
}

func between(r *rand.Rand, a, b float64) float64 { return a + (b-a)*r.Float64() }

// pulse is 1 from from to to, else 0.
func pulse(t, from, to float64) float64 {
	if t >= from && t < to {
		return 1
	}
	return 0
}

// ramp climbs from 0 to 1.
func ramp(t, from, to float64) float64 { return min(max((t-from)/(to-from), 0), 1) }

// ad is what an advertisement brings: a climb to the peak, a stay, and a decay by half in each half seconds.
func ad(t, at, up, stay, half, peak float64) float64 {
	if t < at+up+stay {
		return peak * ramp(t, at, at+up)
	}
	return peak * math.Exp2(-(t-at-up-stay)/half)
}

// noise is a mean that varies by a coefficient and changes each hold seconds.
func noise(mean, variation, hold float64, seed uint64) func(t float64) float64 {
	r := rand.New(rand.NewPCG(seed, 3))
	values := make([]float64, 4000)
	for i := range values {
		values[i] = mean * max(0.1, 1+variation*r.NormFloat64())
	}
	return func(t float64) float64 { return values[min(int(t/hold), len(values)-1)] }
}
