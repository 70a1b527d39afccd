package up

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"waggle/deploy/docker"
	"waggle/deploy/images"
)

// keptNow are what a rollback leaves as it is: they follow the machines, the polls and the certificate, not the version. So do
// keptLayers.
var (
	keptNow    = []string{"POLLS_VERSION", "TLS_PORT", "TLS_VERSION", archiveEnv}
	keptLayers = []string{"tls.yml", archiveLayer}
)

// Rollback deploys the version before the one that runs: its images, its stack files, its functions and its settings.
// After an `up` that failed that is the last one that worked, and after a rollback the one that was rolled back. Polls,
// secrets and the certificate stay those of now. The schema stays too: every worker accepts a newer one.
func (s *System) Rollback(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var now, to Deployment
	var did string
	err = s.run(
		step{"version", func() (_ string, err error) {
			now, to, err = s.previous(ctx)
			return fmt.Sprintf("to %s, which worked on %s", to.Version, to.At.Format("2 January 2006 15:04 UTC")), err
		}},
		step{"images", func() (string, error) { return s.haveImages(ctx, to) }},
		step{"deploy", func() (string, error) {
			if err := s.mayDeploy(to); err != nil {
				return "", err
			}
			if err := s.runningPolls(ctx, now); err != nil {
				return "", err
			}
			if err := s.patience(ctx, 0); err != nil {
				return "", err
			}
			if did, err = s.redeploy(ctx, to); err != nil {
				return "", err
			}
			return did, s.note(ctx, to)
		}},
	)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nRolled back to %s; %s. `make rollback` again returns to %s.\n", to.Version, did, now.Version)
	return nil
}

// previous finds what to go back to. Now is the newest deployment that is noted: its polls run.
func (s *System) previous(ctx context.Context) (now, to Deployment, err error) {
	all, err := s.deployments(ctx)
	if err != nil {
		return now, to, err
	}
	if len(all) == 0 {
		return now, to, failf("Run `make up`, which notes what it deploys.", "the Swarm has no note of a deployment")
	}
	now, to = all[0].Deployment, all[0].Deployment
	runs, err := s.runs(ctx, now)
	if err != nil {
		return now, to, err
	}
	if runs {
		if len(all) == 1 {
			return now, to, fmt.Errorf("%s is the only version that was ever deployed: there is none to go back to", now.Version)
		}
		to = all[1].Deployment
	}
	to.Env, to.Files = maps.Clone(to.Env), maps.Clone(to.Files)
	for _, name := range keptNow {
		delete(to.Env, name)
		if value, has := now.Env[name]; has {
			to.Env[name] = value
		}
	}
	to.Layers = slices.DeleteFunc(slices.Clone(to.Layers), func(name string) bool { return slices.Contains(keptLayers, name) })
	for _, name := range keptLayers {
		if text, has := now.Files[name]; has {
			to.Layers, to.Files[name] = append(to.Layers, name), text
		}
	}
	return now, to, nil
}

// runs reports whether the services and functions have the images of a deployment.
func (s *System) runs(ctx context.Context, d Deployment) (bool, error) {
	names, err := s.ours(ctx)
	if err != nil || len(names) == 0 {
		return false, err
	}
	out, err := s.Target.Manager.Run(ctx, append([]string{"service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}"}, names...)...)
	if err != nil {
		return false, fmt.Errorf("reading images: %w", err)
	}
	running := strings.Fields(out)
	for _, image := range d.images() {
		// With a registry the digest follows.
		if !slices.ContainsFunc(running, func(r string) bool { return r == image || strings.HasPrefix(r, image+"@") }) {
			return false, nil
		}
	}
	return true, nil
}

// haveImages makes sure that every node has the images, or can have them from a registry.
func (s *System) haveImages(ctx context.Context, d Deployment) (string, error) {
	references := d.images()
	if !strings.HasPrefix(references[0], images.NoRegistry+"/") {
		return "in the registry", nil
	}
	for _, engine := range s.engines() {
		for _, image := range references {
			has, err := engine.HasImage(ctx, image)
			if err != nil {
				return "", fmt.Errorf("looking for %s: %w", image, err)
			}
			if has {
				continue
			}
			if here, err := s.Target.Builder.HasImage(ctx, image); err != nil || !here || s.Target.Distribute == nil {
				return "", failf("Check out that version and run `make up`.", "%s has no %s any more, nor has this machine", engine, image)
			}
			if err := s.distribute(ctx, references...); err != nil {
				return "", err
			}
			return "brought to the nodes", nil
		}
	}
	return "on every node", nil
}

// ownImage is a reference that package images makes: a part or function of ours, by the content of its image.
var ownImage = regexp.MustCompile(`^(.+)/[a-z0-9-]+:[0-9a-f]{12}$`)

// Prune removes images of ours that neither the running version nor the one before needs, on every node that can be
// reached. So it does with the Swarm's configs and secrets of earlier polls and registries. It touches nothing of others, and no volume.
func (s *System) Prune(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := s.deployments(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return failf("Run `make up`, which notes what it deploys.", "the Swarm has no note of a deployment: nobody knows which images are old")
	}
	needed := map[string]bool{}
	for _, d := range all {
		for _, image := range d.images() {
			needed[image] = true
		}
	}
	return s.run(
		step{"images", func() (string, error) {
			engines := s.engines()
			if !slices.Contains(engines, s.Target.Builder) {
				engines = append(slices.Clone(engines), s.Target.Builder)
			}
			removed := 0
			for _, engine := range engines {
				n, err := pruneImages(ctx, engine, needed)
				if err != nil {
					return "", err
				}
				removed += n
			}
			return fmt.Sprintf("%d removed on %d engine(s)", removed, len(engines)), nil
		}},
		step{"configs", func() (string, error) { return s.pruneVersions(ctx, all) }},
	)
}

// pruneImages removes what is not needed from one engine. An image that a container has is in use and stays.
func pruneImages(ctx context.Context, engine docker.Engine, needed map[string]bool) (removed int, err error) {
	repositories := map[string]bool{}
	for image := range needed {
		if at := strings.LastIndexByte(image, ':'); at > 0 {
			repositories[image[:at]] = true
		}
	}
	listed, err := engine.Run(ctx, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
	if err != nil {
		return 0, fmt.Errorf("listing images: %w", err)
	}
	for reference := range strings.FieldsSeq(listed) {
		at := strings.LastIndexByte(reference, ':')
		if needed[reference] || !ownImage.MatchString(reference) || !repositories[reference[:at]] {
			continue
		}
		if _, err := engine.Run(ctx, "image", "rm", reference); err != nil {
			if strings.Contains(err.Error(), "conflict") || strings.Contains(err.Error(), "being used") {
				continue
			}
			return removed, fmt.Errorf("removing image %s: %w", reference, err)
		}
		removed++
	}
	return removed, nil
}

// pruneVersions removes the configs of polls and the secrets of registries that no deployment that is noted has.
func (s *System) pruneVersions(ctx context.Context, all []kept) (string, error) {
	needed := map[string]bool{}
	for _, d := range all {
		needed["waggle-polls-"+d.Env["POLLS_VERSION"]] = true
		needed["waggle-postgres-ca-"+d.Env["POSTGRES_CA_VERSION"]] = true
	}
	removed := 0
	for prefix, kind := range map[string]string{"waggle-polls-": "config", "waggle-postgres-ca-": "config", "waggle-registry-config-": "secret"} {
		listed, err := s.Target.Manager.Run(ctx, kind, "ls", "--filter", "name="+prefix, "--filter", "label=com.docker.stack.namespace="+stackName, "--format", "{{.Name}}")
		if err != nil {
			return "", fmt.Errorf("listing %ss: %w", kind, err)
		}
		for name := range strings.FieldsSeq(listed) {
			if needed[name] {
				continue
			}
			if _, err := s.Target.Manager.Run(ctx, kind, "rm", name); err != nil {
				if strings.Contains(err.Error(), "in use") {
					continue
				}
				return "", fmt.Errorf("removing %s %s: %w", kind, name, err)
			}
			removed++
		}
	}
	return fmt.Sprintf("%d removed", removed), nil
}
