// Package up brings the whole system up on a Swarm and takes it down again. It does what `make up`, `make down`,
// `make purge` and `make status` do.
//
// In: a Swarm (or a machine that can become one), this repository's sources, the operator's settings. Out: the stack
// of deploy/stack.yml, the functions of stack.yml deployed through the REST API as faas-cli would, and the addresses
// to use them at. Every step first checks what exists and changes only what differs. So a second run changes nothing,
// and continues a run that was interrupted. Only [System.Purge] deletes data.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
)

// ownLabel marks every Swarm object that this package makes.
const ownLabel = "com.waggle.system=waggle"

// DefaultPort is the gateway's port where the operator names no other.
const DefaultPort = 8080

// stackName is the stack's name in Swarm; its services are called waggle_<part>.
const stackName = "waggle"

// Target is the Swarm that the system runs on.
type Target struct {
	// Manager is the engine of a Swarm manager (or of a machine that has yet to become one).
	Manager docker.Engine
	// Builder is the engine that images are built on.
	Builder docker.Engine
	// Nodes are the engines of all nodes that can be reached from here; Purge removes their volumes.
	Nodes []docker.Engine
	// Distribute brings images from Builder to every node; nil when Builder is the only node.
	Distribute func(ctx context.Context, images ...string) error
	// Preloaded says that something else brings the images to every node.
	Preloaded bool
	// Check checks the machines before anything is changed, and Form makes one Swarm of them; each returns what it
	// found or did. Nil: the manager is this machine's engine, or a Swarm that exists.
	Check, Form func(ctx context.Context) (string, error)
	// Gateways are the base URLs of the gateways as seen from here, the preferred one first; never empty.
	Gateways []string
}

// Config is what an operator may choose.
type Config struct {
	Target Target
	// Root is the repository's root directory.
	Root string
	// StateDir keeps the generated credentials between runs.
	StateDir string
	// Registry is where images are pushed to and how their names begin, such as registry.example.com/waggle; "" leaves them
	// on the nodes.
	Registry string
	// Version is what this build is called; "" takes a name from git.
	Version string
	// Port is the port of the gateway on each edge node, 1 to 65535.
	Port int
	// TLSCert and TLSKey are files with a certificate and its key, in PEM, for TLS at the gateway; both empty: no TLS.
	TLSCert, TLSKey string
	// TLSPort is the port of TLS on each edge node, 1 to 65535.
	TLSPort int
	// Workers is the number of drain workers, at least 1.
	Workers int
	// RedisMaxMemory bounds each capture node's queue in megabytes, "16mb" to "999999mb"; about 120 bytes a vote.
	RedisMaxMemory string
	// QueueMaxMemory bounds each gateway's queue of asynchronous calls likewise.
	QueueMaxMemory string
	// MaxUpstreamTimeout is the most that a function's own timeouts raise the time for one of its calls to, 1m to 24h; 0
	// means 10 minutes.
	MaxUpstreamTimeout time.Duration
	// RegistryConfig is a Docker config.json with the credentials of private registries; "" keeps those of earlier runs.
	RegistryConfig string
	// NetworkMTU is the largest packet on the overlays; 0 means 1500, the engine's own default.
	NetworkMTU int
	// NetworkEncrypted asks for IPsec on the overlays that cross machines.
	NetworkEncrypted bool
	// Postgres is a database that others run; without hosts it is ours.
	Postgres inventory.Postgres
	// Timeout bounds each wait for services and functions to answer; 0 means 3 minutes.
	Timeout time.Duration
	// Out receives the progress lines; nil discards them.
	Out io.Writer
}

// System is one Waggle on one Swarm. Its methods must not run at the same time.
type System struct {
	Config
	state       state
	certificate certificate
	progress    *Progress
	client      *http.Client
	// earlier is what was known of each service before this run changed it.
	earlier map[string]before
	// polls is the poll file that this run ships.
	polls []byte
	// postgresCA are the authorities of an external Postgres, in PEM; "" is none.
	postgresCA string
}

// New checks the configuration; it touches nothing.
func New(c Config) (*System, error) {
	if c.Port < 1 || c.Port > 65535 {
		return nil, fmt.Errorf("PORT is %d; legal are 1 to 65535", c.Port)
	}
	if !versionPattern.MatchString(c.Version) {
		return nil, fmt.Errorf("VERSION is %q; legal are 1 to 64 letters, digits, dots, dashes and plus signs, or nothing", c.Version)
	}
	if !registryPattern.MatchString(c.Registry) {
		return nil, fmt.Errorf("REGISTRY is %q; legal are names such as registry.example.com/waggle, or nothing", c.Registry)
	}
	if c.Workers < 1 || c.Workers > 64 {
		return nil, fmt.Errorf("WORKERS is %d; legal are 1 to 64", c.Workers)
	}
	if _, err := redisMegabytes("REDIS_MAXMEMORY", c.RedisMaxMemory); err != nil {
		return nil, err
	}
	if _, err := redisMegabytes("QUEUE_MAXMEMORY", c.QueueMaxMemory); err != nil {
		return nil, err
	}
	if c.MaxUpstreamTimeout == 0 {
		c.MaxUpstreamTimeout = 10 * time.Minute
	}
	if c.MaxUpstreamTimeout < time.Minute || c.MaxUpstreamTimeout > 24*time.Hour {
		return nil, fmt.Errorf("MAX_UPSTREAM_TIMEOUT is %s; legal are 1m to 24h", c.MaxUpstreamTimeout)
	}
	certificate, err := readCertificate(c)
	if err != nil {
		return nil, err
	}
	ca, err := readPostgresCA(c.Postgres)
	if err != nil {
		return nil, err
	}
	if len(c.Target.Gateways) == 0 {
		return nil, errors.New("the target has no gateway address")
	}
	if _, err := os.Stat(c.Root + "/stack.yml"); err != nil {
		return nil, fmt.Errorf("%s is not this repository's root: %w", c.Root, err)
	}
	if c.NetworkMTU == 0 {
		c.NetworkMTU = 1500
	}
	if c.Timeout == 0 {
		c.Timeout = 3 * time.Minute
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return &System{
		Config:      c,
		state:       state{dir: c.StateDir},
		certificate: certificate,
		postgresCA:  ca,
		progress:    NewProgress(c.Out),
		client:      &http.Client{Timeout: 10 * time.Second},
	}, nil
}

// registryPattern is a registry's host, which has a dot or a port, and a path.
var registryPattern = regexp.MustCompile(`^([a-z0-9-]+(\.[a-z0-9-]+)*(\.[a-z0-9-]+|:[0-9]+)(/[a-z0-9._-]+)+)?$`)

// versionPattern is what a tag of an image and a header may hold.
var versionPattern = regexp.MustCompile(`^[0-9A-Za-z.+-]{0,64}$`)

// redisMegabytes reads a setting whose form the Redis image defines.
func redisMegabytes(name, text string) (int, error) {
	digits, ok := strings.CutSuffix(text, "mb")
	megabytes, err := strconv.Atoi(digits)
	if !ok || err != nil || megabytes < 16 || megabytes > 999999 {
		return 0, fmt.Errorf("%s is %q; legal are 16mb to 999999mb", name, text)
	}
	return megabytes, nil
}

// Up brings the system up, or up to date, and returns once voters are served and every capture node is drained.
// It returns an error that names the step, the cause and, where one is known, what to do.
func (s *System) Up(ctx context.Context) error {
	var before, after fingerprint
	var images imageSet
	var d Deployment
	err := s.run(
		step{"polls", s.readPolls},
		step{"machine", func() (string, error) { return s.checkMachine(ctx) }},
		step{"swarm", func() (string, error) { return s.ensureSwarm(ctx) }},
	)
	if err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.patience(ctx, 3); err != nil {
		return err
	}
	err = s.run(
		step{"images", func() (_ string, err error) {
			if before, err = s.remember(ctx); err != nil {
				return "", err
			}
			images, err = s.buildImages(ctx)
			return images.String(), err
		}},
		step{"secrets", func() (string, error) {
			created, err := s.ensureCredentials(ctx)
			if err != nil {
				return "", err
			}
			certificates, err := s.ensureCertificate(ctx)
			return fmt.Sprintf("%d new; kept in %s", created+certificates, s.StateDir), err
		}},
		step{"stack", func() (_ string, err error) {
			if d, err = s.plan(ctx, images); err != nil {
				return "", err
			}
			return "deployed", s.deploy(ctx, d)
		}},
		step{"services", func() (string, error) {
			waited, err := s.awaitServices(ctx)
			if err != nil {
				return waited, err
			}
			return waited, errors.Join(s.forgetCertificates(ctx), s.forgetSecrets(ctx))
		}},
		step{"functions", func() (_ string, err error) {
			if d.Functions, err = s.buildFunctions(ctx); err != nil {
				return "", err
			}
			return s.deployFunctions(ctx, d.Functions)
		}},
		step{"answers", func() (string, error) {
			return s.awaitAnswers(ctx)
		}},
	)
	if err == nil && s.Postgres.Archive != "" {
		err = s.run(step{"archive", func() (string, error) { return s.ensureArchive(ctx) }})
	}
	if err == nil {
		err = s.note(ctx, d)
	}
	if err != nil {
		return err
	}
	after, err = s.fingerprint(ctx)
	if err != nil {
		return err
	}
	s.printAddresses(after.changedFrom(before))
	return nil
}

// step is a part of a run, with a line of progress.
type step struct {
	name string
	do   func() (string, error)
}

// run does steps one after the other until one fails.
func (s *System) run(steps ...step) error {
	for _, step := range steps {
		if err := s.progress.Step(step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

// remember notes what is there before the run changes anything.
func (s *System) remember(ctx context.Context) (fingerprint, error) {
	names, err := s.ours(ctx)
	if err != nil {
		return nil, err
	}
	if s.earlier, err = s.known(ctx, names); err != nil {
		return nil, err
	}
	return s.fingerprint(ctx)
}

// printAddresses is the end of a successful run: what changed, where to vote, where the password is.
func (s *System) printAddresses(changed []string) {
	verdict := "nothing changed"
	if len(changed) > 0 {
		verdict = fmt.Sprintf("changed: %s", joinWords(changed))
	}
	fmt.Fprintf(s.Out, "\nUp after %.0f s; %s.\n\n", s.progress.Total().Seconds(), verdict)
	for _, gateway := range s.Target.Gateways {
		fmt.Fprintf(s.Out, "  vote      %s/function/vote\n", gateway)
	}
	gateway := s.Target.Gateways[0]
	fmt.Fprintf(s.Out, "  results   %s/function/results\n", gateway)
	if s.certificate.version != "" {
		fmt.Fprintf(s.Out, "  TLS       port %d of each edge node, by the names in the certificate\n", s.TLSPort)
	}
	fmt.Fprintf(s.Out, "  API       %s (user admin, password in %s)\n\n", gateway, s.state.path("basic-auth-password"))
	fmt.Fprintf(s.Out, "  faas-cli login -g %s --password-stdin < %s\n", gateway, s.state.path("basic-auth-password"))
}
