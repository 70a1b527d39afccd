package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/up"
)

// chain measures a call's whole way on a real Swarm: gateway, overlay, function, and the engine with its logging. The
// Swarm is a node container of its own, so that everything in it, and nothing else, is counted.
type chain struct {
	*bench
	node   *cluster.Node
	system *up.System
	// bare is the same answer from a net/http server alone, on loopback: the measure of how fast the machine is just now.
	bare *process
}

// chainRun is one run of the chain, and what the bare server took per request right before it.
type chainRun struct {
	result
	shares []share
	bare   float64
}

// measureChain brings Waggle up on a Swarm of one node, deploys the smallest function, loads it and prints what a call
// costs in each process.
func (b *bench) measureChain(ctx context.Context, function *process) (err error) {
	name := "bench-" + strconv.Itoa(os.Getpid())
	note := func(line string) { fmt.Fprintln(os.Stderr, line) }
	made, err := up.CreateCluster(ctx, ".", cluster.Config{Name: name, Nodes: 1, Progress: note})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Delete(context.WithoutCancel(ctx), docker.Engine{}, name)) }()
	system, err := up.New(chainConfig(up.OnCluster(made), ".", b.dir))
	if err != nil {
		return err
	}
	if err := system.Up(ctx); err != nil {
		return err
	}
	if err := system.DeployFunction(ctx, "hello", "./deploy/lab/bench/hello"); err != nil {
		return err
	}
	c := chain{bench: b, node: made.Nodes[0], system: system, bare: function}
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.run(ctx)
}

// settleTime lets every service get a minute old, from when on its health checks are rare.
const settleTime = 70 * time.Second

func chainConfig(target up.Target, root, dir string) up.Config {
	return up.Config{Target: target, Root: root, StateDir: dir, Port: up.DefaultPort, Workers: 1,
		RedisMaxMemory: "64mb", QueueMaxMemory: "64mb", Out: os.Stderr}
}

// minChainRun holds its share of the node's periodic work, such as health checks.
const minChainRun = 10 * time.Second

func (c *chain) run(ctx context.Context) error {
	// The node's own address: loopback ports of containers go through a proxy of Docker's that would be measured too.
	url := "http://" + c.node.Address + ":" + strconv.Itoa(up.DefaultPort) + "/function/hello"
	pid, err := docker.Engine{}.Run(ctx, "inspect", "--format", "{{.State.Pid}}", c.node.Container)
	if err != nil {
		return fmt.Errorf("finding the node's first process: %w", err)
	}
	init, err := strconv.Atoi(pid)
	if err != nil {
		return fmt.Errorf("reading the node's first process: %w", err)
	}
	// Clients are where the other cases have them, on the system's own host. The link between node container
	// and machine is no part of a node.
	onNode := *c.bench
	onNode.from = []string{"nsenter", "--net=/proc/" + pid + "/ns/net", "--"}
	length := max(c.time, minChainRun)
	var runs []chainRun
	for range c.rounds {
		bare, err := c.load(ctx, c.protocol.scheme()+c.bare.address, testCase{}, length, nil, c.bare)
		if err != nil {
			return err
		}
		if _, err := onNode.load(ctx, url, testCase{}, time.Second, nil, nil); err != nil { // warm-up
			return err
		}
		before := tree(init)
		r, err := onNode.load(ctx, url, testCase{}, length, nil, nil)
		if err != nil {
			return err
		}
		runs = append(runs, chainRun{r, since(before, tree(init), r.rate*length.Seconds()), bare.functionCPU})
	}
	return printChain(os.Stdout, c, length, runs)
}

func printChain(to io.Writer, c *chain, length time.Duration, runs []chainRun) error {
	var ratios []float64
	for _, r := range runs {
		ratios = append(ratios, total(r.shares)/r.bare)
	}
	best := slices.MinFunc(runs, func(a, b chainRun) int { return cmp.Compare(total(a.shares), total(b.shares)) })
	fmt.Fprintf(to, "\nThe whole chain, %d connections, %s, the best of %d: %.0f req/s, p50 %.2f ms, p99 %.2f ms, %d errors\n",
		c.connections, length, c.rounds, best.rate, best.p50, best.p99, best.errors)
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "process\tCPU µs/req\t")
	for _, s := range best.shares {
		fmt.Fprintf(out, "%s\t%.1f\t\n", s.name, s.micros)
	}
	fmt.Fprintf(out, "all of the node\t%.1f\t\n", total(best.shares))
	fmt.Fprintf(out, "bare server\t%.1f\t\n", best.bare)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	_, err := fmt.Fprintf(to, "the chain costs %.2f × the bare server, the median of the rounds' own ratios\n", middle(ratios))
	return err
}

// share is what the processes of one name used per request.
type share struct {
	name   string
	micros float64
}

func total(shares []share) (sum float64) {
	for _, s := range shares {
		sum += s.micros
	}
	return sum
}

// tree is the CPU time of a process and all below it, by name. The time of children that ended is their parent's.
func tree(root int) map[string]time.Duration {
	parents, stats := map[int]int{}, map[int]stat{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, ok := readStat(pid); ok {
			parents[pid], stats[pid] = s.parent, s
		}
	}
	used := map[string]time.Duration{}
	for pid, s := range stats {
		above := pid
		for above != 0 && above != root {
			above = parents[above]
		}
		if above == root {
			used[s.name] += s.own + s.children
		}
	}
	return used
}

// since is what was used between two readings of a tree, divided by the requests, the most expensive first.
func since(before, after map[string]time.Duration, requests float64) []share {
	var shares []share
	for name, used := range after {
		if used -= before[name]; used > 0 {
			shares = append(shares, share{strings.TrimSpace(name), float64(used.Microseconds()) / requests})
		}
	}
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(b.micros, a.micros) })
	return shares
}
