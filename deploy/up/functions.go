package up

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/types"
	sdk "github.com/openfaas/go-sdk"
	sdkbuilder "github.com/openfaas/go-sdk/builder"
	"github.com/openfaas/go-sdk/stack"

	"waggle/deploy/images"
)

// functionLabel is on every Swarm service that is a function of ours.
const functionLabel = "com.waggle.namespace"

// buildFunctions builds the functions of stack.yml and says what is to be deployed.
func (s *System) buildFunctions(ctx context.Context) ([]types.FunctionDeployment, error) {
	services, err := stack.ParseYAMLFile(filepath.Join(s.Root, "stack.yml"), "", "", true)
	if err != nil {
		return nil, fmt.Errorf("reading stack.yml: %w", err)
	}
	capture, err := s.captureNodes(ctx)
	if err != nil {
		return nil, err
	}
	var all []types.FunctionDeployment
	names := slices.Sorted(maps.Keys(services.Functions))
	for _, name := range names {
		function := services.Functions[name]
		if err := onEveryNode(&function, len(capture)); err != nil {
			return nil, fmt.Errorf("reading stack.yml: function %s: %w", name, err)
		}
		if function.Image, err = s.buildFunction(ctx, name, function, services.StackConfiguration.CopyExtraPaths); err != nil {
			return nil, err
		}
		described := describe(name, function)
		s.readsPostgres(&described)
		all = append(all, described)
	}
	return all, nil
}

// deployFunctions deploys functions, and their secrets before, through the REST API. The calls are those of
// `faas-cli up --skip-push`, so what works here works for a developer with the CLI.
func (s *System) deployFunctions(ctx context.Context, functions []types.FunctionDeployment) (string, error) {
	client, err := s.apiClient()
	if err != nil {
		return "", err
	}
	if err := s.await(ctx, func(ctx context.Context) error { _, err := client.GetInfo(ctx); return err }); err != nil {
		return "", advise(fmt.Errorf("reaching the API at %s: %w", s.Target.Gateways[0], err), "See `docker service logs waggle_gateway` and waggle_provider.")
	}
	if err := s.applyFunctionSecrets(ctx, client); err != nil {
		return "", err
	}
	var names []string
	for _, f := range functions {
		if err := deployFunction(ctx, client, f); err != nil {
			return "", err
		}
		names = append(names, f.Service)
	}
	return joinWords(names), nil
}

// onEveryNode raises the minimum of a function that runs on capture nodes to their number. Swarm spreads replicas, so
// each node then has one, and votes go into the Redis of the node that took them.
func onEveryNode(f *stack.Function, captureNodes int) error {
	if !slices.ContainsFunc(valueOr(f.Constraints, nil), func(c string) bool { return strings.Contains(c, captureLabel) }) {
		return nil
	}
	labels := maps.Clone(valueOr(f.Labels, map[string]string{}))
	for _, label := range []string{"com.openfaas.scale.min", "com.openfaas.scale.max"} {
		n, err := strconv.Atoi(labels[label])
		if labels[label] != "" && err != nil {
			return fmt.Errorf("label %s is %q: must be a number", label, labels[label])
		}
		labels[label] = strconv.Itoa(max(n, captureNodes))
	}
	f.Labels = &labels
	return nil
}

// DeployFunction builds a function with the template go-http, from a handler in a folder below Root. It deploys it
// under the name and returns once it answers. The system must be up.
func (s *System) DeployFunction(ctx context.Context, name, handler string) error {
	client, err := s.apiClient()
	if err != nil {
		return err
	}
	function := stack.Function{Name: name, Language: "go-http", Handler: handler}
	if function.Image, err = s.buildFunction(ctx, name, function, []string{"go.mod", "go.sum"}); err != nil {
		return err
	}
	if err := deployFunction(ctx, client, describe(name, function)); err != nil {
		return err
	}
	return s.await(ctx, func(ctx context.Context) error {
		if err := s.functionsSettled(ctx); err != nil {
			return err
		}
		_, err := s.get(ctx, s.Target.Gateways[0]+"/function/"+name)
		return err
	})
}

// apiClient speaks to the gateway as admin.
func (s *System) apiClient() (*sdk.Client, error) {
	base, err := url.Parse(s.Target.Gateways[0])
	if err != nil {
		return nil, fmt.Errorf("reading the gateway's address: %w", err)
	}
	user, err := s.state.read("basic-auth-user")
	if err != nil {
		return nil, err
	}
	password, err := s.state.read("basic-auth-password")
	if err != nil {
		return nil, err
	}
	return sdk.NewClient(base, &sdk.BasicAuth{Username: user, Password: password}, s.client), nil
}

// applyFunctionSecrets creates the functions' secrets, and updates those whose value is another than the one applied last.
// The API never gives a value back, so the hash of the last one is kept beside the credentials.
func (s *System) applyFunctionSecrets(ctx context.Context, client *sdk.Client) error {
	wanted := map[string]string{"polls": string(s.polls)}
	for _, c := range credentials {
		if c.function {
			v, err := s.state.values(c)
			if err != nil {
				return err
			}
			wanted[c.name] = v.presented()
		}
	}
	if s.postgresCA != "" {
		wanted[postgresCASecret] = s.postgresCA
	}
	listed, err := client.GetSecrets(ctx, "")
	if err != nil {
		return fmt.Errorf("listing secrets: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		hash := sha256.Sum256([]byte(wanted[name]))
		applied, err := s.state.read("applied-" + name)
		if err != nil {
			return err
		}
		exists := slices.ContainsFunc(listed, func(l types.Secret) bool { return l.Name == name })
		if exists && applied == hex.EncodeToString(hash[:]) {
			continue
		}
		put := client.CreateSecret
		if exists {
			put = client.UpdateSecret
		}
		if status, err := put(ctx, types.Secret{Name: name, Value: wanted[name]}); err != nil {
			return fmt.Errorf("storing secret %s (status %d): %w", name, status, err)
		}
		if err := s.state.write("applied-"+name, hex.EncodeToString(hash[:])); err != nil {
			return err
		}
	}
	return s.state.write(appliedPolls, string(s.polls))
}

// buildFunction makes the image of a function and brings it to the nodes.
func (s *System) buildFunction(ctx context.Context, name string, function stack.Function, copyExtra []string) (reference string, err error) {
	image, err := BuildFunction(ctx, s.builder(), name, function, copyExtra)
	if err != nil {
		return "", err
	}
	return image.Reference, s.distribute(ctx, image.Reference)
}

// BuildFunction lays out the build context of a function of stack.yml as faas-cli does, and builds it. Of a release
// it takes the existing image. The image is named by its content, whatever the stack file calls it. So a node that
// has missed one cannot run an older one by that name.
func BuildFunction(ctx context.Context, builder images.Builder, name string, function stack.Function, copyExtra []string) (images.Image, error) {
	release, err := images.ReadRelease(builder.Root)
	if err != nil {
		return images.Image{}, err
	}
	if release != nil {
		return release.Images[name], nil
	}
	// The layout's paths are relative to the working directory, and it refuses files outside of it.
	restore, err := chdir(builder.Root)
	if err != nil {
		return images.Image{}, err
	}
	defer restore()
	buildContext, err := sdkbuilder.CreateBuildContext(name, function.Handler, function.Language, copyExtra)
	if err != nil {
		return images.Image{}, fmt.Errorf("laying out the build of %s: %w", name, err)
	}
	builder.Root = "."
	image, err := builder.BuildFunction(ctx, name, buildContext, function.BuildArgs, slices.Concat(copyExtra, []string{function.Handler, "template/" + function.Language})...)
	if err != nil {
		return images.Image{}, fmt.Errorf("building function %s: %w", name, err)
	}
	return image, nil
}

// BuildFunctions builds every function of stack.yml, in a repository that is the builder's Root, and returns them by name.
func BuildFunctions(ctx context.Context, builder images.Builder) (map[string]images.Image, error) {
	services, err := stack.ParseYAMLFile(filepath.Join(builder.Root, "stack.yml"), "", "", true)
	if err != nil {
		return nil, fmt.Errorf("reading stack.yml: %w", err)
	}
	built := map[string]images.Image{}
	for name, function := range services.Functions {
		if built[name], err = BuildFunction(ctx, builder, name, function, services.StackConfiguration.CopyExtraPaths); err != nil {
			return nil, err
		}
	}
	return built, nil
}

// chdir changes the working directory and returns the way back.
func chdir(dir string) (restore func(), err error) {
	was, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("finding the working directory: %w", err)
	}
	if err := os.Chdir(dir); err != nil {
		return nil, fmt.Errorf("entering the repository: %w", err)
	}
	return func() { _ = os.Chdir(was) }, nil // The directory was there a moment ago.
}

// describe is a function of a stack file as the API takes it.
func describe(name string, f stack.Function) types.FunctionDeployment {
	return types.FunctionDeployment{
		Service:                name,
		Image:                  f.Image,
		EnvProcess:             f.FProcess,
		EnvVars:                f.Environment,
		Constraints:            valueOr(f.Constraints, nil),
		Secrets:                f.Secrets,
		Labels:                 pointer(valueOr(f.Labels, map[string]string{})),
		Annotations:            pointer(valueOr(f.Annotations, map[string]string{})),
		Limits:                 resources(f.Limits),
		Requests:               resources(f.Requests),
		ReadOnlyRootFilesystem: f.ReadOnlyRootFilesystem,
		Namespace:              f.Namespace,
	}
}

// deployFunction asks for an update and, where the function is not there yet, for a creation: the protocol of faas-cli.
func deployFunction(ctx context.Context, client *sdk.Client, spec types.FunctionDeployment) error {
	status, err := client.Update(ctx, spec)
	if status == http.StatusNotFound {
		status, err = client.Deploy(ctx, spec)
	}
	if err != nil {
		return advise(fmt.Errorf("deploying function %s (status %d): %w", spec.Service, status, err), "See `docker service logs waggle_provider`.")
	}
	return nil
}

func resources(r *stack.FunctionResources) *types.FunctionResources {
	if r == nil {
		return nil
	}
	return &types.FunctionResources{Memory: r.Memory, CPU: r.CPU}
}

func valueOr[T any](p *T, fallback T) T {
	if p == nil {
		return fallback
	}
	return *p
}

func pointer[T any](v T) *T { return &v }

// awaitAnswers waits until voters and operators are served. The ballot and the results answer through every gateway,
// each function runs its newest version, and each capture node's queue is being drained.
func (s *System) awaitAnswers(ctx context.Context) (string, error) {
	var ledger Ledger
	err := s.await(ctx, func(ctx context.Context) error {
		if err := s.functionsSettled(ctx); err != nil {
			return err
		}
		for _, gateway := range s.Target.Gateways {
			for _, function := range []string{"vote", "results"} {
				if _, err := s.get(ctx, gateway+"/function/"+function); err != nil {
					return err
				}
			}
		}
		var err error
		if ledger, err = s.ledger(ctx); err != nil {
			return err
		}
		return s.drained(ctx, ledger)
	})
	if err != nil {
		return "", advise(err, "See `docker service ls`, `docker service logs vote`, results and waggle_worker.")
	}
	return fmt.Sprintf("ballot and results served, %d capture node(s) drained", ledger.Active()), nil
}

// functionsSettled returns an error as long as a function is not running everything it was asked to.
func (s *System) functionsSettled(ctx context.Context) error {
	out, err := s.Target.Manager.Run(ctx, "service", "ls", "--filter", "label="+functionLabel, "--format", "{{.Name}}")
	if err != nil {
		return fmt.Errorf("listing functions: %w", err)
	}
	found, err := s.known(ctx, strings.Fields(out))
	if err != nil {
		return err
	}
	for name, now := range found {
		if now.update.underWay() {
			return fmt.Errorf("function %s is being updated", name)
		}
		if now.update.failed() && now.update != s.earlier[name].update {
			return permanent(s.explain(ctx, name, fmt.Errorf("the update of function %s failed (%s)", name, now.update.state)))
		}
	}
	return nil
}

// Ledger is the part of the results' JSON that says whether every captured vote is accounted for; functions/results says
// what each number means.
type Ledger struct {
	Streams  []Stream  `json:"streams"`
	AsOf     time.Time `json:"as_of"`
	Captured int64     `json:"captured"`
	Counted  int64     `json:"counted"`
	Pending  int64     `json:"pending"`
	Rejected int64     `json:"rejected"`
	Lost     int64     `json:"lost"`
	// Recovered is the part of Counted that only copies gave.
	Recovered int64 `json:"recovered"`
	// Single is the part of Captured that was confirmed with one copy.
	Single  int64 `json:"single"`
	Missing int64 `json:"missing"`
	// Whole means that every captured vote is accounted for; Reasons say what is in the way.
	Whole   bool     `json:"whole"`
	Reasons []Reason `json:"reasons"`
}

// Stream is the account of one incarnation of a node's votes; SeenAt is when it was read last, by the clock of AsOf.
type Stream struct {
	Node    string    `json:"node"`
	State   string    `json:"state"`
	Counted int64     `json:"counted"`
	Pending int64     `json:"pending"`
	SeenAt  time.Time `json:"seen_at"`
}

// Reason is one thing that is in the way; each field but Code is empty where it does not apply.
type Reason struct {
	Code   string    `json:"code"`
	Node   string    `json:"node"`
	Check  string    `json:"check"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	N      int64     `json:"n"`
	Closed bool      `json:"closed"`
}

// Active counts the streams that are being drained.
func (l Ledger) Active() int {
	n := 0
	for _, stream := range l.Streams {
		if stream.State == "active" {
			n++
		}
	}
	return n
}

// ledger asks the results function.
func (s *System) ledger(ctx context.Context) (Ledger, error) {
	body, err := s.get(ctx, s.Target.Gateways[0]+"/function/results?format=json")
	if err != nil {
		return Ledger{}, err
	}
	var results struct{ Ledger Ledger }
	if err := json.Unmarshal(body, &results); err != nil {
		return Ledger{}, fmt.Errorf("reading the results: %w", err)
	}
	return results.Ledger, nil
}

// captureNodes are the names of the nodes that the Swarm's labels give a Redis for votes, sorted.
func (s *System) captureNodes(ctx context.Context) ([]string, error) {
	out, err := s.Target.Manager.Run(ctx, "node", "ls", "--filter", "node.label=waggle.capture=true", "--format", "{{.Hostname}}")
	if err != nil {
		return nil, fmt.Errorf("listing capture nodes: %w", err)
	}
	nodes := strings.Fields(out)
	slices.Sort(nodes)
	return slices.Compact(nodes), nil // a machine that left and joined again is listed twice
}

// captureList is captureNodes as the workers' setting CAPTURE_NODES.
func (s *System) captureList(ctx context.Context) (string, error) {
	nodes, err := s.captureNodes(ctx)
	return strings.Join(nodes, ","), err
}

// drained returns an error as long as fewer streams are active than there are capture nodes.
func (s *System) drained(ctx context.Context, ledger Ledger) error {
	out, err := s.Target.Manager.Run(ctx, "node", "ls", "--filter", "node.label=waggle.capture=true", "--format", "{{.Hostname}} {{.Status}}")
	if err != nil {
		return fmt.Errorf("listing capture nodes: %w", err)
	}
	if ready := strings.Count(out, " Ready"); ledger.Active() < ready {
		return fmt.Errorf("%d of %d capture nodes are drained", ledger.Active(), ready)
	}
	return nil
}
