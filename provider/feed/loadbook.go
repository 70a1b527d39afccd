package feed

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

const (
	// silentAfter is how long a gateway may say nothing: two of its reports may be lost.
	silentAfter = 3 * time.Second
	// silentFor is how long a silent one is still counted.
	silentFor = 5 * time.Minute
	// maxGateways bounds how many gateway processes are remembered; the one silent for longest makes room.
	maxGateways = 1024
	// crossing is how long after a function's removal reports may come that were made before their gateway knew of it.
	crossing = 15 * time.Second
)

// key names a function.
type key struct{ name, namespace string }

// loadBook keeps the newest report of each process, and adds counters up so that restarts on either side never make a sum
// fall.
type loadBook struct {
	mu        sync.Mutex
	completed map[key]uint64              // guarded by mu; over all processes there ever were
	gateways  map[gatewayProcess]lastSeen // guarded by mu
	down      []string                    // guarded by mu; sorted ids of nodes
}

// gatewayProcess tells two lives of one gateway apart: a new epoch counts from zero again.
type gatewayProcess struct{ gateway, epoch string }

type lastSeen struct {
	// first and at are the times of the first report and of the newest.
	first, at time.Time
	node      string
	leaving   bool
	loads     map[key]Load
	// unreachable is what the newest report says.
	unreachable []Unreachable
	// forgotten are those of loads that were removed, and when.
	forgotten map[key]time.Time
}

func (b *loadBook) init() {
	b.completed = make(map[key]uint64)
	b.gateways = make(map[gatewayProcess]lastSeen)
}

// add takes in one report: what a counter grew by since the same process's last report joins the sum.
func (b *loadBook) add(r Report, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	who := gatewayProcess{r.Gateway, r.Epoch}
	before, known := b.gateways[who]
	if !known {
		b.makeRoom()
		before.first = now
	}
	if r.Partial && known {
		b.update(before, r)
		return
	}
	seen := lastSeen{first: before.first, at: now, node: r.Node, leaving: r.Leaving || before.leaving, unreachable: r.Unreachable,
		loads: make(map[key]Load, len(r.Functions)), forgotten: make(map[key]time.Time)}
	for _, l := range r.Functions {
		k := key{l.Name, l.Namespace}
		old := before.loads[k]
		switch {
		case l.Life > old.Life:
			old = Load{} // it was removed and is here again
		case l.Life < old.Life:
			l = old // overtaken
		}
		// A report overtaken by a later one of the same process must not count backwards.
		l.Started, l.Completed = max(l.Started, old.Started), max(l.Completed, old.Completed)
		if at, gone := before.forgotten[k]; gone && l.Life == old.Life && now.Sub(at) < crossing {
			seen.loads[k], seen.forgotten[k] = l.idle(), at
			continue
		}
		seen.loads[k] = l
		b.completed[k] += l.Completed - old.Completed
	}
	// A function that this report leaves out keeps its counter baseline: it may come back in the next table.
	for k, l := range before.loads {
		if _, reported := seen.loads[k]; reported {
			continue
		}
		if at, gone := before.forgotten[k]; gone {
			if now.Sub(at) >= crossing {
				continue
			}
			seen.forgotten[k] = at
		}
		seen.loads[k] = l.idle()
	}
	b.gateways[who] = seen
}

// update takes in a report that cannot wait: all that it does not say stays, the time of the last whole one included. It
// requires mu.
func (b *loadBook) update(seen lastSeen, r Report) {
	for _, l := range r.Functions {
		k := key{l.Name, l.Namespace}
		old := seen.loads[k]
		if _, gone := seen.forgotten[k]; gone || l.Life != old.Life || l.Started < old.Started || l.Completed < old.Completed {
			continue // the next whole report tells what has become of it
		}
		b.completed[k] += l.Completed - old.Completed
		seen.loads[k] = l
	}
}

// idle is l without what is under way.
func (l Load) idle() Load {
	l.Inflight, l.Queued, l.Pending, l.Due = 0, 0, 0, 0
	return l
}

func (b *loadBook) makeRoom() {
	if len(b.gateways) < maxGateways {
		return
	}
	var oldest gatewayProcess
	var at time.Time
	for who, seen := range b.gateways {
		if at.IsZero() || seen.at.Before(at) {
			oldest, at = who, seen.at
		}
	}
	delete(b.gateways, oldest)
}

func (b *loadBook) all(now time.Time) Loads {
	b.mu.Lock()
	defer b.mu.Unlock()
	var loads Loads
	for who, seen := range b.gateways {
		silent := now.Sub(seen.at) > silentAfter
		if seen.leaving || silent && b.gone(who, seen, now) {
			continue
		}
		one := GatewayLoad{Gateway: who.gateway, Epoch: who.epoch, Node: seen.node, Arrived: seen.at, Silent: silent}
		for k, l := range seen.loads {
			if _, gone := seen.forgotten[k]; !gone {
				one.Functions = append(one.Functions, l)
			}
		}
		slices.SortFunc(one.Functions, func(a, b Load) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
		loads.Gateways = append(loads.Gateways, one)
		if silent {
			loads.Silent++
		} else {
			loads.Reporting++
		}
	}
	slices.SortFunc(loads.Gateways, func(a, b GatewayLoad) int {
		return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Epoch, b.Epoch))
	})
	return loads
}

// gone reports whether a silent process is known, or taken, to have ended. It requires mu.
func (b *loadBook) gone(who gatewayProcess, seen lastSeen, now time.Time) bool {
	if _, down := slices.BinarySearch(b.down, seen.node); down || now.Sub(seen.at) > silentFor {
		return true
	}
	for other, its := range b.gateways {
		if its.first.After(seen.at) && (other.gateway == who.gateway || seen.node != "" && its.node == seen.node) {
			return true
		}
	}
	return false
}

// published takes note of a table. What was forgotten of its functions is taken back: they are here again, perhaps before
// a gateway noticed that they were gone.
func (b *loadBook) published(t Table) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = t.Down
	for _, seen := range b.gateways {
		if len(seen.forgotten) == 0 {
			continue
		}
		for _, f := range t.Functions {
			delete(seen.forgotten, key{f.Name, f.Namespace})
		}
	}
}

func (b *loadBook) forget(k key, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.completed, k)
	for _, seen := range b.gateways {
		if l, known := seen.loads[k]; known {
			seen.loads[k], seen.forgotten[k] = l.idle(), now
		}
	}
}

func (b *loadBook) invocations(k key) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.completed[k]
}

// unreachable is what gateways that are not silent have reported, by replica; of two reports the one made last.
func (b *loadBook) unreachable(now time.Time) map[string]Unreachable {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, newest := make(map[string]Unreachable), make(map[string]time.Time)
	for _, seen := range b.gateways {
		if now.Sub(seen.at) > silentAfter {
			continue
		}
		for _, u := range seen.unreachable {
			if seen.at.After(newest[u.ID]) {
				all[u.ID], newest[u.ID] = u, seen.at
			}
		}
	}
	return all
}

// since gives the gateway processes that have reported at t or later.
func (b *loadBook) since(t time.Time) []gatewayProcess {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []gatewayProcess
	for who, seen := range b.gateways {
		if !seen.leaving && !seen.at.Before(t) {
			all = append(all, who)
		}
	}
	return all
}
