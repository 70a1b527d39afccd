// Package autoscale decides how many replicas each function has, and has Swarm run them.
//
// In: what gateways report of a function's load each second, and at once when they have to hold requests; the replica
// table; the function's labels. Out: one scale call whenever the number should be another.
//
// A [Tracker] makes rates of the reports and keeps the last minutes of one function. [Decide] is a pure function of
// its policy, history and time. A [Scaler] is the loop around all of them. What a tracker is told can be recorded,
// and [Replay] gives the same decisions again.
//
// It guarantees that the number stays within the function's bounds, or is left as it was found. A load that grows
// never gives fewer replicas, and a constant load comes to rest. Nothing is removed while an update is under way, or
// for lack of knowledge: a restart, a silent gateway, a missed report. Growth never waits for anything but Swarm.
//
// The formulas are this project's own, measured in deploy/lab/loadsim against those of OpenFaaS, Kubernetes, KEDA and
// Knative. The labels are those of OpenFaaS Pro.
package autoscale

import "waggle/provider/feed"

// Policy is how a function is to be scaled.
type Policy struct {
	feed.Scale
	// MaxInflight is the most requests that one replica takes at once; 0: unknown.
	MaxInflight int `json:"max_inflight,omitempty"`
	// Off leaves the number of replicas to operators and alerts, but for waking.
	Off bool `json:"off,omitempty"`
}

// least and most are the bounds of a function that is awake.
func (p Policy) least() int { return max(int(p.Min), 1) }

func (p Policy) most() int { return max(int(p.Max), p.least()) }

// Reason says why a decision is what it is.
type Reason string

// The reasons for another number of replicas.
const (
	Held      Reason = "held"      // requests wait for more than the replicas can carry
	Saturated Reason = "saturated" // every place of max_inflight is taken
	Burst     Reason = "burst"     // the load of the last two seconds
	Stable    Reason = "stable"    // the load of the last ten seconds
	Trend     Reason = "trend"     // the load there will be once a replica has started
	BelowMin  Reason = "below min" // fewer than com.openfaas.scale.min
	Woken     Reason = "woken"     // something waits for a function that sleeps
	LessLoad  Reason = "less load" // nothing in the down window needed as many
	Idle      Reason = "idle"      // nothing has come for zero-duration
	ByHand    Reason = "by hand"   // an operator, or somebody else, has set another number
	Alert     Reason = "alert"     // POST /system/alert
	Spread    Reason = "spread"    // a node that should have a replica has none
	Undecided Reason = "undecided" // nothing was decided yet
)

// The reasons of [Decide] to leave a function as it is.
const (
	Enough         Reason = "enough"
	AtMax          Reason = "at max"
	Asleep         Reason = "asleep"
	JustRemoved    Reason = "just removed"
	Pinned         Reason = "pinned"
	SwitchedOff    Reason = "switched off"
	UpdateUnderWay Reason = "an update is under way"
	GatewaySilent  Reason = "a gateway is silent"
	NoReports      Reason = "no reports"
	Unread         Reason = "no replica can be read"
	ClusterFull    Reason = "cluster full"
	FailToStart    Reason = "replicas fail to start"
	SoonDrained    Reason = "drained before a replica would be ready"
)

// Decision is how many replicas there should be, and why.
type Decision struct {
	Desired int    `json:"desired"`
	Reason  Reason `json:"reason"`
	// Answer is what this moment's load needs by itself. It bounds removals for the down window; 0: it says nothing.
	Answer int `json:"answer,omitempty"`
}
