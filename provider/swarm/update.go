package swarm

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// updateAttempts bounds how often a change is tried again after somebody else's came in between. Writers of this
// process queue up; the others are the Swarm itself (a roll-back), and an operator at a terminal.
const updateAttempts = 20

// modify reads a function's service, calls change to make its new spec, and writes it if the service has not changed.
// Otherwise it starts over. Change returns false if there is nothing to write. The caller holds the function's lock.
// Success is logged as "function <verb>". Without a verb nothing is logged: the autoscaler logs its changes itself.
func (c *Cluster) modify(ctx context.Context, namespace, name, verb string, change func(swarm.Service) (swarm.ServiceSpec, bool, error)) error {
	for attempt := 1; ; attempt++ {
		service, err := c.find(ctx, namespace, name)
		if err != nil {
			return err
		}
		spec, wanted, err := change(service)
		if err != nil || !wanted {
			return err
		}
		_, err = c.docker.ServiceUpdate(ctx, service.ID, client.ServiceUpdateOptions{
			Version: service.Version, Spec: spec,
			EncodedRegistryAuth: c.cfg.RegistryAuth(registryHost(spec.TaskTemplate.ContainerSpec.Image)),
		})
		switch {
		case err == nil:
			if verb != "" {
				c.cfg.Logger.Info("function "+verb, "function", name, "namespace", namespace, "replicas", desired(swarm.Service{Spec: spec}))
			}
			c.nudge()
			return nil
		case errdefs.IsNotFound(err) && c.gone(ctx, service.ID):
			return missing(namespace, name)
		case !outOfSequence(err) || attempt == updateAttempts:
			return dockerError("changing function "+name, err)
		}
		if err := pause(ctx, time.Duration(attempt)*10*time.Millisecond); err != nil {
			return err
		}
	}
}

// gone tells a service that was removed meanwhile from a network or secret that is missing: the engine answers both
// with the same status.
func (c *Cluster) gone(ctx context.Context, id string) bool {
	_, err := c.docker.ServiceInspect(ctx, id, client.ServiceInspectOptions{})
	return errdefs.IsNotFound(err)
}

// pause waits about d, spread so that two writers do not meet again.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return dockerError("waiting to try again", ctx.Err())
	case <-timer.C:
		return nil
	}
}
