package drain

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	entries     *prometheus.CounterVec
	lag         *prometheus.GaugeVec
	lost        *prometheus.GaugeVec
	held        *prometheus.GaugeVec
	up          *prometheus.GaugeVec
	drift       *prometheus.GaugeVec
	storeErrors *prometheus.CounterVec
	redisErrors *prometheus.CounterVec
	stale       prometheus.Counter
	scanErrors  prometheus.Counter
	trimmed     prometheus.Counter
	recovered   prometheus.Counter
	named       prometheus.Gauge
	workers     prometheus.Gauge
	batch       prometheus.Histogram
	commit      prometheus.Histogram
}

// forget drops a node's gauges: another worker drains it now, and a sum or an alarm over workers must not have it twice.
func (m *metrics) forget(node string) {
	for _, gauge := range []*prometheus.GaugeVec{m.up, m.lag, m.lost, m.held} {
		gauge.DeleteLabelValues(node)
	}
}

func newMetrics(r prometheus.Registerer) *metrics {
	node := []string{"node"}
	m := &metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waggle_drain_entries_total",
			Help: "Stream entries accounted for, by what they did: inserted, changed, stale, superseded, rejected."}, []string{"effect"}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waggle_drain_pending_entries",
			Help: "Entries known to be in a node's stream and not yet accounted for."}, node),
		lost: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waggle_drain_lost_entries",
			Help: "Entries of a node's stream that can't be read any more."}, node),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waggle_drain_held_entries",
			Help: "Entries in a node's stream, counted ones within the retention window included."}, node),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waggle_drain_node_up",
			Help: "1 while this worker drains the node's stream, 0 once it can't reach it."}, node),
		drift: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waggle_drain_check_drift",
			Help: "Result of the last self-check; 0 is right."}, []string{"check"}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waggle_drain_postgres_errors_total",
			Help: "Failed calls to Postgres, by what they mean for the batch."}, []string{"class"}),
		redisErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waggle_drain_redis_errors_total",
			Help: "Failed readings of a node's stream."}, node),
		stale: prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_drain_stale_total",
			Help: "Writes refused because another worker, or an attempt with an unknown outcome, had moved the account."}),
		scanErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_drain_scan_errors_total",
			Help: "Failed look-ups of the capture nodes."}),
		trimmed: prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_drain_trimmed_entries_total",
			Help: "Counted entries removed from Redis."}),
		recovered: prometheus.NewCounter(prometheus.CounterOpts{Name: "waggle_drain_recovered_votes_total",
			Help: "Votes counted from their copies on another node."}),
		named: prometheus.NewGauge(prometheus.GaugeOpts{Name: "waggle_drain_named_nodes",
			Help: "Capture nodes that the last look-up named."}),
		workers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "waggle_drain_workers",
			Help: "Live workers, this one included."}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "waggle_drain_batch_entries",
			Help: "Entries per committed batch.", Buckets: prometheus.ExponentialBuckets(1, 4, 9)}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "waggle_drain_commit_seconds",
			Help: "Time of one committed batch in Postgres.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	r.MustRegister(m.entries, m.lag, m.lost, m.held, m.up, m.drift, m.storeErrors, m.redisErrors, m.stale, m.scanErrors,
		m.trimmed, m.recovered, m.named, m.workers, m.batch, m.commit)
	return m
}
