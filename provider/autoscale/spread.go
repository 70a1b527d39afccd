package autoscale

import (
	"time"

	"waggle/provider/feed"
)

const (
	// unevenFor is how long replicas must stand on too few nodes before others are started.
	unevenFor = 20 * time.Second
	// maxSpreadWait bounds the wait between attempts that change nothing, as where a node has no room.
	maxSpreadWait = time.Hour
)

// spreading follows whether the replicas of a function are on as many nodes as its minimum, or as all nodes that take them.
// Swarm moves replicas away from a node that fails and leaves them there when it returns, so that the next failure may
// take all. But it starts further ones where there are fewest, and ends those where there are most. So a spread adds
// replicas, which the down window takes away again.
type spreading struct {
	takers int // nodes that may get a replica
	used   int // nodes that have one that runs or starts
	// due is when replicas are added if nothing changes; zero: nothing is wrong. The wait after that doubles.
	due  time.Time
	wait time.Duration
}

// follow takes over what a table says. A function whose minimum is one is always spread.
func (s *spreading) follow(fn *feed.Function) {
	if fn.Scale.Min < 2 {
		s.takers, s.used = 0, 0
		return
	}
	nodes := make(map[string]bool, len(fn.Replicas))
	for _, r := range fn.Replicas {
		if r.State != feed.Draining {
			nodes[r.Node] = true
		}
	}
	s.takers, s.used = fn.Nodes, len(nodes)
}

// more is how many replicas are to be added now to those that there are.
func (s *spreading) more(p Policy, r Replicas, now time.Time) int {
	lacking := min(p.least(), r.Desired, s.takers) - s.used
	switch {
	case lacking <= 0:
		s.due, s.wait = time.Time{}, unevenFor
	case r.Ready != r.Desired || r.Updating || p.Off:
	case s.due.IsZero():
		s.due = now.Add(s.wait)
	case !now.Before(s.due):
		s.wait = min(2*s.wait, maxSpreadWait)
		s.due = now.Add(s.wait)
		return max(min(lacking, p.most()-r.Desired), 0)
	}
	return 0
}
