package vote

import (
	"fmt"
	"io"
	"sync/atomic"
)

// stats are counters since the start; all of them are safe for concurrent use.
type stats struct {
	recorded, kept, refused, unconfirmed, rejected, batches, copied, single atomic.Uint64
}

// WriteMetrics adds the function's own lines to the server's /metrics.
func (h *handler) WriteMetrics(w io.Writer) {
	s := h.stats
	fmt.Fprint(w, "# HELP vote_ballots_total Ballots by what became of them.\n# TYPE vote_ballots_total counter\n")
	fmt.Fprintf(w, "vote_ballots_total{outcome=\"recorded\"} %d\n", s.recorded.Load())
	fmt.Fprintf(w, "vote_ballots_total{outcome=\"kept\"} %d\n", s.kept.Load())
	fmt.Fprintf(w, "vote_ballots_total{outcome=\"refused\"} %d\n", s.refused.Load())
	fmt.Fprintf(w, "vote_ballots_total{outcome=\"unconfirmed\"} %d\n", s.unconfirmed.Load())
	fmt.Fprintf(w, "vote_ballots_total{outcome=\"rejected\"} %d\n", s.rejected.Load())
	fmt.Fprint(w, "# HELP vote_capture_batches_total Pipelines sent to Redis.\n# TYPE vote_capture_batches_total counter\n")
	fmt.Fprintf(w, "vote_capture_batches_total %d\n", s.batches.Load())
	fmt.Fprint(w, "# HELP vote_copies_total Stored votes by the copies they have.\n# TYPE vote_copies_total counter\n")
	fmt.Fprintf(w, "vote_copies_total{copies=\"2\"} %d\n", s.copied.Load())
	fmt.Fprintf(w, "vote_copies_total{copies=\"1\"} %d\n", s.single.Load())
	fmt.Fprint(w, "# HELP vote_capture_queue Votes waiting for a pipeline.\n# TYPE vote_capture_queue gauge\n")
	fmt.Fprintf(w, "vote_capture_queue %d\n", len(h.capture.queue))
	ready := 0
	if h.Ready() == nil {
		ready = 1
	}
	fmt.Fprint(w, "# HELP vote_ready Whether this replica's Redis takes votes.\n# TYPE vote_ready gauge\n")
	fmt.Fprintf(w, "vote_ready %d\n", ready)
}
