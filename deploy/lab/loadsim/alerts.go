package main

import (
	"math"
	"slices"
)

// algorithm scales a world. Step is called at the end of every step.
type algorithm interface {
	begin(w *world)
	step(w *world)
}

// scrape is what a metrics server has read at a time.
type scrape struct{ at, value float64 }

// rateOf is Prometheus' rate over the scrapes of the last window seconds.
func rateOf(scrapes []scrape, now, window float64) float64 {
	i := slices.IndexFunc(scrapes, func(s scrape) bool { return s.at > now-window-1e-9 })
	if i < 0 || i == len(scrapes)-1 {
		return 0
	}
	a, b := scrapes[i], scrapes[len(scrapes)-1]
	return (b.value - a.value) / (b.at - a.at)
}

// alerts is OpenFaaS CE without its bound of 5 replicas. Prometheus scrapes each 5 s; each 15 s its rule
// requires more than 5 requests/s over 10 s, for 5 s. Alertmanager waits 5 s for a group, then 10 s, and
// repeats after 30 s. A step is 20 % of the maximum; a resolved alert goes straight to the minimum.
type alerts struct {
	scrapes  []scrape
	pending  float64 // since when the rule has been true; NaN: it is not
	firing   bool
	told     bool // that it fires
	notified float64
	flush    float64 // when Alertmanager tells next; NaN: never
}

func (a *alerts) begin(*world) {
	a.pending, a.flush, a.notified = math.NaN(), math.NaN(), math.Inf(-1)
}

func (a *alerts) step(w *world) {
	if w.every(5, 1.3) {
		a.scrapes = append(a.scrapes, scrape{w.now, float64(w.totals().completed)})
	}
	if w.every(15, 2.1) {
		a.evaluate(w)
	}
	if w.now+1e-9 < a.flush || math.IsNaN(a.flush) || !a.firing && !a.told {
		return
	}
	a.flush += 10
	switch {
	case a.firing && (!a.told || w.now-a.notified >= 30-1e-9):
		a.told, a.notified = true, w.now
		w.scale(w.asked + int(math.Ceil(float64(w.most)*0.2)))
	case !a.firing:
		a.told, a.notified, a.flush = false, w.now, math.NaN()
		w.scale(w.least)
	}
}

func (a *alerts) evaluate(w *world) {
	switch {
	case rateOf(a.scrapes, w.now, 10) <= 5:
		a.firing, a.pending = false, math.NaN()
	case math.IsNaN(a.pending):
		a.pending = w.now
	case w.now-a.pending >= 5 && !a.firing:
		a.firing = true
		if !a.told {
			a.flush = w.now + 5
		}
	}
}

// pro is OpenFaaS Pro by its documents and the rules of its public chart. Scrapes and rules run each 15 s; rps
// is over 30 s, capacity the largest of 45 s. desired = ceil(load ÷ (target × proportion)). Its loop is assumed
// to run each 5 s.
type pro struct {
	window  float64 // com.openfaas.scale.down.window; 0: off, its default
	scrapes []scrape
	gauges  []scrape
	load    float64 // less than 0: none yet
	answers []scrape
}

func (p *pro) begin(*world) { p.load = -1 }

func (p *pro) step(w *world) {
	if w.every(15, 4.2) {
		t := w.totals()
		p.scrapes = append(p.scrapes, scrape{w.now, float64(t.completed)})
		p.gauges = append(p.gauges, scrape{w.now, float64(t.inflight + t.held)})
	}
	if w.every(15, 9.1) && len(p.scrapes) > 1 {
		p.load = p.record(w)
	}
	if !w.every(5, 0.7) || p.load < 0 || w.count(ready) == 0 {
		return
	}
	n := min(max(int(math.Ceil(p.load/w.share()-1e-9)), w.least), w.most)
	if p.window > 0 {
		p.answers = append(p.answers, scrape{w.now, float64(n)})
		n = max(n, min(largest(p.answers, w.now-p.window), w.asked))
	}
	w.scale(n)
}

// record is what the recording rule says.
func (p *pro) record(w *world) float64 {
	switch w.kind {
	case "cpu":
		return math.Ceil(w.cpu.read)
	case "rps":
		return math.Ceil(rateOf(p.scrapes, w.now, 30))
	}
	return float64(largest(p.gauges, w.now-45))
}

// largest is the largest of the values after from.
func largest(values []scrape, from float64) (most int) {
	for _, v := range slices.Backward(values) {
		if v.at <= from {
			break
		}
		most = max(most, int(v.value))
	}
	return most
}
