// Package feed carries the replica table from the provider to every gateway, and the gateways' load back.
//
// In: the provider's watch of Swarm publishes a [Table] whenever it changed. Out: each gateway holds the newest
// table it has received and routes by it alone. A table is always whole, never a difference, so a gateway that
// missed any number of them is right again with the next one; without a provider it goes on with the last.
package feed

import "time"

// State is where a replica stands in its life.
type State string

const (
	// Starting means the container exists but its health check has not passed: no request goes there.
	Starting State = "starting"
	// Ready means the replica takes requests.
	Ready State = "ready"
	// Draining means Swarm is about to stop it, or has asked it to stop: no new request goes there, running ones finish.
	Draining State = "draining"
)

// Table is every function the provider knows, at one moment. It is immutable once published.
type Table struct {
	// Epoch names the provider process that made the table; Revision grows by one with each change within an epoch.
	Epoch    string `json:"epoch"`
	Revision uint64 `json:"revision"`
	// Functions is sorted by namespace, then name.
	Functions []Function `json:"functions"`
}

// Function is one deployed function and what a gateway must know to invoke it.
type Function struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Service is the Swarm service's name; tasks.<Service> resolves on the functions overlay.
	Service string `json:"service"`
	// Desired is the number of replicas Swarm is asked to run; 0 means scaled to zero.
	Desired uint64 `json:"desired"`
	// Min and Max are the bounds of com.openfaas.scale.min and .max after defaults.
	Min uint64 `json:"min"`
	Max uint64 `json:"max"`
	// MaxInflight is the most requests one replica accepts at once, from the function's max_inflight; 0 means no limit.
	MaxInflight int `json:"max_inflight,omitempty"`
	// ExecTimeout and WriteTimeout are what the function's own settings of these names allow one call; 0: not set.
	ExecTimeout  time.Duration `json:"exec_timeout,omitempty"`
	WriteTimeout time.Duration `json:"write_timeout,omitempty"`
	// CORS lets pages of other origins call the function (annotations com.waggle.cors.*); nil leaves that to the function.
	CORS *CORS `json:"cors,omitempty"`
	// Idempotent permits repeating a request whose outcome is unknown (annotation com.waggle.idempotent).
	Idempotent bool `json:"idempotent,omitempty"`
	// ScaleType and ScaleTarget are com.openfaas.scale.type and .target after defaults, for the gauge
	// gateway_service_target_load; an empty type publishes no gauge.
	ScaleType   string  `json:"scale_type,omitempty"`
	ScaleTarget float64 `json:"scale_target,omitempty"`
	// HealthPath is asked before a fresh replica is trusted (annotation com.waggle.health.path); never empty.
	HealthPath string `json:"health_path"`
	// Retry is what the annotations com.openfaas.retry.* say; nil says nothing.
	Retry *Retry `json:"retry,omitempty"`
	// Replicas is sorted by ID.
	Replicas []Replica `json:"replicas,omitempty"`
}

// CORS says which web pages may call a function from another origin than its own.
type CORS struct {
	// Origins are scheme://host[:port]; a single "*" allows every origin.
	Origins []string `json:"origins"`
	// Credentials allows cookies and HTTP authentication; never together with "*".
	Credentials bool `json:"credentials,omitempty"`
}

// Retry is how the asynchronous calls of a function are repeated. What is nil or empty is left to the gateway's settings.
type Retry struct {
	// Attempts is how often a call is sent again; 0 is never.
	Attempts *int `json:"attempts,omitempty"`
	// Codes are the statuses of the function after which a call is sent again.
	Codes []int `json:"codes,omitempty"`
	// MinWait and MaxWait bound the pause before each repetition.
	MinWait *time.Duration `json:"min_wait,omitempty"`
	MaxWait *time.Duration `json:"max_wait,omitempty"`
}

// Replica is one task of a function's service.
type Replica struct {
	// ID is the Swarm task's id.
	ID string `json:"id"`
	// Address is host:port on the functions overlay.
	Address string `json:"address"`
	// Node is the id of the Swarm node it runs on.
	Node  string `json:"node"`
	State State  `json:"state"`
}

// Load is what one gateway has seen of one function (counters) or sees now (gauges).
type Load struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Started and Completed count invocations in one life of the function, which ends when the gateway hears that it was
	// removed; Life grows from one to the next within one Report.Epoch.
	Life      uint64 `json:"life"`
	Started   uint64 `json:"started"`
	Completed uint64 `json:"completed"`
	// Inflight is the number of invocations being forwarded now, Queued of those held or waiting for a replica.
	Inflight int `json:"inflight"`
	Queued   int `json:"queued"`
	// Pending is the number of asynchronous calls that wait on this gateway's node, those of a later retry included.
	Pending int `json:"pending,omitempty"`
}

// Report is one gateway's load, sent each second.
type Report struct {
	// Gateway names the sender (its container's hostname), Epoch the process: counters restart with it.
	Gateway   string    `json:"gateway"`
	Epoch     string    `json:"epoch"`
	At        time.Time `json:"at"`
	Functions []Load    `json:"functions"`
	// Unreachable are the replicas that Swarm calls running and that do not answer this gateway's probes.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Unreachable is a replica that Swarm calls running and that a gateway cannot use.
type Unreachable struct {
	// ID is the Swarm task's id.
	ID string `json:"id"`
	// Reason is a clause for people: "does not answer GET /_/health on 10.0.1.5:8080: connection refused".
	Reason string `json:"reason"`
	// Since is when the first of the probes failed that have all failed since.
	Since time.Time `json:"since"`
}
