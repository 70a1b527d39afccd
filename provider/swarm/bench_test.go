package swarm_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"waggle/provider/feed"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// The size at which the benchmarks here report what a user waits for.
const (
	benchFunctions = 500
	benchReplicas  = 3
)

// fill deploys them all.
func fill(b *testing.B, cluster *swarm.Cluster) {
	b.Helper()
	for i := range benchFunctions {
		deploy(b, cluster, fmt.Sprintf("fn%03d", i), benchReplicas)
	}
}

// BenchmarkList is GET /system/functions without its encoding.
func BenchmarkList(b *testing.B) {
	_, cluster := newCluster(b)
	fill(b, cluster)
	b.ReportAllocs()
	for b.Loop() {
		list, err := cluster.List(b.Context(), "")
		if err != nil || len(list) != benchFunctions {
			b.Fatal(len(list), err)
		}
	}
	b.ReportMetric(milliseconds(b.Elapsed())/float64(b.N), "ms/list")
}

// BenchmarkStatus is GET /system/function/fn250 without its encoding.
func BenchmarkStatus(b *testing.B) {
	_, cluster := newCluster(b)
	fill(b, cluster)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cluster.Status(b.Context(), "", "fn250", false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(milliseconds(b.Elapsed())/float64(b.N), "ms/status")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// observed notes when a poll of the tasks ends.
type observed struct {
	swarm.Docker
	polled atomic.Int64
}

func (o *observed) TaskList(ctx context.Context, options client.TaskListOptions) (client.TaskListResult, error) {
	result, err := o.Docker.TaskList(ctx, options)
	o.polled.CompareAndSwap(0, time.Now().UnixNano())
	return result, err
}

// BenchmarkReplicaChange is the way of a replica that fails, or is ready again, from the Swarm to a gateway: watcher,
// table, encoding, HTTP, decoding. Two figures are reported. From the end of the first poll that finds the change to
// the subscriber's having the table is what this program takes. From the change itself it also takes the time in
// which events are coalesced. Without the engine's control socket there is no event of a container on another node,
// and the wait for the next poll takes its place.
func BenchmarkReplicaChange(b *testing.B) {
	b.Run("own-node", func(b *testing.B) { benchmarkReplicaChange(b, false, true) })
	b.Run("other-node", func(b *testing.B) { benchmarkReplicaChange(b, true, true) })
	b.Run("other-node-without-task-events", func(b *testing.B) { benchmarkReplicaChange(b, true, false) })
}

func benchmarkReplicaChange(b *testing.B, elsewhere, told bool) {
	engine := swarmtest.NewEngine("waggle-functions")
	engine.AddImage(testImage, "sha256:1")
	if elsewhere {
		engine.Elsewhere()
	}
	docker := &observed{Docker: engine}
	cluster, err := swarm.New(swarm.Config{Docker: docker, Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, cluster)
	var events swarm.TaskEvents
	if told {
		events = engine
	}
	subscriber := subscribe(b, cluster, events)
	snapshot := await(b, subscriber, nil)
	task := snapshot.Table.Functions[250].Replicas[0].ID
	var fromPoll, fromChange time.Duration
	states := []mobyswarm.TaskState{mobyswarm.TaskStateFailed, mobyswarm.TaskStateRunning}
	for n := 0; b.Loop(); n++ {
		changed := time.Now()
		docker.polled.Store(0)
		engine.SetTask(task, func(t *mobyswarm.Task) { t.Status.State = states[n%2] })
		snapshot = await(b, subscriber, snapshot)
		arrived := time.Now()
		fromChange += arrived.Sub(changed)
		fromPoll += arrived.Sub(time.Unix(0, docker.polled.Load()))
	}
	b.ReportMetric(milliseconds(fromPoll)/float64(b.N), "ms/poll-to-subscriber")
	b.ReportMetric(milliseconds(fromChange)/float64(b.N), "ms/change-to-subscriber")
}

// subscribe runs a watcher, a hub behind HTTP, and a gateway's client of it.
func subscribe(b *testing.B, cluster *swarm.Cluster, events swarm.TaskEvents) *feed.Client {
	b.Helper()
	hub, err := feed.NewHub(feed.HubConfig{Waker: cluster})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(hub.Handler())
	subscriber, err := feed.NewClient(feed.ClientConfig{URL: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	watcher, err := swarm.NewWatcher(swarm.WatcherConfig{Cluster: cluster, Publisher: hub, TaskEvents: events})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	over := make(chan error, 2)
	go func() { over <- watcher.Run(ctx) }()
	go func() { over <- subscriber.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-over; err != nil {
				b.Error(err)
			}
		}
		server.Close()
	})
	return subscriber
}

// await returns the first whole table newer than the given snapshot; nil is none.
func await(b *testing.B, subscriber *feed.Client, after *feed.Snapshot) *feed.Snapshot {
	b.Helper()
	for {
		snapshot := subscriber.Newest()
		if snapshot != after && len(snapshot.Table.Functions) == benchFunctions {
			return snapshot
		}
		select {
		case <-snapshot.Changed:
		case <-b.Context().Done():
			b.Fatal("no table came")
		}
	}
}
