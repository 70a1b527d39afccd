package swarm

import "time"

const (
	// pollCalm, pollBusy and pollSoon lie between two polls of the tasks without task events. 0.8 s finds a
	// replica that crashed within the second a table may take; 0.2 s follows one that starts. 0.05 s follows a
	// hint: a container's event comes before the managers know the task's new state.
	pollCalm = 800 * time.Millisecond
	pollBusy = 200 * time.Millisecond
	pollSoon = 50 * time.Millisecond
	// pollTold lies between two polls at rest while there are task events; while something is under way it is
	// pollCalm. They find nothing new unless the stream has stalled silently. That delays one table by 5 s; then
	// streams are not trusted until one sends an event. At 5 s polls cost a sixth of what they do without events.
	pollTold = 5 * time.Second
	// coalesce lets the events of one change arrive together.
	coalesce = 5 * time.Millisecond
	// busyFor is how long after its last change what is under way is polled closely. What takes longer, such as
	// a replica that no node can take, may take for ever.
	busyFor = 10 * time.Second
	// restRatio bounds the engine's load: a poll that took t is followed by a pause of at least this many times
	// t. The pause is at most pollCalm, so that the table still follows within a second.
	restRatio = 2
)

// pace decides when to poll the tasks next. Its zero value is due at once.
//
// Two examples. A poll takes 10 ms, all is calm, and there are no task events: the next one comes 0.8 s after
// it. If a hint comes 0.1 s after it, the next poll comes 5 ms after the hint. While things change, the next
// ones come after 0.05, 0.1, 0.2, 0.2, … s.
//
// A poll takes 300 ms: the next one comes 0.6 s after its end at the earliest, whatever the hints. That leaves
// the engine two thirds of its time.
type pace struct {
	// due is when.
	due time.Time
	// began and ended are the times of the last poll, moving that of the last change or hint.
	began, ended, moving time.Time
	wait                 time.Duration
}

// hint notes a sign of change: the next poll comes at once, or as soon as restRatio permits, however many hints
// there are. The next hint does not postpone it.
func (p *pace) hint(now time.Time) {
	p.moved(now)
	if due := p.earliest(now.Add(coalesce)); due.Before(p.due) {
		p.due = due
	}
}

// moved notes that a poll found a difference.
func (p *pace) moved(now time.Time) {
	p.moving, p.wait = now, pollSoon
}

// begin notes that a poll begins.
func (p *pace) begin(now time.Time) { p.began = now }

// end notes that it has ended. Calm means that nothing is under way, told that there are task events.
func (p *pace) end(now time.Time, calm, told bool) {
	p.ended = now
	wait := pollCalm
	busy := !calm && now.Sub(p.moving) < busyFor
	switch {
	case told && !busy:
		wait = pollTold
	case !told && busy:
		wait = p.wait
		p.wait = min(2*p.wait, pollBusy)
	}
	p.due = p.earliest(now.Add(wait))
}

// earliest is the time wanted, or the first at which another poll may be afforded.
func (p *pace) earliest(wanted time.Time) time.Time {
	affordable := p.ended.Add(min(restRatio*p.ended.Sub(p.began), pollCalm))
	if affordable.After(wanted) {
		return affordable
	}
	return wanted
}
