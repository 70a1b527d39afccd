package autoscale

import (
	"math"
	"slices"
	"time"
)

// Load is what one gateway process says of one function.
type Load struct {
	// Gateway names the process, and no other, ever.
	Gateway string `json:"gateway"`
	// Started and Completed count all requests of the process's life.
	Started   uint64 `json:"started"`
	Completed uint64 `json:"completed"`
	// Inflight are being forwarded, Held wait for a replica, Due are both and the asynchronous calls to be made now.
	Inflight int `json:"inflight"`
	Held     int `json:"held"`
	Due      int `json:"due,omitempty"`
}

// maxReports is how many reports of a process are kept: two of the longest short window at the pace of urgent ones.
const maxReports = 16

// gateway is what is remembered of a process.
type gateway struct {
	name    string
	reports [maxReports]report
	next, n int
}

type report struct {
	at time.Time
	Load
}

// last is the i-th newest.
func (g *gateway) last(i int) *report { return &g.reports[(g.next-1-i+2*maxReports)%maxReports] }

// note takes in a report. Counters that fall have restarted: their function was removed and deployed again.
func (g *gateway) note(l Load, at time.Time) {
	if g.n > 0 && (l.Started < g.last(0).Started || l.Completed < g.last(0).Completed) {
		g.n = 0
	}
	g.reports[g.next] = report{at, l}
	g.next = (g.next + 1) % maxReports
	g.n = min(g.n+1, maxReports)
}

// rates are what arrived and completed per second from until to before the newest report, as far as reports reach.
// One report alone gives none, as its counters may be years old.
func (g *gateway) rates(from, to time.Duration) (arrivals, completed float64) {
	if g.n < 2 {
		return 0, 0
	}
	end := g.last(0).at
	until := g.find(end.Add(-from), 0)
	since := g.find(end.Add(-to), max(until, 1))
	a, b := g.last(since), g.last(until)
	d := b.at.Sub(a.at).Seconds()
	if d <= 0 {
		return 0, 0
	}
	return float64(b.Started-a.Started) / d, float64(b.Completed-a.Completed) / d
}

// slack lets reports that come a little early count as whole windows.
const slack = 20 * time.Millisecond

// find is the newest report, from the i-th on, that is as old as at; or the oldest.
func (g *gateway) find(at time.Time, i int) int {
	for i < g.n-1 && g.last(i).at.After(at.Add(slack)) {
		i++
	}
	return min(i, g.n-1)
}

// gateways are all processes that reported lately.
type gateways []gateway

// note takes in a report.
func (gs *gateways) note(l Load, at time.Time) {
	i := slices.IndexFunc(*gs, func(g gateway) bool { return g.name == l.Gateway })
	if i < 0 {
		*gs = append(*gs, gateway{name: l.Gateway})
		i = len(*gs) - 1
	}
	(*gs)[i].note(l, at)
}

func (gs *gateways) forget(name string) {
	*gs = slices.DeleteFunc(*gs, func(g gateway) bool { return g.name == name })
}

// sum is the load of now over all of them, with rates over a window.
func (gs gateways) sum(now time.Time, window time.Duration) (s Sample, silent int) {
	s.At = now
	for i := range gs {
		g := &gs[i]
		last := g.last(0)
		// The last figures of one that fell silent stay in.
		if now.Sub(last.at) > freshFor {
			silent++
			s.Frozen = true
		}
		arrivals, completed := g.rates(0, window)
		s.Arrivals, s.Completed = s.Arrivals+arrivals, s.Completed+completed
		s.Inflight, s.Held, s.Due = s.Inflight+float64(last.Inflight), s.Held+float64(last.Held), s.Due+float64(last.Due)
	}
	return s, silent
}

// heard is the time of the newest report.
func (gs gateways) heard() (at time.Time) {
	for i := range gs {
		if t := gs[i].last(0).at; t.After(at) {
			at = t
		}
	}
	return at
}

// shortWindows are what an urgent report's rate is taken over: the shortest with enough arrivals.
var shortWindows = [...]time.Duration{300 * time.Millisecond, 600 * time.Millisecond, time.Second, 1500 * time.Millisecond}

// pace is the arrival rate of an urgent report. With steady it is the lower of the last two windows.
func (gs gateways) pace(steady bool) float64 {
	for _, window := range shortWindows {
		rate := gs.arrivals(0, window)
		if steady {
			rate = math.Min(rate, gs.arrivals(window, 2*window))
		}
		if rate*window.Seconds() >= enough {
			return rate
		}
	}
	return atLeast(gs.arrivals(0, burstWindow*time.Second), burstWindow*time.Second)
}

// atLeast is the rate without what chance may have added in a window.
func atLeast(rate float64, window time.Duration) float64 {
	return max(0, rate-certainty*math.Sqrt(rate/window.Seconds()))
}

func (gs gateways) arrivals(from, to time.Duration) (sum float64) {
	for i := range gs {
		a, _ := gs[i].rates(from, to)
		sum += a
	}
	return sum
}

// heardOf reports whether a report of that time, or a newer one, was taken in.
func (gs gateways) heardOf(name string, at time.Time) bool {
	for i := range gs {
		if gs[i].name == name {
			return !at.After(gs[i].last(0).at)
		}
	}
	return false
}

func (gs gateways) has(name string) bool {
	return slices.ContainsFunc(gs, func(g gateway) bool { return g.name == name })
}
