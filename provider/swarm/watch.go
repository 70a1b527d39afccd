package swarm

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/feed"
)

const (
	// relistEvery bounds how long a lost event about a service or node goes unnoticed, but for the wait for a poll.
	relistEvery = 30 * time.Second
	// pollTimeout bounds one poll; an engine that takes longer is as good as gone.
	pollTimeout = 10 * time.Second
	// minRetryWait and maxRetryWait bound the wait between attempts at an engine that is away.
	minRetryWait = 200 * time.Millisecond
	maxRetryWait = 2 * time.Second
	// maxTouched bounds the services that wait to be touched.
	maxTouched = 100
)

// Publisher takes each new replica table, and hears of each function that is no longer in it. It must not block for
// long. *feed.Hub is one.
type Publisher interface {
	Publish(table feed.Table)
	Forget(name, namespace string)
}

// WatcherConfig says what to watch and whom to tell.
type WatcherConfig struct {
	// Cluster and Publisher are required.
	Cluster   *Cluster
	Publisher Publisher
	// TaskEvents tells when to poll tasks; nil means that they are only polled at intervals.
	TaskEvents TaskEvents
	// Registerer takes the watcher's metrics; nil keeps none.
	Registerer prometheus.Registerer
	// Logger defaults to the cluster's.
	Logger *slog.Logger
}

// Watcher keeps the replica table and publishes it whenever it changed. While Docker is away the last one stands. What it
// reads, and when (pace.go and follow.go say how often):
//
//	what happened                                what is read
//	start, or Docker is back                     services, nodes, all tasks
//	a service or node changed; a change of ours  the same
//	30 s since that                              the same
//	5 s since that, and tasks do not suit their  the same: an event was lost
//	services
//	a task or a container of ours changed        all tasks
//	nothing, but a poll is due                   tasks that should run; all if those differ from what services want
type Watcher struct {
	cluster   *Cluster
	publisher Publisher
	logger    *slog.Logger
	metrics   watchMetrics
	follower  *follower

	view  view
	table feed.Table
	// listed is when services and nodes were last read whole, lastEvent the time of the newest event seen.
	listed    time.Time
	lastEvent int64
	// suspicious means that services or nodes may have changed, calm that Swarm has nothing left to do for any function.
	suspicious, calm bool
	pace             pace
	// losses are the services whose tasks are not as many as they want; those in lost are to be touched.
	losses lossBook
	// orphans are the replicas that run although their function was removed.
	orphans orphanBook
	lost    chan swarm.Service
}

// NewWatcher returns one that does nothing until Run.
func NewWatcher(config WatcherConfig) (*Watcher, error) {
	if config.Cluster == nil || config.Publisher == nil {
		return nil, errors.New("configuring the watcher: Cluster and Publisher are required")
	}
	if config.Logger == nil {
		config.Logger = config.Cluster.cfg.Logger
	}
	metrics := newWatchMetrics(config.Registerer)
	return &Watcher{
		cluster: config.Cluster, publisher: config.Publisher, logger: config.Logger, metrics: metrics,
		follower: &follower{events: config.TaskEvents, logger: config.Logger, gauge: metrics.events, heard: make(chan struct{}, 1)},
		// A new epoch for each process: its revisions start again.
		table:  feed.Table{Epoch: rand.Text()},
		losses: lossBook{}, orphans: orphanBook{}, lost: make(chan swarm.Service, maxTouched),
	}, nil
}

// Run watches until ctx ends. It survives every failure of Docker and then returns nil.
func (w *Watcher) Run(ctx context.Context) error {
	// Completing changes waits for those under way, which must not hold up the table.
	var group sync.WaitGroup
	group.Go(func() { w.reconcile(ctx) })
	group.Go(func() { w.mend(ctx) })
	// Losing task events ends no session, and the end of a session does not lose them.
	group.Go(func() { w.follower.run(ctx) })
	defer group.Wait()

	wait := minRetryWait
	for ctx.Err() == nil {
		started := time.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			break
		}
		w.metrics.failures.Inc()
		w.logger.Warn("watching Docker interrupted, keeping the last replica table", "error", err)
		if time.Since(started) > maxRetryWait {
			wait = minRetryWait
		}
		if pause(ctx, wait) != nil {
			break
		}
		wait = min(2*wait, maxRetryWait)
	}
	return nil
}

// reconcile completes, now and again, what interrupted changes left.
func (w *Watcher) reconcile(ctx context.Context) {
	ticker := time.NewTicker(relistEvery)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, relistEvery)
		if err := w.cluster.Reconcile(bounded); err != nil && ctx.Err() == nil {
			w.logger.Warn("completing interrupted changes failed, trying again", "error", err)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-w.cluster.unfinished:
			if pause(ctx, removalPoll) != nil {
				return
			}
		case <-ticker.C:
		}
	}
}

// mend touches, one after the other, the services that have lost a change.
func (w *Watcher) mend(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case service := <-w.lost:
			bounded, cancel := context.WithTimeout(ctx, pollTimeout)
			w.cluster.touch(bounded, service)
			cancel()
			w.metrics.touched.Inc()
		}
	}
}

// watchedEvents are those that may change the table. Container events are those of this engine's own node.
// Without task events they are a hint that comes sooner than the next poll.
func watchedEvents() client.Filters {
	return make(client.Filters).
		Add("type", string(events.ServiceEventType), string(events.NodeEventType), string(events.ContainerEventType)).
		Add("event", string(events.ActionCreate), string(events.ActionUpdate), string(events.ActionRemove),
			string(events.ActionStart), string(events.ActionKill), string(events.ActionDie), string(events.ActionHealthStatus))
}

// session lists everything, then follows events and polls tasks until something fails.
func (w *Watcher) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := client.EventsListOptions{Filters: watchedEvents()}
	if w.lastEvent > 0 {
		options.Since = strconv.FormatInt(w.lastEvent/int64(time.Second), 10)
	}
	// The stream opens first: what happens between it and the list is then in one of them.
	stream := w.cluster.docker.Events(ctx, options)
	w.pace.begin(time.Now())
	if err := w.relist(ctx); err != nil {
		return err
	}
	w.pollEnded()
	timer := time.NewTimer(time.Until(w.pace.due))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-stream.Err:
			return dockerError("following events", cmpErr(err))
		case event := <-stream.Messages:
			w.lastEvent = event.TimeNano
			if event.Type == events.ContainerEventType && event.Actor.Attributes[labelNamespace] == "" {
				continue // no function's
			}
			w.suspicious = w.suspicious || event.Type != events.ContainerEventType
			w.calm = false
			w.pace.hint(time.Now())
		case <-w.cluster.changed:
			w.suspicious = true
			w.pace.hint(time.Now())
		case <-w.follower.heard:
			w.follower.hear()
			w.calm = false
			w.pace.hint(time.Now())
		case <-timer.C:
			if err := w.poll(ctx); err != nil {
				return err
			}
			w.pollEnded()
		}
		timer.Reset(time.Until(w.pace.due))
	}
}

// poll reads as much as there is reason to.
func (w *Watcher) poll(ctx context.Context) error {
	w.pace.begin(time.Now())
	if w.suspicious || time.Since(w.listed) >= relistEvery {
		return w.relist(ctx)
	}
	before := w.table.Revision
	if err := w.pollTasks(ctx); err != nil {
		return err
	}
	// Tasks that do not suit their service may be those of a service that has changed since, of which the event was lost.
	w.suspicious = time.Since(w.listed) >= pollTold && w.view.anyLost()
	w.follower.judge(time.Now(), w.table.Revision != before)
	return nil
}

func (w *Watcher) pollEnded() { w.pace.end(time.Now(), w.calm, w.follower.trusted()) }

// cmpErr gives the closing of a channel without an error a name.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("the stream ended")
	}
	return err
}

// relist reads services, nodes and tasks.
func (w *Watcher) relist(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	owned, err := w.cluster.owned(ctx)
	if err != nil {
		return err
	}
	nodes, err := w.cluster.docker.NodeList(ctx, client.NodeListOptions{})
	if err != nil {
		return dockerError("listing nodes", err)
	}
	ours := make(map[string]bool, len(owned))
	for _, service := range owned {
		ours[service.ID] = true
	}
	w.list(slices.DeleteFunc(owned, isRemoved), nodes.Items)
	// Before tasks are listed: an event that is not ours yet is of a change that the list has.
	w.follower.ours.Store(&ours)
	w.listed, w.suspicious, w.calm = time.Now(), false, false
	w.follower.excuse()
	if err := w.pollTasks(ctx); err != nil {
		return err
	}
	for _, service := range w.losses.note(w.view, time.Now()) {
		select {
		case w.lost <- service:
		default: // it is still lost when it is due again
		}
	}
	return nil
}

// list takes over services and nodes that were read.
func (w *Watcher) list(services []swarm.Service, nodes []swarm.Node) {
	w.view.services, w.view.declared, w.view.tasks = services, declare(services, nodes), make(map[string][]swarm.Task, len(services))
	w.view.down = downNodes(nodes)
}

func downNodes(nodes []swarm.Node) map[string]bool {
	down := make(map[string]bool)
	for _, node := range nodes {
		if node.Status.State == swarm.NodeStateDown {
			down[node.ID] = true
		}
	}
	return down
}

// pollTasks reads the tasks of all services and publishes what changed. While all is calm it reads only tasks
// that should run, which leaves out the history. Any difference makes it read all tasks at once, and go on
// doing so.
func (w *Watcher) pollTasks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	if w.calm {
		if err := w.readTasks(ctx, make(client.Filters).Add("desired-state", "running")); err != nil {
			return err
		}
		w.calm = w.view.settled()
	}
	if !w.calm {
		if err := w.readTasks(ctx, nil); err != nil {
			return err
		}
		w.calm = w.view.settled()
	}
	w.publish()
	return nil
}

func (w *Watcher) readTasks(ctx context.Context, filters client.Filters) error {
	started := time.Now()
	result, err := w.cluster.docker.TaskList(ctx, client.TaskListOptions{Filters: filters})
	if err != nil {
		return dockerError("listing replicas", err)
	}
	w.metrics.poll.Observe(time.Since(started).Seconds())
	ours := *w.follower.ours.Load()
	w.view.read = time.Now()
	for service, tasks := range w.view.tasks {
		w.view.tasks[service] = tasks[:0]
	}
	var orphans []swarm.Task
	w.view.failed = make(map[string][]swarm.Task)
	for _, task := range result.Items {
		switch {
		case !ours[task.ServiceID]:
			if wanted(task) && live(task.Status.State) && task.Spec.ContainerSpec != nil && task.Spec.ContainerSpec.Labels[labelFunction] != "" {
				orphans = append(orphans, task)
			}
		case live(task.Status.State):
			w.view.tasks[task.ServiceID] = append(w.view.tasks[task.ServiceID], task)
		case failedToStart(task, w.view.read):
			w.view.failed[task.ServiceID] = append(w.view.failed[task.ServiceID], task)
		}
	}
	count, told := w.orphans.note(orphans, w.view.read)
	w.metrics.orphans.Set(float64(count))
	for _, task := range told {
		w.logger.Warn("a replica runs on although its service was removed past this API: Swarm lost the change and has no call that repeats it; end it on its node",
			"function", task.Spec.ContainerSpec.Labels[labelFunction], "node", task.NodeID,
			"command", "docker rm -f $(docker ps -q -f label=com.docker.swarm.task.id="+task.ID+")")
	}
	return nil
}

// live is false for tasks that are over: Swarm keeps a few of them as history.
func live(state swarm.TaskState) bool {
	switch state {
	case swarm.TaskStateComplete, swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected,
		swarm.TaskStateRemove, swarm.TaskStateOrphaned:
		return false
	}
	return true
}

// publish hands the table on if it differs from the last one.
func (w *Watcher) publish() {
	functions := w.cluster.cfg.functions(w.view)
	down := slices.Sorted(maps.Keys(w.view.down))
	if w.table.Revision > 0 && reflect.DeepEqual(functions, w.table.Functions) && slices.Equal(down, w.table.Down) {
		return
	}
	before := w.table.Functions
	w.table = feed.Table{Epoch: w.table.Epoch, Revision: w.table.Revision + 1, Functions: functions, Down: down}
	w.metrics.observe(w.table)
	w.pace.moved(time.Now())
	w.publisher.Publish(w.table)
	for _, function := range before {
		if _, found := slices.BinarySearchFunc(functions, function, compareNames); !found {
			w.publisher.Forget(function.Name, function.Namespace)
		}
	}
}
