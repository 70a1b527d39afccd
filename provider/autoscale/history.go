package autoscale

import (
	"math"
	"time"
)

const (
	// maxSamples are as many seconds as any rule reads.
	maxSamples = 16
	// firstStart is what a start-up is taken to last before one was seen.
	firstStart = 2 * time.Second
	// serviceWindow is how many seconds tell how long a request takes, and enough how many requests.
	serviceWindow, enough = 5, 10
	// followed is the part of a difference by which a learnt figure follows a measured one. reluctantly is the same
	// for the time of a request while waiting cannot be told from serving.
	followed, reluctantly = 0.2, 0.03
	// steadyWithin is how far two halves of some seconds may be apart for a load that counts as steady.
	steadyWithin = 0.1
)

// Sample is the load of a function at one moment, all gateways together.
type Sample struct {
	At time.Time
	// Arrivals and Completed are requests per second. A request arrives before it is held: it is demand even when nothing
	// can be served.
	Arrivals, Completed float64
	// Inflight are being forwarded, Held wait for a replica.
	Inflight, Held float64
	// Due are asynchronous calls that could be made now, and every request that is held or being forwarded.
	Due float64
	// CPU is in thousandths of a processor, all replicas together; those that could not be read are taken for the mean of
	// the others.
	CPU float64
	// Ready is the number of replicas in rotation.
	Ready int
	// Frozen means that a gateway fell silent and its last figures are in here: they must not add replicas.
	Frozen bool
}

// busy reports whether anything was asked of the function.
func (s *Sample) busy() bool { return s.Arrivals+s.Inflight+s.Held+s.Due > 0 }

// Replicas is what Swarm has of a function.
type Replicas struct {
	// Desired is what Swarm is asked for, or about to be.
	Desired int `json:"desired"`
	// Ready take requests; Starting are on their way.
	Ready    int `json:"ready"`
	Starting int `json:"starting,omitempty"`
	// Stuck are not ready although they have had the time of several starts; Unplaced wait for a node with room.
	Stuck    int `json:"stuck,omitempty"`
	Unplaced int `json:"unplaced,omitempty"`
	// Failed and Started count the starts of the last minute that failed and that did not.
	Failed  int `json:"failed,omitempty"`
	Started int `json:"started,omitempty"`
	// Updating means that an update is under way.
	Updating bool `json:"updating,omitempty"`
}

// History is what [Decide] reads. The zero value has seen nothing; begin it with [History.Begin].
type History struct {
	samples samples
	// fresh is an urgent report since the last second, steady the lower of the arrival rates of the last two short windows.
	urgent bool
	fresh  Sample
	steady float64
	// answers bound removals.
	answers answers

	// Service is how many seconds a request takes in a replica, PerCall how many milliseconds of processor it costs; 0:
	// unknown. Start is the time from a scale call to a ready replica.
	Service, PerCall float64
	Start            time.Duration
	// CPU is the newest reading in thousandths of a processor; less than 0: no replica can be read.
	CPU float64
	// Replicas is what Swarm has now.
	Replicas Replicas
	// Silent is the number of gateways that fell silent less than the down window ago.
	Silent int
	// Heard is the time of the newest report of any gateway, Active that of the last sign of use, Removed of the last
	// removal. FullSince is when a replica began to wait for a node; zero: none does.
	Heard, Active, Removed, FullSince time.Time

	// scaledAt and readyBefore measure a start-up that is under way.
	scaledAt    time.Time
	readyBefore int
}

// Begin is what is known when a provider starts or a function is first seen: the replicas found. They stay for the
// down window unless more are needed.
func (h *History) Begin(found Replicas, now time.Time) {
	*h = History{Start: firstStart, Active: now, Replicas: found, CPU: -1}
	h.answers.add(now, found.Desired)
}

// Note takes in the load of a second.
func (h *History) Note(s Sample) {
	if n := h.samples.n; n > 0 {
		last := h.samples.last(0)
		if s.At.Sub(last.At) > freshFor || s.At.Before(last.At) {
			// Nobody looked for a while: what was needed meanwhile is not known.
			h.answers.add(s.At, h.Replicas.Desired)
			h.samples.n = 0
		}
		if last.Ready == 0 && s.Ready > 0 {
			// What came before was a queue and no rate.
			h.samples.n = 0
			s.Arrivals, s.Completed = 0, 0
		}
	}
	h.samples.add(s)
	h.urgent = false
	if s.busy() {
		h.Active = s.At
	}
}

// NoteUrgent takes in an urgent report; steady is the arrival rate that has held for two short windows.
func (h *History) NoteUrgent(s Sample, steady float64) {
	h.urgent, h.fresh, h.steady = true, s, steady
	if s.busy() {
		h.Active = s.At
	}
}

// NoteReplicas takes in what Swarm has.
func (h *History) NoteReplicas(r Replicas, now time.Time) {
	if r.Unplaced == 0 {
		h.FullSince = time.Time{}
	} else if h.FullSince.IsZero() {
		h.FullSince = now
	}
	switch {
	case r.Desired > h.Replicas.Desired:
		h.scaledAt, h.readyBefore = now, h.Replicas.Ready
	case r.Desired < h.Replicas.Desired:
		h.scaledAt = time.Time{}
	case !h.scaledAt.IsZero() && r.Ready > h.readyBefore:
		took := now.Sub(h.scaledAt)
		h.Start += time.Duration(followed * float64(took-h.Start))
		h.scaledAt = time.Time{}
	}
	h.Replicas = r
}

// NoteDecision takes in what was decided, which bounds later removals.
func (h *History) NoteDecision(d Decision, now time.Time) {
	if d.Answer > 0 {
		h.answers.add(now, d.Answer)
	}
	if d.Desired < h.Replicas.Desired {
		h.Removed = now
	}
}

// NoteForeign takes in that somebody else has set the number of replicas: the new state, kept for the down window.
func (h *History) NoteForeign(desired int, now time.Time) { h.answers.add(now, desired) }

// Learn follows the time of a request by Little's law, and its cost.
func (h *History) Learn(p Policy) {
	h.learnCost()
	last := h.samples.last(0)
	n := min(h.samples.n, serviceWindow)
	if n < burstWindow || n < serviceWindow && p.MaxInflight == 0 {
		return
	}
	var under, done float64
	for i := range n {
		s := h.samples.last(i)
		under, done = under+s.Inflight, done+s.Completed
	}
	if done < enough || under == 0 {
		return
	}
	measured := under / done
	switch {
	case h.Service == 0:
		h.Service = measured
	case measured > h.Service && p.MaxInflight == 0:
		// A replica without a limit may have requests wait inside, long after the crowd that brought them.
		h.Service += min(followed*(measured-h.Service), reluctantly*h.Service)
	case measured > h.Service && last.Held > 0:
		h.Service += reluctantly * (measured - h.Service)
	default:
		h.Service += followed * (measured - h.Service)
	}
}

// learnCost follows what a request costs, from what all replicas consume. That is read in turn and some seconds old, so it
// only tells while the load is steady.
func (h *History) learnCost() {
	if h.CPU < 0 || h.samples.n < maxSamples {
		return
	}
	var older, newer float64 // completions per second of each half
	for i := range maxSamples / 2 {
		a, b := h.samples.last(i), h.samples.last(i+maxSamples/2)
		if a.Held+b.Held > 0 {
			return
		}
		newer, older = newer+a.Completed, older+b.Completed
	}
	if newer+older < enough || math.Abs(newer-older) > steadyWithin*(newer+older) {
		return
	}
	perCall := h.CPU * maxSamples / (newer + older)
	if h.PerCall == 0 {
		h.PerCall = perCall
		return
	}
	h.PerCall += followed * (perCall - h.PerCall)
}

func (h *History) now() *Sample {
	if h.urgent {
		return &h.fresh
	}
	return h.samples.last(0)
}

// idleFor is how long nothing has been asked of the function; a gateway that cannot be heard may know of something.
func (h *History) idleFor(now time.Time) time.Duration {
	if h.Silent > 0 || h.samples.last(0).busy() || h.urgent && h.fresh.busy() {
		return -1
	}
	return now.Sub(h.Active)
}

func (h *History) fullFor(now time.Time) time.Duration {
	if h.FullSince.IsZero() {
		return 0
	}
	return now.Sub(h.FullSince)
}

// samples is a ring of the newest.
type samples struct {
	ring [maxSamples]Sample
	next int // where the next one goes
	n    int
}

func (r *samples) add(s Sample) {
	r.ring[r.next] = s
	r.next = (r.next + 1) % maxSamples
	r.n = min(r.n+1, maxSamples)
}

// last is the i-th newest, 0 being the newest; one that nothing has seen is empty.
func (r *samples) last(i int) *Sample {
	return &r.ring[(r.next-1-i+2*maxSamples)%maxSamples]
}

// longestWindow is the longest legal down window in seconds.
const longestWindow = 300

// answers are what each second has needed, the largest of the second.
type answers [longestWindow + 1]struct {
	second int64
	n      int
}

func (a *answers) add(at time.Time, n int) {
	second := at.Unix()
	slot := &a[second%int64(len(a))]
	if slot.second != second {
		slot.second, slot.n = second, 0
	}
	slot.n = max(slot.n, n)
}

// most is the largest answer of the window that ends now.
func (a *answers) most(now time.Time, window time.Duration) (most int) {
	for second, from := now.Unix(), now.Add(-window).Unix(); second > from; second-- {
		if slot := &a[second%int64(len(a))]; slot.second == second {
			most = max(most, slot.n)
		}
	}
	return most
}
