package swarm

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
)

// List gives each function of a namespace, sorted by name; never nil. A service that cannot be read is left out.
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
	list := make([]types.FunctionStatus, 0, len(services))
	for _, service := range services {
		status, err := functionStatus(service, tasks[service.ID])
		if err != nil { // somebody changed our label: the others are still there
			c.cfg.Logger.Warn("a service that cannot be read is left out of the list", "service", service.Spec.Name, "error", err)
			continue
		}
		list = append(list, status)
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
	status, err := functionStatus(service, tasks)
	if err != nil {
		return types.FunctionStatus{}, err
	}
	explain(&status, service, tasks)
	if usage {
		status.Usage = c.usage(ctx, tasks)
	}
	return status, nil
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
	spec, w, err := c.build(ctx, &d, img)
	if err != nil {
		return err
	}
	spec.Mode.Replicated.Replicas = new(max(w.min, 1))
	_, err = c.docker.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec, EncodedRegistryAuth: c.cfg.RegistryAuth(registryHost(d.Image))})
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

// taken says whose service has the name.
func (c *Cluster) taken(ctx context.Context, d types.FunctionDeployment) error {
	if _, err := c.find(ctx, d.Namespace, d.Service); err == nil {
		return failf(ErrExists, "function %q exists in namespace %q", d.Service, d.Namespace)
	}
	return failf(ErrExists, "service: %q is the name of a Swarm service that is no function; choose another", d.Service)
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
		spec, w, err := c.build(ctx, &d, img)
		if err != nil {
			return spec, false, err
		}
		replicas := desired(service)
		if replicas != 0 || !w.zero {
			replicas = min(max(replicas, w.min, 1), w.max)
		}
		spec.Mode.Replicated.Replicas = &replicas
		same := spec.Labels[labelSpec] == service.Spec.Labels[labelSpec] && replicas == desired(service)
		return spec, !same, nil
	})
}

// prepare checks what can be checked without the Swarm and resolves the image. A client that sends back what it was told
// of a function sends back its state, too, which is no wish of its user.
func (c *Cluster) prepare(ctx context.Context, d *types.FunctionDeployment) (image, error) {
	if _, found := deref(d.Annotations)[annotationState]; found {
		annotations := maps.Clone(*d.Annotations)
		delete(annotations, annotationState)
		d.Annotations = &annotations
	}
	if err := checkName("namespace", d.Namespace); err != nil {
		return image{}, err
	}
	if err := checkName("service", d.Service); err != nil {
		return image{}, err
	}
	return c.resolveImage(ctx, d.Image)
}

// build makes the spec with the newest versions of the secrets it names. The caller holds secretsMu.
func (c *Cluster) build(ctx context.Context, d *types.FunctionDeployment, img image) (swarm.ServiceSpec, wishes, error) {
	w, err := parseWishes(d)
	if err != nil {
		return swarm.ServiceSpec{}, w, err
	}
	var secrets map[string]secretVersion
	if len(d.Secrets) > 0 {
		if secrets, err = c.newestSecrets(ctx, d.Namespace); err != nil {
			return swarm.ServiceSpec{}, w, err
		}
	}
	spec, err := c.cfg.serviceSpec(d, img, secrets)
	return spec, w, err
}

// Scale sets the number of desired replicas, 0 included, or gives ErrNotFound. Labels' bounds bind the autoscaler, not
// the operator who calls this. While an update under way has not shown yet whether it must be rolled back, Scale waits,
// for 15 s at most, but for a function that has no replicas or is to have none.
func (c *Cluster) Scale(ctx context.Context, namespace, name string, replicas uint64) error {
	if replicas > maxReplicas {
		return failf(ErrInvalid, "replicas: %d; want 0 to %d", replicas, maxReplicas)
	}
	namespace = c.namespace(namespace)
	for began := time.Now(); ; {
		err := c.scale(ctx, namespace, name, replicas, time.Since(began) < heldScale)
		if !errors.Is(err, errHeld) || pause(ctx, heldLook) != nil {
			return err
		}
	}
}

// scale gives errHeld if it should wait and may.
func (c *Cluster) scale(ctx context.Context, namespace, name string, replicas uint64, mayWait bool) error {
	defer c.lock(namespace, name)()
	return c.modify(ctx, namespace, name, "scaled", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		spec := service.Spec
		if replicas == desired(service) {
			return spec, false, nil
		}
		if replicas > 0 && mayWait {
			if err := c.held(ctx, service); err != nil {
				return spec, false, err
			}
		}
		spec.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}}
		return spec, true, nil
	})
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

// Wake asks for replicas of a function that has none: as many as its lower bound, at least one. It leaves any other
// alone. A function that does not exist is feed.ErrUnknownFunction.
func (c *Cluster) Wake(ctx context.Context, name, namespace string) error {
	namespace = c.namespace(namespace)
	defer c.lock(namespace, name)()
	err := c.modify(ctx, namespace, name, "woken", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		d, err := deploymentOf(service)
		if err != nil {
			return swarm.ServiceSpec{}, false, err
		}
		w, err := parseWishes(&d)
		if err != nil {
			return swarm.ServiceSpec{}, false, err
		}
		spec := service.Spec
		spec.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: new(max(w.min, 1))}}
		return spec, desired(service) == 0, nil
	})
	if isNotFound(err) {
		return feed.ErrUnknownFunction
	}
	return err
}

func byService(tasks []swarm.Task) map[string][]swarm.Task {
	grouped := make(map[string][]swarm.Task)
	for _, task := range tasks {
		grouped[task.ServiceID] = append(grouped[task.ServiceID], task)
	}
	return grouped
}
