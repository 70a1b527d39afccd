// Package swarmtest offers a Swarm in memory, for tests of everything above Docker. Its conformance suite must
// pass on it and on a real Swarm. Rely on nothing that the suite does not check.
//
// It stands where the engine's client stands: package swarm's own code runs on it whole. Tasks reach their state at
// once unless [Engine.Hold] is on; then [Engine.Settle] lets them.
package swarmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
)

// Engine is a manager's engine with a Swarm of its own. It is for concurrent use.
type Engine struct {
	mu       sync.Mutex
	serial   uint64
	services map[string]swarm.Service
	tasks    map[string]swarm.Task
	secrets  map[string]swarm.Secret
	configs  map[string]swarm.Config
	nodes    []swarm.Node
	images   map[string]string
	pulled   map[string][]string
	remote   map[string]remoteImage
	logs     map[string]*taskLog
	watchers map[chan events.Message]bool
	// followers are streams of task events; mute means that they are unavailable, stalled that they send nothing.
	followers     map[*follower]bool
	followed      int
	mute, stalled bool
	// muteServices means that no event of a service or node is sent.
	muteServices bool
	// lists counts how often tasks were listed.
	lists int
	held  bool
	// lost is how many changes are still to be forgotten.
	lost int
	slow bool
	away bool
	// monitored means that updates stay under way until they are told how they end.
	monitored bool
	// host is the node on which further tasks start.
	host   string
	rivals int
	// logPace is how long a piece of a log is on its way.
	logPace time.Duration
	// killBefore and killAfter name the next changing call at which the caller is cut off.
	killBefore, killAfter string
	network               string
}

// NewEngine returns one with a single node, its own, whose overlay for functions is called network.
func NewEngine(network string) *Engine {
	return &Engine{
		services: map[string]swarm.Service{}, tasks: map[string]swarm.Task{}, secrets: map[string]swarm.Secret{},
		configs: map[string]swarm.Config{}, images: map[string]string{}, pulled: map[string][]string{}, remote: map[string]remoteImage{}, logs: map[string]*taskLog{},
		watchers: map[chan events.Message]bool{}, followers: map[*follower]bool{}, network: network, host: "node1",
		nodes: []swarm.Node{readyNode("node1")},
	}
}

// AddImage puts an image onto the engine; a second one under the same name replaces it.
func (e *Engine) AddImage(name, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images[name] = id
}

type remoteImage struct{ digest, auth string }

// AddRemoteImage puts an image into the registry, which asks for auth.
func (e *Engine) AddRemoteImage(name, digest, auth string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.remote[name] = remoteImage{digest, auth}
}

// AddPulledImage puts an image onto the engine that it once had from a registry.
func (e *Engine) AddPulledImage(name, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images[name], e.pulled[name] = id, []string{name + "@sha256:then"}
}

// ImageOf is what a service runs: the image's name and what its containers say of its identity.
func (e *Engine) ImageOf(service string) (name, identity string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.services {
		if s.Spec.Name == service {
			return s.Spec.TaskTemplate.ContainerSpec.Image, s.Spec.TaskTemplate.ContainerSpec.Labels["com.waggle.image"]
		}
	}
	return "", ""
}

// Hold keeps tasks from reaching the state they should have, until Settle.
func (e *Engine) Hold() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = true
}

// SetAway makes every call fail as if nothing listened at the socket, and ends all event streams.
func (e *Engine) SetAway(away bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.away = away
	if away {
		e.dropWatchers()
	}
}

// DropEvents ends all event streams, those of tasks too, as an engine that restarts does.
func (e *Engine) DropEvents() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropWatchers()
}

func (e *Engine) dropWatchers() {
	for watcher := range e.watchers {
		close(watcher)
		delete(e.watchers, watcher)
	}
	e.dropFollowers()
}

// Interfere makes the next n updates of services find that somebody else was faster.
func (e *Engine) Interfere(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rivals = n
}

// Elsewhere makes further tasks start on another node. Of what happens to their containers this engine tells nobody.
func (e *Engine) Elsewhere() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.host = "node2"
	e.nodes = append(e.nodes, readyNode(e.host))
}

func readyNode(id string) swarm.Node {
	return swarm.Node{ID: id, Spec: swarm.NodeSpec{Availability: swarm.NodeAvailabilityActive}, Status: swarm.NodeStatus{State: swarm.NodeStateReady}}
}

// SetNodeState says whether the engine's own node answers.
func (e *Engine) SetNodeState(state swarm.NodeState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nodes[0].Status.State = state
	e.tell(events.NodeEventType, e.nodes[0].ID)
}

// LoseNode makes the node on which further tasks start stop to answer, of which no event tells.
func (e *Engine) LoseNode() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, node := range e.nodes {
		if node.ID == e.host {
			e.nodes[i].Status.State = swarm.NodeStateDown
		}
	}
}

// KillBefore makes the engine unavailable just before the next call of this name, KillAfter just after it,
// without an answer. For the engine that is a caller that was killed there. SetAway(false) ends it.
func (e *Engine) KillBefore(call string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.killBefore = call
}

// KillAfter is described at KillBefore.
func (e *Engine) KillAfter(call string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.killAfter = call
}

// before stands at the beginning of each changing call.
func (e *Engine) before(call string) error {
	if e.killBefore == call {
		e.killBefore, e.away = "", true
	}
	return e.answers()
}

// after stands at the end of each changing call.
func (e *Engine) after(call string) error {
	if e.killAfter == call {
		e.killAfter, e.away = "", true
	}
	return e.answers()
}

// SecretsOf names the Docker secrets that a service refers to.
func (e *Engine) SecretsOf(service string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, s := range e.services {
		if s.Spec.Name == service {
			for _, reference := range s.Spec.TaskTemplate.ContainerSpec.Secrets {
				names = append(names, reference.SecretName)
			}
		}
	}
	return names
}

// SecretNames names all Docker secrets, sorted.
func (e *Engine) SecretNames() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, secret := range e.secrets {
		names = append(names, secret.Spec.Name)
	}
	slices.Sort(names)
	return names
}

func (e *Engine) answers() error {
	if e.away {
		return fmt.Errorf("cannot connect to the Docker daemon: %w", errdefs.ErrUnavailable)
	}
	return nil
}

func (e *Engine) next() uint64 {
	e.serial++
	return e.serial
}

// MuteServices says whether events of services and nodes are lost.
func (e *Engine) MuteServices(mute bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.muteServices = mute
}

// tell sends an event about a service or node.
func (e *Engine) tell(kind events.Type, id string) {
	if e.muteServices {
		return
	}
	e.send(events.Message{Type: kind, Actor: events.Actor{ID: id}})
}

// send gives an event to those who listen; like a real engine it drops what they do not take.
func (e *Engine) send(event events.Message) {
	event.TimeNano = time.Now().UnixNano()
	for watcher := range e.watchers {
		select {
		case watcher <- event:
		default:
		}
	}
}

// Ping answers unless the engine is away.
func (e *Engine) Ping(context.Context, client.PingOptions) (client.PingResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return client.PingResult{APIVersion: "1.41"}, e.answers()
}

// Info describes the engine's own node, a manager.
func (e *Engine) Info(context.Context, client.InfoOptions) (client.SystemInfoResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return client.SystemInfoResult{Info: system.Info{Swarm: swarm.Info{
		NodeID: e.nodes[0].ID, LocalNodeState: swarm.LocalNodeStateActive,
	}}}, e.answers()
}

// SwarmInspect gives a Swarm's settings as they are by default.
func (e *Engine) SwarmInspect(context.Context, client.SwarmInspectOptions) (client.SwarmInspectResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return client.SwarmInspectResult{}, e.answers()
}

// Events follows what happens to services, nodes and containers until ctx ends.
func (e *Engine) Events(ctx context.Context, _ client.EventsListOptions) client.EventsResult {
	e.mu.Lock()
	defer e.mu.Unlock()
	failed := make(chan error, 1)
	if err := e.answers(); err != nil {
		failed <- err
		return client.EventsResult{Err: failed}
	}
	inner, outer := make(chan events.Message, 64), make(chan events.Message)
	e.watchers[inner] = true
	go func() {
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.watchers, inner)
		}()
		for {
			select {
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			case event, open := <-inner:
				if !open {
					failed <- fmt.Errorf("unexpected EOF")
					return
				}
				select {
				case outer <- event:
				case <-ctx.Done():
				}
			}
		}
	}()
	return client.EventsResult{Messages: outer, Err: failed}
}

// NodeList gives all nodes.
func (e *Engine) NodeList(context.Context, client.NodeListOptions) (client.NodeListResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return client.NodeListResult{Items: slices.Clone(e.nodes)}, e.answers()
}

// ServiceList gives the services that carry all labels of the filter.
func (e *Engine) ServiceList(_ context.Context, options client.ServiceListOptions) (client.ServiceListResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []string
	for id, service := range e.services {
		if hasLabels(service.Spec.Labels, options.Filters) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	found := make([]swarm.Service, len(ids))
	for i, id := range ids {
		found[i] = e.services[id]
	}
	return client.ServiceListResult{Items: found}, e.answers()
}

// ServiceInspect gives one by its id.
func (e *Engine) ServiceInspect(_ context.Context, id string, _ client.ServiceInspectOptions) (client.ServiceInspectResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.answers(); err != nil {
		return client.ServiceInspectResult{}, err
	}
	service, found := e.services[id]
	if !found {
		return client.ServiceInspectResult{}, fmt.Errorf("service %s: %w", id, errdefs.ErrNotFound)
	}
	return client.ServiceInspectResult{Service: service}, nil
}

// ServiceCreate starts one: its name must be new and its secrets must exist.
func (e *Engine) ServiceCreate(_ context.Context, options client.ServiceCreateOptions) (client.ServiceCreateResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.before("ServiceCreate"); err != nil {
		return client.ServiceCreateResult{}, err
	}
	for _, service := range e.services {
		if service.Spec.Name == options.Spec.Name {
			return client.ServiceCreateResult{}, fmt.Errorf("name conflicts with an existing object: %w", errdefs.ErrAlreadyExists)
		}
	}
	if err := errors.Join(e.checkSecrets(options.Spec), checkTemplates(options.Spec)); err != nil {
		return client.ServiceCreateResult{}, err
	}
	now, n := time.Now().UTC(), e.next()
	service := swarm.Service{
		ID:   fmt.Sprintf("service%d", n),
		Meta: swarm.Meta{Version: swarm.Version{Index: n}, CreatedAt: now, UpdatedAt: now}, Spec: clone(options.Spec),
	}
	e.services[service.ID] = service
	e.orchestrate(service)
	e.tell(events.ServiceEventType, service.ID)
	return client.ServiceCreateResult{ID: service.ID}, e.after("ServiceCreate")
}

// ServiceUpdate replaces the spec of a service whose version is still the given one.
func (e *Engine) ServiceUpdate(_ context.Context, id string, options client.ServiceUpdateOptions) (client.ServiceUpdateResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.before("ServiceUpdate"); err != nil {
		return client.ServiceUpdateResult{}, err
	}
	service, found := e.services[id]
	if !found {
		return client.ServiceUpdateResult{}, fmt.Errorf("service %s: %w", id, errdefs.ErrNotFound)
	}
	if e.rivals > 0 {
		e.rivals--
		service.Version.Index = e.next()
		e.services[id] = service
	}
	if service.Version != options.Version {
		return client.ServiceUpdateResult{}, fmt.Errorf("rpc error: code = Unknown desc = update out of sequence: %w", errdefs.ErrInternal)
	}
	if err := errors.Join(e.checkSecrets(options.Spec), checkTemplates(options.Spec)); err != nil {
		return client.ServiceUpdateResult{}, err
	}
	before := service.Spec
	service.PreviousSpec, service.Spec, service.UpdateStatus = &before, clone(options.Spec), nil
	service.Version.Index, service.UpdatedAt = e.next(), time.Now().UTC()
	e.services[id] = service
	switch {
	case e.lost > 0:
		e.lost--
	case !e.slow:
		e.follow(id)
	}
	e.tell(events.ServiceEventType, id)
	return client.ServiceUpdateResult{}, e.after("ServiceUpdate")
}

// ServiceRemove ends one.
func (e *Engine) ServiceRemove(_ context.Context, id string, _ client.ServiceRemoveOptions) (client.ServiceRemoveResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.before("ServiceRemove"); err != nil {
		return client.ServiceRemoveResult{}, err
	}
	if _, found := e.services[id]; !found {
		return client.ServiceRemoveResult{}, fmt.Errorf("service %s: %w", id, errdefs.ErrNotFound)
	}
	delete(e.services, id)
	switch {
	case e.lost > 0:
		e.lost--
	case !e.slow:
		e.dropTasks(id)
	}
	e.tell(events.ServiceEventType, id)
	return client.ServiceRemoveResult{}, e.after("ServiceRemove")
}

func in(values map[string]bool, value string) bool { return len(values) == 0 || values[value] }

func hasLabels(labels map[string]string, filters client.Filters) bool {
	for want := range filters["label"] {
		key, value, exact := strings.Cut(want, "=")
		got, found := labels[key]
		if !found || (exact && got != value) {
			return false
		}
	}
	return true
}

// clone keeps what is stored apart from what the caller holds, and passes it through the wire's form.
func clone[T any](value T) T {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	var copied T
	if err := json.Unmarshal(text, &copied); err != nil {
		panic(err)
	}
	return copied
}

func equal(a, b any) bool {
	left, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	right, err := json.Marshal(b)
	if err != nil {
		panic(err)
	}
	return string(left) == string(right)
}
