package swarm

import "time"

const (
	// lookCalm, lookBusy and lookSoon lie between two looks at the tasks while no events tell of them. 0.8 s finds a
	// replica that crashed within the second a table may take; 0.2 s follows one that starts; 0.05 s is for what has just
	// been heard of, since a container's event comes before the managers know the task's new state.
	lookCalm = 800 * time.Millisecond
	lookBusy = 200 * time.Millisecond
	lookSoon = 50 * time.Millisecond
	// lookTold lies between two looks at rest while events tell of tasks, and lookCalm between two while something is under
	// way. They find nothing new unless the stream has silently stalled, which costs a table 5 s, once: then streams are
	// not trusted until one tells of something. At 5 s looks cost a sixth of what they do without events.
	lookTold = 5 * time.Second
	// gather lets the events of one change arrive together.
	gather = 5 * time.Millisecond
	// busyFor is how long after its last move what is under way is followed closely. What takes longer, such as a replica
	// that no node can take, may take for ever.
	busyFor = 10 * time.Second
	// restRatio bounds what looking costs the engine: the time between two looks is at least this many times as long as
	// a look takes, until lookCalm, so that the promise of a second is not given up for it.
	restRatio = 2
)

// pace decides when to look at the tasks next. Its zero value is due at once.
//
// Two examples. A look takes 10 ms and all is calm, without events: the next one comes 0.8 s after it. An event comes 0.1 s
// after it instead: the next look comes 5 ms after the event, and while things move then after 0.05, 0.1, 0.2, 0.2, … s.
// A look takes 300 ms: whatever is heard of, the next one comes 0.6 s after its end at the earliest, which leaves the
// engine two thirds of its time.
type pace struct {
	// due is when.
	due time.Time
	// began and ended are the times of the last look, moving that of the last change it found or that was heard of.
	began, ended, moving time.Time
	wait                 time.Duration
}

// stir notes that something was heard of: the next look comes at once, but never sooner than it can be afforded, however
// many changes there are; and it is not put off by the next one, either.
func (p *pace) stir(now time.Time) {
	p.moved(now)
	if due := p.earliest(now.Add(gather)); due.Before(p.due) {
		p.due = due
	}
}

// moved notes that a look found something else than the one before.
func (p *pace) moved(now time.Time) {
	p.moving, p.wait = now, lookSoon
}

// looking notes that a look begins.
func (p *pace) looking(now time.Time) { p.began = now }

// looked notes that it has ended. Calm means that nothing is under way, told that events will say when to look.
func (p *pace) looked(now time.Time, calm, told bool) {
	p.ended = now
	wait := lookCalm
	busy := !calm && now.Sub(p.moving) < busyFor
	switch {
	case told && !busy:
		wait = lookTold
	case !told && busy:
		wait = p.wait
		p.wait = min(2*p.wait, lookBusy)
	}
	p.due = p.earliest(now.Add(wait))
}

// earliest is the time wanted, or the first at which another look may be afforded.
func (p *pace) earliest(wanted time.Time) time.Time {
	affordable := p.ended.Add(min(restRatio*p.ended.Sub(p.began), lookCalm))
	if affordable.After(wanted) {
		return affordable
	}
	return wanted
}
