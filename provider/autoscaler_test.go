package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/types"
	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/autoscale"
	"waggle/provider/feed"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

const scaledImage = "ours/function:1"

// scaledSwarm is a Swarm in memory with gateways that report to every provider there is.
type scaledSwarm struct {
	t         *testing.T
	engine    *swarmtest.Engine
	providers []*scalingProvider
	started   map[string]uint64
	held      map[string]int
}

// scalingProvider is what of a provider scales.
type scalingProvider struct {
	cluster *stallingCluster
	hub     *feed.Hub
	scaler  *autoscale.Scaler
	log     *bytes.Buffer
	stop    func()
}

// stallingCluster lets one function's scale calls take their time.
type stallingCluster struct {
	*swarm.Cluster
	slow string
	mu   sync.Mutex
	asks int // guarded by mu
}

func (c *stallingCluster) ScaleFrom(ctx context.Context, namespace, name string, from, to uint64) error {
	c.mu.Lock()
	c.asks++
	c.mu.Unlock()
	if name == c.slow {
		<-ctx.Done()
		return ctx.Err()
	}
	return c.Cluster.ScaleFrom(ctx, namespace, name, from, to)
}

func (c *stallingCluster) asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asks
}

// scaling runs a test in a bubble of its own time, beside a gateway that reports each second.
func scaling(t *testing.T, test func(s *scaledSwarm)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scaledSwarm{t: t, engine: swarmtest.NewEngine("waggle-functions"), started: map[string]uint64{}, held: map[string]int{}}
		s.engine.AddImage(scaledImage, "sha256:1")
		s.provider(false)
		test(s)
		for _, p := range s.providers {
			p.stop()
		}
	})
}

// provider starts one on the Swarm.
func (s *scaledSwarm) provider(off bool) *scalingProvider {
	s.t.Helper()
	p := &scalingProvider{log: &bytes.Buffer{}}
	logger := slog.New(slog.NewTextHandler(p.log, nil))
	cluster, err := swarm.New(swarm.Config{Docker: s.engine, Logger: logger})
	if err != nil {
		s.t.Fatal(err)
	}
	p.cluster = &stallingCluster{Cluster: cluster}
	p.scaler, err = autoscale.New(autoscale.Config{Cluster: p.cluster, Usages: &feed.UsageBook{}, Namespace: "openfaas-fn", Off: off, Logger: logger,
		Registerer: prometheus.NewRegistry(), Postponed: func(err error) bool { return errors.Is(err, swarm.ErrMoved) || errors.Is(err, swarm.ErrUpdating) }})
	if err != nil {
		s.t.Fatal(err)
	}
	if p.hub, err = feed.NewHub(feed.HubConfig{Waker: p.scaler, Reported: p.scaler.Reported, Logger: logger}); err != nil {
		s.t.Fatal(err)
	}
	watcher, err := swarm.NewWatcher(swarm.WatcherConfig{Cluster: cluster, Publisher: p.hub, TaskEvents: s.engine, Logger: logger})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = watcher.Run(ctx) })
	running.Go(func() { _ = p.scaler.Run(ctx, p.hub) })
	p.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	s.providers = append(s.providers, p)
	return p
}

func (s *scaledSwarm) deploy(name string, labels, annotations map[string]string) {
	s.t.Helper()
	d := types.FunctionDeployment{Service: name, Image: scaledImage, Labels: &labels, Annotations: &annotations, EnvVars: map[string]string{"max_inflight": "10"}}
	if err := s.providers[0].cluster.Deploy(s.t.Context(), d); err != nil {
		s.t.Fatal(err)
	}
	time.Sleep(time.Second)
}

// post sends a report, or a wake, to every provider.
func (s *scaledSwarm) post(path string, body any) {
	s.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range s.providers {
		recorder := httptest.NewRecorder()
		p.hub.Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(text)))
		if recorder.Code != http.StatusAccepted {
			s.t.Fatalf("%s: %d %s", path, recorder.Code, recorder.Body)
		}
	}
}

func (s *scaledSwarm) report(partial bool, names ...string) {
	r := feed.Report{Gateway: "edge", Epoch: "1", Node: "n", Partial: partial}
	for _, name := range names {
		n := s.started[name]
		r.Functions = append(r.Functions, feed.Load{Name: name, Namespace: "openfaas-fn", Life: 1, Started: n, Completed: n, Queued: s.held[name]})
	}
	s.post("/feed/load", r)
}

// seconds pass with so many requests each.
func (s *scaledSwarm) seconds(n int, perSecond uint64, names ...string) {
	for range n {
		time.Sleep(time.Second)
		for _, name := range names {
			s.started[name] += perSecond
		}
		s.report(false, names...)
	}
	synctest.Wait()
}

func (s *scaledSwarm) replicas(name string) uint64 {
	s.t.Helper()
	status, err := s.providers[0].cluster.Status(s.t.Context(), "", name, false)
	if err != nil {
		s.t.Fatal(err)
	}
	return status.Replicas
}

func TestAnUrgentReportIsActedOnWithinATenthOfASecond(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.deploy("web", nil, nil)
		s.seconds(10, 20, "web")
		time.Sleep(300 * time.Millisecond)
		s.started["web"], s.held["web"] = s.started["web"]+300, 200
		s.report(true, "web")
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if n := s.replicas("web"); n < 10 {
			t.Errorf("%d replicas for 1000 requests/s with 200 held", n)
		}
		if log := s.providers[0].log.String(); strings.Count(log, "function scaled") != 1 || !strings.Contains(log, "from=1 to=") || !strings.Contains(log, "reason=held") {
			t.Errorf("the log says %s", log)
		}
	})
}

func TestASlowScaleCallDelaysNoOtherFunction(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.providers[0].cluster.slow = "slow"
		s.deploy("slow", nil, nil)
		s.deploy("quick", nil, nil)
		s.seconds(6, 450, "slow", "quick")
		if slow, quick := s.replicas("slow"), s.replicas("quick"); slow != 1 || quick < 10 {
			t.Errorf("slow has %d replicas, quick %d", slow, quick)
		}
	})
}

func TestAProviderThatRestartsRemovesNothingAndGoesOn(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.deploy("web", nil, nil)
		s.seconds(6, 200, "web")
		before := s.replicas("web")
		s.providers[0].stop()
		s.providers = nil
		s.provider(false)
		for range 5 {
			s.seconds(1, 450, "web")
			if n := s.replicas("web"); n < before {
				t.Fatalf("%d replicas became %d", before, n)
			}
		}
		if n := s.replicas("web"); n < 10 {
			t.Errorf("%d replicas 5 s after the restart, want 10 for 450 requests/s", n)
		}
	})
}

func TestAReportThatAGoodbyeOvertookFreezesNothing(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.deploy("web", nil, nil)
		s.seconds(10, 450, "web")
		late := feed.Report{Gateway: "gone", Epoch: "1", Functions: []feed.Load{{Name: "web", Namespace: "openfaas-fn", Life: 1, Inflight: 50}}}
		goodbye := late
		goodbye.Leaving = true
		s.post("/feed/load", goodbye)
		s.post("/feed/load", late)
		s.seconds(60, 20, "web")
		if n := s.replicas("web"); n != 1 {
			v, _ := s.providers[0].scaler.View("", "web")
			t.Errorf("%d replicas: %s", n, v.Decision.Reason)
		}
	})
}

func TestTwoProvidersDoNotFight(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.provider(false)
		s.deploy("web", nil, nil)
		s.seconds(10, 200, "web")
		s.seconds(10, 450, "web")
		grown := s.replicas("web")
		s.seconds(90, 20, "web")
		if grown != 10 || s.replicas("web") != 1 {
			t.Errorf("%d replicas for 450 requests/s, %d for 20", grown, s.replicas("web"))
		}
		for i, p := range s.providers {
			v, _ := p.scaler.View("", "web")
			// Up, further up, down in two or three steps; the other's calls are changes, too.
			if len(v.Changes) > 8 {
				t.Errorf("provider %d has seen %+v", i, v.Changes)
			}
			if strings.Contains(p.log.String(), "failed") {
				t.Errorf("provider %d says %s", i, p.log)
			}
		}
	})
}

func TestWhatIsSetByHandIsTakenAsNew(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.deploy("web", nil, nil)
		s.seconds(60, 20, "web")
		if err := s.providers[0].cluster.Scale(t.Context(), "", "web", 12); err != nil {
			t.Fatal(err)
		}
		s.seconds(28, 20, "web")
		if n := s.replicas("web"); n != 12 {
			t.Errorf("%d replicas within the window, want 12", n)
		}
		s.seconds(15, 20, "web")
		v, known := s.providers[0].scaler.View("", "web")
		if n := s.replicas("web"); n != 1 || !known || len(v.Changes) != 2 || v.Changes[0].Reason != autoscale.ByHand || v.Changes[1].Reason != autoscale.LessLoad {
			t.Errorf("%d replicas after it, %+v", n, v.Changes)
		}
	})
}

func TestManyWaitersMakeOneWake(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.deploy("sleeper", map[string]string{"com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "10s"}, nil)
		s.seconds(13, 0, "sleeper")
		if n := s.replicas("sleeper"); n != 0 {
			t.Fatalf("%d replicas after 13 idle seconds", n)
		}
		asks := s.providers[0].cluster.asked()
		s.held["sleeper"] = 200
		for range 200 {
			s.post("/feed/wake", map[string]string{"name": "sleeper", "namespace": "openfaas-fn"})
		}
		s.report(true, "sleeper")
		synctest.Wait()
		if n := s.replicas("sleeper"); n != 1 || s.providers[0].cluster.asked() != asks+1 {
			t.Errorf("%d replicas after %d scale calls", n, s.providers[0].cluster.asked()-asks)
		}
		s.held["sleeper"] = 0
		s.report(false, "sleeper")
		s.seconds(5, 10, "sleeper")
		if n := s.replicas("sleeper"); n != 1 {
			t.Errorf("%d replicas once it is awake", n)
		}
	})
}

func TestSwitchedOffOnlyAlertsScaleByStepsBothWays(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.deploy("web", map[string]string{"com.openfaas.scale.min": "2"}, map[string]string{"com.waggle.autoscale": "false"})
		s.seconds(20, 900, "web")
		if n := s.replicas("web"); n != 2 {
			t.Fatalf("%d replicas although it is off", n)
		}
		alert := func(firing bool) {
			if err := s.providers[0].scaler.Alert(t.Context(), "", "web", firing); err != nil {
				t.Fatal(err)
			}
			s.seconds(1, 900, "web")
		}
		for _, want := range []uint64{4, 6, 8} {
			if alert(true); s.replicas("web") != want {
				t.Fatalf("%d replicas, want %d", s.replicas("web"), want)
			}
		}
		alert(false)
		for _, want := range []uint64{6, 4, 2, 2} {
			if n := s.replicas("web"); n != want {
				t.Fatalf("%d replicas, want %d", n, want)
			}
			s.seconds(31, 900, "web")
		}
		if err := s.providers[0].scaler.Alert(t.Context(), "", "nobody", true); !errors.Is(err, feed.ErrUnknownFunction) {
			t.Errorf("an alert about no function: %v", err)
		}
	})
}

func TestAFunctionThatFindsNoNodeIsSaidToBeSo(t *testing.T) {
	t.Parallel()
	scaling(t, func(s *scaledSwarm) {
		s.deploy("web", nil, nil)
		s.seconds(6, 200, "web")
		for _, id := range s.engine.TaskIDs()[1:] {
			s.engine.SetTask(id, unplace)
		}
		s.seconds(15, 900, "web")
		v, _ := s.providers[0].scaler.View("", "web")
		if v.Decision.Reason != autoscale.ClusterFull || v.Replicas.Unplaced == 0 || v.Trouble != "no suitable node" {
			t.Errorf("%+v, %+v, %q", v.Decision, v.Replicas, v.Trouble)
		}
	})
}

// A round decides for every function there is: 500 must not cost the provider what it is there for.
func BenchmarkRoundOf500Functions(b *testing.B) {
	scaler, err := autoscale.New(autoscale.Config{Cluster: &stallingCluster{}, Usages: &feed.UsageBook{}, Namespace: "openfaas-fn"})
	if err != nil {
		b.Fatal(err)
	}
	table := feed.Table{Epoch: "e", Revision: 1}
	var loads feed.Loads
	gateway := feed.GatewayLoad{Gateway: "edge", Epoch: "1", Arrived: time.Now()}
	for i := range 500 {
		name := "fn" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + string(rune('a'+i/26))
		table.Functions = append(table.Functions, feed.Function{Name: name, Namespace: "openfaas-fn", Desired: 1,
			Scale: feed.Scale{Min: 1, Max: 20, Type: feed.ScaleRPS, Target: 50, Proportion: 0.9, DownWindow: 30 * time.Second}})
		gateway.Functions = append(gateway.Functions, feed.Load{Name: name, Namespace: "openfaas-fn"})
	}
	loads.Gateways = append(loads.Gateways, gateway)
	scaler.Follow(table)
	b.ReportAllocs()
	for b.Loop() {
		scaler.Round(loads)
	}
}

func unplace(task *mobyswarm.Task) {
	task.NodeID, task.Status.State, task.Status.Err = "", mobyswarm.TaskStatePending, "no suitable node"
}
