package swarm

import (
	"context"
	"errors"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"waggle/provider/feed"
)

// Scale sets the number of desired replicas, 0 included, or gives ErrNotFound. The labels' bounds apply to the
// autoscaler, not to the operator who calls this. While an update under way may still roll back, Scale waits
// for 15 s at most. It does not wait if the function has no replicas or is to have none.
func (c *Cluster) Scale(ctx context.Context, namespace, name string, replicas uint64) error {
	namespace = c.namespace(namespace)
	for began := time.Now(); ; {
		err := c.scale(ctx, namespace, name, replicas, func(service swarm.Service) error {
			if replicas == 0 || time.Since(began) > maxScaleWait {
				return nil
			}
			return c.guardRollback(ctx, service)
		})
		if !errors.Is(err, ErrUpdating) || pause(ctx, guardPoll) != nil {
			return err
		}
	}
}

// ScaleFrom sets the number of desired replicas to to if it still is from, and never waits. If two decide at
// once, such as the autoscaler and a wake, or two providers, the second changes nothing.
//
// ErrMoved means that the number has changed. ErrUpdating means that Scale would wait for an update under way:
// ask again in a second. After 15 s of an update the number is set all the same.
func (c *Cluster) ScaleFrom(ctx context.Context, namespace, name string, from, to uint64) error {
	namespace = c.namespace(namespace)
	return c.scale(ctx, namespace, name, to, func(service swarm.Service) error {
		if now := desired(service); now != from {
			return failf(ErrMoved, "function %q has %d replicas by now: it was to have %d instead of %d", name, now, to, from)
		}
		if to == 0 || time.Since(service.UpdatedAt) > maxScaleWait {
			return nil
		}
		return c.guardRollback(ctx, service)
	})
}

// scale sets the number of replicas unless permit refuses.
func (c *Cluster) scale(ctx context.Context, namespace, name string, replicas uint64, permit func(swarm.Service) error) error {
	if replicas > maxReplicas {
		return failf(ErrInvalid, "replicas is %d: must be 0 to %d", replicas, maxReplicas)
	}
	defer c.lock(namespace, name)()
	return c.modify(ctx, namespace, name, "", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		spec := service.Spec
		spec.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}}
		if replicas == desired(service) {
			return spec, false, nil
		}
		return spec, true, permit(service)
	})
}

// Wake asks for replicas of a function that has none: as many as its lower bound. It leaves any other alone. A function
// that does not exist is feed.ErrUnknownFunction.
func (c *Cluster) Wake(ctx context.Context, name, namespace string) error {
	namespace = c.namespace(namespace)
	defer c.lock(namespace, name)()
	err := c.modify(ctx, namespace, name, "woken", func(service swarm.Service) (swarm.ServiceSpec, bool, error) {
		d, _ := deploymentOf(service) // a function of which no more is known must wake all the same
		o, _ := parseOptions(&d)      // what a rule of today would refuse has its default
		spec := service.Spec
		spec.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &o.scale.Min}}
		return spec, desired(service) == 0, nil
	})
	if isNotFound(err) {
		return feed.ErrUnknownFunction
	}
	return err
}
