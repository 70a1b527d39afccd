package swarmtest

import (
	"context"
	"fmt"
	"strings"
	"text/template"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
)

// expansion is what a template in a service can name, as far as it is used here. (swarmkit, template.Context.)
type expansion struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct{ ID, Hostname string }
	Task struct{ ID, Name, Slot string }
}

// expand expands a container's templates as managers do before they hand it to a node. Templates are
// environment values and the sources and targets of mounts.
func expand(service swarm.Service, task swarm.Task) (env []string, targets []string, err error) {
	var about expansion
	about.Service.ID, about.Service.Name, about.Service.Labels = service.ID, service.Spec.Name, service.Spec.Labels
	about.Node.ID, about.Node.Hostname = task.NodeID, task.NodeID
	about.Task.ID, about.Task.Slot = task.ID, fmt.Sprint(task.Slot)
	one := func(text string) (string, error) {
		parsed, err := template.New("expansion").Option("missingkey=error").Parse(text)
		if err != nil {
			return "", fmt.Errorf("rpc error: code = InvalidArgument desc = expanding env failed: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		var out strings.Builder
		if err := parsed.Execute(&out, about); err != nil {
			return "", fmt.Errorf("rpc error: code = InvalidArgument desc = expanding env failed: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return out.String(), nil
	}
	container := service.Spec.TaskTemplate.ContainerSpec
	if task.Spec.ContainerSpec != nil {
		container = task.Spec.ContainerSpec
	}
	for _, entry := range container.Env {
		key, value, assigned := strings.Cut(entry, "=")
		if !assigned {
			env = append(env, entry)
			continue
		}
		if value, err = one(value); err != nil {
			return nil, nil, err
		}
		env = append(env, key+"="+value)
	}
	for _, m := range container.Mounts {
		target, err := one(m.Target)
		if err != nil {
			return nil, nil, err
		}
		targets = append(targets, target)
	}
	return env, targets, nil
}

// checkTemplates refuses a spec whose templates cannot be expanded.
func checkTemplates(spec swarm.ServiceSpec) error {
	if spec.TaskTemplate.ContainerSpec == nil {
		return nil
	}
	_, _, err := expand(swarm.Service{Spec: spec}, swarm.Task{})
	return err
}

// Container gives the environment and the mounts' targets of a task's container.
func (e *Engine) Container(_ context.Context, task swarm.Task) (env, targets []string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return expand(e.services[task.ServiceID], task)
}
