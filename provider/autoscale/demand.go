package autoscale

import (
	"math"

	"waggle/provider/feed"
)

// loads is what Decide weighs, in replicas: how many it takes to carry a load at its share, or to have places for it.
type loads struct {
	// burst, stable and least are of the last seconds; places are by max_inflight, whatever the target says.
	burst, stable, least, places float64
	// urgent and urgentPlaces are of an urgent report.
	urgent, urgentPlaces float64
	// growth is the burst's per second, if it has grown all through the last six.
	growth float64
	// rest is the larger of load and places for a removal, inPlace what is under way at this moment.
	rest, inPlace float64
}

// weigh turns what was seen into replicas.
func weigh(p Policy, h *History) loads {
	var l loads
	share := p.Share()
	if h.urgent {
		s := h.fresh
		if p.soonClear(h, &s) { // a burst that is over has no arrivals in the next moment; a step goes on
			s.Arrivals = min(s.Arrivals, h.steady)
		}
		l.urgent, l.urgentPlaces = p.demand(h, &s)/share, p.places(h, &s)
		return l
	}
	var demand, places [maxSamples]float64
	n := h.samples.n
	for i := range n {
		demand[i], places[i] = p.demand(h, h.samples.last(i)), p.places(h, h.samples.last(i))
	}
	d, at := demand[:n], places[:n]
	events, calls := p.eventsPer(h), callsPer(h)
	burst := settled(d, events)
	l.burst, l.stable, l.least = burst/share, mean(d, stableWindow)/share, minimum(d, burstWindow+1)/share
	if p.MaxInflight > 0 {
		calls *= float64(p.MaxInflight)
	}
	l.places = settled(at, calls)
	l.inPlace = at[0]
	l.rest = max(burst/share, l.places)
	l.growth = p.growth(h) / share
	return l
}

// demand is the load of a moment in the unit of the target.
func (p Policy) demand(h *History, s *Sample) float64 {
	switch p.Type {
	case feed.ScaleCapacity:
		return p.concurrency(h, s)
	case feed.ScaleCPU:
		return max(s.CPU, h.PerCall*(s.Arrivals+p.backlog(h, s)))
	case feed.ScaleQueue:
		return s.Due
	}
	return s.Arrivals + p.backlog(h, s)
}

// backlog is how many of those that wait have to be served per second, so that all are within clearIn. What the replicas
// that are there or coming can serve by their limit does not count. Else each second of a slow start asks for more.
func (p Policy) backlog(h *History, s *Sample) float64 {
	wait := s.Held / clearIn
	if p.MaxInflight <= 0 || h.Service <= 0 {
		return wait
	}
	most := float64((h.Replicas.Desired-h.Replicas.Stuck)*p.MaxInflight) / h.Service
	return max(0, wait-max(0, most-s.Arrivals))
}

// concurrency is how many requests have to be served at once. By Little's law that is the rate times the time that
// each takes. To it come as many as clear the excess within clearIn. While there are too few replicas most of what is
// under way waits, and counting that would overshoot several times over. What takes longer than clearIn needs a place
// of its own now.
func (p Policy) concurrency(h *History, s *Sample) float64 {
	n := s.Inflight + s.Held
	if h.Service <= 0 || h.Service >= clearIn {
		return n
	}
	need := s.Arrivals * h.Service
	over := max(0, n-need)
	if p.MaxInflight == 0 {
		over = min(over, s.Held) // what waits inside a replica stays there, however many others come
	}
	return min(n, need+over*h.Service/clearIn)
}

// places is how many replicas it takes by their own limit.
func (p Policy) places(h *History, s *Sample) float64 {
	if p.MaxInflight <= 0 || p.Type == feed.ScaleQueue {
		return 0
	}
	return p.concurrency(h, s) / float64(p.MaxInflight)
}

// soonClear is true if the ready replicas will have served all that is there before another could help. Without a limit
// nobody knows how many they serve at once.
func (p Policy) soonClear(h *History, s *Sample) bool {
	if p.MaxInflight <= 0 {
		return true
	}
	if h.Service <= 0 || h.Replicas.Ready == 0 {
		return false
	}
	return s.Held*h.Service/float64(h.Replicas.Ready*p.MaxInflight) <= h.Start.Seconds()
}

// eventsPer is how many requests, in the burst window, make up a unit of demand. It tells how much of a load may be
// chance; 0 means none.
func (p Policy) eventsPer(h *History) float64 {
	switch p.Type {
	case feed.ScaleCapacity:
		return callsPer(h)
	case feed.ScaleCPU:
		if h.PerCall <= 0 {
			return 0
		}
		return burstWindow / h.PerCall
	case feed.ScaleQueue:
		return 0
	}
	return burstWindow
}

// callsPer is the same for requests that are served at once: those of a burst window if they are short, else each is one.
func callsPer(h *History) float64 {
	if h.Service <= 0 {
		return 1
	}
	return max(1, burstWindow/h.Service)
}

// settled is the load of now; loads are newest first. It is that of the stable window, unless the burst window
// differs from it by more than chance explains. Requests come as a Poisson process, so a number of them varies by its
// root. A few requests thus cause no jump, and many act at once. It never falls when any load grows.
func settled(loads []float64, eventsPer float64) float64 {
	burst := mean(loads, burstWindow)
	if eventsPer <= 0 {
		return burst
	}
	chance := certainty * math.Sqrt(burst/eventsPer)
	return max(burst-chance, min(mean(loads, stableWindow), burst+chance))
}

// growth is the demand's per second if it has grown all through the last six, else 0: a step grows only once. What waits is
// left out, which grows whenever there is too little.
func (p Policy) growth(h *History) float64 {
	const steps = 4 // of two seconds each
	if h.samples.n < 2*steps || p.Type == feed.ScaleQueue {
		return 0
	}
	var means [steps]float64
	for i := range means {
		means[i] = (p.unqueued(h, h.samples.last(2*i)) + p.unqueued(h, h.samples.last(2*i+1))) / 2
	}
	least := math.Inf(1)
	for i := range steps - 1 {
		least = min(least, means[i]-means[i+1])
	}
	return max(0, least/2)
}

func (p Policy) unqueued(h *History, s *Sample) float64 {
	if p.Type == feed.ScaleCapacity {
		return min(s.Inflight, s.Arrivals*max(h.Service, epsilon))
	}
	without := *s
	without.Held = 0
	return p.demand(h, &without)
}

// mean is that of the newest n, or of all if there are fewer.
func mean(newestFirst []float64, n int) float64 {
	sum, n := 0.0, min(n, len(newestFirst))
	for _, x := range newestFirst[:n] {
		sum += x
	}
	return sum / float64(n)
}

func minimum(newestFirst []float64, n int) float64 {
	least := math.Inf(1)
	for _, x := range newestFirst[:min(n, len(newestFirst))] {
		least = min(least, x)
	}
	return least
}
