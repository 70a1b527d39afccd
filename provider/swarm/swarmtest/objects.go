package swarmtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

func (e *Engine) checkSecrets(spec swarm.ServiceSpec) error {
	if spec.TaskTemplate.ContainerSpec == nil {
		return nil
	}
	for _, reference := range spec.TaskTemplate.ContainerSpec.Secrets {
		if _, found := e.secrets[reference.SecretID]; !found {
			return fmt.Errorf("secret %s not found: %w", reference.SecretName, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// SecretList gives the secrets that carry all labels of the filter, without their values.
func (e *Engine) SecretList(_ context.Context, options client.SecretListOptions) (client.SecretListResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []swarm.Secret
	for _, secret := range e.secrets {
		if hasLabels(secret.Spec.Labels, options.Filters) {
			secret.Spec.Data = nil
			found = append(found, secret)
		}
	}
	slices.SortFunc(found, func(a, b swarm.Secret) int { return cmp.Compare(a.ID, b.ID) })
	return client.SecretListResult{Items: found}, e.answers()
}

// SecretCreate stores one whose name is new.
func (e *Engine) SecretCreate(_ context.Context, options client.SecretCreateOptions) (client.SecretCreateResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.before("SecretCreate"); err != nil {
		return client.SecretCreateResult{}, err
	}
	for _, secret := range e.secrets {
		if secret.Spec.Name == options.Spec.Name {
			return client.SecretCreateResult{}, fmt.Errorf("name conflicts with an existing object: %w", errdefs.ErrAlreadyExists)
		}
	}
	secret := swarm.Secret{ID: fmt.Sprintf("secret%06d", e.next()), Spec: clone(options.Spec)}
	e.secrets[secret.ID] = secret
	return client.SecretCreateResult{ID: secret.ID}, e.after("SecretCreate")
}

// SecretRemove removes one that no service refers to.
func (e *Engine) SecretRemove(_ context.Context, id string, _ client.SecretRemoveOptions) (client.SecretRemoveResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.before("SecretRemove"); err != nil {
		return client.SecretRemoveResult{}, err
	}
	secret, found := e.secrets[id]
	if !found {
		return client.SecretRemoveResult{}, fmt.Errorf("secret %s: %w", id, errdefs.ErrNotFound)
	}
	for _, service := range e.services {
		for _, reference := range service.Spec.TaskTemplate.ContainerSpec.Secrets {
			if reference.SecretID == id {
				return client.SecretRemoveResult{}, fmt.Errorf("secret '%s' is in use by the following service: %s: %w", secret.Spec.Name, service.Spec.Name, errdefs.ErrInvalidArgument)
			}
		}
	}
	delete(e.secrets, id)
	return client.SecretRemoveResult{}, e.after("SecretRemove")
}

// ConfigList gives the configs that carry all labels of the filter.
func (e *Engine) ConfigList(_ context.Context, options client.ConfigListOptions) (client.ConfigListResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []swarm.Config
	for _, config := range e.configs {
		if hasLabels(config.Spec.Labels, options.Filters) {
			found = append(found, config)
		}
	}
	slices.SortFunc(found, func(a, b swarm.Config) int { return cmp.Compare(a.ID, b.ID) })
	return client.ConfigListResult{Items: found}, e.answers()
}

// ConfigCreate stores one whose name is new.
func (e *Engine) ConfigCreate(_ context.Context, options client.ConfigCreateOptions) (client.ConfigCreateResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.before("ConfigCreate"); err != nil {
		return client.ConfigCreateResult{}, err
	}
	for _, config := range e.configs {
		if config.Spec.Name == options.Spec.Name {
			return client.ConfigCreateResult{}, fmt.Errorf("name conflicts with an existing object: %w", errdefs.ErrAlreadyExists)
		}
	}
	n := e.next()
	config := swarm.Config{ID: fmt.Sprintf("config%06d", n), Meta: swarm.Meta{Version: swarm.Version{Index: n}}, Spec: clone(options.Spec)}
	e.configs[config.ID] = config
	return client.ConfigCreateResult{ID: config.ID}, e.after("ConfigCreate")
}

// ConfigUpdate replaces the labels of one whose version is still the given one; nothing else may differ.
func (e *Engine) ConfigUpdate(_ context.Context, id string, options client.ConfigUpdateOptions) (client.ConfigUpdateResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.before("ConfigUpdate"); err != nil {
		return client.ConfigUpdateResult{}, err
	}
	config, found := e.configs[id]
	switch {
	case !found:
		return client.ConfigUpdateResult{}, fmt.Errorf("config %s: %w", id, errdefs.ErrNotFound)
	case config.Version != options.Version:
		return client.ConfigUpdateResult{}, fmt.Errorf("rpc error: code = Unknown desc = update out of sequence: %w", errdefs.ErrInternal)
	case config.Spec.Name != options.Spec.Name || !bytes.Equal(config.Spec.Data, options.Spec.Data):
		return client.ConfigUpdateResult{}, fmt.Errorf("only updates to Labels are allowed: %w", errdefs.ErrInvalidArgument)
	}
	config.Version.Index, config.Spec = e.next(), clone(options.Spec)
	e.configs[id] = config
	return client.ConfigUpdateResult{}, e.after("ConfigUpdate")
}

// ConfigRemove removes one.
func (e *Engine) ConfigRemove(_ context.Context, id string, _ client.ConfigRemoveOptions) (client.ConfigRemoveResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.before("ConfigRemove"); err != nil {
		return client.ConfigRemoveResult{}, err
	}
	if _, found := e.configs[id]; !found {
		return client.ConfigRemoveResult{}, fmt.Errorf("config %s: %w", id, errdefs.ErrNotFound)
	}
	delete(e.configs, id)
	return client.ConfigRemoveResult{}, e.after("ConfigRemove")
}

// ImageInspect knows the images of AddImage.
func (e *Engine) ImageInspect(_ context.Context, name string, _ ...client.ImageInspectOption) (client.ImageInspectResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.answers(); err != nil {
		return client.ImageInspectResult{}, err
	}
	id, found := e.images[name]
	if !found {
		return client.ImageInspectResult{}, fmt.Errorf("no such image: %s: %w", name, errdefs.ErrNotFound)
	}
	return client.ImageInspectResult{InspectResponse: image.InspectResponse{ID: id, RepoDigests: e.pulled[name]}}, nil
}

// DistributionInspect knows the images of AddRemoteImage, and whether their password was sent.
func (e *Engine) DistributionInspect(_ context.Context, name string, options client.DistributionInspectOptions) (client.DistributionInspectResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.answers(); err != nil {
		return client.DistributionInspectResult{}, err
	}
	remote, found := e.remote[name]
	if !found || remote.auth != options.EncodedRegistryAuth {
		return client.DistributionInspectResult{}, fmt.Errorf("pull access denied for %s, repository does not exist or may require authorization: %w", name, errdefs.ErrPermissionDenied)
	}
	var result client.DistributionInspectResult
	err := json.Unmarshal([]byte(`{"Descriptor":{"digest":"`+remote.digest+`"},"Platforms":[
		{"os":"linux","architecture":"amd64"},{"os":"linux","architecture":"arm"},{"os":"unknown","architecture":"unknown"}]}`), &result.DistributionInspect)
	return result, err
}

// ContainerStats reports a container that uses 100 thousandths of a processor and 5 MiB.
func (e *Engine) ContainerStats(context.Context, string, client.ContainerStatsOptions) (client.ContainerStatsResult, error) {
	now := time.Now()
	text, err := json.Marshal(container.StatsResponse{
		Read:        now,
		CPUStats:    container.CPUStats{CPUUsage: container.CPUUsage{TotalUsage: uint64(now.UnixNano()) / 10}},
		MemoryStats: container.MemoryStats{Usage: 6 << 20, Stats: map[string]uint64{"inactive_file": 1 << 20}},
	})
	return client.ContainerStatsResult{Body: io.NopCloser(bytes.NewReader(text))}, err
}
