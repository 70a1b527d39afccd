package main

import (
	"fmt"
	"time"

	"waggle/provider/autoscale"
	"waggle/provider/feed"
)

// waggle feeds the product's own tracker with what gateways would report.
type waggle struct {
	window    time.Duration // down window
	noUrgent  bool
	restartAt float64 // the provider forgets everything then; 0: never
	silentAt  float64 // gateway 0 falls silent then; 0: never
	decided   func(w *world, d autoscale.Decision)

	tracker autoscale.Tracker
	said    []counters // what each gateway has last reported
	urgent  float64    // when the last urgent report was
	again   bool       // another one is to follow it
}

// urgentEvery is the gateways' least time between two urgent reports, in seconds.
const urgentEvery = 0.3

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) time() time.Time {
	return epoch.Add(time.Duration(w.tick) * 100 * time.Millisecond)
}

func (a *waggle) policy(w *world) autoscale.Policy {
	p := autoscale.Policy{Scale: feed.Scale{Type: feed.ScaleType(w.kind), Target: w.target, Proportion: w.proportion,
		Min: uint64(w.least), Max: uint64(w.most), DownWindow: 30 * time.Second}}
	if a.window > 0 {
		p.DownWindow = a.window
	}
	if w.hard {
		p.MaxInflight = w.places
	}
	return p
}

func (a *waggle) replicas(w *world) autoscale.Replicas {
	return autoscale.Replicas{Desired: w.asked, Ready: w.count(ready), Starting: w.count(starting), Unplaced: w.count(unplaced),
		Failed: since(w.failures, w.now-60), Started: since(w.starts, w.now-60)}
}

func (a *waggle) begin(w *world) {
	a.said, a.urgent, a.again = make([]counters, len(w.gateways)), -1, false
	a.tracker.Take(autoscale.Input{At: w.time(), Kind: autoscale.Begin, Policy: a.policy(w), Replicas: a.replicas(w)})
}

func (a *waggle) step(w *world) {
	if a.restartAt > 0 && w.now >= a.restartAt && w.now < a.restartAt+step/2 {
		a.begin(w)
	}
	for g := range w.gateways {
		if w.every(1, 0.2+0.3*float64(g)) {
			a.report(w, g)
		}
	}
	switch {
	case w.every(1, 0.6):
		a.tracker.Take(autoscale.Input{At: w.time(), Kind: autoscale.CPURead, Number: w.cpu.read})
		a.ask(w, autoscale.AskSecond)
	case !a.noUrgent && w.now-a.urgent >= urgentEvery-1e-9:
		a.look(w)
	}
}

// report is one gateway's.
func (a *waggle) report(w *world, g int) {
	if a.silentAt > 0 && g == 0 && w.now >= a.silentAt {
		return
	}
	c := w.gateways[g]
	a.said[g] = c
	a.tracker.Take(autoscale.Input{At: w.time(), Kind: autoscale.Reported, Load: autoscale.Load{Gateway: fmt.Sprint(g), Started: c.started, Completed: c.completed,
		Inflight: c.inflight, Held: c.held}})
}

// look is where gateways see that a report cannot wait: they hold more than they said, or what is under way has doubled.
func (a *waggle) look(w *world) {
	moved := a.again
	for g, c := range w.gateways {
		said := a.said[g]
		moved = moved || c.held > 0 && c.held > said.held || c.inflight+c.held >= 2*(said.inflight+said.held)+5
	}
	if !moved {
		return
	}
	a.urgent, a.again = w.now, !a.again
	for g := range w.gateways {
		a.report(w, g)
	}
	a.ask(w, autoscale.AskUrgent)
}

func (a *waggle) ask(w *world, ask autoscale.Kind) {
	a.tracker.Take(autoscale.Input{At: w.time(), Kind: autoscale.ReplicasChanged, Replicas: a.replicas(w)})
	d := a.tracker.Take(autoscale.Input{At: w.time(), Kind: ask})
	if a.decided != nil {
		a.decided(w, d)
	}
	w.scale(d.Desired)
}
