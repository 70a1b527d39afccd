package feed

import "time"

// ScaleType is the unit of a function's load, and so of its target.
type ScaleType string

const (
	// ScaleRPS counts requests that arrive in a second.
	ScaleRPS ScaleType = "rps"
	// ScaleCapacity counts requests that are under way at once.
	ScaleCapacity ScaleType = "capacity"
	// ScaleCPU counts thousandths of a processor.
	ScaleCPU ScaleType = "cpu"
	// ScaleQueue counts asynchronous calls that are due or being made.
	ScaleQueue ScaleType = "queue"
)

// Scale is how a function's number of replicas follows its load: its labels com.openfaas.scale.*, defaults filled in.
type Scale struct {
	// Min and Max bound the number of replicas while the function is awake: 1 <= Min <= Max <= 10000.
	Min uint64 `json:"min"`
	Max uint64 `json:"max"`
	// Factor is the step of an alert, in per cent of Max, 0 to 100; 0 means that alerts change nothing.
	Factor uint64 `json:"factor"`
	// Type is the unit of Target. Empty is what a provider that knew no targets has sent.
	Type ScaleType `json:"type"`
	// Target is the load that one replica is meant for, more than 0. Proportion is the part of it to aim at,
	// more than 0 and at most 1.
	Target     float64 `json:"target"`
	Proportion float64 `json:"proportion"`
	// Zero permits the function to sleep after it was idle for ZeroDuration.
	Zero         bool          `json:"zero,omitempty"`
	ZeroDuration time.Duration `json:"zero_duration"`
	// DownWindow is how long a need of replicas keeps them from being removed.
	DownWindow time.Duration `json:"down_window"`
}

// Share is the load that is aimed at for one replica, in the unit of Type.
func (s Scale) Share() float64 { return s.Target * s.Proportion }

// Pinned is true for a function whose number of replicas an operator alone changes.
func (s Scale) Pinned() bool { return s.Min == s.Max }
