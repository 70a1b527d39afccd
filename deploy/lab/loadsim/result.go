package main

import (
	"fmt"
	"io"
	"slices"
)

// result is what a run is judged by.
type result struct {
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Under is for how many seconds the ready replicas could not serve the true rate.
	Under float64 `json:"under_capacity_seconds"`
	// Waited is in request-seconds.
	Waited float64 `json:"request_seconds_waited"`
	// ReplicaSeconds and Ideal, those of one who knows the rate; Cost is their quotient.
	ReplicaSeconds float64 `json:"replica_seconds"`
	Ideal          float64 `json:"ideal_replica_seconds"`
	Cost           float64 `json:"cost"`
	// P99 is the wait that one request in a hundred exceeds, in seconds; Late the per cent that waited longer than one.
	P99       float64 `json:"p99_wait_seconds"`
	Late      float64 `json:"late_percent"`
	Changes   int     `json:"changes"`
	Reversals int     `json:"reversals"`
	Most      int     `json:"most_replicas"`

	waits  []float64
	series []moment
	up     bool // direction of the last change
}

// moment is a second of a run, for the plot.
type moment struct {
	at, rate            float64
	ready, asked, ideal int
	waiting             int
}

func (r *result) change(up bool) {
	if r.Changes > 0 && up != r.up {
		r.Reversals++
	}
	r.up = up
	r.Changes++
}

// add sums runs up.
func (r *result) add(o result) {
	r.Requests, r.Failed = r.Requests+o.Requests, r.Failed+o.Failed
	r.Under, r.Waited = r.Under+o.Under, r.Waited+o.Waited
	r.ReplicaSeconds, r.Ideal = r.ReplicaSeconds+o.ReplicaSeconds, r.Ideal+o.Ideal
	r.Changes, r.Reversals, r.Most = r.Changes+o.Changes, r.Reversals+o.Reversals, max(r.Most, o.Most)
	r.waits = append(r.waits, o.waits...)
}

// settle computes what sums cannot.
func (r *result) settle() {
	r.Cost = r.ReplicaSeconds / r.Ideal
	if len(r.waits) == 0 {
		return
	}
	slices.Sort(r.waits)
	r.P99 = r.waits[len(r.waits)*99/100]
	first, _ := slices.BinarySearch(r.waits, 1+1e-9)
	r.Late = 100 * float64(len(r.waits)-first) / float64(len(r.waits))
}

const header = "| %s | algorithm | under capacity s | waited request-s | late > 1 s %% | p99 wait s | failed | cost | changes | reversals |\n|---|---|---|---|---|---|---|---|---|---|\n"

func (r result) row(out io.Writer, curve, algorithm string) {
	fmt.Fprintf(out, "| %s | %s | %.1f | %.0f | %.2f | %.2f | %d | %.2f | %d | %d |\n", curve, algorithm, r.Under, r.Waited, r.Late, r.P99,
		r.Failed, r.Cost, r.Changes, r.Reversals)
}
