package feed

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"
)

const (
	// usageTTL is how long a replica's usage counts: three rounds of a gateway, so that two may be missed.
	usageTTL = 30 * time.Second
	// maxUsages bounds how many replicas one report may be about, and how many are remembered.
	maxUsages = 100_000
	// maxUsageReport bounds one report: so many at about 80 bytes each.
	maxUsageReport = 8 << 20
	// maxMilliCPU and maxMemory are far above any machine: a figure beyond them is none.
	maxMilliCPU = 1e8
	maxMemory   = 1 << 60
	// usageTimeout bounds one report's way.
	usageTimeout = 5 * time.Second
)

// Usage is what one replica consumes, as a gateway has read it from the replica itself. A manager's engine sees
// only the containers of its own node.
type Usage struct {
	// ID is the Swarm task's id.
	ID string `json:"id"`
	// CPU is in thousandths of a processor, averaged over the time between two readings; Memory in bytes.
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memory"`
}

// Plausible reports whether a machine can be that large. A replica's figures are its own word. So whoever meets
// an implausible one leaves it out, and it spoils no report of others.
func (u Usage) Plausible() bool {
	return u.CPU >= 0 && u.CPU <= maxMilliCPU && u.Memory >= 0 && u.Memory <= maxMemory
}

// UsageReport is what a gateway has read since its last one.
type UsageReport struct {
	Replicas []Usage `json:"replicas"`
}

func (r UsageReport) validate() error {
	if len(r.Replicas) > maxUsages {
		return fmt.Errorf("replicas are %d: legal is at most %d", len(r.Replicas), maxUsages)
	}
	for i, u := range r.Replicas {
		if u.ID == "" || len(u.ID) > maxNameLen {
			return fmt.Errorf("replicas[%d].id is %d characters long: legal is 1 to %d", i, len(u.ID), maxNameLen)
		}
	}
	return nil
}

// UsageBook remembers the newest usage of each replica, whichever gateway reported it, for [usageTTL]. The zero value is
// ready; its methods may be called concurrently.
type UsageBook struct {
	mu       sync.Mutex
	replicas map[string]usageEntry // guarded by mu
	swept    time.Time             // guarded by mu; when those that count no longer were last dropped
}

type usageEntry struct {
	Usage
	at time.Time
}

// Add takes in a report that has just arrived. What is newest is decided here, by arrival: the gateways' clocks differ.
func (b *UsageBook) Add(report UsageReport, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.replicas == nil {
		b.replicas = make(map[string]usageEntry)
	}
	if now.Sub(b.swept) > usageTTL {
		b.swept = now
		maps.DeleteFunc(b.replicas, func(_ string, e usageEntry) bool { return now.Sub(e.at) > usageTTL })
	}
	for _, u := range report.Replicas {
		if !u.Plausible() {
			continue
		}
		if _, known := b.replicas[u.ID]; known || len(b.replicas) < maxUsages {
			b.replicas[u.ID] = usageEntry{u, now}
		}
	}
}

// Of is the usage of a replica; ok is false for one that no gateway has reported lately.
func (b *UsageBook) Of(replica string, now time.Time) (u Usage, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, found := b.replicas[replica]
	if !found || now.Sub(e.at) > usageTTL {
		return Usage{}, false
	}
	return e.Usage, true
}

func (h *Hub) serveUsage(w http.ResponseWriter, r *http.Request) {
	var report UsageReport
	if !decode(w, r, maxUsageReport, &report) {
		return
	}
	if err := report.validate(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.cfg.Usages.Add(report, time.Now())
	w.WriteHeader(http.StatusAccepted)
}

// ReportUsage hands on what a gateway has read. A report that is lost is made up for by the next.
func (c *Client) ReportUsage(ctx context.Context, report UsageReport) error {
	return c.post(ctx, "/feed/usage", usageTimeout, report)
}
