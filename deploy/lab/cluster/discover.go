package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/docker"
)

// Open finds a cluster that exists, also after a restart of this program. ErrNotFound if there is none.
func Open(ctx context.Context, engine docker.Engine, name string) (*Cluster, error) {
	containers, err := inspectNodes(ctx, engine, name)
	if err != nil {
		return nil, fmt.Errorf("opening cluster %s: %w", name, err)
	}
	if len(containers) == 0 {
		return nil, fmt.Errorf("opening cluster %s: %w", name, ErrNotFound)
	}
	cluster := &Cluster{Name: name, engine: engine, timeout: time.Minute, progress: func(string) {}}
	for _, found := range containers {
		number, err := strconv.Atoi(found.Config.Labels[nodeLabel])
		if err != nil {
			return nil, fmt.Errorf("opening cluster %s: container %s has no node number: %w", name, found.Name, err)
		}
		port, err := strconv.Atoi(found.Config.Labels[portLabel])
		if err != nil {
			return nil, fmt.Errorf("opening cluster %s: container %s has no port: %w", name, found.Name, err)
		}
		node := &Node{
			Name: found.Config.Hostname, Container: strings.TrimPrefix(found.Name, "/"), Port: port,
			Engine: docker.Engine{Host: "unix://" + found.Config.Labels[socketLabel]},
			Roles:  roles(number, len(containers)), cluster: cluster,
		}
		for _, network := range found.NetworkSettings.Networks {
			node.Address = network.IPAMConfig.IPv4Address
		}
		cluster.Nodes = append(cluster.Nodes, node)
	}
	return cluster, nil
}

// nodeContainer is the part of docker inspect that is needed here.
type nodeContainer struct {
	Name   string
	Config struct {
		Hostname string
		Image    string
		Labels   map[string]string
	}
	NetworkSettings struct {
		Networks map[string]struct {
			IPAMConfig struct{ IPv4Address string }
		}
	}
}

// inspectNodes returns the node containers of a cluster in order.
func inspectNodes(ctx context.Context, engine docker.Engine, name string) ([]nodeContainer, error) {
	ids, err := list(ctx, engine, name, "ps", "--all")
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	text, err := engine.Run(ctx, append([]string{"container", "inspect"}, ids...)...)
	if err != nil {
		return nil, err
	}
	var containers []nodeContainer
	if err := json.Unmarshal([]byte(text), &containers); err != nil {
		return nil, fmt.Errorf("reading docker inspect: %w", err)
	}
	containers = slices.DeleteFunc(containers, func(c nodeContainer) bool { return c.Config.Labels[nodeLabel] == "" })
	slices.SortFunc(containers, func(a, b nodeContainer) int {
		first, _ := strconv.Atoi(a.Config.Labels[nodeLabel])
		second, _ := strconv.Atoi(b.Config.Labels[nodeLabel])
		return first - second
	})
	return containers, nil
}

// list returns the ids of the cluster's objects of one kind.
func list(ctx context.Context, engine docker.Engine, name string, command ...string) ([]string, error) {
	out, err := engine.Run(ctx, append(command, "--quiet", "--filter", "label="+clusterLabel+"="+name)...)
	return strings.Fields(out), err
}

// leftovers counts what there is of a cluster on the engine.
func leftovers(ctx context.Context, engine docker.Engine, name string) (int, error) {
	count := 0
	for _, command := range [][]string{{"ps", "--all"}, {"volume", "ls"}, {"network", "ls"}} {
		ids, err := list(ctx, engine, name, command...)
		if err != nil {
			return 0, fmt.Errorf("looking for cluster %s: %w", name, err)
		}
		count += len(ids)
	}
	return count, nil
}

// Delete removes everything of a cluster: containers, disks, network, sockets and control groups. It is no error when
// there is nothing. What one step leaves does not keep the others from being tried.
func Delete(ctx context.Context, engine docker.Engine, name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("deleting cluster %q: not a cluster's name", name)
	}
	nodes, err := inspectNodes(ctx, engine, name)
	if err != nil {
		return fmt.Errorf("deleting cluster %s: %w", name, err)
	}
	var errs []error
	for _, kind := range []struct{ list, remove []string }{
		{[]string{"ps", "--all"}, []string{"rm", "--force", "--volumes"}},
		{[]string{"volume", "ls"}, []string{"volume", "rm", "--force"}},
		{[]string{"network", "ls"}, []string{"network", "rm"}},
	} {
		ids, err := list(ctx, engine, name, kind.list...)
		if err == nil && len(ids) > 0 {
			_, err = engine.Run(ctx, append(kind.remove, ids...)...)
		}
		errs = append(errs, err)
	}
	if len(nodes) > 0 {
		errs = append(errs, removeCgroups(ctx, engine, nodes))
	}
	for _, node := range nodes {
		errs = append(errs, removeSocketDir(node.Config.Labels[socketLabel]))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("deleting cluster %s: %w", name, err)
	}
	return nil
}

// removeSocketDir removes a node's directory and then, if nothing else is in them, the cluster's and all clusters'.
func removeSocketDir(socket string) error {
	if filepath.Base(socket) != "docker.sock" {
		return nil
	}
	dir := filepath.Dir(socket)
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a socket: %w", err)
	}
	for level := 0; level < 3 && os.Remove(dir) == nil; level++ {
		dir = filepath.Dir(dir)
	}
	return nil
}

// removeCgroupsScript removes the groups that nodes without their own tree left in the machine's. A group whose last
// process has just been killed stays busy for a moment.
const removeCgroupsScript = `
for name in "$@"; do
  for dir in /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name"; do
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
      [ -d "$dir" ] || break
      find "$dir" -depth -type d -exec rmdir {} \; 2>/dev/null || true
      [ -d "$dir" ] && sleep 0.3
    done
    [ ! -d "$dir" ] || { echo "$dir is still in use" >&2; exit 1; }
  done
done`

// removeCgroups works in a container, since the user of the engine need not be root.
func removeCgroups(ctx context.Context, engine docker.Engine, nodes []nodeContainer) error {
	args := []string{"run", "--rm", "--network=none", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--entrypoint=sh",
		nodes[0].Config.Image, "-c", removeCgroupsScript, "sh"}
	for _, node := range nodes {
		args = append(args, strings.TrimPrefix(node.Name, "/"))
	}
	if _, err := engine.Run(ctx, args...); err != nil {
		return fmt.Errorf("removing control groups: %w", err)
	}
	return nil
}
