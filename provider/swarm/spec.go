package swarm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/types"
)

const (
	secretsDir = "/var/openfaas/secrets/"

	// restartDelay keeps a crashing function from occupying the node, and is short enough that one crash is not felt.
	restartDelay = 2 * time.Second
	// restartWindow: a replica that lived this long counts as started. There is no limit of attempts, ever.
	restartWindow = 10 * time.Second
	// updateMonitor: a new replica that ends within this time after it came up makes the update roll back. One that never
	// comes up does so whenever it ends.
	updateMonitor = 10 * time.Second
)

// maxDeployment bounds a deployment as JSON. The Swarm stores it as label and as spec, and both again for the
// spec before, all in one message of at most 4 MiB.
const maxDeployment = 400 << 10

// image is what a deployment's image name was resolved to.
type image struct {
	// Ref is what Swarm is told to run: the name as given, or with the registry's digest.
	Ref string
	// Identity changes when the content under the name does: a digest, or the local image's id.
	Identity  string
	Platforms []swarm.Platform
}

// secretVersion is the Docker secret behind a logical one.
type secretVersion struct {
	ID, Name string
	Number   uint64
}

// serviceSpec translates a deployment. It is pure: the same input gives the same spec, which [specHash] relies on.
// Secrets holds the newest version of each secret the deployment names. The number of replicas is left to the caller.
func (c Config) serviceSpec(d *types.FunctionDeployment, img image, secrets map[string]secretVersion) (swarm.ServiceSpec, error) {
	if err := checkName("service", d.Service); err != nil {
		return swarm.ServiceSpec{}, err
	}
	o, err := parseOptions(d)
	if err != nil {
		return swarm.ServiceSpec{}, err
	}
	container, err := c.containerSpec(d, o, img, secrets)
	if err != nil {
		return swarm.ServiceSpec{}, err
	}
	if err := c.permit(o); err != nil {
		return swarm.ServiceSpec{}, err
	}
	if err := checkConstraints(d.Constraints); err != nil {
		return swarm.ServiceSpec{}, err
	}
	labels, err := c.serviceLabels(d)
	if err != nil {
		return swarm.ServiceSpec{}, err
	}
	networks := []swarm.NetworkAttachmentConfig{{Target: c.Network}}
	for _, name := range o.networks {
		if name != c.Network {
			networks = append(networks, swarm.NetworkAttachmentConfig{Target: name})
		}
	}
	delay, window := restartDelay, restartWindow
	spec := swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: serviceName(c.Namespace, d.Namespace, d.Service), Labels: labels},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: container,
			Resources:     resources(o.limits, o.requests),
			RestartPolicy: &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: &delay, Window: &window},
			Placement:     &swarm.Placement{Constraints: d.Constraints, MaxReplicas: o.perNode, Platforms: img.Platforms},
			Networks:      networks,
			// Non-blocking: a function must not wait for an engine that is slow to take its log lines.
			LogDriver: &swarm.Driver{Name: "json-file", Options: map[string]string{
				"max-size": "10m", "max-file": "3", "mode": "non-blocking", "max-buffer-size": "4m",
			}},
		},
		Mode:           swarm.ServiceMode{Replicated: &swarm.ReplicatedService{}},
		UpdateConfig:   updateConfig(o, swarm.UpdateFailureActionRollback),
		RollbackConfig: updateConfig(o, swarm.UpdateFailureActionPause),
		// The gateway balances by itself: no virtual IP, which would pin connections to one replica.
		EndpointSpec: &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR},
	}
	labels[labelSpec] = specHash(spec)
	return spec, nil
}

// updateConfig replaces one replica at a time and starts the new one before it stops the old one. If the user limits
// replicas per node, a new one may find no place beside the old one: Swarm would wait for ever. There the old one
// stops first, and the gateway holds the requests that no other replica can take.
func updateConfig(o options, onFailure swarm.FailureAction) *swarm.UpdateConfig {
	order := swarm.UpdateOrderStartFirst
	if o.perNode > 0 {
		order = swarm.UpdateOrderStopFirst
	}
	return &swarm.UpdateConfig{Parallelism: 1, Order: order, FailureAction: onFailure, Monitor: updateMonitor}
}

// specHash names the content of a spec. Whatever the number of replicas, which others change, is no part of it.
func specHash(spec swarm.ServiceSpec) string {
	spec.Mode = swarm.ServiceMode{}
	text, err := json.Marshal(spec)
	if err != nil {
		panic(fmt.Sprintf("encoding a service spec: %v", err)) // it holds nothing that could not be encoded
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// serviceLabels marks the service as ours and stores what the user sent. The user's own labels are put beside it, for
// filters of other tools, unless they could pass for somebody's bookkeeping.
func (c Config) serviceLabels(d *types.FunctionDeployment) (map[string]string, error) {
	sent, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encoding the deployment of %s: %w", d.Service, err)
	}
	if len(sent) > maxDeployment {
		return nil, failf(ErrInvalid, "deployment has %d bytes: must be at most %d; large values belong in secrets", len(sent), maxDeployment)
	}
	labels := map[string]string{}
	for key, value := range deref(d.Labels) {
		if key != labelFunction && !strings.HasPrefix(key, privatePrefix) && !strings.HasPrefix(key, "com.docker.") {
			labels[key] = value
		}
	}
	labels[labelFunction] = d.Service
	labels[labelNamespace] = d.Namespace
	labels[labelDeployment] = string(sent)
	return labels, nil
}

func (c Config) containerSpec(d *types.FunctionDeployment, o options, img image, secrets map[string]secretVersion) (*swarm.ContainerSpec, error) {
	mounts := slices.Clone(o.mounts)
	for i := range mounts {
		mounts[i].Target = literal(mounts[i].Target)
	}
	// A watchdog keeps its lock file in /tmp. What is written there counts towards the function's memory limit.
	if d.ReadOnlyRootFilesystem && !slices.ContainsFunc(mounts, func(m mount.Mount) bool { return m.Target == "/tmp" }) {
		mounts = append(mounts, mount.Mount{Type: mount.TypeTmpfs, Target: "/tmp", TmpfsOptions: &mount.TmpfsOptions{Mode: 0o1777}})
	}
	references, err := c.secretReferences(d, secrets)
	if err != nil {
		return nil, err
	}
	env, err := environment(d)
	if err != nil {
		return nil, err
	}
	grace := o.stopGrace
	return &swarm.ContainerSpec{
		Image:  img.Ref,
		Labels: map[string]string{labelFunction: d.Service, labelNamespace: d.Namespace, labelImage: img.Identity},
		Env:    env,
		User:   c.User,
		// Engines before API 1.46 ignore NoNewPrivileges; without capabilities there is then still nothing
		// that a setuid program could gain.
		Privileges:      &swarm.Privileges{NoNewPrivileges: true},
		CapabilityDrop:  []string{"ALL"},
		ReadOnly:        d.ReadOnlyRootFilesystem,
		Mounts:          mounts,
		StopGracePeriod: &grace,
		Secrets:         references,
	}, nil
}

// environment is the user's, and what each OpenFaaS function is told about itself, sorted.
func environment(d *types.FunctionDeployment) ([]string, error) {
	env := map[string]string{"OPENFAAS_NAME": d.Service, "OPENFAAS_NAMESPACE": d.Namespace}
	maps.Copy(env, d.EnvVars)
	if d.EnvProcess != "" {
		env["fprocess"] = d.EnvProcess
	}
	list := make([]string, 0, len(env))
	for _, key := range slices.Sorted(maps.Keys(env)) {
		if key == "" || strings.ContainsAny(key, "=\x00") || strings.Contains(env[key], "\x00") {
			return nil, failf(ErrInvalid, "envVars is %q: must be names that are not empty and hold no =, and no zero bytes", shorten(key))
		}
		list = append(list, key+"="+literal(env[key]))
	}
	return list, nil
}

func (c Config) secretReferences(d *types.FunctionDeployment, secrets map[string]secretVersion) ([]*swarm.SecretReference, error) {
	// An image that runs as its own user is of a uid we do not know.
	uid, gid, mode := "0", "0", os.FileMode(0o444)
	if c.User != "" {
		uid, gid, _ = strings.Cut(c.User, ":")
		mode = 0o440
	}
	var references []*swarm.SecretReference
	for i, name := range d.Secrets {
		if slices.Contains(d.Secrets[:i], name) {
			continue
		}
		version, found := secrets[name]
		if !found {
			return nil, failf(ErrInvalid, "secrets is %q, which does not exist in namespace %q; create it first", shorten(name), d.Namespace)
		}
		references = append(references, &swarm.SecretReference{
			File:     &swarm.SecretReferenceFileTarget{Name: secretsDir + name, UID: uid, GID: gid, Mode: mode},
			SecretID: version.ID, SecretName: version.Name,
		})
	}
	return references, nil
}

func resources(limits, requests quantities) *swarm.ResourceRequirements {
	var r swarm.ResourceRequirements
	if limits != (quantities{}) {
		r.Limits = &swarm.Limit{NanoCPUs: limits.nanoCPUs, MemoryBytes: limits.memory}
	}
	if requests != (quantities{}) {
		r.Reservations = &swarm.Resources{NanoCPUs: requests.nanoCPUs, MemoryBytes: requests.memory}
	}
	return &r
}

// constraintPattern is Swarm's grammar for placement; the engine itself answers what does not fit as if it had failed.
var constraintPattern = regexp.MustCompile(`^\s*[a-zA-Z_][a-zA-Z0-9_.-]*\s*(==|!=)\s*[a-zA-Z0-9:_./*()?+\[\]\\^$|-][a-zA-Z0-9:_./*()?+\[\]\\^$|\s-]*$`)

func checkConstraints(constraints []string) error {
	for _, constraint := range constraints {
		if !constraintPattern.MatchString(constraint) {
			return failf(ErrInvalid, "constraints is %q: must have Swarm's form, such as node.role == worker or node.labels.zone != a", shorten(constraint))
		}
	}
	return nil
}

// permit holds the options against the operator's allow-lists.
func (c Config) permit(o options) error {
	for _, name := range o.networks {
		if name != c.Network && !slices.Contains(c.AllowedNetworks, name) {
			return failf(ErrForbidden, "annotation %s: network %q is not allowed; the operator allows %s", annotationNetworks, name, listed(c.AllowedNetworks))
		}
	}
	for _, m := range o.mounts {
		if !slices.Contains(c.AllowedVolumes, m.Source) {
			return failf(ErrForbidden, "annotation %s: volume %q is not allowed; the operator allows %s", annotationVolumes, m.Source, listed(c.AllowedVolumes))
		}
	}
	return nil
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
