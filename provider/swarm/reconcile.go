package swarm

import (
	"context"
	"errors"
	"slices"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// Reconcile finishes what an update of a secret or a removal of a function began. It moves functions that refer to an
// old version of a secret to the newest, and removes what nothing refers to. It is idempotent and safe at any time.
func (c *Cluster) Reconcile(ctx context.Context) error {
	return errors.Join(c.finishSecrets(ctx), c.finishRemovals(ctx))
}

func (c *Cluster) finishSecrets(ctx context.Context) error {
	stored, err := c.ownedSecrets(ctx)
	if err != nil {
		return err
	}
	old := outdated(stored)
	if len(old) == 0 {
		return nil
	}
	services, err := c.services(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, service := range services {
		if refersTo(service, old) && !rolledBack(service) {
			problems = append(problems, c.rebuild(ctx, service.Spec.Labels[labelNamespace], service.Spec.Labels[labelFunction]))
		}
	}
	return errors.Join(append(problems, c.collect(ctx))...)
}

// rebuild makes a function's spec again from what its user sent, with its present image and the newest secrets. One
// whose update may still be rolled back is left as it is, for the next Reconcile.
func (c *Cluster) rebuild(ctx context.Context, namespace, name string) error {
	defer c.lock(namespace, name)()
	c.secretsMu.RLock()
	defer c.secretsMu.RUnlock()
	err := c.modify(ctx, namespace, name, "moved to new secrets", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		d, err := deploymentOf(service)
		if err != nil {
			return swarm.ServiceSpec{}, false, err
		}
		spec, _, err := c.build(ctx, &d, resolvedImage(service))
		if err != nil {
			return spec, false, err
		}
		spec.Mode = service.Spec.Mode
		if spec.Labels[labelSpec] == service.Spec.Labels[labelSpec] {
			return spec, false, nil
		}
		return spec, true, c.guardRollback(ctx, service)
	})
	if errors.Is(err, ErrUpdating) {
		c.cfg.Logger.Info("moving a function to new secrets waits for its update", "function", name, "namespace", namespace)
		return nil
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// collect removes the old versions that no service refers to, nor could roll back to.
func (c *Cluster) collect(ctx context.Context) error {
	c.secretsMu.Lock()
	defer c.secretsMu.Unlock()
	stored, err := c.ownedSecrets(ctx)
	if err != nil {
		return err
	}
	old := outdated(stored)
	if len(old) == 0 {
		return nil
	}
	needed, err := c.neededSecrets(ctx)
	if err != nil {
		return err
	}
	for _, secret := range stored {
		if _, found := needed[secret.ID]; found || !old[secret.ID] {
			continue
		}
		if err := c.removeSecret(ctx, secret); err != nil && !errors.Is(err, ErrInUse) {
			return err
		}
	}
	return nil
}

// neededSecrets maps the id of each secret that a replica has, or may get without a further request, to a
// function that needs it. "" is a replica of another service, or of a function that was just removed.
//
// The state of an update shows that a roll-back is possible, except between the change of a service and its
// managers' first step. Then there is no state yet, but replicas of the old spec are still to run, and they
// refer to the secret. The caller holds secretsMu.
func (c *Cluster) neededSecrets(ctx context.Context) (map[string]string, error) {
	// Replicas before services: one that is stopped in between leaves a state behind.
	running, err := c.docker.TaskList(ctx, client.TaskListOptions{Filters: make(client.Filters).Add("desired-state", "running")})
	if err != nil {
		return nil, dockerError("listing replicas", err)
	}
	services, err := c.services(ctx)
	if err != nil {
		return nil, err
	}
	needed := make(map[string]string)
	functions := make(map[string]string, len(services))
	for _, service := range services {
		functions[service.ID] = service.Spec.Labels[labelFunction]
	}
	for _, task := range running.Items {
		note(needed, task.Spec, functions[task.ServiceID])
	}
	for _, service := range services {
		note(needed, service.Spec.TaskTemplate, functions[service.ID])
		if updating(service) && service.PreviousSpec != nil {
			note(needed, service.PreviousSpec.TaskTemplate, functions[service.ID])
		}
	}
	return needed, nil
}

// outdated gives the ids of all versions that have a newer one. Stored is sorted, oldest first.
func outdated(stored []swarm.Secret) map[string]bool {
	type key struct{ namespace, name string }
	newest := make(map[key]string)
	old := make(map[string]bool)
	for _, s := range stored {
		k := key{s.Spec.Labels[labelNamespace], s.Spec.Labels[labelSecret]}
		if id, found := newest[k]; found {
			old[id] = true
		}
		newest[k] = s.ID
	}
	return old
}

// note adds the ids of the secrets that a template of a function refers to. A function that has a name stays.
func note(ids map[string]string, template swarm.TaskSpec, function string) {
	if template.ContainerSpec == nil {
		return
	}
	for _, reference := range template.ContainerSpec.Secrets {
		if ids[reference.SecretID] == "" {
			ids[reference.SecretID] = function
		}
	}
}

func refersTo(service swarm.Service, ids map[string]bool) bool {
	return slices.ContainsFunc(service.Spec.TaskTemplate.ContainerSpec.Secrets, func(r *swarm.SecretReference) bool { return ids[r.SecretID] })
}

func updating(service swarm.Service) bool {
	return service.UpdateStatus != nil && service.UpdateStatus.State != swarm.UpdateStateCompleted
}

// rolledBack is true for a function that did not come up with its newest spec. It stays as it is until its user acts:
// moving it again would only roll it back again, for ever.
func rolledBack(service swarm.Service) bool {
	return service.UpdateStatus != nil && slices.Contains([]swarm.UpdateState{
		swarm.UpdateStateRollbackStarted, swarm.UpdateStateRollbackPaused, swarm.UpdateStateRollbackCompleted,
	}, service.UpdateStatus.State)
}
