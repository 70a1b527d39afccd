package swarm

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/types"
)

// labelNamespaceSpec is on the config objects in which namespaces live, and holds what the user sent as JSON. The
// content of a config cannot change, its labels can; so its content is just the name.
const labelNamespaceSpec = privatePrefix + "namespace-spec"

// Namespaces gives the names of all namespaces, sorted, the default one among them; never nil.
func (c *Cluster) Namespaces(ctx context.Context) ([]string, error) {
	configs, err := c.namespaceConfigs(ctx)
	if err != nil {
		return nil, err
	}
	names := []string{c.cfg.Namespace}
	for _, config := range configs {
		names = append(names, config.Spec.Labels[labelNamespace])
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// GetNamespace gives the labels and annotations of one, or ErrNotFound.
func (c *Cluster) GetNamespace(ctx context.Context, name string) (types.FunctionNamespace, error) {
	config, err := c.namespaceConfig(ctx, name)
	if err != nil {
		if name == c.cfg.Namespace && isNotFound(err) {
			return types.FunctionNamespace{Name: name, Labels: map[string]string{"openfaas": "1"}, Annotations: map[string]string{"openfaas": "1"}}, nil
		}
		return types.FunctionNamespace{}, err
	}
	var n types.FunctionNamespace
	if err := json.Unmarshal([]byte(config.Spec.Labels[labelNamespaceSpec]), &n); err != nil {
		return n, fmt.Errorf("reading label %s of config %s: %w", labelNamespaceSpec, config.Spec.Name, err)
	}
	return n, nil
}

// CreateNamespace adds one: ErrExists when there is one of this name.
func (c *Cluster) CreateNamespace(ctx context.Context, n types.FunctionNamespace) error {
	if err := checkName("name", n.Name); err != nil {
		return err
	}
	if n.Name == c.cfg.Namespace {
		return failf(ErrExists, "namespace %q exists", n.Name)
	}
	spec, err := namespaceSpec(n)
	if err != nil {
		return err
	}
	_, err = c.docker.ConfigCreate(ctx, client.ConfigCreateOptions{Spec: spec})
	if nameTaken(err) {
		return failf(ErrExists, "namespace %q exists", n.Name)
	}
	if err != nil {
		return dockerError("creating namespace "+n.Name, err)
	}
	c.cfg.Logger.Info("namespace created", "namespace", n.Name)
	return nil
}

// UpdateNamespace replaces the labels and annotations of one, or gives ErrNotFound. Those of the default namespace are
// fixed: ErrInvalid.
func (c *Cluster) UpdateNamespace(ctx context.Context, n types.FunctionNamespace) error {
	if n.Name == c.cfg.Namespace {
		return failf(ErrInvalid, "name is %q, the default namespace, which cannot be changed", n.Name)
	}
	spec, err := namespaceSpec(n)
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		config, err := c.namespaceConfig(ctx, n.Name)
		if err != nil {
			return err
		}
		next := config.Spec
		next.Labels = spec.Labels
		_, err = c.docker.ConfigUpdate(ctx, config.ID, client.ConfigUpdateOptions{Version: config.Version, Spec: next})
		switch {
		case err == nil:
			c.cfg.Logger.Info("namespace updated", "namespace", n.Name)
			return nil
		case errdefs.IsNotFound(err):
			return failf(ErrNotFound, "namespace %q does not exist", n.Name)
		case !outOfSequence(err) || attempt == updateAttempts:
			return dockerError("changing namespace "+n.Name, err)
		}
	}
}

// DeleteNamespace removes an empty one, or gives ErrNotFound, or ErrInUse with what is still in it.
func (c *Cluster) DeleteNamespace(ctx context.Context, name string) error {
	if name == c.cfg.Namespace {
		return failf(ErrInvalid, "name is %q, the default namespace, which cannot be removed", name)
	}
	c.namespacesMu.Lock()
	defer c.namespacesMu.Unlock()
	config, err := c.namespaceConfig(ctx, name)
	if err != nil {
		return err
	}
	services, err := c.services(ctx, labelNamespace+"="+name)
	if err != nil {
		return err
	}
	secrets, err := c.newestSecrets(ctx, name)
	if err != nil {
		return err
	}
	if len(services)+len(secrets) > 0 {
		return failf(ErrInUse, "namespace %q still holds %d functions and %d secrets; remove them first", name, len(services), len(secrets))
	}
	if _, err := c.docker.ConfigRemove(ctx, config.ID, client.ConfigRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		return dockerError("removing namespace "+name, err)
	}
	c.cfg.Logger.Info("namespace removed", "namespace", name)
	return nil
}

// requireNamespace gives ErrInvalid for a namespace that does not exist.
func (c *Cluster) requireNamespace(ctx context.Context, name string) error {
	if name == c.cfg.Namespace {
		return nil
	}
	_, err := c.namespaceConfig(ctx, name)
	if isNotFound(err) {
		return failf(ErrInvalid, "namespace is %q, which does not exist; create it first", name)
	}
	return err
}

func namespaceSpec(n types.FunctionNamespace) (swarm.ConfigSpec, error) {
	if err := checkName("name", n.Name); err != nil {
		return swarm.ConfigSpec{}, err
	}
	text, err := json.Marshal(n)
	if err != nil {
		return swarm.ConfigSpec{}, fmt.Errorf("encoding namespace %s: %w", n.Name, err)
	}
	return swarm.ConfigSpec{
		Annotations: swarm.Annotations{
			Name:   bounded("waggle-namespace."+n.Name, "..", maxSecretName),
			Labels: map[string]string{labelNamespace: n.Name, labelNamespaceSpec: string(text)},
		},
		Data: []byte(n.Name),
	}, nil
}

func (c *Cluster) namespaceConfig(ctx context.Context, name string) (swarm.Config, error) {
	if err := checkName("namespace", name); err != nil {
		return swarm.Config{}, err
	}
	configs, err := c.namespaceConfigs(ctx, labelNamespace+"="+name)
	if err != nil {
		return swarm.Config{}, err
	}
	if len(configs) == 0 {
		return swarm.Config{}, failf(ErrNotFound, "namespace %q does not exist", name)
	}
	return configs[0], nil
}

func (c *Cluster) namespaceConfigs(ctx context.Context, labels ...string) ([]swarm.Config, error) {
	filters := make(client.Filters).Add("label", labelNamespaceSpec)
	filters.Add("label", labels...)
	result, err := c.docker.ConfigList(ctx, client.ConfigListOptions{Filters: filters})
	if err != nil {
		return nil, dockerError("listing namespaces", err)
	}
	return slices.DeleteFunc(result.Items, func(config swarm.Config) bool {
		return !strings.HasPrefix(config.Spec.Name, "waggle-namespace.")
	}), nil
}
