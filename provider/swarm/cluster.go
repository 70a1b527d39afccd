// Package swarm keeps functions, secrets and namespaces as objects of a Docker Swarm, and is the only package that
// talks to Docker.
//
// In: deployments, secrets and questions of package api, in the types of OpenFaaS. Out: calls to the engine of one
// Swarm manager, and a whole replica table for package feed whenever something moved ([Watcher]).
//
// The Swarm is the only memory: this process keeps nothing that it could not read again. A provider that is
// killed at any moment is replaced by starting another. An object is ours by its labels alone, never by its
// name. An object without them cannot be seen, changed or mounted through this package. What a user sent comes
// back exactly as it was sent. Each change is one call to the Swarm, or a series of calls. After each call of a
// series the state is sound, and [Cluster.Reconcile] completes it.
//
// # Decisions
//
//   - Functions have no virtual IP (endpoint mode dnsrr). The gateway balances by load, and IPVS drops connections
//     that were idle for 900 s.
//   - Logs are read task by task. Docker 20.10's log of a whole service loses lines, and hangs with several replicas.
//   - A manager of Docker 20.10 crashes, with its whole engine, when a service is removed while one of its tasks is
//     being deleted. Deleting a function therefore scales it to zero and marks its service, which goes after its last
//     task. A removal that managers lose is repeated while there is a service.
//   - Scaling, and moving a function to a new secret, would make Swarm forget the spec that a failing update rolls
//     back to. Both wait until a new replica has run for 10 s or the update has ended. Scaling waits 15 s at most, and
//     not at all from or to zero.
//   - Task events come from the engine's control socket, because Docker's API sends none. Events get lost, so tasks
//     are also polled every 5 s. Without the socket the provider polls every 0.8 s instead. At rest, with 500
//     functions of 3 replicas, the provider takes 1.9 % of a processor with events and 5.2 % without. (Each measured
//     for a minute, over a socket, with lists of 1.9 MB.) A change on another node is seen after 21 ms with events,
//     after 395 ms without. That is why the code is kept.
//   - The gRPC of this one call is written over net/http. The binary grows by 0.2 %; grpc-go would add 74 %.
//
// # Reading order
//
//   - What users change: functions.go (create, update, delete), options.go and scaling.go (annotations and labels),
//     spec.go (the service), update.go (one change of it). Then remove.go, scale.go, rollback.go, and secrets.go with
//     reconcile.go.
//   - What runs: watch.go (the loop), pace.go (when to poll), follow.go with taskevents.go, table.go, placement.go,
//     trouble.go, mend.go.
//   - What is told: status.go, logs.go with logsfollow.go and frames.go, usage.go.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"waggle/provider/feed"
	"waggle/provider/settings"
)

// Labels by which objects are ours. Whatever else we note about one sits under [privatePrefix], which users cannot set.
const (
	privatePrefix = "com.waggle."

	labelFunction  = "com.openfaas.function"
	labelNamespace = privatePrefix + "namespace"
	// labelDeployment holds the request of the user as JSON: the source of everything the API gives back.
	labelDeployment = privatePrefix + "deployment"
	// labelSpec holds a hash of the service spec that was made of it, to tell whether a repeated request changes anything.
	labelSpec = privatePrefix + "spec"
	// labelRemoved is on the service of a function that was removed, until the Swarm has ended its replicas.
	labelRemoved = privatePrefix + "removed"
	// labelImage is on containers: the identity of the image, so that a new image under an old tag is a change.
	labelImage = privatePrefix + "image"
)

// Config says which engine to use and what functions may ask for.
type Config struct {
	// Docker is a manager's engine. Required.
	Docker Docker
	// Namespace is the default one, the alias of none. Default "openfaas-fn".
	Namespace string
	// Network is the overlay every function is attached to, and on which gateways reach it. Default "waggle-functions".
	Network string
	// AllowedNetworks and AllowedVolumes are what the annotations com.waggle.networks and com.waggle.volumes may name.
	// Empty means nothing.
	AllowedNetworks []string
	AllowedVolumes  []string
	// User is the "uid:gid" functions run as; "" means what their image says.
	User string
	// FunctionLabel adds the label faas_function, a function's name, to its description, as OpenFaaS on Kubernetes
	// does. OpenFaaS's conformance suite requires it.
	FunctionLabel bool
	// RegistryAuth gives the credentials for the registry at a host such as "ghcr.io", encoded for Docker's
	// X-Registry-Auth header, or "". Nil means that no registry needs any.
	RegistryAuth func(host string) string
	// Usages holds what gateways read of replicas on nodes other than the engine's. Nil means that nothing is known of them.
	Usages *feed.UsageBook
	// Unreachable gives, by task id, the replicas that Swarm calls running and that do not answer a gateway. Nil means that
	// nobody knows of any.
	Unreachable func() map[string]feed.Unreachable
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Namespace == "" {
		c.Namespace = "openfaas-fn"
	}
	if c.Network == "" {
		c.Network = "waggle-functions"
	}
	if c.Usages == nil {
		c.Usages = &feed.UsageBook{}
	}
	if c.Unreachable == nil {
		c.Unreachable = func() map[string]feed.Unreachable { return nil }
	}
	if c.RegistryAuth == nil {
		c.RegistryAuth = func(string) string { return "" }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

var userPattern = regexp.MustCompile(`^([0-9]+:[0-9]+)?$`)

// Validate joins what is wrong with c, by the names of the provider's settings.
func (c Config) Validate() error {
	var problems []error
	if checkName("", c.Namespace) != nil {
		problems = append(problems, settings.Mistake("function_namespace", c.Namespace, "1 to %d of a-z, 0-9 and -, with a letter or digit at both ends", maxName))
	}
	if !userPattern.MatchString(c.User) {
		problems = append(problems, settings.Mistake("function_user", c.User, "uid:gid in numbers, such as 12000:12000, or nothing for the image's own"))
	}
	return errors.Join(problems...)
}

// Cluster is the Swarm as a place for functions. Its methods may be called concurrently.
type Cluster struct {
	cfg    Config
	docker Docker

	// writers serialises the changes of each function: of two accepted requests the later one wins. Changes
	// made by others are met by retrying.
	writers keyedLocks
	// secretsMu is held for writing while a secret changes, and for reading while a function that may use it
	// changes. So no function is created with a version that is being replaced.
	secretsMu sync.RWMutex
	// namespacesMu, in the same way, keeps a namespace from being removed while something is created in it.
	namespacesMu sync.RWMutex
	// changed is filled after each change, so that the watcher need not wait for its next poll.
	changed chan struct{}
	// unfinished is filled while removals wait for replicas to end.
	unfinished chan struct{}

	nodeOnce sync.Mutex
	// nodeID is that of the engine's own node once known. Guarded by nodeOnce.
	nodeID string
}

// New checks the configuration. It does not talk to Docker: an engine that is down now may come later.
func New(config Config) (*Cluster, error) {
	if config.Docker == nil {
		return nil, errors.New("configuring the cluster: field Docker is missing: must be the client of a manager's engine")
	}
	config = config.withDefaults()
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("configuring the cluster: %w", err)
	}
	return &Cluster{cfg: config, docker: config.Docker, changed: make(chan struct{}, 1), unfinished: make(chan struct{}, 1)}, nil
}

// Ping asks the engine whether it is there and manages a Swarm; the error says what is missing.
func (c *Cluster) Ping(ctx context.Context) error {
	if _, err := c.docker.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return failf(ErrUnavailable, "asking Docker: %s", withoutSocket(err))
	}
	// Docker's info would say so, too, but makes the engine start two programs for each answer.
	if _, err := c.docker.SwarmInspect(ctx, client.SwarmInspectOptions{}); err != nil {
		return failf(ErrUnavailable, "Docker answers, but not as a manager of a Swarm: %s", withoutSocket(err))
	}
	return nil
}

// namespace resolves the alias: no namespace is the default one.
func (c *Cluster) namespace(name string) string {
	if name == "" {
		return c.cfg.Namespace
	}
	return name
}

// lock takes the writer's lock of a function and returns its release.
func (c *Cluster) lock(namespace, name string) (unlock func()) {
	return c.writers.lock(lockKey(namespace, name))
}

func lockKey(namespace, name string) string { return namespace + "/" + name }

// nudge makes the watcher poll now.
func (c *Cluster) nudge() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// find returns the service of a function, or ErrNotFound.
func (c *Cluster) find(ctx context.Context, namespace, name string) (swarm.Service, error) {
	services, err := c.services(ctx, labelFunction+"="+name, labelNamespace+"="+namespace)
	if err != nil {
		return swarm.Service{}, err
	}
	want := serviceName(c.cfg.Namespace, namespace, name)
	at := slices.IndexFunc(services, func(s swarm.Service) bool { return s.Spec.Name == want })
	if at < 0 {
		return swarm.Service{}, missing(namespace, name)
	}
	return services[at], nil
}

// services lists the services that carry all labels and are functions.
func (c *Cluster) services(ctx context.Context, labels ...string) ([]swarm.Service, error) {
	owned, err := c.owned(ctx, labels...)
	return slices.DeleteFunc(owned, isRemoved), err
}

// owned lists the services that carry all labels and are ours, those of removed functions included.
func (c *Cluster) owned(ctx context.Context, labels ...string) ([]swarm.Service, error) {
	filters := make(client.Filters).Add("label", labelDeployment)
	filters.Add("label", labels...)
	result, err := c.docker.ServiceList(ctx, client.ServiceListOptions{Filters: filters})
	if err != nil {
		return nil, dockerError("listing functions", err)
	}
	// The name must be the one we would give: a service that somebody made with copied labels is not ours.
	return slices.DeleteFunc(result.Items, func(s swarm.Service) bool {
		l := s.Spec.Labels
		return s.Spec.Mode.Replicated == nil || s.Spec.TaskTemplate.ContainerSpec == nil ||
			l[labelFunction] == "" || s.Spec.Name != serviceName(c.cfg.Namespace, l[labelNamespace], l[labelFunction])
	}), nil
}

// tasks lists all replicas of a function, ended ones included. ErrNotFound means that it was removed meanwhile.
func (c *Cluster) tasks(ctx context.Context, service swarm.Service) ([]swarm.Task, error) {
	result, err := c.docker.TaskList(ctx, client.TaskListOptions{Filters: make(client.Filters).Add("service", service.ID)})
	if errdefs.IsNotFound(err) {
		return nil, missing(service.Spec.Labels[labelNamespace], service.Spec.Labels[labelFunction])
	}
	if err != nil {
		return nil, dockerError("listing replicas of "+service.Spec.Labels[labelFunction], err)
	}
	return result.Items, nil
}

// missing is the error for a function that does not exist.
func missing(namespace, name string) error {
	return failf(ErrNotFound, "function %q does not exist in namespace %q", name, namespace)
}
