package swarm

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/types"
)

const (
	labelSecret        = privatePrefix + "secret"
	labelSecretVersion = privatePrefix + "secret-version"

	// maxSecretSize is Swarm's limit.
	maxSecretSize = 500*1024 - 1
)

// A secret of OpenFaaS can be changed, one of Docker cannot. So each value is a Docker secret of its own, a version,
// under the name <namespace>.<name>.<number>; the highest number is the secret's value. An update creates the next
// version, and [Cluster.Reconcile] does what remains: it moves functions over and removes what nobody needs.

// ListSecrets gives the names in a namespace, sorted, never the values; never nil.
func (c *Cluster) ListSecrets(ctx context.Context, namespace string) ([]types.Secret, error) {
	namespace = c.namespace(namespace)
	if err := checkName("namespace", namespace); err != nil {
		return nil, err
	}
	newest, err := c.newestSecrets(ctx, namespace)
	if err != nil {
		return nil, err
	}
	list := make([]types.Secret, 0, len(newest))
	for name := range newest {
		list = append(list, types.Secret{Name: name, Namespace: namespace})
	}
	slices.SortFunc(list, func(a, b types.Secret) int { return strings.Compare(a.Name, b.Name) })
	if len(list) == 0 {
		return list, c.requireNamespace(ctx, namespace)
	}
	return list, nil
}

// CreateSecret stores a new secret: ErrExists when there is one of this name.
func (c *Cluster) CreateSecret(ctx context.Context, s types.Secret) error {
	s.Namespace = c.namespace(s.Namespace)
	data, err := checkSecret(s)
	if err != nil {
		return err
	}
	c.namespacesMu.RLock()
	defer c.namespacesMu.RUnlock()
	c.secretsMu.Lock()
	defer c.secretsMu.Unlock()
	if err := c.requireNamespace(ctx, s.Namespace); err != nil {
		return err
	}
	newest, err := c.newestSecrets(ctx, s.Namespace)
	if err != nil {
		return err
	}
	if _, exists := newest[s.Name]; exists {
		return failf(ErrExists, "secret %q exists in namespace %q", s.Name, s.Namespace)
	}
	if err := c.storeSecret(ctx, s, 1, data); err != nil {
		return err
	}
	c.cfg.Logger.Info("secret created", "secret", s.Name, "namespace", s.Namespace)
	return nil
}

// UpdateSecret gives a secret a new value and rolls the functions that use it, or gives ErrNotFound.
func (c *Cluster) UpdateSecret(ctx context.Context, s types.Secret) error {
	s.Namespace = c.namespace(s.Namespace)
	data, err := checkSecret(s)
	if err != nil {
		return err
	}
	if err := c.nextVersion(ctx, s, data); err != nil {
		return err
	}
	c.cfg.Logger.Info("secret updated", "secret", s.Name, "namespace", s.Namespace)
	// The new value is stored, and moving functions over will be finished later if it fails now.
	if err := c.Reconcile(ctx); err != nil {
		c.cfg.Logger.Warn("moving functions to a new secret failed, trying again", "secret", s.Name, "namespace", s.Namespace, "error", err)
	}
	return nil
}

// nextVersion stores a value under the number after the newest. Another provider may take that number first. It
// may even take that and the next number and remove the first before we store ours. So it must be seen to be
// the newest.
func (c *Cluster) nextVersion(ctx context.Context, s types.Secret, data []byte) error {
	c.secretsMu.Lock()
	defer c.secretsMu.Unlock()
	stored := uint64(0)
	for attempt := 1; ; attempt++ {
		newest, err := c.newestSecrets(ctx, s.Namespace)
		if err != nil {
			return err
		}
		current, exists := newest[s.Name]
		if !exists {
			return failf(ErrNotFound, "secret %q does not exist in namespace %q", s.Name, s.Namespace)
		}
		if current.Number == stored {
			return nil
		}
		if attempt > updateAttempts {
			return failf(ErrUnavailable, "changing secret %q: others change it all the time; try again", s.Name)
		}
		stored = current.Number + 1
		if err := c.storeSecret(ctx, s, stored, data); errors.Is(err, ErrExists) {
			stored = 0
		} else if err != nil {
			return err
		}
	}
}

// DeleteSecret removes a secret and all its versions, or gives ErrNotFound. ErrInUse names the functions that
// use it, or whose update may still roll back to a spec that does.
func (c *Cluster) DeleteSecret(ctx context.Context, namespace, name string) error {
	namespace = c.namespace(namespace)
	if err := checkSecretName("name", name); err != nil {
		return err
	}
	c.secretsMu.Lock()
	defer c.secretsMu.Unlock()
	stored, err := c.ownedSecrets(ctx, labelNamespace+"="+namespace, labelSecret+"="+name)
	if err != nil {
		return err
	}
	if len(stored) == 0 {
		return failf(ErrNotFound, "secret %q does not exist in namespace %q", name, namespace)
	}
	users, err := c.secretUsers(ctx, namespace, name)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return failf(ErrInUse, "secret %q is used by %s; remove or update them first", name, strings.Join(users, ", "))
	}
	needed, err := c.neededSecrets(ctx)
	if err != nil {
		return err
	}
	for _, secret := range stored {
		if function := needed[secret.ID]; function != "" {
			return failf(ErrInUse, "secret %q is used by %s until its last update has ended, which may still be rolled back; try again then", name, function)
		}
	}
	// Oldest first: whatever is left if we are stopped here still has the newest value.
	for _, secret := range stored {
		if err := c.removeSecret(ctx, secret); err != nil {
			return err
		}
	}
	c.cfg.Logger.Info("secret removed", "secret", name, "namespace", namespace)
	return nil
}

func (c *Cluster) secretUsers(ctx context.Context, namespace, name string) ([]string, error) {
	services, err := c.services(ctx, labelNamespace+"="+namespace)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, service := range services {
		d, err := deploymentOf(service)
		if err != nil {
			return nil, err
		}
		if slices.Contains(d.Secrets, name) {
			users = append(users, d.Service)
		}
	}
	slices.Sort(users)
	return users, nil
}

// checkSecret gives the bytes to store. RawValue wins over Value, as with the other providers: clients that send both
// send the file's bytes there.
func checkSecret(s types.Secret) ([]byte, error) {
	if err := checkName("namespace", s.Namespace); err != nil {
		return nil, err
	}
	if err := checkSecretName("name", s.Name); err != nil {
		return nil, err
	}
	data := s.RawValue
	if len(data) == 0 {
		data = []byte(s.Value)
	}
	if len(data) == 0 || len(data) > maxSecretSize {
		return nil, failf(ErrInvalid, "value has %d bytes: must be 1 to %d", len(data), maxSecretSize)
	}
	return data, nil
}

func (c *Cluster) storeSecret(ctx context.Context, s types.Secret, number uint64, data []byte) error {
	version := strconv.FormatUint(number, 10)
	_, err := c.docker.SecretCreate(ctx, client.SecretCreateOptions{Spec: swarm.SecretSpec{
		Annotations: swarm.Annotations{
			Name:   bounded(s.Namespace+"."+s.Name+"."+version, "..", maxSecretName),
			Labels: map[string]string{labelSecret: s.Name, labelNamespace: s.Namespace, labelSecretVersion: version},
		},
		Data: data,
	}})
	if nameTaken(err) {
		return failf(ErrExists, "secret %q exists in namespace %q", s.Name, s.Namespace)
	}
	return dockerError("storing secret "+s.Name, err)
}

func (c *Cluster) removeSecret(ctx context.Context, secret swarm.Secret) error {
	_, err := c.docker.SecretRemove(ctx, secret.ID, client.SecretRemoveOptions{})
	switch {
	case err == nil || errdefs.IsNotFound(err):
		return nil
	case strings.Contains(err.Error(), "is in use"):
		return failf(ErrInUse, "%s", daemonText(err))
	}
	return dockerError("removing secret "+secret.Spec.Labels[labelSecret], err)
}

// ownedSecrets lists the versions that carry all labels, oldest first.
func (c *Cluster) ownedSecrets(ctx context.Context, labels ...string) ([]swarm.Secret, error) {
	filters := make(client.Filters).Add("label", labelSecretVersion)
	filters.Add("label", labels...)
	result, err := c.docker.SecretList(ctx, client.SecretListOptions{Filters: filters})
	if err != nil {
		return nil, dockerError("listing secrets", err)
	}
	stored := slices.DeleteFunc(result.Items, func(s swarm.Secret) bool {
		return s.Spec.Labels[labelSecret] == "" || versionNumber(s) == 0
	})
	slices.SortFunc(stored, func(a, b swarm.Secret) int { return int(versionNumber(a)) - int(versionNumber(b)) })
	return stored, nil
}

func versionNumber(s swarm.Secret) uint64 {
	n, err := strconv.ParseUint(s.Spec.Labels[labelSecretVersion], 10, 31)
	if err != nil {
		return 0
	}
	return n
}

// newestSecrets maps the name of each secret of a namespace to its newest version.
func (c *Cluster) newestSecrets(ctx context.Context, namespace string) (map[string]secretVersion, error) {
	stored, err := c.ownedSecrets(ctx, labelNamespace+"="+namespace)
	if err != nil {
		return nil, err
	}
	newest := make(map[string]secretVersion, len(stored))
	for _, s := range stored {
		newest[s.Spec.Labels[labelSecret]] = secretVersion{ID: s.ID, Name: s.Spec.Name, Number: versionNumber(s)}
	}
	return newest, nil
}
