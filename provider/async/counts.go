package async

// counts is what one function has in the index.
type counts struct {
	function         string
	waiting, running [kinds]int
	// oldest is when the oldest of its calls was accepted, Unix ms; 0: there is none.
	oldest int64
}

// counts reads every call: a few milliseconds for a hundred thousand.
func (x *index) counts() []counts {
	x.mu.Lock()
	defer x.mu.Unlock()
	oldest := make(map[*account]int64, len(x.accounts))
	for _, e := range x.byID {
		if e.life != resting && e.life != storing && (oldest[e.account] == 0 || e.state.Accepted < oldest[e.account]) {
			oldest[e.account] = e.state.Accepted
		}
	}
	all := make([]counts, 0, len(x.accounts))
	for _, a := range x.accounts {
		c := counts{function: a.function, running: a.running, oldest: oldest[a]}
		for k := range kinds {
			c.waiting[k] = len(a.lanes[k])
		}
		all = append(all, c)
	}
	return all
}

// maxDue bounds how far due calls are counted: no decision needs more, and counting blocks the index.
const maxDue = 10_000

// pending is the number of a function's calls that wait, and of those that are due at now, Unix ms, counted up to maxDue.
func (x *index) pending(function string, now int64) (all, due int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.accounts[function]
	if a == nil {
		return 0, 0
	}
	return len(a.lanes[invocation]), a.lanes[invocation].dueBy(now, 0, 0)
}

// dueBy adds to count the entries due at now in the heap below at: none of those below an entry is due before it.
func (l lane) dueBy(now int64, at, count int) int {
	if at >= len(l) || l[at].due > now || count >= maxDue {
		return count
	}
	return l.dueBy(now, 2*at+2, l.dueBy(now, 2*at+1, count+1))
}

// size is the number of calls that are no dead letters.
func (x *index) size() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.queued
}

// everLeft is how many calls have ever stopped being queued.
func (x *index) everLeft() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.left
}

func (x *index) deadLetters() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.dead
}

// gone gives the functions that have had calls, have none now, and are removed. It gives each twice: at the
// first time somebody may still be about to count the end of its last call.
func (x *index) gone(removed func(function string) bool) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var names []string
	for name, before := range x.named {
		if x.accounts[name] != nil || !removed(name) {
			continue
		}
		names = append(names, name)
		if x.named[name] = true; before {
			delete(x.named, name)
		}
	}
	return names
}
