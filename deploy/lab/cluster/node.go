package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
)

// Labels of a node container, from which Open rebuilds what Create knew.
const (
	nodeLabel   = "waggle.node"
	portLabel   = "waggle.port"
	socketLabel = "waggle.socket"
)

// Node is one member of the Swarm.
type Node struct {
	// Name is the host name, node1 and so on, by which the Swarm knows it.
	Name string
	// Container is the name of its container on the outer engine.
	Container string
	// Address is its address on the cluster's bridge; it stays the same across restarts.
	Address string
	// Port is where 127.0.0.1 reaches the node's port 8080.
	Port int
	// Engine is the node's own Docker engine; it answers only while the node runs.
	Engine docker.Engine
	// Roles are what it does.
	Roles []inventory.Role

	cluster *Cluster
}

// isolation is how a node container gets the rights that an engine needs.
type isolation struct {
	args        []string
	hostCgroups bool
}

// chooseIsolation prefers a privileged container, in which a node's control groups are its own. Where the machine
// itself has fewer rights than that asks for, the node gets what there is and the machine's control groups.
func chooseIsolation(ctx context.Context, config Config) (isolation, error) {
	privileged := isolation{args: []string{"--privileged"}}
	restricted := isolation{hostCgroups: true, args: []string{
		"--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined",
		"--security-opt=systempaths=unconfined", "--device-cgroup-rule=a *:* rwm", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
	}}
	var errs []error
	for _, candidate := range []isolation{privileged, restricted} {
		args := append([]string{"run", "--rm", "--label=" + clusterLabel + "=" + config.Name, "--network=none", "--entrypoint=true"}, candidate.args...)
		_, err := config.Engine.Run(ctx, append(args, config.Image)...)
		if err == nil {
			return candidate, nil
		}
		if ctx.Err() != nil {
			return isolation{}, err
		}
		errs = append(errs, err)
	}
	return isolation{}, fmt.Errorf("no way to run an engine in a container here: %w", errors.Join(errs...))
}

// create starts the container of node number i and waits for its engine.
func (n *Node) create(ctx context.Context, config Config, i int, isolation isolation, mtu int) error {
	socket := config.socket(i)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return fmt.Errorf("preparing %s: %w", n.Name, err)
	}
	volume := n.Container + "-docker"
	if _, err := config.Engine.Run(ctx, "volume", "create", "--label", clusterLabel+"="+config.Name, volume); err != nil {
		return fmt.Errorf("creating the disk of %s: %w", n.Name, err)
	}
	args := []string{"run", "--detach",
		"--name=" + n.Container, "--hostname=" + n.Name,
		"--label=" + clusterLabel + "=" + config.Name, "--label=" + nodeLabel + "=" + strconv.Itoa(i),
		"--label=" + portLabel + "=" + strconv.Itoa(n.Port), "--label=" + socketLabel + "=" + socket,
		"--network=" + config.networkName(), "--ip=" + n.Address,
		fmt.Sprintf("--publish=127.0.0.1:%d:%d", n.Port, gatewayPort),
		"--volume=" + volume + ":/var/lib/docker", "--volume=" + filepath.Dir(socket) + ":/waggle",
		// Process files of a killed engine would keep the next one from starting.
		"--tmpfs=/run",
		"--env=WAGGLE_OUTSIDE_MTU=" + strconv.Itoa(mtu), "--env=WAGGLE_HOST_CGROUPS=" + strconv.FormatBool(isolation.hostCgroups),
	}
	if config.SSHKey != "" {
		args = append(args, "--env=WAGGLE_SSH_KEY="+config.SSHKey)
	}
	args = append(args, isolation.args...)
	args = append(args, config.Image,
		"--mtu="+strconv.Itoa(mtu), "--default-address-pool="+localPool, "--group="+strconv.Itoa(os.Getgid()),
		"--log-opt=max-size=10m", "--log-opt=max-file=2", "--log-level=warn")
	if isolation.hostCgroups {
		args = append(args, "--cgroup-parent=/"+n.Container)
	}
	if _, err := config.Engine.Run(ctx, args...); err != nil {
		return fmt.Errorf("starting %s: %w", n.Name, err)
	}
	return n.awaitEngine(ctx)
}

// awaitEngine returns when the node's engine answers. A container that ended meanwhile is an error with its last words.
func (n *Node) awaitEngine(ctx context.Context) error {
	return n.cluster.await(ctx, "the engine of "+n.Name, func(ctx context.Context) (bool, error) {
		if _, err := n.Engine.Ping(ctx); err == nil {
			return true, nil
		}
		running, err := n.cluster.engine.Run(ctx, "container", "inspect", "--format", "{{.State.Running}}", n.Container)
		if err == nil && running == "false" {
			return false, fmt.Errorf("container %s ended: %s", n.Container, n.lastWords(ctx))
		}
		return false, err
	})
}

// lastWords returns the end of the node's log.
func (n *Node) lastWords(ctx context.Context) string {
	log, err := n.cluster.engine.Logs(ctx, n.Container, 5)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(log, "\n", "; ")
}

// Kill is power loss: the engine and everything in it end at once, without a chance to write.
func (n *Node) Kill(ctx context.Context) error {
	_, err := n.cluster.engine.Run(ctx, "kill", "--signal=KILL", n.Container)
	return err
}

// Start boots a node that was killed; it returns when the node is a ready member of the Swarm again. Without a running
// manager only the node's own word is awaited.
func (n *Node) Start(ctx context.Context) error {
	if _, err := n.cluster.engine.Run(ctx, "start", n.Container); err != nil {
		return fmt.Errorf("starting %s: %w", n.Name, err)
	}
	if err := n.awaitEngine(ctx); err != nil {
		return err
	}
	return n.cluster.awaitMember(ctx, n)
}

// Destroy removes the node for good: its container, its disk and what it left on the machine. The Swarm still lists it.
func (n *Node) Destroy(ctx context.Context) error {
	nodes, err := inspectNodes(ctx, n.cluster.engine, n.cluster.Name)
	if err != nil {
		return fmt.Errorf("removing %s: %w", n.Name, err)
	}
	for _, node := range nodes {
		if strings.TrimPrefix(node.Name, "/") != n.Container {
			continue
		}
		_, err := n.cluster.engine.Run(ctx, "rm", "--force", "--volumes", n.Container)
		if err == nil {
			_, err = n.cluster.engine.Run(ctx, "volume", "rm", n.Container+"-docker")
		}
		if err == nil {
			err = removeCgroups(ctx, n.cluster.engine, []nodeContainer{node})
		}
		if err == nil {
			err = removeSocketDir(node.Config.Labels[socketLabel])
		}
		if err != nil {
			return fmt.Errorf("removing %s: %w", n.Name, err)
		}
	}
	return nil
}

// Exec runs a program in the node, as a person at its console does, and returns what it prints.
func (n *Node) Exec(ctx context.Context, command ...string) (string, error) {
	return n.cluster.engine.Run(ctx, append([]string{"exec", n.Container}, command...)...)
}

// Pause makes the node hang: nothing in it runs, its connections stay open. Its engine's containers have control groups of
// their own beside the node's, so that pausing that one alone would leave them at work.
func (n *Node) Pause(ctx context.Context) error {
	// All but the first process, the engine.
	if _, err := n.Exec(ctx, "sh", "-c", "kill -STOP -1"); err != nil {
		return err
	}
	_, err := n.cluster.engine.Run(ctx, "pause", n.Container)
	return err
}

// Unpause ends a Pause.
func (n *Node) Unpause(ctx context.Context) error {
	if _, err := n.cluster.engine.Run(ctx, "unpause", n.Container); err != nil {
		return err
	}
	_, err := n.Exec(ctx, "sh", "-c", "kill -CONT -1")
	return err
}

// pollEvery is how often an awaited state is polled: an engine takes about two seconds to start.
const pollEvery = 200 * time.Millisecond

// await calls done until it is true, fails, or the cluster's deadline has passed.
func (c *Cluster) await(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("%s was not ready within %s", what, c.timeout))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
