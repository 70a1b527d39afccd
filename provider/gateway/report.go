package gateway

import (
	"time"

	"waggle/provider/feed"
	"waggle/provider/gateway/upstream"
)

const (
	// urgentEvery is the least time between two reports of one function out of turn.
	urgentEvery = 300 * time.Millisecond
	// doubled and more are by how much what is under way exceeds what was said before it is reported out of turn.
	doubled, more = 2, 5
)

// reporter tells the provider of the gateway's load. Its methods are called by one goroutine.
type reporter struct {
	gateway *Gateway
	said    map[*upstream.Set]said
}

// said is what was last reported of a function.
type said struct {
	inflight, queued int
	at               time.Time // of the last report out of turn
	again            bool      // another one is to follow it, which shows whether the load goes on
}

// whole is the load of every function.
func (r *reporter) whole() feed.Report {
	sets := r.gateway.registry.Sets()
	report := r.head(len(sets))
	report.Unreachable = r.gateway.registry.Unreachable()
	before := r.said
	r.said = make(map[*upstream.Set]said, len(sets))
	for _, s := range sets {
		load := r.load(s)
		report.Functions = append(report.Functions, load)
		last := before[s]
		r.said[s] = said{load.Inflight, load.Queued, last.at, last.again}
	}
	return report
}

// urgent is the load of the functions whose need of replicas cannot wait for the next whole report. They hold more
// requests than was reported, or have twice as many under way.
func (r *reporter) urgent() (report feed.Report, moved bool) {
	now := time.Now()
	for s, last := range r.said {
		if now.Sub(last.at) < urgentEvery {
			continue
		}
		inflight, queued := s.Inflight(), s.Queued()
		again := last.again
		if !again && (queued == 0 || queued <= last.queued) && inflight+queued < doubled*(last.inflight+last.queued)+more {
			continue
		}
		if !moved {
			report, moved = r.head(1), true
			report.Partial = true
		}
		load := r.load(s)
		report.Functions = append(report.Functions, load)
		r.said[s] = said{load.Inflight, load.Queued, now, !again}
	}
	return report, moved
}

func (r *reporter) head(functions int) feed.Report {
	return feed.Report{Gateway: r.gateway.hostname, Epoch: r.gateway.epoch, Node: r.gateway.cfg.NodeID, At: time.Now(),
		Functions: make([]feed.Load, 0, functions)}
}

func (r *reporter) load(s *upstream.Set) feed.Load {
	pending, due := r.gateway.pending(s.Label)
	return feed.Load{Name: s.Name, Namespace: s.Namespace, Life: s.Life, Started: s.Started.Load(), Completed: s.Completed.Load(),
		Inflight: s.Inflight(), Queued: s.Queued(), Pending: pending, Due: due}
}
