package main

import "math"

// hpa is Kubernetes' HPA v2 with its default behaviour: each 15 s, tolerance 10 %. It goes up by at most 100 %
// or 4 per 15 s, and down to the largest recommendation of 300 s. With keda it is fed as the KEDA HTTP add-on
// does: requests under way now, or the rate of the last minute.
type hpa struct {
	keda    bool
	scrapes []scrape
	gauge   float64
	answers []scrape
	ups     []scrape
}

func (h *hpa) begin(*world) {}

func (h *hpa) step(w *world) {
	if h.keda && w.every(1, 0.3) || !h.keda && w.every(15, 3.3) {
		t := w.totals()
		arrived := t.completed
		if h.keda {
			arrived = t.started
		}
		h.scrapes, h.gauge = append(h.scrapes, scrape{w.now, float64(arrived)}), float64(t.inflight+t.held)
	}
	if !w.every(15, 8.4) || len(h.scrapes) < 2 || w.count(ready) == 0 {
		return
	}
	want := min(max(h.recommend(w), w.least), w.most)
	n := want
	if want < w.asked {
		n = min(max(want, largest(h.answers, w.now-300)), w.asked)
	}
	h.answers = append(h.answers, scrape{w.now, float64(want)})
	if n > w.asked {
		n = h.limit(w, n)
	}
	w.scale(n)
}

// recommend is the formula of the replica calculator: replicas that are not ready count as without load.
func (h *hpa) recommend(w *world) int {
	running, coming := w.count(ready), w.count(starting)+w.count(unplaced)
	load := h.load(w)
	ratio := load / float64(running) / w.share()
	all := running
	if coming > 0 && ratio > 1 {
		all += coming
		ratio = load / float64(all) / w.share()
		if ratio <= 1 {
			return w.asked
		}
	}
	if math.Abs(1-ratio) <= 0.1 {
		return w.asked
	}
	return int(math.Ceil(ratio*float64(all) - 1e-9))
}

func (h *hpa) load(w *world) float64 {
	switch {
	case w.kind == "cpu":
		return w.cpu.read
	case w.kind == "capacity":
		return h.gauge
	case h.keda:
		return rateOf(h.scrapes, w.now, 60)
	}
	return rateOf(h.scrapes, w.now, 35)
}

// limit is the default scale-up policy.
func (h *hpa) limit(w *world, n int) int {
	before := float64(w.asked)
	for _, up := range h.ups {
		if up.at > w.now-15 {
			before -= up.value
		}
	}
	n = min(n, max(int(max(before+4, math.Ceil(2*before))), w.asked))
	h.ups = append(h.ups, scrape{w.now, float64(n - w.asked)})
	return n
}

// kpa is Knative's autoscaler as pkg/autoscaler/scaling decides, each 2 s. Its stable window is 60 s; its panic
// window is 6 s, from 200 %. Buckets are 1 s.
type kpa struct {
	proportion float64 // of the target; 0: the one all have. Knative's default is 0.7
	buckets    []float64
	sum        float64
	steps      int
	started    uint64
	panicAt    float64 // NaN: calm
	panicMost  int
}

func (k *kpa) begin(*world) { k.panicAt = math.NaN() }

func (k *kpa) step(w *world) {
	t := w.totals()
	k.sum += float64(t.inflight + t.held)
	k.steps++
	if w.every(1, 0.4) {
		v := k.sum / float64(k.steps)
		if w.kind == "rps" {
			v = float64(t.started - k.started)
		}
		k.started, k.sum, k.steps = t.started, 0, 0
		k.buckets = append(k.buckets, v)
	}
	if !w.every(2, 0.9) || len(k.buckets) < 2 {
		return
	}
	running := max(1, float64(w.count(ready)))
	share := w.share()
	if k.proportion > 0 {
		share = w.target * k.proportion
	}
	stable, burst := math.Ceil(k.mean(60)/share-1e-9), math.Ceil(k.mean(6)/share-1e-9)
	bounded := func(x float64) int { return int(min(max(x, math.Floor(running/2)), 1000*running)) }
	switch {
	case burst/running >= 2:
		k.panicAt = w.now
	case !math.IsNaN(k.panicAt) && k.panicAt+60 < w.now:
		k.panicAt, k.panicMost = math.NaN(), 0
	}
	n := bounded(stable)
	if !math.IsNaN(k.panicAt) {
		k.panicMost = max(k.panicMost, n, bounded(burst))
		n = k.panicMost
	}
	w.scale(n)
}

func (k *kpa) mean(seconds int) float64 {
	last := k.buckets[max(0, len(k.buckets)-seconds):]
	sum := 0.0
	for _, v := range last {
		sum += v
	}
	return sum / float64(len(last))
}
