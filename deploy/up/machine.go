package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Disk that a first run needs on the engine's data root: base images, build stages and the six images of ours.
const (
	diskForFirstBuild = 6 << 30
	diskForUpdate     = 1 << 30
)

// checkMachine finds out before anything is changed whether the run can succeed here.
func (s *System) checkMachine(ctx context.Context) (string, error) {
	version, err := s.Target.Manager.Ping(ctx)
	if err != nil {
		return "", err
	}
	if s.Target.Builder != s.Target.Manager {
		if _, err := s.Target.Builder.Ping(ctx); err != nil {
			return "", err
		}
	}
	if err := s.checkDisk(ctx); err != nil {
		return "", err
	}
	if err := s.checkPorts(ctx); err != nil {
		return "", err
	}
	found := "Docker Engine " + version
	if s.Target.Check == nil {
		return found, nil
	}
	machines, err := s.Target.Check(ctx)
	return found + " on " + machines, err
}

// checkDisk checks the file system of the builder's data root, if that is on this machine.
func (s *System) checkDisk(ctx context.Context) error {
	root, err := s.Target.Builder.Run(ctx, "info", "--format", "{{.DockerRootDir}}")
	if err != nil {
		return fmt.Errorf("asking the engine for its data root: %w", err)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(root, &fs); err != nil {
		return nil //nolint:nilerr // a remote engine, or a root that only root can see: the build will say so itself
	}
	need := uint64(diskForFirstBuild)
	if built, err := s.Target.Builder.HasImage(ctx, "golang:1.26-bookworm"); err == nil && built {
		need = diskForUpdate
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < need {
		return failf("Free some, or move Docker's data-root to a larger disk.",
			"not enough disk: %s has %d MiB free, %d MiB are needed", root, free>>20, need>>20)
	}
	return nil
}

// checkPorts makes sure that the gateway can have its ports. Those held by the gateway of an earlier run are fine.
func (s *System) checkPorts(ctx context.Context) error {
	if s.Target.Distribute != nil {
		return nil // The ports are inside the nodes, whose ports nobody else has.
	}
	held := s.gatewayPorts(ctx)
	if err := checkPort("PORT", s.Port, held); err != nil || s.certificate.version == "" {
		return err
	}
	return checkPort("TLS_PORT", s.TLSPort, held)
}

func checkPort(setting string, port int, held []string) error {
	if slices.Contains(held, strconv.Itoa(port)) {
		return nil
	}
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return failf(fmt.Sprintf("Choose another with `make up %s=%d`.", setting, port+1), "port %d is taken by another program", port)
	}
	if errors.Is(err, syscall.EACCES) {
		return nil // Only root may listen on low ports; Docker is root.
	}
	if err != nil {
		return fmt.Errorf("trying port %d: %w", port, err)
	}
	return listener.Close()
}

// gatewayPorts are the host ports that the running gateway publishes; none if there is no gateway.
func (s *System) gatewayPorts(ctx context.Context) []string {
	out, err := s.Target.Manager.Run(ctx, "service", "inspect", "--format",
		"{{range .Spec.EndpointSpec.Ports}}{{.PublishedPort}} {{end}}", stackName+"_gateway")
	if err != nil {
		return nil
	}
	return strings.Fields(out)
}

// nodeRoles are the labels that the stack's placement needs, each on at least one node.
var nodeRoles = []string{"waggle.edge", "waggle.capture", "waggle.worker", "waggle.store"}

// ensureSwarm makes the engine a one-node Swarm if it is in none, and gives a lone node every role.
func (s *System) ensureSwarm(ctx context.Context) (string, error) {
	if s.Target.Form != nil {
		return s.Target.Form(ctx)
	}
	const format = "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"
	out, err := s.Target.Manager.Run(ctx, "info", "--format", format)
	if err != nil {
		return "", fmt.Errorf("asking the engine for its Swarm: %w", err)
	}
	did := "found"
	switch out {
	case "active true":
	case "inactive false":
		// The pool is ours to choose: /20 networks hold 4,000 replicas where Docker's default holds 250.
		_, err := s.Target.Manager.Run(ctx, "swarm", "init", "--advertise-addr", advertiseAddress(),
			"--default-addr-pool", "10.200.0.0/13", "--default-addr-pool-mask-length", "20")
		if err != nil {
			return "", fmt.Errorf("making this machine a Swarm: %w", err)
		}
		did = "initialised"
	case "active false":
		return "", failf("Run this on a manager, or promote it with `docker node promote`.", "this machine is a worker of a Swarm")
	default:
		return "", failf("See `docker info` and `docker node ls`.", "the Swarm of this machine is in state %q", out)
	}
	nodes, err := s.labelNodes(ctx)
	return fmt.Sprintf("%s, %d node(s)", did, nodes), err
}

// advertiseAddress is this machine's address on its default route, by which later nodes would reach it.
func advertiseAddress() string {
	// A UDP "connection" sends nothing: it only asks the kernel which source address it would use.
	conn, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return "127.0.0.1"
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

// labelNodes gives a lone node all roles. In a larger Swarm the operator decides who does what, and is told what is missing.
func (s *System) labelNodes(ctx context.Context) (nodes int, err error) {
	out, err := s.Target.Manager.Run(ctx, "node", "ls", "--quiet")
	if err != nil {
		return 0, fmt.Errorf("listing nodes: %w", err)
	}
	ids := strings.Fields(out)
	labels, err := s.Target.Manager.Run(ctx, append([]string{"node", "inspect", "--format", "{{.ID}} {{range $k, $v := .Spec.Labels}}{{$k}}={{$v}} {{end}}"}, ids...)...)
	if err != nil {
		return 0, fmt.Errorf("reading node labels: %w", err)
	}
	for _, role := range nodeRoles {
		if role == storeLabel && s.externalPostgres() {
			continue
		}
		if strings.Contains(labels, role+"=true") {
			continue
		}
		if len(ids) > 1 {
			return 0, failf(fmt.Sprintf("Run `docker node update --label-add %s=true NODE`.", role), "no node has label %s=true", role)
		}
		if _, err := s.Target.Manager.Run(ctx, "node", "update", "--label-add", role+"=true", ids[0]); err != nil {
			return 0, fmt.Errorf("labelling the node: %w", err)
		}
	}
	if len(ids) > 1 && s.Target.Distribute == nil && s.Registry == "" && !s.Target.Preloaded {
		return 0, failf("Name a registry with REGISTRY=registry.example.com/waggle, or use a one-node Swarm or `make cluster`.", "the Swarm has %d nodes, and images built here cannot reach the others", len(ids))
	}
	return len(ids), nil
}
