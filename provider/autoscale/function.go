package autoscale

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/feed"
)

const (
	// firstPatience and patience are how long a replica may start before it counts as stuck: so long, or so many times what
	// starts take.
	firstPatience, patience = 30 * time.Second, 5
	// proved is how long a replica runs before its start counts as one that succeeded, recent how long that is remembered.
	proved, recent = 5 * time.Second, time.Minute
	// none is the number of replicas asked for while none is.
	none = -1
)

// function is one function with what the loop remembers of it. Everything is guarded by Scaler.mu.
type function struct {
	scaler  *Scaler
	key     key
	label   string // name.namespace, as metrics and logs have it
	tracker Tracker
	begun   bool

	shown    int // what the table says is desired
	updating bool
	trouble  feed.Trouble
	replicas map[string]replica // by task id
	ids      []string           // of the table's ready replicas

	// asked is what Swarm is being asked for, or has accepted until the table shows it; calling while the call is under way.
	asked   int
	askedAt time.Time
	// earlier was asked for and accepted before that, and the table has not shown it: it may be some changes behind.
	earlier   []int
	calling   bool
	failing   bool // the last call failed
	spreading spreading
	// fallAt is when a resolved alert takes the next step away; zero: none does.
	fallAt time.Time

	seen    seen
	decided map[Reason]prometheus.Counter
}

// replica is what is remembered of one.
type replica struct {
	state feed.State
	since time.Time // in this state
}

func newFunction(s *Scaler, fn *feed.Function) *function {
	return &function{scaler: s, key: key{fn.Namespace, fn.Name}, label: fn.Name + "." + fn.Namespace, asked: none,
		replicas: make(map[string]replica), spreading: spreading{wait: unevenFor}, decided: make(map[Reason]prometheus.Counter)}
}

// take tells the tracker, and records that.
func (f *function) take(in Input) Decision {
	d := f.tracker.Take(in)
	if f.scaler.record != nil {
		f.scaler.record.write(f.label, in, d)
	}
	return d
}

// follow takes over what a table says.
func (f *function) follow(fn *feed.Function, now time.Time) {
	desired := int(fn.Desired)
	foreign := f.begun && desired != f.shown && desired != f.asked && !slices.Contains(f.earlier, desired)
	before := f.shown
	f.shown, f.updating, f.trouble = desired, fn.Updating, fn.Trouble
	f.remember(fn.Replicas, now)
	f.spreading.follow(fn)
	if (foreign || desired == f.asked) && !f.calling {
		f.asked, f.earlier = none, nil
	}
	policy := Policy{Scale: fn.Scale, MaxInflight: fn.MaxInflight, Off: f.scaler.cfg.Off || fn.Unscaled}
	if !f.begun {
		f.begun = true
		f.take(Input{At: now, Kind: Begin, Policy: policy, Replicas: f.counted(now)})
		return
	}
	if policy != f.tracker.Policy() {
		f.take(Input{At: now, Kind: PolicyChanged, Policy: policy})
	}
	f.count(now)
	if foreign {
		f.take(Input{At: now, Kind: SetByOthers, Number: float64(desired)})
		f.note(before, desired, ByHand, now)
	}
}

// remember keeps since when each replica is in its state.
func (f *function) remember(replicas []feed.Replica, now time.Time) {
	f.ids = f.ids[:0]
	for _, r := range replicas {
		state := r.State
		if state == feed.Preparing {
			state = feed.Starting
		}
		if state == feed.Ready {
			f.ids = append(f.ids, r.ID)
		}
		if known, found := f.replicas[r.ID]; !found || known.state != state {
			f.replicas[r.ID] = replica{state, now}
		}
	}
	if len(f.replicas) == len(replicas) {
		return
	}
	listed := make(map[string]bool, len(replicas))
	for _, r := range replicas {
		listed[r.ID] = true
	}
	for id := range f.replicas {
		if !listed[id] {
			delete(f.replicas, id)
		}
	}
}

// settle gives up what was asked for if the table never showed it.
func (f *function) settle(now time.Time) {
	if f.asked != none && !f.calling && now.Sub(f.askedAt) > shownWithin {
		f.asked, f.earlier = none, nil
	}
	f.count(now)
}

// counted is what Swarm has of the function, or is about to.
func (f *function) counted(now time.Time) Replicas {
	r := Replicas{Desired: f.shown, Unplaced: f.trouble.Unplaced, Failed: f.trouble.Failed, Updating: f.updating}
	if f.asked != none {
		r.Desired = f.asked
	}
	slow := max(firstPatience, patience*f.tracker.history.Start)
	for _, one := range f.replicas {
		age := now.Sub(one.since)
		switch {
		case one.state == feed.Ready:
			r.Ready++
			if age >= proved && age < proved+recent {
				r.Started++
			}
		case one.state == feed.Starting && age > slow:
			r.Stuck++
		case one.state == feed.Starting:
			r.Starting++
		}
	}
	return r
}

// count tells the tracker what there is, if that has changed.
func (f *function) count(now time.Time) {
	if r := f.counted(now); r != f.tracker.Replicas() {
		f.take(Input{At: now, Kind: ReplicasChanged, Replicas: r})
	}
}

// read adds up what replicas consume, taking those that could not be read for the mean of the others.
func (f *function) read(now time.Time) {
	if f.tracker.policy.Type != feed.ScaleCPU {
		return
	}
	sum, n := 0.0, 0
	wall := time.Now()
	for _, id := range f.ids {
		if u, ok := f.scaler.cfg.Usages.Of(id, wall); ok {
			sum, n = sum+u.CPU, n+1
		}
	}
	cpu := -1.0
	if n > 0 {
		cpu = sum / float64(n) * float64(len(f.ids))
	}
	if cpu != f.tracker.history.CPU {
		f.take(Input{At: now, Kind: CPURead, Number: cpu})
	}
}

// report hands a gateway's load on, once.
func (f *function) report(gateway string, at time.Time, l feed.Load) {
	if f.tracker.gateways.heardOf(gateway, at) {
		return
	}
	f.take(Input{At: at, Kind: Reported, Load: Load{Gateway: gateway, Started: l.Started, Completed: l.Completed,
		Inflight: l.Inflight, Held: l.Queued, Due: l.Due + l.Inflight + l.Queued}})
}

// lose forgets a gateway.
func (f *function) lose(gateway string, now time.Time) {
	if f.tracker.gateways.has(gateway) {
		f.take(Input{At: now, Kind: GatewayGone, Gateway: gateway})
	}
}

// act has Swarm do what was decided, and keeps it for those who look.
func (f *function) act(d Decision, now time.Time) {
	f.scaler.metrics.decided(f, d.Reason)
	r := f.tracker.Replicas()
	f.seen.moment(now, f.tracker.Sample(), f.tracker.Demand(), r, d)
	if f.calling || f.scaler.ending {
		return
	}
	if d.Desired != r.Desired {
		f.call(r.Desired, d.Desired, d.Reason)
	} else if to := f.fall(now); to < r.Desired {
		f.call(r.Desired, to, Alert)
	} else if more := f.spreading.more(f.tracker.Policy(), r, now); more > 0 {
		f.take(Input{At: now, Kind: SetByOthers, Number: float64(r.Desired + more)})
		f.call(r.Desired, r.Desired+more, Spread)
	}
}

// ask notes what Swarm is being asked for.
func (f *function) ask(n int) {
	if f.asked != none {
		f.earlier = append(f.earlier, f.asked)
	}
	f.asked, f.calling = n, true
	f.count(f.scaler.now())
}

// call asks Swarm in the background. One call of a function is under way at a time; what is decided meanwhile is decided
// again a second later.
func (f *function) call(from, to int, reason Reason) {
	f.ask(to)
	s := f.scaler
	s.calls.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, callTimeout)
		defer cancel()
		err := s.cfg.Cluster.ScaleFrom(ctx, f.key.namespace, f.key.name, uint64(from), uint64(to))
		s.called(f.key, from, to, reason, err)
	})
}

// called ends a call with its outcome.
func (s *Scaler) called(k key, from, to int, reason Reason, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.functions[k]
	if f == nil {
		return // removed meanwhile
	}
	now := s.now()
	f.calling, f.askedAt = false, now
	if err != nil {
		f.asked = none
		f.count(now)
		if !s.cfg.Postponed(err) && !f.failing && s.ctx.Err() == nil {
			f.failing = true
			s.cfg.Logger.Warn("scaling a function failed, trying again each second", "function", k.name, "namespace", k.namespace,
				"from", from, "to", to, "reason", reason, "error", err)
		}
		return
	}
	f.failing = false
	if f.shown == to {
		f.asked, f.earlier = none, nil
	}
	f.note(from, to, reason, now)
}

// note records a change.
func (f *function) note(from, to int, reason Reason, now time.Time) {
	p, demand := f.tracker.Policy(), f.tracker.Demand()
	f.seen.change(Change{At: now, From: from, To: to, Reason: reason, Load: demand})
	f.scaler.metrics.changed(f, reason, now)
	f.scaler.cfg.Logger.Info("function scaled", "function", f.key.name, "namespace", f.key.namespace, "from", from, "to", to,
		"reason", reason, "type", p.Type, "load", demand, "share", p.Share())
}
