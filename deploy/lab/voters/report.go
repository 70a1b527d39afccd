package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"waggle/deploy/lab/voters/books"
	"waggle/deploy/lab/voters/crowd"
	"waggle/deploy/lab/voters/judge"
)

// report is the result of a run, as -json writes it. Latencies are in milliseconds, spans in seconds.
type report struct {
	// Clean is true if the run was judged, the drain complete and every promise kept.
	Clean   bool           `json:"clean"`
	Verdict *judge.Verdict `json:"verdict,omitempty"`
	Load    load           `json:"load"`
	Ledger  *books.Growth  `json:"ledger,omitempty"`
	Seed    uint64         `json:"seed"`
	// DrainSeconds is from the last vote to the second calm reading of the ledger.
	DrainSeconds float64 `json:"drain_seconds"`
	// Unjudged says why the verdict is no proof: votes may still be on their way, or the results could not be compared.
	Unjudged []string `json:"unjudged,omitempty"`
}

// load is how the run went for its voters.
type load struct {
	Voters     int64                  `json:"voters"`
	TurnedAway int64                  `json:"turned_away"`
	Pages      int64                  `json:"pages"`
	Posts      int64                  `json:"posts"`
	Acked      int64                  `json:"acked"`
	Seconds    float64                `json:"seconds"`
	AckedRate  float64                `json:"acked_per_second"`
	Errors     map[string]int64       `json:"errors"`
	Latency    map[string]percentiles `json:"latency_ms"`
}

type percentiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

func loadOf(s *crowd.Stats, took time.Duration) load {
	return load{
		Voters: s.Arrived.Load(), TurnedAway: s.TurnedAway.Load(), Pages: s.Pages.Load(), Posts: s.Posts.Load(),
		Acked: s.Acked.Load(), Seconds: took.Seconds(), AckedRate: float64(s.Acked.Load()) / max(took.Seconds(), 1e-3),
		Errors: s.Errors(),
		Latency: map[string]percentiles{
			"ballot": percentilesOf(&s.Page), "vote": percentilesOf(&s.Post), "arrival to ack": percentilesOf(&s.Ack),
		},
	}
}

func percentilesOf(h *crowd.Histogram) percentiles {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return percentiles{
		P50: ms(h.Quantile(0.5)), P90: ms(h.Quantile(0.9)), P99: ms(h.Quantile(0.99)), P999: ms(h.Quantile(0.999)), Max: ms(h.Max()),
	}
}

// exit is the program's status.
func (r report) exit() int {
	switch {
	case r.Verdict != nil && !r.Verdict.Clean():
		return exitBroken
	case len(r.Unjudged) > 0:
		return exitUnjudged
	}
	return exitKept
}

// table writes the report for people.
func (r report) table(w io.Writer) error {
	var b strings.Builder
	l := r.Load
	fmt.Fprintf(&b, "\nvoters %d   turned away %d   ballots fetched %d   votes sent %d   acknowledged %d in %.1f s: %.0f votes/s   errors %s\n\n",
		l.Voters, l.TurnedAway, l.Pages, l.Posts, l.Acked, l.Seconds, l.AckedRate, crowd.Kinds(l.Errors))
	fmt.Fprintf(&b, "%-16s %9s %9s %9s %9s %9s   ms\n", "latency", "p50", "p90", "p99", "p99.9", "max")
	for _, name := range slices.Sorted(maps.Keys(l.Latency)) {
		p := l.Latency[name]
		fmt.Fprintf(&b, "%-16s %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, p.P50, p.P90, p.P99, p.P999, p.Max)
	}
	if r.Verdict != nil {
		r.verdict(&b)
	}
	for _, why := range r.Unjudged {
		fmt.Fprintf(&b, "no proof: %s\n", why)
	}
	if r.Verdict == nil {
		b.WriteString("no proof: -load-only, nothing was judged\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r report) verdict(b *strings.Builder) {
	v, g := r.Verdict, r.Ledger
	fmt.Fprintf(b, "\nledger: %d entries captured, %d rejected, %d lost, %d recovered from copies, %d with one copy, %d gaps",
		g.Added, g.Rejected, g.Lost, g.Recovered, g.Single, g.Gaps)
	for _, node := range slices.Sorted(maps.Keys(g.Nodes)) {
		fmt.Fprintf(b, "   %s %d", node, g.Nodes[node])
	}
	fmt.Fprintf(b, "   seen drained %.1f s after the last vote\n\n", r.DrainSeconds)
	for _, line := range []struct {
		name    string
		n       int64
		breaks  bool
		meaning string
	}{
		{"acked", v.Acked, false, "ballots that were promised to count"},
		{"unknown", v.Unknown, false, "ballots without a usable answer"},
		{"refused", v.Refused, false, "ballots that were never sent, or refused"},
		{"unconfirmed", v.Unconfirmed, false, "counted votes whose voter never got the answer: right"},
		{"strangers", v.Strangers, false, "new votes of people who are not of this run"},
		{"outdated", v.Outdated, true, "voters whose counted vote is older than the promised one"},
		{"missing", v.Missing, true, "voters who were promised a vote and have none"},
		{"wrong", v.Wrong, true, "counted votes that nobody cast, or that were refused"},
		{"drift", v.Drift, true, "difference between the tally, or the results shown, and the votes"},
		{"concealed", v.Concealed, true, "missing votes of which the ledger says nothing, or a gap under results that call it whole"},
		{"unaccounted", v.Unaccounted, true, "captured entries that are neither counted nor pending"},
	} {
		mark := ""
		if line.breaks {
			mark = "ok"
			if line.n != 0 {
				mark = "BROKEN"
			}
		}
		fmt.Fprintf(b, "%-12s %9d  %-6s  %s\n", line.name, line.n, mark, line.meaning)
	}
	fmt.Fprintln(b)
}

func (r report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
