package autoscale

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the autoscaler's. A gateway publishes gateway_service_count, _ready_count, _min and _target_load, which are
// OpenFaaS's names; these say what was made of them.
type metrics struct {
	decisions *prometheus.CounterVec // function_name, reason
	changes   *prometheus.CounterVec // function_name, reason
	changedAt *prometheus.GaugeVec   // function_name
	round     prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer, s *Scaler) (*metrics, error) {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "autoscale_decisions_total",
			Help: "Decisions of the autoscaler, one a second and one for each urgent report, by reason."}, []string{"function_name", "reason"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "autoscale_changes_total",
			Help: "Changes of the number of replicas, by reason."}, []string{"function_name", "reason"}),
		changedAt: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "autoscale_last_change_timestamp_seconds",
			Help: "When the number of replicas last changed."}, []string{"function_name"}),
		round: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "autoscale_round_seconds",
			Help: "Time to decide for all functions.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8)}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.decisions, m.changes, m.changedAt, m.round, newGauges(s)} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// decided counts a decision. The counter is found once for each function and reason.
func (m *metrics) decided(f *function, reason Reason) {
	if f.decided[reason] == nil {
		f.decided[reason] = m.decisions.WithLabelValues(f.label, string(reason))
	}
	f.decided[reason].Inc()
}

func (m *metrics) changed(f *function, reason Reason, now time.Time) {
	m.changes.WithLabelValues(f.label, string(reason)).Inc()
	m.changedAt.WithLabelValues(f.label).Set(float64(now.UnixMilli()) / 1000)
}

// forget removes every series of a function that no longer exists.
func (m *metrics) forget(label string) {
	match := prometheus.Labels{"function_name": label}
	m.decisions.DeletePartialMatch(match)
	m.changes.DeletePartialMatch(match)
	m.changedAt.DeletePartialMatch(match)
}

// gauges reads what the autoscaler holds at the moment of a scrape.
type gauges struct {
	scaler                *Scaler
	desired, load, target *prometheus.Desc
}

func newGauges(s *Scaler) *gauges {
	return &gauges{s,
		prometheus.NewDesc("autoscale_desired_replicas", "Replicas that the autoscaler wants.", []string{"function_name"}, nil),
		prometheus.NewDesc("autoscale_load", "Load of the function in the unit of its type.", []string{"function_name", "scaling_type"}, nil),
		prometheus.NewDesc("autoscale_share", "Load that one replica is to carry: target × proportion.", []string{"function_name", "scaling_type"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.desired, g.load, g.target} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	g.scaler.mu.Lock()
	defer g.scaler.mu.Unlock()
	for _, f := range g.scaler.functions {
		p := f.tracker.Policy()
		gauge := func(d *prometheus.Desc, value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
		}
		gauge(g.desired, float64(f.tracker.Decision().Desired), f.label)
		gauge(g.load, f.tracker.Demand(), f.label, string(p.Type))
		gauge(g.target, p.Share(), f.label, string(p.Type))
	}
}
