package autoscale

import (
	"strconv"
	"time"

	"waggle/provider/feed"
)

const (
	// shownMoments is how many seconds are kept for those who look, shownChanges how many changes.
	shownMoments, shownChanges = 300, 50
)

// Moment is a second of a function, as GET /system/autoscale/{function} shows it.
type Moment struct {
	At time.Time `json:"at"`
	// Load is in the unit of the policy's type. Arrivals are requests per second, Inflight and Held requests.
	Load     float64 `json:"load"`
	Arrivals float64 `json:"arrivals"`
	Inflight float64 `json:"inflight"`
	Held     float64 `json:"held"`
	// Ready and Desired are replicas.
	Ready   int    `json:"ready"`
	Desired int    `json:"desired"`
	Reason  Reason `json:"reason"`
}

// Change is one change of the number of replicas.
type Change struct {
	At     time.Time `json:"at"`
	From   int       `json:"from"`
	To     int       `json:"to"`
	Reason Reason    `json:"reason"`
	Load   float64   `json:"load"`
}

// View is what GET /system/autoscale/{function} answers.
type View struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Policy    Policy   `json:"policy"`
	Replicas  Replicas `json:"replicas"`
	// Trouble is why replicas do not start, as far as Swarm says.
	Trouble  string   `json:"trouble,omitempty"`
	Decision Decision `json:"decision"`
	Load     float64  `json:"load"`
	// Service is the time of a request, PerCall what it costs in thousandths of a processor × seconds. Start is what
	// a replica takes to be ready. All are as learnt, the first two 0 if unknown.
	Service float64 `json:"service_seconds,omitempty"`
	PerCall float64 `json:"cpu_per_call,omitempty"`
	Start   float64 `json:"start_seconds"`
	// Moments are the last five minutes, Changes the last ones; both oldest first.
	Moments []Moment `json:"moments"`
	Changes []Change `json:"changes"`
}

// View shows how a function is scaled; false if there is none of that name. An empty namespace is the default one.
func (s *Scaler) View(namespace, name string) (View, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.functions[s.key(namespace, name)]
	if f == nil {
		return View{}, false
	}
	t := &f.tracker
	return View{Name: f.key.name, Namespace: f.key.namespace, Policy: t.Policy(), Replicas: t.Replicas(), Trouble: f.trouble.Reason,
		Decision: t.Decision(), Load: t.Demand(), Service: t.history.Service, PerCall: t.history.PerCall, Start: t.history.Start.Seconds(),
		Moments: f.seen.moments.list(), Changes: f.seen.changes.list()}, true
}

// Annotations are what a description of the function says of its scaling.
func (v View) Annotations(prefix string) map[string]string {
	p := v.Policy
	number := func(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
	reason := string(v.Decision.Reason)
	if v.Trouble != "" && (v.Decision.Reason == FailToStart || v.Decision.Reason == ClusterFull) {
		reason += ": " + v.Trouble
	}
	return map[string]string{
		prefix + "type": string(p.Type), prefix + "min": strconv.Itoa(p.least()), prefix + "max": strconv.Itoa(int(p.Max)),
		prefix + "target":  number(p.Target) + " × " + number(p.Proportion) + " " + unitOf[p.Type],
		prefix + "load":    strconv.FormatFloat(v.Load, 'f', 1, 64) + " " + unitOf[p.Type],
		prefix + "desired": strconv.Itoa(v.Decision.Desired), prefix + "reason": reason,
	}
}

var unitOf = map[feed.ScaleType]string{
	feed.ScaleRPS: "requests/s", feed.ScaleCapacity: "requests at once", feed.ScaleCPU: "thousandths of a processor", feed.ScaleQueue: "due calls",
}

// seen is what is kept of a function for those who look.
type seen struct {
	moments newest[Moment]
	changes newest[Change]
	second  int64 // of the newest moment
}

// moment keeps one a second.
func (l *seen) moment(now time.Time, s Sample, load float64, r Replicas, d Decision) {
	if now.Unix() == l.second {
		return
	}
	l.second = now.Unix()
	l.moments.add(Moment{now, load, s.Arrivals, s.Inflight, s.Held, r.Ready, d.Desired, d.Reason}, shownMoments)
}

func (l *seen) change(c Change) { l.changes.add(c, shownChanges) }

// newest keeps the newest, however many come.
type newest[T any] struct {
	ring []T
	next int
}

func (h *newest[T]) add(x T, most int) {
	if h.ring == nil {
		h.ring = make([]T, 0, most) // at once: a round of all functions allocates nothing
	}
	if len(h.ring) < most {
		h.ring = append(h.ring, x)
		return
	}
	h.ring[h.next] = x
	h.next = (h.next + 1) % most
}

// list is a copy, oldest first; never nil.
func (h *newest[T]) list() []T {
	return append(append(make([]T, 0, len(h.ring)), h.ring[h.next:]...), h.ring[:h.next]...)
}
