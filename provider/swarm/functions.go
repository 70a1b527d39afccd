package swarm

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/types"
)

// List gives each function of a namespace, sorted by name; never nil.
func (c *Cluster) List(ctx context.Context, namespace string) ([]types.FunctionStatus, error) {
	namespace = c.namespace(namespace)
	if err := checkName("namespace", namespace); err != nil {
		return nil, err
	}
	services, err := c.services(ctx, labelNamespace+"="+namespace)
	if err != nil {
		return nil, err
	}
	if len(services) == 0 {
		return []types.FunctionStatus{}, c.requireNamespace(ctx, namespace)
	}
	running, err := c.docker.TaskList(ctx, client.TaskListOptions{Filters: make(client.Filters).Add("desired-state", "running")})
	if err != nil {
		return nil, dockerError("listing replicas", err)
	}
	tasks := byService(running.Items)
	list, silent := make([]types.FunctionStatus, 0, len(services)), c.cfg.Unreachable()
	for _, service := range services {
		list = append(list, c.labelled(functionStatus(service, tasks[service.ID], silent)))
	}
	slices.SortFunc(list, func(a, b types.FunctionStatus) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Status describes one function, or gives ErrNotFound. With usage it also measures what its replicas consume.
func (c *Cluster) Status(ctx context.Context, namespace, name string, usage bool) (types.FunctionStatus, error) {
	service, err := c.find(ctx, c.namespace(namespace), name)
	if err != nil {
		return types.FunctionStatus{}, err
	}
	tasks, err := c.tasks(ctx, service)
	if err != nil {
		return types.FunctionStatus{}, err
	}
	silent := c.cfg.Unreachable()
	status := c.labelled(functionStatus(service, tasks, silent))
	explain(&status, service, tasks, silent)
	if usage {
		status.Usage = c.usage(ctx, tasks)
	}
	return status, nil
}

// Deployed reports whether a function exists in Swarm at this moment.
func (c *Cluster) Deployed(ctx context.Context, name, namespace string) (bool, error) {
	if _, err := c.find(ctx, c.namespace(namespace), name); err != nil {
		if isNotFound(err) {
			return false, nil
		}
		return false, err
	}
	return true, nil
}

// Deploy creates a function: ErrExists when there is one of this name.
func (c *Cluster) Deploy(ctx context.Context, d types.FunctionDeployment) error {
	d.Namespace = c.namespace(d.Namespace)
	img, err := c.prepare(ctx, &d)
	if err != nil {
		return err
	}
	defer c.lock(d.Namespace, d.Service)()
	c.namespacesMu.RLock()
	defer c.namespacesMu.RUnlock()
	c.secretsMu.RLock()
	defer c.secretsMu.RUnlock()

	if err := c.requireNamespace(ctx, d.Namespace); err != nil {
		return err
	}
	spec, o, err := c.build(ctx, &d, img)
	if err != nil {
		return err
	}
	if err := c.checkAliases(ctx, d.Service, spec); err != nil {
		return err
	}
	spec.Mode.Replicated.Replicas = &o.scale.Min
	err = c.create(ctx, d, spec)
	if nameTaken(err) {
		return c.taken(ctx, d)
	}
	if err != nil {
		return dockerError("creating function "+d.Service, err)
	}
	c.cfg.Logger.Info("function created", "function", d.Service, "namespace", d.Namespace, "image", img.Ref)
	c.nudge()
	return nil
}

// create makes the service of a function. One of this name that was removed may still have replicas that end: then their
// service becomes the function's. It is asleep first, as the spec before is what Swarm rolls a failing update back to.
func (c *Cluster) create(ctx context.Context, d types.FunctionDeployment, spec swarm.ServiceSpec) error {
	auth := c.cfg.RegistryAuth(registryHost(d.Image))
	for attempt := 1; ; attempt++ {
		left, err := c.awaitRemoval(ctx, d.Namespace, d.Service, 0)
		if err != nil {
			return err
		}
		if left == nil {
			_, err := c.docker.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec, EncodedRegistryAuth: auth})
			return err
		}
		asleep := spec
		asleep.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: new(uint64(0))}}
		_, err = c.docker.ServiceUpdate(ctx, left.ID, client.ServiceUpdateOptions{Version: left.Version, Spec: asleep, EncodedRegistryAuth: auth})
		switch {
		case err == nil:
			return c.modify(ctx, d.Namespace, d.Service, "", func(swarm.Service) (swarm.ServiceSpec, bool, error) { return spec, true, nil })
		case !outOfSequence(err) && !(errdefs.IsNotFound(err) && c.gone(ctx, left.ID)), attempt == updateAttempts:
			return err
		}
		if err := pause(ctx, settlePoll); err != nil {
			return err
		}
	}
}

// taken says whose service has the name.
func (c *Cluster) taken(ctx context.Context, d types.FunctionDeployment) error {
	if _, err := c.find(ctx, d.Namespace, d.Service); err == nil {
		return failf(ErrExists, "function %q exists in namespace %q", d.Service, d.Namespace)
	}
	return failf(ErrExists, "service is %q, the name of a Swarm service that is no function; choose another", d.Service)
}

// nameTaken is true for the engine's answer to a second object of one name. Old engines give it without a status of
// its own.
func nameTaken(err error) bool {
	if err == nil {
		return false
	}
	return errdefs.IsConflict(err) || errdefs.IsAlreadyExists(err) || strings.Contains(err.Error(), "name conflicts with an existing object")
}

// Update replaces a function whole, or gives ErrNotFound. The number of replicas stays, unless it is outside the new
// bounds; a request that would change nothing changes nothing.
func (c *Cluster) Update(ctx context.Context, d types.FunctionDeployment) error {
	d.Namespace = c.namespace(d.Namespace)
	// Looked up before the image is: a registry may take its time to say no, and clients wait for the 404 to create it.
	if err := checkName("service", d.Service); err != nil {
		return err
	}
	if _, err := c.find(ctx, d.Namespace, d.Service); err != nil {
		return err
	}
	img, err := c.prepare(ctx, &d)
	if err != nil {
		return err
	}
	defer c.lock(d.Namespace, d.Service)()
	c.secretsMu.RLock()
	defer c.secretsMu.RUnlock()

	return c.modify(ctx, d.Namespace, d.Service, "updated", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		spec, o, err := c.build(ctx, &d, img)
		if err != nil {
			return spec, false, err
		}
		replicas := desired(service)
		if replicas != 0 || !o.scale.Zero {
			replicas = min(max(replicas, o.scale.Min), o.scale.Max)
		}
		spec.Mode.Replicated.Replicas = &replicas
		same := spec.Labels[labelSpec] == service.Spec.Labels[labelSpec] && replicas == desired(service)
		return spec, !same, nil
	})
}

// labelled adds the label that Config.FunctionLabel asks for.
func (c *Cluster) labelled(status types.FunctionStatus) types.FunctionStatus {
	if c.cfg.FunctionLabel {
		labels := maps.Clone(*status.Labels)
		labels[labelFaaS] = status.Name
		status.Labels = &labels
	}
	return status
}

// prepare checks what can be checked without the Swarm, and resolves the image. Annotations that a description
// adds are removed: a client that sends a description back does not ask for them.
func (c *Cluster) prepare(ctx context.Context, d *types.FunctionDeployment) (image, error) {
	added := func(key, _ string) bool {
		return key == annotationState || key == AnnotationCountingSince || strings.HasPrefix(key, AnnotationScaling)
	}
	if annotations := maps.Clone(deref(d.Annotations)); annotations != nil {
		maps.DeleteFunc(annotations, added)
		d.Annotations = &annotations
	}
	if c.cfg.FunctionLabel && deref(d.Labels)[labelFaaS] == d.Service {
		labels := maps.Clone(*d.Labels)
		delete(labels, labelFaaS)
		d.Labels = &labels
	}
	if err := checkName("namespace", d.Namespace); err != nil {
		return image{}, err
	}
	if err := checkName("service", d.Service); err != nil {
		return image{}, err
	}
	if err := checkReserved(serviceName(c.cfg.Namespace, d.Namespace, d.Service)); err != nil {
		return image{}, err
	}
	return c.resolveImage(ctx, d.Image)
}

// build makes the spec with the newest versions of the secrets it names. The caller holds secretsMu.
func (c *Cluster) build(ctx context.Context, d *types.FunctionDeployment, img image) (swarm.ServiceSpec, options, error) {
	o, err := parseOptions(d)
	if err != nil {
		return swarm.ServiceSpec{}, o, err
	}
	var secrets map[string]secretVersion
	if len(d.Secrets) > 0 {
		if secrets, err = c.newestSecrets(ctx, d.Namespace); err != nil {
			return swarm.ServiceSpec{}, o, err
		}
	}
	spec, err := c.cfg.serviceSpec(d, img, secrets)
	return spec, o, err
}

func byService(tasks []swarm.Task) map[string][]swarm.Task {
	grouped := make(map[string][]swarm.Task)
	for _, task := range tasks {
		grouped[task.ServiceID] = append(grouped[task.ServiceID], task)
	}
	return grouped
}
