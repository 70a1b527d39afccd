package main

import "math"

// arrive brings the requests of this step.
func (w *world) arrive() {
	for range w.trace.arrive[w.tick] {
		request := w.next
		w.next++
		w.arrived[request] = w.now
		g := &w.gateways[w.trace.gateway[request]]
		g.started++
		if w.now >= 0 {
			w.result.Requests++
		}
		switch {
		case len(w.held) == 0 && w.place(request):
		case g.held >= maxHeld:
			w.fail(request)
		default:
			g.held++
			w.held = append(w.held, request)
		}
	}
}

// fail is the end of a request that nobody served.
func (w *world) fail(request int) {
	w.gateways[w.trace.gateway[request]].completed++
	if w.arrived[request] >= 0 {
		w.result.Failed++
		w.result.waits = append(w.result.waits, holdTimeout)
	}
}

// release gives held requests places, the oldest first, or up.
func (w *world) release() {
	for len(w.held) > 0 {
		request := w.held[0]
		late := w.now-w.arrived[request] > holdTimeout
		if late {
			w.fail(request)
		} else if !w.place(request) {
			return
		}
		w.gateways[w.trace.gateway[request]].held--
		w.held = w.held[1:]
	}
}

// place sends a request to the ready replica with the fewest, if there is one that may have it.
func (w *world) place(request int) bool {
	var best *replica
	for _, r := range w.replicas {
		if r.state == ready && (best == nil || r.inflight() < best.inflight()) {
			best = r
		}
	}
	if best == nil || w.hard && best.busy >= w.places {
		return false
	}
	w.gateways[w.trace.gateway[request]].inflight++
	if best.busy < w.places {
		w.serve(best, request)
	} else {
		best.inside = append(best.inside, request)
	}
	return true
}

func (w *world) serve(r *replica, request int) {
	r.busy++
	if w.arrived[request] >= 0 {
		w.result.waits = append(w.result.waits, w.now-w.arrived[request])
	}
	end := w.tick + max(1, int(math.Round(w.trace.service[request]/step)))
	w.ends[end] = append(w.ends[end], ending{r, w.trace.gateway[request]})
}

// finish ends the requests that are due to.
func (w *world) finish() {
	for _, e := range w.ends[w.tick] {
		e.replica.busy--
		g := &w.gateways[e.gateway]
		g.completed++
		g.inflight--
		if waiting := e.replica.inside; len(waiting) > 0 {
			e.replica.inside = waiting[1:]
			w.serve(e.replica, waiting[0])
		}
	}
	delete(w.ends, w.tick)
}

// processor is what replicas consume as gateways read it: the mean of ten seconds, five seconds old on average.
type processor struct {
	used, before float64 // thousandths of a processor × seconds
	read         float64 // thousandths of a processor
}

func (w *world) measure() {
	busy, inside := 0, 0
	for _, r := range w.replicas {
		busy, inside = busy+r.busy, inside+len(r.inside)
	}
	w.cpu.used += float64(busy) * w.cost * step
	if w.every(10, 3.7) {
		w.cpu.read, w.cpu.before = (w.cpu.used-w.cpu.before)/10, w.cpu.used
	}
	if w.now < 0 {
		return
	}
	rate := w.trace.curve.rate(w.now)
	alive, ideal := len(w.replicas)-w.count(unplaced), w.ideal(rate)
	if float64(w.count(ready)*w.places)/w.service < rate-1e-9 {
		w.result.Under += step
	}
	w.result.Waited += float64(len(w.held)+inside) * step
	w.result.ReplicaSeconds += float64(alive) * step
	w.result.Ideal += float64(ideal) * step
	w.result.Most = max(w.result.Most, alive)
	if w.every(1, 0) {
		w.result.series = append(w.result.series, moment{w.now, rate, w.count(ready), w.asked, ideal, len(w.held) + inside})
	}
}
