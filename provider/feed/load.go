package feed

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

const (
	// maxReport bounds one load report: 5,000 functions at about 200 bytes each, with room.
	maxReport = 4 << 20
	// maxUnreachable bounds the replicas that one report calls unreachable, maxReason the text for each.
	maxUnreachable, maxReason = 1000, 512
	// goodbyeTimeout bounds the last report's way.
	goodbyeTimeout = 2 * time.Second
)

// Load is what one gateway process has seen of one function (counters) or sees now (gauges).
type Load struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Started and Completed count invocations in one life of the function, which ends when the gateway hears
	// that it was removed. Life grows from one to the next within one Report.Epoch. An invocation has started
	// when its request has arrived, held or not.
	Life      uint64 `json:"life"`
	Started   uint64 `json:"started"`
	Completed uint64 `json:"completed"`
	// Inflight is the number of invocations being forwarded now, Queued of those held or waiting for a replica.
	Inflight int `json:"inflight"`
	Queued   int `json:"queued"`
	// Pending is the number of asynchronous calls that wait on this gateway's node, retries included. Due is
	// how many of them are due now, counted up to 10,000.
	Pending int `json:"pending,omitempty"`
	Due     int `json:"due,omitempty"`
}

// Report is one gateway's load, sent each second.
type Report struct {
	// Gateway names the sender (its container's hostname), Epoch the process: counters restart with it.
	Gateway string `json:"gateway"`
	Epoch   string `json:"epoch"`
	// Node is the id of the sender's Swarm node, empty if it does not know.
	Node string    `json:"node,omitempty"`
	At   time.Time `json:"at"`
	// Leaving marks the last report of a process that ends in order.
	Leaving bool `json:"leaving,omitempty"`
	// Partial marks a report out of turn, which says nothing of what it leaves out.
	Partial bool `json:"partial,omitempty"`
	// Functions that a whole report leaves out are idle.
	Functions []Load `json:"functions"`
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

// Loads is what each gateway process has reported last. The counters are each process's own: a rate is the difference
// between two reports of one process, and a process's first report makes none.
type Loads struct {
	// Gateways is sorted by Gateway, then Epoch. A process is left out once it has said goodbye, is on a node
	// that is down, or has been silent for 5 minutes. A silent one is also left out once a younger one has its
	// name or runs on its node.
	Gateways []GatewayLoad
	// Reporting of them have reported within the last 3 seconds; Silent have not: they may be gone, or serve on, cut off
	// from the provider.
	Reporting, Silent int
}

// GatewayLoad is one gateway process's newest report.
type GatewayLoad struct {
	Gateway, Epoch, Node string
	// Arrived is when it came, by the provider's clock.
	Arrived time.Time
	Silent  bool
	// Functions is sorted by namespace, then name, and includes those that are idle.
	Functions []Load
}

// Loads is what every gateway has reported last. Its slices are the caller's.
func (h *Hub) Loads() Loads { return h.loads.all(time.Now()) }

// Unreachable gives, by id, each replica that a gateway which is not silent has reported as not answering, with
// the newest such report.
func (h *Hub) Unreachable() map[string]Unreachable { return h.loads.unreachable(time.Now()) }

// Invocations is the number of completed invocations of a function that any gateway has reported since this
// process started. It includes what gateways still running had completed before. It never decreases.
func (h *Hub) Invocations(name, namespace string) float64 {
	return float64(h.loads.invocations(key{name, namespace}))
}

// CountingSince is the time from which on [Hub.Invocations] leaves nothing out.
func (h *Hub) CountingSince() time.Time { return h.since }

// Forget drops the counters of a function that no longer exists.
func (h *Hub) Forget(name, namespace string) { h.loads.forget(key{name, namespace}, time.Now()) }

func (h *Hub) serveLoad(w http.ResponseWriter, r *http.Request) {
	var report Report
	if !decode(w, r, maxReport, &report) {
		return
	}
	if err := report.validate(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	now := time.Now()
	h.loads.add(report, now)
	if !report.Leaving {
		h.cfg.Reported(GatewayLoad{Gateway: report.Gateway, Epoch: report.Epoch, Node: report.Node, Arrived: now, Functions: report.Functions}, report.Partial)
	}
	w.WriteHeader(http.StatusAccepted)
}

func (r Report) validate() error {
	for _, name := range []struct{ field, value string }{{"gateway", r.Gateway}, {"epoch", r.Epoch}} {
		if name.value == "" || len(name.value) > maxNameLen {
			return fmt.Errorf("%s is %d characters long: must be 1 to %d", name.field, len(name.value), maxNameLen)
		}
	}
	if len(r.Node) > maxNameLen {
		return fmt.Errorf("node is %d characters long: must be 0 to %d", len(r.Node), maxNameLen)
	}
	if len(r.Unreachable) > maxUnreachable {
		return fmt.Errorf("unreachable names %d replicas: must be at most %d", len(r.Unreachable), maxUnreachable)
	}
	for i, u := range r.Unreachable {
		if u.ID == "" || len(u.ID) > maxNameLen || len(u.Reason) > maxReason {
			return fmt.Errorf("unreachable[%d] has an id of %d and a reason of %d characters: must be 1 to %d and at most %d",
				i, len(u.ID), len(u.Reason), maxNameLen, maxReason)
		}
	}
	seen := make(map[key]bool, len(r.Functions))
	for i, l := range r.Functions {
		switch k := (key{l.Name, l.Namespace}); {
		case l.Name == "" || len(l.Name) > maxNameLen:
			return fmt.Errorf("functions[%d].name is %d characters long: must be 1 to %d", i, len(l.Name), maxNameLen)
		case len(l.Namespace) > maxNameLen:
			return fmt.Errorf("functions[%d].namespace is %d characters long: must be 0 to %d", i, len(l.Namespace), maxNameLen)
		case seen[k]:
			return fmt.Errorf("functions[%d] repeats %s in namespace %q", i, l.Name, l.Namespace)
		case l.Inflight < 0 || l.Queued < 0 || l.Pending < 0 || l.Due < 0:
			return fmt.Errorf("functions[%d] has inflight %d, queued %d, pending %d and due %d: each must be 0 or more", i, l.Inflight, l.Queued, l.Pending, l.Due)
		default:
			seen[k] = true
		}
	}
	return nil
}

// checkEvery is how often it is checked whether a report is urgent. With the time to the provider and its
// answer, replicas are then requested within a tenth of a second.
const checkEvery = 50 * time.Millisecond

// report sends the load each ReportEvery, at once if it is urgent, and once more when ctx is done. A report
// that fails is followed by the next, which contains it.
func (c *Client) report(ctx context.Context) {
	if c.cfg.Report == nil {
		return
	}
	tick := time.NewTicker(c.cfg.ReportEvery)
	defer tick.Stop()
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		var report Report
		send := true
		select {
		case <-ctx.Done():
			c.sayGoodbye(context.WithoutCancel(ctx))
			return
		case <-tick.C:
			report = c.cfg.Report()
		case <-check.C:
			report, send = c.cfg.Urgent()
		}
		if _, gone := c.GoneSince(); gone || !send {
			continue
		}
		if err := c.post(ctx, "/feed/load", 2*c.cfg.ReportEvery, report); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Debug("reporting the load failed", "error", err)
		}
	}
}

// sayGoodbye lets the provider forget this process at once: one that is merely silent holds up what must not be done blindly.
func (c *Client) sayGoodbye(ctx context.Context) {
	if _, gone := c.GoneSince(); gone {
		return
	}
	last := c.cfg.Report()
	last.Leaving = true
	if err := c.post(ctx, "/feed/load", goodbyeTimeout, last); err != nil {
		c.cfg.Logger.Debug("saying goodbye to the provider failed", "error", err)
	}
}
