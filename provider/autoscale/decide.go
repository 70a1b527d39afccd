package autoscale

import (
	"math"
	"time"

	"waggle/provider/feed"
)

// The constants of the decision. Each was chosen on the curves of deploy/lab/loadsim, where other values can be tried; none
// stands near a cliff.
const (
	// burstWindow is how many seconds of load act at once, stableWindow how many a small excess has to last for.
	burstWindow, stableWindow = 2, 10
	// excess is the part by which a load has to exceed what replicas should carry before it acts at once.
	excess = 0.1
	// restBelow is the part of its share that a removal may leave each replica with: the dead band between up and down.
	restBelow = 0.9
	// clearIn is the number of seconds in which what waits should be served once the replicas are there.
	clearIn = 5.0
	// certainty is how many standard deviations of chance a load is given before it is taken for another load.
	certainty = 1.0
	// removeEvery is the least time between two removals.
	removeEvery = 10 * time.Second
	// freshFor is how long a report counts as this moment's.
	freshFor = 3 * time.Second
	// fullAfter is how long a replica waits for a node before the cluster counts as full.
	fullAfter = 5 * time.Second
	// maxFailures failed starts within a minute, with none that succeeded, end growth.
	maxFailures = 3
	// epsilon lets a quotient that is whole, but for rounding, be whole.
	epsilon = 1e-9
)

// Decide says how many replicas a function should have. It goes up at once and to the right size in one step, because
// waiting callers cost more than replicas. It goes down only when nothing in the last down window would have needed
// more. It is pure and allocates nothing: the same history gives the same decision.
func Decide(p Policy, h *History, now time.Time) Decision {
	if h.Replicas.Desired == 0 {
		return wake(p, h)
	}
	if p.Off {
		return h.keep(SwitchedOff)
	}
	if now.Sub(h.Heard) > freshFor || h.samples.n < burstWindow {
		return h.keep(NoReports)
	}
	if p.Zero && h.idleFor(now) >= p.ZeroDuration && !h.Replicas.Updating {
		return Decision{Reason: Idle}
	}
	if p.Pinned() {
		return h.keep(Pinned)
	}
	if p.Type == feed.ScaleCPU && h.CPU < 0 && h.Replicas.Desired >= p.least() {
		return h.keep(Unread)
	}
	l := weigh(p, h)
	g := growth{from: h.Replicas.Desired, stuck: min(h.Replicas.Stuck, h.Replicas.Desired/2), reason: BelowMin}
	g.to = max(g.from, p.least())
	g.weigh(&l, h)
	if g.to > g.from {
		return bound(p, h, g, now)
	}
	if h.urgent {
		return h.keep(Enough)
	}
	return shrink(p, h, &l, g.stuck, now)
}

// wake sizes a function that has no replicas by what waits for it.
func wake(p Policy, h *History) Decision {
	s := h.now()
	if s.Held+s.Due == 0 {
		return Decision{Reason: Asleep}
	}
	n := p.least()
	if p.Type == feed.ScaleCapacity || p.Type == feed.ScaleQueue {
		n = max(n, ceil(p.demand(h, s)/p.Share()))
	}
	if h.Service > 0 {
		n = max(n, ceil(p.places(h, s)))
	}
	n = min(n, max(p.most(), p.least()))
	return Decision{Desired: n, Reason: Woken, Answer: n}
}

// growth gathers the largest need of more replicas and the rule that found it.
type growth struct {
	from, to int
	// stuck are replicas that carry nothing: half of what is wanted is as many more as may be started for them.
	stuck  int
	reason Reason
}

// need raises the answer to x replicas if that exceeds what there is by more than the given part.
func (g *growth) need(x, by float64, why Reason) {
	if x <= float64(g.from-g.stuck)*(1+by)+epsilon {
		return
	}
	if n := ceil(x) + g.stuck; n > g.to {
		g.to, g.reason = n, why
	}
}

// weigh applies every rule that fits the moment.
func (g *growth) weigh(l *loads, h *History) {
	last := h.samples.last(0)
	switch {
	case h.urgent:
		g.need(l.urgent, excess, Held)
		if h.Service > 0 { // else what waits may be over in a moment: the next regular seconds tell
			g.need(l.urgentPlaces, 0, Saturated)
		}
	case last.Ready == 0:
		// What came in a moment and waits for the first replica is no rate; what goes on coming is.
		if h.samples.n > burstWindow {
			g.need(l.least, excess, Burst)
		}
	case !last.Frozen:
		g.need(l.burst, excess, Burst)
		g.need(l.stable, 0, Stable)
		g.need(l.places, 0, Saturated)
		if l.growth > 0 {
			g.need(min(l.burst+l.growth*(h.Start.Seconds()+burstWindow), 2*l.burst), excess, Trend)
		}
	}
}

// bound keeps growth within what is allowed and what can help.
func bound(p Policy, h *History, g growth, now time.Time) Decision {
	last := h.samples.last(0)
	if p.Type == feed.ScaleQueue && g.from >= p.least() && last.Completed > 0 && last.Due <= last.Completed*(h.Start.Seconds()+1) {
		return h.keep(SoonDrained)
	}
	to := min(g.to, max(p.most(), g.from))
	d := Decision{Desired: g.from, Answer: to}
	switch trouble, found := h.trouble(now); {
	case found:
		d.Reason = trouble
	case to == g.from:
		d.Reason = AtMax
	default:
		d.Desired, d.Reason = to, g.reason
	}
	return d
}

// trouble is why more replicas would not help.
func (h *History) trouble(now time.Time) (reason Reason, found bool) {
	switch {
	case h.fullFor(now) > fullAfter:
		return ClusterFull, true
	case h.Replicas.Failed >= maxFailures && h.Replicas.Started == 0:
		return FailToStart, true
	}
	return "", false
}

// shrink answers what this moment needs, and removes what no answer of the window has needed.
func shrink(p Policy, h *History, l *loads, stuck int, now time.Time) Decision {
	answer := min(max(ceil(l.rest/restBelow)+stuck, p.least()), p.most())
	most := max(answer, min(ceil(l.inPlace), p.most()), h.answers.most(now, p.DownWindow))
	d := Decision{Desired: h.Replicas.Desired, Answer: answer}
	switch {
	case most >= d.Desired:
		d.Reason = Enough
		if trouble, found := h.trouble(now); found {
			d.Reason = trouble
		}
	case h.Silent > 0:
		d.Reason = GatewaySilent
	case h.Replicas.Updating:
		d.Reason = UpdateUnderWay
	case now.Sub(h.Removed) < removeEvery:
		d.Reason = JustRemoved
	default:
		d.Desired, d.Reason = most, LessLoad
	}
	return d
}

func (h *History) keep(reason Reason) Decision {
	return Decision{Desired: h.Replicas.Desired, Reason: reason}
}

func ceil(x float64) int { return int(math.Ceil(x - epsilon)) }
