package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

const (
	// step is the simulation's, in seconds.
	step = 0.1
	// holdTimeout and maxHeld bound what a gateway holds, whoever scales.
	holdTimeout = 30.0
	maxHeld     = 2000
	// callDelay lies between a decision and Swarm's acting on it.
	callDelay = 0.1
	// leastDrain is the least time a replica stays after it was told to end.
	leastDrain = 2.0
)

// setting is what one run has in common for all algorithms.
type setting struct {
	// kind is the type of scaling: rps, capacity or cpu. target and proportion are per replica, in its unit.
	// right is the target that would fit, if target does not.
	kind                      string
	target, proportion, right float64
	least, most               int
	// places is how many requests a replica serves at once. Hard means that gateways hold what is beyond, as with
	// max_inflight; else it waits inside the replica it was sent to.
	places int
	hard   bool
	// service is the mean time of a request in seconds, spread its coefficient of variation (lognormal).
	service, spread float64
	// start is the mean time from a scale call to a ready replica, 20 % more or less.
	start    float64
	gateways int
	// cost is what a request takes while it is served, in thousandths of a processor.
	cost float64
	// room is how many replicas the cluster has nodes for; 0: any number. Replicas that start from crashFrom to crashTo fail.
	room               int
	crashFrom, crashTo float64
	// warm is how long the curve's first moment lasts before anything is measured.
	warm float64
}

func (s setting) share() float64 { return s.target * s.proportion }

// rightShare is what a replica should carry.
func (s setting) rightShare() float64 {
	if s.right > 0 {
		return s.right * s.proportion
	}
	return s.share()
}

// unit is the rate that one replica carries at its right share.
func (s setting) unit() float64 {
	switch s.kind {
	case "capacity":
		return s.rightShare() / s.service
	case "cpu":
		return s.rightShare() / s.service / s.cost
	}
	return s.rightShare()
}

// ideal is the number of replicas that somebody who knows the rate would have at once.
func (s setting) ideal(rate float64) int {
	return min(max(int(math.Ceil(rate/s.unit()-1e-9)), s.least), s.most)
}

// trace is the requests of a curve, the same for every algorithm.
type trace struct {
	curve   curve
	arrive  []int     // in each step
	service []float64 // of each request, in seconds
	gateway []uint8   // of each request
}

func newTrace(c curve, s setting, seed uint64) *trace {
	r := rand.New(rand.NewPCG(seed, 7))
	t := &trace{curve: c, arrive: make([]int, int(math.Round((s.warm+c.length)/step)))}
	sigma := math.Sqrt(math.Log(1 + s.spread*s.spread))
	mu := math.Log(s.service) - sigma*sigma/2
	for i := range t.arrive {
		t.arrive[i] = poisson(r, c.rate(max(float64(i)*step-s.warm, 0))*step)
		for range t.arrive[i] {
			t.service = append(t.service, math.Exp(mu+sigma*r.NormFloat64()))
			t.gateway = append(t.gateway, uint8(r.IntN(s.gateways)))
		}
	}
	return t
}

// poisson draws a number, by Knuth's method while that is quick.
func poisson(r *rand.Rand, mean float64) int {
	if mean > 60 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
	}
	limit, p, k := math.Exp(-mean), r.Float64(), 0
	for p > limit {
		p *= r.Float64()
		k++
	}
	return k
}

type replicaState uint8

const (
	unplaced replicaState = iota
	starting
	ready
	draining
)

type replica struct {
	state  replicaState
	at     float64 // when it will be ready, or has drained for long enough
	busy   int     // requests being served
	inside []int   // requests that wait inside
}

func (r *replica) inflight() int { return r.busy + len(r.inside) }

// counters are what one gateway knows.
type counters struct {
	started, completed uint64
	inflight, held     int
}

// world is one run: gateways, replicas and requests, in virtual time.
type world struct {
	setting
	trace  *trace
	tick   int
	now    float64 // seconds since the curve began
	random *rand.Rand

	gateways []counters
	replicas []*replica
	asked    int     // what the algorithm wants
	askedAt  float64 // when Swarm will act on that
	applied  int

	next    int       // request
	arrived []float64 // of each request
	held    []int     // requests, oldest first
	ends    map[int][]ending

	failures, starts []float64 // when replicas failed to start, and did not
	cpu              processor
	result           result
}

type ending struct {
	replica *replica
	gateway uint8
}

func newWorld(s setting, t *trace, seed uint64) *world {
	w := &world{setting: s, trace: t, now: -s.warm, random: rand.New(rand.NewPCG(seed, 99)), ends: map[int][]ending{},
		gateways: make([]counters, s.gateways), arrived: make([]float64, len(t.service)), askedAt: math.Inf(-1)}
	w.applied = s.ideal(t.curve.rate(0))
	w.asked = w.applied
	for range w.applied {
		w.replicas = append(w.replicas, &replica{state: ready})
	}
	return w
}

// run plays the whole trace.
func (w *world) run(a algorithm) result {
	a.begin(w)
	for w.tick < len(w.trace.arrive) {
		w.move()
		w.finish()
		w.apply()
		w.release()
		w.arrive()
		a.step(w)
		w.measure()
		w.tick++
		w.now = float64(w.tick)*step - w.warm
	}
	return w.result
}

// every is true in the first step of each period, shifted by phase.
func (w *world) every(period, phase float64) bool {
	return (w.tick-int(math.Round(phase/step)))%int(math.Round(period/step)) == 0
}

func (w *world) count(s replicaState) (n int) {
	for _, r := range w.replicas {
		if r.state == s {
			n++
		}
	}
	return n
}

// totals is what all gateways know.
func (w *world) totals() (sum counters) {
	for _, g := range w.gateways {
		sum.started, sum.completed = sum.started+g.started, sum.completed+g.completed
		sum.inflight, sum.held = sum.inflight+g.inflight, sum.held+g.held
	}
	return sum
}

// scale asks for a number of replicas.
func (w *world) scale(n int) {
	n = min(max(n, w.least), w.most)
	if n == w.asked {
		return
	}
	if w.now >= 0 {
		w.result.change(n > w.asked)
	}
	w.asked, w.askedAt = n, w.now+callDelay
}

// apply lets Swarm act: it starts what is missing, and ends what is not running yet before what is.
func (w *world) apply() {
	if w.applied == w.asked || w.now < w.askedAt-1e-9 {
		return
	}
	w.applied = w.asked
	have := len(w.replicas) - w.count(draining)
	for ; have < w.asked; have++ {
		r := &replica{state: starting, at: w.now + w.start*(0.8+0.4*w.random.Float64())}
		if w.room > 0 && w.count(ready)+w.count(starting) >= w.room {
			r.state = unplaced
		}
		w.replicas = append(w.replicas, r)
	}
	for _, state := range []replicaState{unplaced, starting, ready} {
		for i := len(w.replicas) - 1; i >= 0 && have > w.asked; i-- {
			r := w.replicas[i]
			if r.state != state {
				continue
			}
			if state == ready {
				r.state, r.at = draining, w.now+leastDrain
			} else {
				w.replicas = slices.Delete(w.replicas, i, i+1)
			}
			have--
		}
	}
}

// move lets replicas find nodes, become ready, fail and leave.
func (w *world) move() {
	placed := w.count(starting) + w.count(ready)
	w.replicas = slices.DeleteFunc(w.replicas, func(r *replica) bool {
		switch {
		case r.state == unplaced && placed < w.room:
			r.state, r.at = starting, w.now+w.start
			placed++
		case r.state == starting && w.now >= r.at && w.now >= w.crashFrom && w.now < w.crashTo:
			w.failures = append(w.failures, w.now)
			r.at = w.now + 2 + w.start // Swarm tries again after a pause
		case r.state == starting && w.now >= r.at:
			w.starts = append(w.starts, w.now)
			r.state = ready
		}
		return r.state == draining && r.inflight() == 0 && w.now >= r.at
	})
}

// since is how many of times, in order, are after from.
func since(times []float64, from float64) int {
	i, _ := slices.BinarySearch(times, from)
	return len(times) - i
}
