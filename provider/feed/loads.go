package feed

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// key names a function.
type key struct{ name, namespace string }

// maxGateways bounds how many gateway processes are remembered; the one silent for longest makes room.
const maxGateways = 1024

// loadBook adds up reports so that restarts on either side never make a counter fall.
type loadBook struct {
	ttl time.Duration

	mu       sync.Mutex
	totals   map[key]Load                // guarded by mu; counters only
	gateways map[gatewayProcess]lastSeen // guarded by mu
}

// gatewayProcess tells two lives of one gateway apart: a new epoch counts from zero again.
type gatewayProcess struct{ gateway, epoch string }

type lastSeen struct {
	at          time.Time
	loads       map[key]Load
	unreachable []Unreachable
	// forgotten are those of loads that were removed, and when.
	forgotten map[key]time.Time
}

// crossing is how long after a function's removal reports may come that were made before their gateway knew of it.
const crossing = 15 * time.Second

func (b *loadBook) init(ttl time.Duration) {
	b.ttl = ttl
	b.totals = make(map[key]Load)
	b.gateways = make(map[gatewayProcess]lastSeen)
}

// add takes in one report: what a counter grew by since the same process's last report joins the total.
func (b *loadBook) add(r Report, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	who := gatewayProcess{r.Gateway, r.Epoch}
	before, known := b.gateways[who]
	if !known {
		b.makeRoom()
	}
	loads := make(map[key]Load, len(r.Functions))
	forgotten := make(map[key]time.Time)
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
			loads[k], forgotten[k] = l.idle(), at
			continue
		}
		loads[k] = l
		sum := b.totals[k]
		sum.Started += l.Started - old.Started
		sum.Completed += l.Completed - old.Completed
		b.totals[k] = sum
	}
	// A function that this report leaves out keeps its counter baseline: it may come back in the next table.
	for k, l := range before.loads {
		if _, reported := loads[k]; reported {
			continue
		}
		if at, gone := before.forgotten[k]; gone {
			if now.Sub(at) >= crossing {
				continue
			}
			forgotten[k] = at
		}
		loads[k] = l.idle()
	}
	b.gateways[who] = lastSeen{at: now, loads: loads, unreachable: r.Unreachable, forgotten: forgotten}
}

// idle is l without what is under way.
func (l Load) idle() Load {
	l.Inflight, l.Queued, l.Pending = 0, 0, 0
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

func (b *loadBook) one(k key, now time.Time) Load {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sum(k, now)
}

// sum requires mu.
func (b *loadBook) sum(k key, now time.Time) Load {
	total := b.totals[k]
	total.Name, total.Namespace = k.name, k.namespace
	for _, seen := range b.gateways {
		if now.Sub(seen.at) <= b.ttl {
			total.Inflight += seen.loads[k].Inflight
			total.Queued += seen.loads[k].Queued
			total.Pending += seen.loads[k].Pending
		}
	}
	return total
}

func (b *loadBook) all(now time.Time) []Load {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Load, 0, len(b.totals))
	for k := range b.totals {
		out = append(out, b.sum(k, now))
	}
	slices.SortFunc(out, func(a, b Load) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// known takes back what was forgotten of the functions of t: they are here again, perhaps before a gateway noticed that they
// were gone.
func (b *loadBook) known(t Table) {
	b.mu.Lock()
	defer b.mu.Unlock()
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
	delete(b.totals, k)
	for _, seen := range b.gateways {
		if l, known := seen.loads[k]; known {
			seen.loads[k], seen.forgotten[k] = l.idle(), now
		}
	}
}

// unreachable is what gateways have reported within the ttl, by replica; of two reports the one made last.
func (b *loadBook) unreachable(now time.Time) map[string]Unreachable {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, newest := make(map[string]Unreachable), make(map[string]time.Time)
	for _, seen := range b.gateways {
		if now.Sub(seen.at) > b.ttl {
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
		if !seen.at.Before(t) {
			all = append(all, who)
		}
	}
	return all
}
