package autoscale

import (
	"time"

	"waggle/provider/feed"
)

// Kind says what an [Input] is.
type Kind string

const (
	// Begin means that the function is first seen, with Policy and Replicas.
	Begin Kind = "begin"
	// PolicyChanged means that Policy is another.
	PolicyChanged Kind = "policy"
	// ReplicasChanged means that Replicas are others.
	ReplicasChanged Kind = "replicas"
	// Reported means that Load came from a gateway.
	Reported Kind = "load"
	// GatewayGone means that the process named Gateway has ended, or is taken to have.
	GatewayGone Kind = "gone"
	// CPURead says that all replicas together consume Number thousandths of a processor; below 0: none can be read.
	CPURead Kind = "cpu"
	// SetByOthers says that another rule than the tracker's has set the number of replicas to Number.
	SetByOthers Kind = "set"
	// AskSecond asks for a decision, once a second.
	AskSecond Kind = "second"
	// AskUrgent asks when a gateway reports out of turn.
	AskUrgent Kind = "urgent"
	// AskWake asks when something waits for a function that sleeps.
	AskWake Kind = "wake"
)

// Input is one thing that a [Tracker] is told, or one question it is asked. A record is a list of them with the answers.
type Input struct {
	At       time.Time `json:"at"`
	Function string    `json:"function,omitempty"`
	Kind     Kind      `json:"kind"`
	Policy   Policy    `json:"policy,omitzero"`
	Replicas Replicas  `json:"replicas,omitzero"`
	Load     Load      `json:"load,omitzero"`
	Gateway  string    `json:"gateway,omitempty"`
	Number   float64   `json:"number,omitempty"`
	Decision Decision  `json:"decision,omitzero"`
}

// Tracker remembers one function and decides for it. It is told everything through [Tracker.Take], with the time, and has no
// clock. Its methods must not be called concurrently.
type Tracker struct {
	policy   Policy
	history  History
	gateways gateways
	sample   Sample // the newest, of a second or urgent
	decision Decision
}

// Take takes in what it is told, and answers if it is asked; else it repeats the last answer.
func (t *Tracker) Take(in Input) Decision {
	h := &t.history
	switch in.Kind {
	case Begin:
		*t = Tracker{policy: in.Policy, decision: Decision{Desired: in.Replicas.Desired, Reason: Undecided}}
		h.Begin(in.Replicas, in.At)
	case PolicyChanged:
		t.policy = in.Policy
	case ReplicasChanged:
		h.NoteReplicas(in.Replicas, in.At)
	case Reported:
		t.gateways.note(in.Load, in.At)
	case GatewayGone:
		t.gateways.forget(in.Gateway)
	case CPURead:
		h.CPU = in.Number
	case SetByOthers:
		h.NoteForeign(int(in.Number), in.At)
		t.decision = Decision{Desired: int(in.Number), Reason: ByHand}
	case AskSecond:
		t.second(in.At)
		return t.decide(in.At)
	case AskUrgent, AskWake:
		if in.Kind == AskUrgent && h.Replicas.Ready == 0 && !t.waitingIsLoad() {
			return t.decision // what waits for the first replica is no rate
		}
		t.urgent(in.At, in.Kind == AskWake)
		return t.decide(in.At)
	}
	return t.decision
}

// Policy is the newest it was told, Replicas likewise.
func (t *Tracker) Policy() Policy { return t.policy }

// Replicas is the newest it was told.
func (t *Tracker) Replicas() Replicas { return t.history.Replicas }

// Decision is the last answer.
func (t *Tracker) Decision() Decision { return t.decision }

// Sample is the newest load.
func (t *Tracker) Sample() Sample { return t.sample }

// Demand is the newest load in the unit of the target.
func (t *Tracker) Demand() float64 { return t.policy.demand(&t.history, &t.sample) }

func (t *Tracker) decide(now time.Time) Decision {
	t.history.Heard = t.gateways.heard()
	t.decision = Decide(t.policy, &t.history, now)
	t.history.NoteDecision(t.decision, now)
	return t.decision
}

// waitingIsLoad reports whether requests that wait are a load by themselves, whatever their rate.
func (t *Tracker) waitingIsLoad() bool {
	return t.policy.Type == feed.ScaleCapacity || t.policy.Type == feed.ScaleQueue || t.history.Service > 0 && t.policy.MaxInflight > 0
}

// second takes the load of a second.
func (t *Tracker) second(now time.Time) {
	h := &t.history
	s, silent := t.gateways.sum(now, time.Second)
	s.Ready, s.CPU, h.Silent = h.Replicas.Ready, max(h.CPU, 0), silent
	h.Note(s)
	h.Learn(t.policy)
	t.sample = *h.samples.last(0)
}

// urgent takes the load of this moment. Who asks for a wake waits, although no report has told of it yet.
func (t *Tracker) urgent(now time.Time, wake bool) {
	h := &t.history
	s, _ := t.gateways.sum(now, time.Second)
	s.Ready, s.CPU, s.Arrivals = h.Replicas.Ready, max(h.CPU, 0), t.gateways.pace(false)
	if wake {
		s.Held = max(s.Held, 1)
	}
	h.NoteUrgent(s, t.gateways.pace(true))
	t.sample = s
}
