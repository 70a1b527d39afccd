package up

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/images"
)

// imageSet maps each part ("provider", "redis", …) to its image, tagged by content.
type imageSet map[string]string

// String lists the images for the progress line.
func (i imageSet) String() string {
	var all []string
	for _, image := range i {
		all = append(all, image)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// buildImages makes the base images if they are missing, builds the parts and brings them to the nodes.
func (s *System) buildImages(ctx context.Context) (imageSet, error) {
	builder := s.builder()
	if err := builder.EnsureBase(ctx); err != nil {
		return nil, err
	}
	built, err := builder.Build(ctx, images.All...)
	if err != nil {
		return nil, err
	}
	set := imageSet{}
	for name, image := range built {
		set[name] = image.Reference
	}
	return set, s.distribute(ctx, strings.Fields(set.String())...)
}

// builder makes the images of this run.
func (s *System) builder() images.Builder {
	return images.Builder{Engine: s.Target.Builder, Root: s.Root, Registry: s.Registry, Version: s.Version, Progress: s.progress.Note}
}

// distribute brings images to where the nodes find them: to the registry, or to each node where the builder is not the
// only one.
func (s *System) distribute(ctx context.Context, images ...string) error {
	if s.Registry != "" {
		for _, image := range images {
			s.progress.Note("pushing " + image)
			if _, err := s.Target.Builder.Run(ctx, "push", "--quiet", image); err != nil {
				return advise(fmt.Errorf("pushing %s: %w", image, err), "See `docker login`.")
			}
		}
		return nil
	}
	if s.Target.Distribute == nil {
		return nil
	}
	if err := s.Target.Distribute(ctx, images...); err != nil {
		return fmt.Errorf("bringing images to the nodes: %w", err)
	}
	return nil
}

// plan is what this run deploys, but for the functions.
func (s *System) plan(ctx context.Context, set imageSet) (Deployment, error) {
	megabytes, err := redisMegabytes("REDIS_MAXMEMORY", s.RedisMaxMemory)
	if err != nil {
		return Deployment{}, err
	}
	queue, err := redisMegabytes("QUEUE_MAXMEMORY", s.QueueMaxMemory)
	if err != nil {
		return Deployment{}, err
	}
	// A Swarm config never changes, so another file needs another name.
	version := sha256.Sum256(s.polls)
	capture, err := s.captureList(ctx)
	if err != nil {
		return Deployment{}, err
	}
	stamp, err := s.stamp(ctx)
	if err != nil {
		return Deployment{}, err
	}
	d := Deployment{Version: stamp, Files: map[string]string{}, Layers: s.layers(), Env: map[string]string{
		"CAPTURE_NODES":        capture,
		"PROVIDER_IMAGE":       set[images.Provider],
		"WORKER_IMAGE":         set[images.Worker],
		"REDIS_IMAGE":          set[images.Redis],
		"PORT":                 strconv.Itoa(s.Port),
		"NETWORK_MTU":          strconv.Itoa(s.NetworkMTU),
		"WORKERS":              strconv.Itoa(s.Workers),
		"REDIS_MAXMEMORY":      s.RedisMaxMemory,
		"QUEUE_MAXMEMORY":      s.QueueMaxMemory,
		"REDIS_LIMIT":          redisLimit(megabytes),
		"QUEUE_LIMIT":          redisLimit(queue),
		"MAX_UPSTREAM_TIMEOUT": s.MaxUpstreamTimeout.String(),
		// Votes that are counted stay in Redis for a while. At 120 bytes each this is a quarter of its memory, so
		// that uncounted votes always have room.
		"RETENTION_ENTRIES": strconv.Itoa(1000 * megabytes),
		"POLLS_VERSION":     hex.EncodeToString(version[:6]),
	}}
	if s.certificate.version != "" {
		d.Env["TLS_PORT"], d.Env["TLS_VERSION"] = strconv.Itoa(s.TLSPort), s.certificate.version
	}
	s.planPostgres(&d, set[images.Postgres])
	if err := s.checkArchive(ctx, set[images.Postgres]); err != nil {
		return Deployment{}, err
	}
	if d.Env["STORE_NODES"], err = s.storeNodes(ctx); err != nil {
		return Deployment{}, err
	}
	events, err := s.hasTaskEvents(ctx, set[images.Provider])
	if err != nil {
		return Deployment{}, err
	}
	if events {
		d.Layers = append(d.Layers, "taskevents.yml")
	}
	for _, name := range d.Layers {
		text, err := os.ReadFile(filepath.Join(s.Root, "deploy", name))
		if err != nil {
			return Deployment{}, fmt.Errorf("reading the stack: %w", err)
		}
		d.Files[name] = string(text)
	}
	return d, nil
}

// storeNodes are the ids of the members that Postgres may run on; "" if it is somebody else's.
func (s *System) storeNodes(ctx context.Context) (string, error) {
	if s.externalPostgres() {
		return "", nil
	}
	ids, err := s.Target.Manager.Run(ctx, "node", "ls", "--quiet", "--filter", "node.label="+storeLabel+"=true")
	if err != nil {
		return "", fmt.Errorf("listing store nodes: %w", err)
	}
	return strings.Join(slices.Sorted(strings.FieldsSeq(ids)), ","), nil
}

// redisLimit is the memory of a Redis container: twice its data, as a rewrite of its log may copy all of it, and buffers.
func redisLimit(megabytes int) string { return strconv.Itoa(2*megabytes+256) + "M" }

// layers are the files of the stack that the settings ask for.
func (s *System) layers() []string {
	layers := []string{"stack.yml"}
	if s.certificate.version != "" {
		layers = append(layers, "tls.yml")
	}
	if s.NetworkEncrypted {
		layers = append(layers, "encrypted.yml")
	}
	return layers
}

// stamp is the version of what is deployed.
func (s *System) stamp(ctx context.Context) (string, error) {
	if release, err := images.ReadRelease(s.Root); err != nil || release != nil {
		if err != nil {
			return "", err
		}
		return release.Version, nil
	}
	stamp, err := images.ReadStamp(ctx, s.Root, s.Version, ".")
	if err != nil {
		return "", err
	}
	return stamp.Version + " " + stamp.Revision, nil
}

// controlFolder is where an engine with the usual exec-root has the socket to its Swarm.
const controlFolder = "/var/run/docker/swarm"

// hasTaskEvents looks, through a container that ends at once, whether the manager's engine has that folder: only the
// engine can tell, wherever it runs. Managers are taken to be alike in it.
func (s *System) hasTaskEvents(ctx context.Context, image string) (bool, error) {
	_, err := s.Target.Manager.Run(ctx, "run", "--rm", "--network", "none",
		"--mount", "type=bind,readonly,source="+controlFolder+",target=/probe", image, "help")
	if err != nil && strings.Contains(err.Error(), "bind source path does not exist") {
		s.progress.Note("this engine has no " + controlFolder + ": the provider looks for changes of tasks itself")
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", controlFolder, err)
	}
	return true, nil
}

// service is one line of the stack's state as Swarm reports it.
type service struct {
	name             string
	running, desired int
	update           update
	// containers is what its containers are to be, as JSON.
	containers string
}

// settled reports whether the service runs what it was asked to run.
func (v service) settled() bool {
	return v.running == v.desired && v.desired > 0 && !v.update.underWay()
}

// before is what was known of a service before a run changed it.
type before struct {
	update update
	// containers is what its containers were to be.
	containers string
}

// begun reports whether Swarm has begun, at least, to give a service the containers it is to have. Right after a change it
// still looks as settled as before.
func (v service) begun(was before) bool {
	return was.containers == "" || was.containers == v.containers || v.desired == 0 || v.update.state != "" && v.update != was.update
}

// update is what Swarm says of a service's newest update.
type update struct {
	// state is Swarm's word for it, "" when the service was never updated.
	state string
	// started is when it began; it tells an update of this run from one that an earlier run left.
	started string
}

func (u update) underWay() bool { return u.state == "updating" || u.state == "rollback_started" }

// failed reports whether Swarm gave the update up.
func (u update) failed() bool {
	return u.state == "paused" || u.state == "rollback_completed" || u.state == "rollback_paused"
}

// services lists the stack's services.
func (s *System) services(ctx context.Context) ([]service, error) {
	out, err := s.Target.Manager.Run(ctx, "service", "ls", "--filter", "label=com.docker.stack.namespace="+stackName, "--format", "{{.Name}} {{.Replicas}}")
	if err != nil {
		return nil, fmt.Errorf("listing the stack's services: %w", err)
	}
	var all []service
	var names []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		v := service{name: fields[0]}
		if _, err := fmt.Sscanf(fields[1], "%d/%d", &v.running, &v.desired); err != nil {
			return nil, fmt.Errorf("reading the replicas %q of %s: %w", fields[1], v.name, err)
		}
		all, names = append(all, v), append(names, v.name)
	}
	if err := s.countLiving(ctx, all, names); err != nil {
		return nil, err
	}
	found, err := s.known(ctx, names)
	if err != nil {
		return nil, err
	}
	for i, v := range all {
		all[i].update, all[i].containers = found[v.name].update, found[v.name].containers
	}
	return all, nil
}

// countLiving counts the replicas again if a node is down: Swarm goes on to count those that it had as running.
func (s *System) countLiving(ctx context.Context, all []service, names []string) error {
	nodes, err := s.Target.Manager.Run(ctx, "node", "ls", "--format", "{{.Status}}")
	if err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	if len(all) == 0 || !strings.Contains(nodes, "Down") {
		return nil
	}
	tasks, err := s.Target.Manager.Run(ctx, append([]string{"service", "ps", "--filter", "desired-state=running", "--format", "{{.Name}} {{.CurrentState}}"}, names...)...)
	if err != nil {
		return fmt.Errorf("listing what runs: %w", err)
	}
	living := map[string]int{}
	for line := range strings.Lines(tasks) {
		task, state, _ := strings.Cut(line, " ")
		if service, _, _ := strings.Cut(task, "."); strings.HasPrefix(state, "Running") {
			living[service]++
		}
	}
	for i, v := range all {
		all[i].running = living[v.name]
	}
	return nil
}

// known maps each service to its newest update and what its containers are to be.
func (s *System) known(ctx context.Context, names []string) (map[string]before, error) {
	if len(names) == 0 {
		return nil, nil
	}
	const format = "{{.Spec.Name}}|{{if .UpdateStatus}}{{.UpdateStatus.State}}|{{.UpdateStatus.StartedAt}}{{else}}|{{end}}|{{json .Spec.TaskTemplate.ContainerSpec}}"
	out, err := s.Target.Manager.Run(ctx, append([]string{"service", "inspect", "--format", format}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("reading the state of updates: %w", err)
	}
	found := map[string]before{}
	for line := range strings.Lines(out) {
		if fields := strings.SplitN(strings.TrimSpace(line), "|", 4); len(fields) == 4 {
			found[fields[0]] = before{update: update{state: fields[1], started: fields[2]}, containers: fields[3]}
		}
	}
	return found, nil
}

// migrateService runs once and ends, so it settles by completing.
const migrateService = stackName + "_migrate"

// migrated reports whether the newest migration task has completed, and is one of what the service is to run now.
func (s *System) migrated(ctx context.Context) (bool, error) {
	out, err := s.Target.Manager.Run(ctx, "service", "ps", "--no-trunc", "--format", "{{.ID}} {{.CurrentState}}", migrateService)
	if err != nil {
		return false, fmt.Errorf("reading the state of %s: %w", migrateService, err)
	}
	task, state, _ := strings.Cut(out, " ")
	if !strings.HasPrefix(state, "Complete") {
		return false, nil
	}
	// The engine adds defaults to a service's spec, so only what a run of ours may change is compared.
	const format = "{{.Image}} {{json .Env}} {{json .Secrets}}{{end}}"
	ran, err := s.Target.Manager.Run(ctx, "inspect", "--type", "task", "--format", "{{with .Spec.ContainerSpec}}"+format, task)
	if err != nil {
		return false, fmt.Errorf("reading what the last migration was: %w", err)
	}
	wanted, err := s.Target.Manager.Run(ctx, "service", "inspect", "--format", "{{with .Spec.TaskTemplate.ContainerSpec}}"+format, migrateService)
	if err != nil {
		return false, fmt.Errorf("reading what the migration is to be: %w", err)
	}
	return ran == wanted, nil
}

// awaitServices waits until every service of the stack is settled, and says which is not and why if that takes too long.
func (s *System) awaitServices(ctx context.Context) (string, error) {
	var waiting []string
	err := s.await(ctx, func(ctx context.Context) error {
		all, err := s.services(ctx)
		if err != nil {
			return err
		}
		waiting = waiting[:0]
		for _, v := range all {
			was := s.earlier[v.name]
			ok := v.settled() && v.begun(was)
			if v.name == migrateService {
				if ok, err = s.migrated(ctx); err != nil {
					return err
				}
			}
			if !ok {
				waiting = append(waiting, v.name)
			}
			if v.update.failed() && v.update != was.update {
				return permanent(s.explain(ctx, v.name, fmt.Errorf("the update of %s failed (%s)", v.name, v.update.state)))
			}
		}
		if len(waiting) > 0 || len(all) == 0 {
			return fmt.Errorf("waiting for %s", joinWords(waiting))
		}
		return nil
	})
	if err != nil && len(waiting) > 0 && ctx.Err() == nil {
		return "", s.explain(ctx, waiting[0], err)
	}
	return "all running", err
}

// explain adds the newest error that Swarm has for a task of the service.
func (s *System) explain(ctx context.Context, name string, cause error) error {
	out, err := s.Target.Manager.Run(ctx, "service", "ps", "--no-trunc", "--format", "{{.Node}}: {{.CurrentState}}: {{.Error}}", name)
	if err == nil {
		for line := range strings.Lines(out) {
			if line = strings.TrimSpace(line); !strings.HasSuffix(line, ":") {
				cause = fmt.Errorf("%w; %s on %s", cause, name, line)
				break
			}
		}
	}
	return advise(cause, fmt.Sprintf("See `docker service logs %s`.", name))
}

// permanent marks an error that waiting cannot mend.
func permanent(err error) error { return &permanentError{err} }

type permanentError struct{ error }

func (p *permanentError) Unwrap() error { return p.error }

// await asks until ready returns nil, a permanent error, or the timeout has passed; the last answer is then the error.
func (s *System) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	var last error
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if stop := (*permanentError)(nil); errors.As(err, &stop) {
			return stop.error
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last == nil {
				last = ctx.Err()
			}
			return fmt.Errorf("gave up after %s: %w", s.Timeout, last)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// fingerprint maps each Swarm service of ours to what Swarm was asked to run, so that two of them show what a run changed.
type fingerprint map[string]string

// ours lists the names of the stack's services and of the functions.
func (s *System) ours(ctx context.Context) ([]string, error) {
	var names []string
	for _, label := range []string{"com.docker.stack.namespace=" + stackName, functionLabel} {
		out, err := s.Target.Manager.Run(ctx, "service", "ls", "--filter", "label="+label, "--format", "{{.Name}}")
		if err != nil {
			return nil, fmt.Errorf("listing services: %w", err)
		}
		names = append(names, strings.Fields(out)...)
	}
	return names, nil
}

// fingerprint reads the specs of the stack's services and of the functions.
func (s *System) fingerprint(ctx context.Context) (fingerprint, error) {
	print := fingerprint{}
	names, err := s.ours(ctx)
	if err != nil || len(names) == 0 {
		return print, err
	}
	out, err := s.Target.Manager.Run(ctx, append([]string{"service", "inspect", "--format", "{{.Spec.Name}} {{json .Spec}}"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("reading services: %w", err)
	}
	for line := range strings.Lines(out) {
		name, spec, _ := strings.Cut(line, " ")
		print[name] = spec
	}
	return print, nil
}

// changedFrom lists the services that differ from before, sorted.
func (f fingerprint) changedFrom(before fingerprint) []string {
	var changed []string
	for name, spec := range f {
		if before[name] != spec {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	return changed
}

// joinWords is "a, b and c".
func joinWords(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
