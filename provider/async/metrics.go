package async

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// queueName is the only queue's, as OpenFaaS calls it.
const queueName = "faas-request"

// metrics are the queue's; the names queue_worker_* and their labels are those of OpenFaaS Pro.
type metrics struct {
	submitted *prometheus.CounterVec // queue_name, function_name
	processed *prometheus.CounterVec // queue_name, function_name

	retries     *prometheus.CounterVec // function_name
	callbacks   *prometheus.CounterVec // function_name, outcome
	deadLetters *prometheus.CounterVec // function_name
	cancelled   *prometheus.CounterVec // function_name
	refused     prometheus.Counter
	deadDropped prometheus.Counter
	lost        prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, q *Queue) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		submitted:   vec("queue_worker_messages_submitted_total", "Asynchronous calls accepted.", "queue_name", "function_name"),
		processed:   vec("queue_worker_messages_processed_total", "Asynchronous calls completed or given up.", "queue_name", "function_name"),
		retries:     vec("gateway_async_retries_total", "Asynchronous calls that are to be made again.", "function_name"),
		callbacks:   vec("gateway_async_callbacks_total", "Attempts to deliver a result, by outcome: delivered, retried, failed, refused.", "function_name", "outcome"),
		deadLetters: vec("gateway_async_dead_letters_total", "Asynchronous calls given up.", "function_name"),
		cancelled:   vec("gateway_async_cancelled_total", "Asynchronous calls cancelled.", "function_name"),
		refused:     counter("gateway_async_refused_total", "Asynchronous calls refused by the queue."),
		deadDropped: counter("gateway_async_dead_letters_dropped_total", "Dead letters dropped: by an operator, for their age, or to make room."),
		lost:        counter("gateway_async_lost_total", "Accepted calls that Redis no longer had. More than 0 is an incident."),
	}
	reg.MustRegister(m.submitted, m.processed, m.retries, m.callbacks, m.deadLetters, m.cancelled, m.refused, m.deadDropped, m.lost, newGauges(q))
	return m
}

// forgetRemoved removes every series of functions that no longer exist and have nothing queued. Otherwise names
// that were used once would stay for ever.
func (m *metrics) forgetRemoved(q *Queue) {
	for _, name := range q.index.gone(func(function string) bool {
		_, found, known := q.gateway.Function(function)
		return known && !found
	}) {
		for _, v := range []*prometheus.CounterVec{m.submitted, m.processed, m.retries, m.callbacks, m.deadLetters, m.cancelled} {
			v.DeletePartialMatch(prometheus.Labels{"function_name": name})
		}
	}
}

// gauges reads the index at the moment of a scrape.
type gauges struct {
	q                                                 *Queue
	pending, inflight, callbacks, dead, owner, oldest *prometheus.Desc
}

func newGauges(q *Queue) *gauges {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &gauges{
		q:         q,
		pending:   desc("queue_worker_pending_messages", "Asynchronous calls that wait, those of a later retry included.", "queue_name", "function_name"),
		inflight:  desc("queue_worker_function_invocation_inflight", "Asynchronous calls being made.", "queue_name", "function_name"),
		callbacks: desc("gateway_async_callbacks_pending", "Results that wait to be delivered, or are being delivered.", "function_name"),
		dead:      desc("gateway_async_dead_letters", "Dead letters that are kept."),
		owner:     desc("gateway_async_owner", "1 while this gateway makes the calls of its Redis: it can be reached, and no other process does so."),
		oldest:    desc("gateway_async_oldest_seconds", "Age of the oldest call that is not done with."),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.pending, g.inflight, g.callbacks, g.dead, g.owner, g.oldest} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	o := g.q.overview(time.Now())
	owner := 0.0
	if o.Connected && o.Owner {
		owner = 1
	}
	gauge(g.owner, owner)
	gauge(g.dead, float64(o.Dead))
	gauge(g.oldest, o.OldestSeconds)
	for _, f := range o.Functions {
		gauge(g.pending, float64(f.Pending), queueName, f.Function)
		gauge(g.inflight, float64(f.Running), queueName, f.Function)
		gauge(g.callbacks, float64(f.Callbacks), f.Function)
	}
}
