package crowd

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Stats is what a run has seen so far. Every field may be read while the run goes on.
type Stats struct {
	// Arrived voters have begun, Finished ones are done, TurnedAway ones never got a ballot.
	Arrived, Finished, TurnedAway atomic.Int64
	// Pages and Posts are requests sent, repeats included; Acked, Unknown and Refused are what the posts led to.
	Pages, Posts, Acked, Unknown, Refused atomic.Int64
	// Page is the time of a ballot request, Post that of a vote request, each from sending to the whole answer.
	Page, Post Histogram
	// Ack is the time from the voter's scheduled arrival to the first acknowledged vote: waiting, ballot, vote and
	// repeats. In an open loop a stalled system therefore shows here, however few requests it lets through.
	Ack Histogram

	recent   atomic.Pointer[Histogram]
	statuses [600]atomic.Int64
	faults   [faultKinds]atomic.Int64
}

// fault is a way for a request to end without a usable status.
type fault uint8

const (
	faultUnsent fault = iota
	faultTimeout
	faultCut
	faultOdd
	faultKinds
)

var faultNames = [faultKinds]string{"unsent", "timeout", "cut", "odd"}

func newStats() *Stats {
	s := &Stats{}
	s.recent.Store(&Histogram{})
	return s
}

// Errors counts, by kind, the answers that a voter should not have got. A kind is a status such as "503", "unsent"
// (no connection), "timeout", "cut" or "odd". "cut" means that the connection was lost before the whole answer, "odd"
// that the answer lacks the needed content.
func (s *Stats) Errors() map[string]int64 {
	out := map[string]int64{}
	for status := range s.statuses {
		if n := s.statuses[status].Load(); n > 0 {
			out[fmt.Sprint(status)] = n
		}
	}
	for kind := range s.faults {
		if n := s.faults[kind].Load(); n > 0 {
			out[faultNames[kind]] = n
		}
	}
	return out
}

func (s *Stats) status(code int) {
	if code < 0 || code >= len(s.statuses) {
		s.faults[faultOdd].Add(1)
		return
	}
	s.statuses[code].Add(1)
}

func (s *Stats) posted(took time.Duration) {
	s.Post.Add(took)
	s.recent.Load().Add(took)
}

// Progress writes a line per tick until over is closed, about the time since the line before.
func (s *Stats) Progress(w io.Writer, voters int, ticks <-chan time.Time, over <-chan struct{}) {
	began := time.Now()
	last, acked := began, int64(0)
	for {
		var now time.Time
		select {
		case now = <-ticks:
		case <-over:
			return
		}
		window := s.recent.Swap(&Histogram{})
		total := s.Acked.Load()
		rate := float64(total-acked) / max(now.Sub(last).Seconds(), 1e-3)
		last, acked = now, total
		_, err := fmt.Fprintf(w, "%4.0fs  voters %d/%d  sent %d  acked %d (%.0f/s)  p50 %s  p99 %s  errors %s\n",
			now.Sub(began).Seconds(), s.Finished.Load(), voters, s.Pages.Load()+s.Posts.Load(), total, rate,
			Short(window.Quantile(0.5)), Short(window.Quantile(0.99)), Kinds(s.Errors()))
		if err != nil {
			return // Whoever wanted to read has gone; the run itself goes on.
		}
	}
}

// Kinds writes counts by kind in one line, sorted; "0" if there are none.
func Kinds(errs map[string]int64) string {
	if len(errs) == 0 {
		return "0"
	}
	var b strings.Builder
	for i, kind := range slices.Sorted(maps.Keys(errs)) {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s:%d", kind, errs[kind])
	}
	return b.String()
}

// Short writes a duration in milliseconds, with as many decimals as it deserves.
func Short(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2fms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0fms", ms)
	}
	return fmt.Sprintf("%.2fs", ms/1000)
}
