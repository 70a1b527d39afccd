package swarm

import (
	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/feed"
)

// watchMetrics are the watcher's. All have a fixed number of series.
type watchMetrics struct {
	functions prometheus.Gauge
	replicas  *prometheus.GaugeVec
	revision  prometheus.Gauge
	failures  prometheus.Counter
	poll      prometheus.Histogram
	events    prometheus.Gauge
	touched   prometheus.Counter
	orphans   prometheus.Gauge
}

func newWatchMetrics(registerer prometheus.Registerer) watchMetrics {
	m := watchMetrics{
		functions: prometheus.NewGauge(prometheus.GaugeOpts{Name: "provider_table_functions", Help: "Functions in the replica table."}),
		replicas: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "provider_table_replicas",
			Help: "Replicas in the replica table by state."}, []string{"state"}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{Name: "provider_table_revision", Help: "Revision of the replica table."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "provider_watch_failures_total",
			Help: "Times that watching Docker was interrupted."}),
		poll: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "provider_watch_poll_seconds",
			Help: "Time Docker took to list all tasks.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 12)}),
		events: prometheus.NewGauge(prometheus.GaugeOpts{Name: "provider_watch_task_events",
			Help: "1 while events tell of changes of tasks, 0 while only polls do."}),
	}
	m.touched = prometheus.NewCounter(prometheus.CounterOpts{Name: "provider_watch_touched_total",
		Help: "Services that were written again because Swarm had lost a change of their replicas."})
	m.orphans = prometheus.NewGauge(prometheus.GaugeOpts{Name: "provider_watch_orphans",
		Help: "Replicas that Swarm keeps running 30 s after their function was removed. No request goes there; the log has the command that ends each."})
	if registerer != nil {
		registerer.MustRegister(m.functions, m.replicas, m.revision, m.failures, m.poll, m.events, m.touched, m.orphans)
	}
	return m
}

func (m watchMetrics) observe(table feed.Table) {
	counts := map[feed.State]int{feed.Preparing: 0, feed.Starting: 0, feed.Ready: 0, feed.Draining: 0}
	for _, function := range table.Functions {
		for _, replica := range function.Replicas {
			counts[replica.State]++
		}
	}
	for state, n := range counts {
		m.replicas.WithLabelValues(string(state)).Set(float64(n))
	}
	m.functions.Set(float64(len(table.Functions)))
	m.revision.Set(float64(table.Revision))
}
