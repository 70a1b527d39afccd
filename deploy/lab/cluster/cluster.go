// Package cluster makes a real Swarm of many nodes on one machine: each node is a container that runs a Docker engine.
//
// In: a Docker engine, an image of package images (Node) and a number of nodes. Out: a Swarm with the labels that the
// stack asks for, each node's engine behind a Unix socket and each node's gateway port on loopback. Killing a node's
// container is power loss of that node: its engine and all its containers die at once, its disk stays.
//
// Everything it makes on the machine carries the label waggle.cluster=<name>, so several clusters can exist at once and
// Delete leaves nothing. It never touches a Swarm, network or volume that it did not make.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
)

const (
	// clusterLabel marks everything that belongs to a cluster, with its name.
	clusterLabel = "waggle.cluster"
	// maxNodes is what one bridge's addressing here allows for; memory ends it earlier, at some 150 MB a node.
	maxNodes = 100
	// maxSocketPath is what the kernel takes as the address of a Unix socket.
	maxSocketPath = 107
	// gatewayPort is the port a node's gateway listens on.
	gatewayPort = 8080
)

var (
	// ErrExists is returned by Create when there is anything of a cluster of that name.
	ErrExists = errors.New("the cluster exists already")
	// ErrNotFound is returned by Open when there is no node of a cluster of that name.
	ErrNotFound = errors.New("there is no such cluster")
)

// Config describes a cluster.
type Config struct {
	// Engine runs the node containers. It must be on this machine, since nodes are reached through sockets in a
	// directory that they share with it.
	Engine docker.Engine
	// Name is 1 to 30 characters of a–z, 0–9 and '-'. Node containers are called <name>-node1 and so on.
	Name string
	// Nodes is how many nodes to make, 1 to 100; 0 means 3.
	Nodes int
	// Image is the node image's reference.
	Image string
	// PortBase puts the gateway of node i on 127.0.0.1:PortBase+i; 0 takes free ports.
	PortBase int
	// StateDir holds the sockets; empty means $XDG_RUNTIME_DIR/waggle or, for root, /run/waggle.
	StateDir string
	// SSHKey is a public key. If it is set, the nodes are bare machines in no Swarm. It can log in to them as root
	// over ssh, and WriteInventory describes them.
	SSHKey string
	// ReadyTimeout bounds how long a node may take to start; 0 means 60 s.
	ReadyTimeout time.Duration
	// Progress receives one line per step; nil discards them.
	Progress func(line string)
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,29}$`)

func (c Config) withDefaults() Config {
	c.Nodes = cmp.Or(c.Nodes, 3)
	c.ReadyTimeout = cmp.Or(c.ReadyTimeout, time.Minute)
	c.StateDir = cmp.Or(c.StateDir, defaultStateDir())
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c
}

func defaultStateDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "waggle")
	}
	if os.Geteuid() == 0 {
		return "/run/waggle"
	}
	return filepath.Join(os.TempDir(), "waggle-"+strconv.Itoa(os.Getuid()))
}

func (c Config) validate() error {
	var errs []error
	if !namePattern.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("cluster name %q: it must be 1 to 30 characters of a-z, 0-9 and '-', not starting with '-'", c.Name))
	}
	if c.Nodes < 1 || c.Nodes > maxNodes {
		errs = append(errs, fmt.Errorf("cluster nodes %d: must be 1 to %d", c.Nodes, maxNodes))
	}
	if c.Image == "" {
		errs = append(errs, errors.New("cluster image is empty: it must name a node image"))
	}
	if highest := 65535 - maxNodes; c.PortBase != 0 && (c.PortBase < 1024 || c.PortBase > highest) {
		errs = append(errs, fmt.Errorf("cluster port base %d: must be 1024 to %d, or 0 for free ports", c.PortBase, highest))
	}
	if path := c.socket(c.Nodes); len(path) > maxSocketPath {
		errs = append(errs, fmt.Errorf("cluster state directory %q: the socket path %s has %d characters, at most %d are possible",
			c.StateDir, path, len(path), maxSocketPath))
	}
	if !filepath.IsAbs(c.StateDir) {
		errs = append(errs, fmt.Errorf("cluster state directory %q: must be an absolute path", c.StateDir))
	}
	return errors.Join(errs...)
}

func (c Config) nodeName(i int) string { return fmt.Sprintf("%s-node%d", c.Name, i) }
func (c Config) dir() string           { return filepath.Join(c.StateDir, c.Name) }
func (c Config) socket(i int) string {
	return filepath.Join(c.dir(), "node"+strconv.Itoa(i), "docker.sock")
}

// Cluster is a Swarm of node containers. Its methods may be called from many goroutines, as long as no two act on the
// same node.
type Cluster struct {
	// Name is the cluster's name.
	Name string
	// Nodes are its nodes in order; the first is the manager.
	Nodes []*Node

	engine   docker.Engine
	timeout  time.Duration
	progress func(string)
}

// Create makes a cluster and returns when every node is a ready member of the Swarm with its labels. When it fails, or
// the context ends, what it made is removed. ErrExists if there is one of that name.
func Create(ctx context.Context, config Config) (*Cluster, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	left, err := leftovers(ctx, config.Engine, config.Name)
	if err != nil {
		return nil, err
	}
	if left > 0 {
		return nil, fmt.Errorf("creating cluster %s: %w (%d objects with label %s=%s)", config.Name, ErrExists, left, clusterLabel, config.Name)
	}
	cluster, err := create(ctx, config)
	if err != nil {
		// The context may be what ended it; tidying up is bounded by the engine's own answers.
		tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), config.ReadyTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("creating cluster %s: %w", config.Name, err), Delete(tidy, config.Engine, config.Name))
	}
	return cluster, nil
}

func create(ctx context.Context, config Config) (*Cluster, error) {
	ports, err := config.ports()
	if err != nil {
		return nil, err
	}
	isolation, err := chooseIsolation(ctx, config)
	if err != nil {
		return nil, err
	}
	subnet, err := createNetwork(ctx, config)
	if err != nil {
		return nil, err
	}
	mtu, err := outsideMTU(ctx, config.Engine)
	if err != nil {
		return nil, err
	}
	cluster := &Cluster{Name: config.Name, engine: config.Engine, timeout: config.ReadyTimeout, progress: config.Progress}
	for i := 1; i <= config.Nodes; i++ {
		cluster.Nodes = append(cluster.Nodes, &Node{
			Name: fmt.Sprintf("node%d", i), Container: config.nodeName(i), Address: subnet.host(i).String(),
			Port: ports[i-1], Engine: docker.Engine{Host: "unix://" + config.socket(i)}, Roles: roles(i, config.Nodes),
			cluster: cluster,
		})
	}
	config.Progress(fmt.Sprintf("starting %d nodes on %s", config.Nodes, subnet))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, node := range cluster.Nodes {
		group.Go(func() error { return node.create(groupCtx, config, i+1, isolation, mtu) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if config.SSHKey != "" {
		return cluster, nil
	}
	config.Progress("joining the nodes to one Swarm")
	return cluster, cluster.form(ctx)
}

// roles says what runs where. Every node has a gateway. With one node everything is there. Otherwise the first
// node counts and the others capture votes, so that votes always cross the network between capture and count.
func roles(node, nodes int) []inventory.Role {
	switch {
	case nodes == 1:
		return inventory.Roles
	case node == 1:
		return []inventory.Role{inventory.Manager, inventory.Edge, inventory.Worker, inventory.Store}
	default:
		return []inventory.Role{inventory.Edge, inventory.Capture}
	}
}

// ports chooses a port on loopback for each node. Free ports are held until all are chosen, so that they differ.
func (c Config) ports() ([]int, error) {
	ports := make([]int, c.Nodes)
	for i := range ports {
		port := 0
		if c.PortBase != 0 {
			port = c.PortBase + i + 1
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return nil, fmt.Errorf("port %d of 127.0.0.1 for the gateway of node%d is taken (port base %d): %w", port, i+1, c.PortBase, err)
		}
		defer listener.Close()
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
