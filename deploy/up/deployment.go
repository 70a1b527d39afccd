package up

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/types"
)

// Deployment is what a run hands to Swarm and to the API, less secrets and polls. It is enough to hand it over again without
// the sources and settings that it was made from. The Swarm keeps the newest two, so any operator's machine finds them.
type Deployment struct {
	// Version is what the build is called, At when it was found to work.
	Version string    `json:"version"`
	At      time.Time `json:"at"`
	// Files are the stack's files by name, and Layers the order in which they are put on each other. Env has the values of
	// their variables, but for those of secrets.
	Files  map[string]string `json:"files"`
	Layers []string          `json:"layers"`
	Env    map[string]string `json:"env"`
	// Functions are those of the repository's stack file.
	Functions []types.FunctionDeployment `json:"functions"`
}

// same reports whether two deployments differ in nothing that runs.
func (d Deployment) same(other Deployment) bool {
	d.At, other.At, d.Version, other.Version = time.Time{}, time.Time{}, "", ""
	a, errA := json.Marshal(d)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && string(a) == string(b)
}

// images are the references of all its images, sorted.
func (d Deployment) images() []string {
	all := map[string]bool{}
	for name, value := range d.Env {
		if strings.HasSuffix(name, "_IMAGE") {
			all[value] = true
		}
	}
	for _, f := range d.Functions {
		all[f.Image] = true
	}
	return slices.Sorted(maps.Keys(all))
}

const (
	// deploymentConfig begins the names of the configs that keep deployments; a number follows, the highest is the newest.
	deploymentConfig = "waggle-deployment-"
	deploymentsKept  = 2
	// maxConfig is Swarm's limit for one in engines up to 27.
	maxConfig = 500_000
)

// kept is a deployment as the Swarm has it.
type kept struct {
	Deployment
	config string
	number int
}

// deployments are those that the Swarm keeps, newest first.
func (s *System) deployments(ctx context.Context) ([]kept, error) {
	out, err := s.Target.Manager.Run(ctx, "config", "ls", "--filter", "label="+ownLabel, "--filter", "name="+deploymentConfig, "--format", "{{.Name}}")
	if err != nil {
		return nil, fmt.Errorf("listing earlier deployments: %w", err)
	}
	var all []kept
	for _, name := range strings.Fields(out) {
		number, err := strconv.Atoi(strings.TrimPrefix(name, deploymentConfig))
		if err != nil {
			continue
		}
		next := kept{config: name, number: number}
		text, err := s.config(ctx, name)
		if err == nil {
			err = json.Unmarshal(text, &next.Deployment)
		}
		if err != nil {
			return nil, fmt.Errorf("reading deployment %s: %w", name, err)
		}
		all = append(all, next)
	}
	slices.SortFunc(all, func(a, b kept) int { return cmp.Compare(b.number, a.number) })
	return all, nil
}

// newest is the deployment that the last successful run left.
func (s *System) newest(ctx context.Context) (Deployment, error) {
	all, err := s.deployments(ctx)
	if err != nil {
		return Deployment{}, err
	}
	if len(all) == 0 {
		return Deployment{}, failf("Run `make up`, which notes what it deploys.", "the Swarm has no note of a deployment")
	}
	return all[0].Deployment, nil
}

// config reads the content of a Swarm config.
func (s *System) config(ctx context.Context, name string) ([]byte, error) {
	out, err := s.Target.Manager.Run(ctx, "config", "inspect", "--format", "{{json .Spec.Data}}", name)
	if err != nil {
		return nil, err
	}
	text, err := strconv.Unquote(out)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", name, err)
	}
	return base64.StdEncoding.DecodeString(text)
}

// note keeps a deployment that was found to work, and forgets all but the newest.
func (s *System) note(ctx context.Context, d Deployment) error {
	all, err := s.deployments(ctx)
	if err != nil || len(all) > 0 && all[0].same(d) {
		return err
	}
	d.At = time.Now().UTC().Truncate(time.Second)
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("noting the deployment: %w", err)
	}
	if len(text) > maxConfig {
		return fmt.Errorf("noting the deployment: it has %d bytes and a config holds %d", len(text), maxConfig)
	}
	number := 1
	if len(all) > 0 {
		number = all[0].number + 1
	}
	name := deploymentConfig + strconv.Itoa(number)
	if _, err := s.Target.Manager.RunInput(ctx, strings.NewReader(string(text)), "config", "create", "--label", ownLabel, name, "-"); err != nil {
		return fmt.Errorf("noting the deployment: %w", err)
	}
	for _, old := range all[min(len(all), deploymentsKept-1):] {
		if _, err := s.Target.Manager.Run(ctx, "config", "rm", old.config); err != nil {
			return fmt.Errorf("forgetting deployment %s: %w", old.config, err)
		}
	}
	return nil
}

// deploy hands the stack of a deployment to Swarm, with the secrets as they are now.
func (s *System) deploy(ctx context.Context, d Deployment) error {
	secrets, err := s.secretNames()
	if err != nil {
		return err
	}
	registries, err := s.ensureRegistries()
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp("", "waggle-stack-")
	if err != nil {
		return fmt.Errorf("laying out the stack: %w", err)
	}
	defer os.RemoveAll(root)
	files := map[string]string{filepath.Join("functions", "polls.json"): string(s.polls)}
	// Images are named by content already. Managers pass the credentials of whoever deploys on to the nodes that pull.
	args := []string{"stack", "deploy", "--resolve-image", "never", "--with-registry-auth", "--prune"}
	for name, text := range d.Files {
		files[filepath.Join("deploy", name)] = text
	}
	for _, name := range d.Layers {
		args = append(args, "--compose-file", filepath.Join(root, "deploy", name))
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			return fmt.Errorf("laying out the stack: %w", err)
		}
	}
	env := slices.Concat(secrets, registries)
	for name, value := range d.Env {
		env = append(env, name+"="+value)
	}
	if _, err := s.Target.Manager.RunEnv(ctx, env, append(args, stackName)...); err != nil {
		return fmt.Errorf("deploying the stack: %w", err)
	}
	return nil
}

// runningPolls takes the poll file from the Swarm: what runs is not to change with a secret or a version.
func (s *System) runningPolls(ctx context.Context, d Deployment) error {
	text, err := s.config(ctx, "waggle-polls-"+d.Env["POLLS_VERSION"])
	if err != nil {
		return advise(fmt.Errorf("reading the polls that the system runs with: %w", err), "Run `make up`.")
	}
	s.polls = text
	return nil
}
