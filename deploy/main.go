// Command deploy operates Waggle, on this machine's Swarm or on a many-node Swarm of node containers. It brings the
// system up, takes it down, deletes it and shows its state. It also makes releases, which contain this program. The
// Makefile calls it.
package main

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"waggle/deploy/docker"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/release"
	"waggle/deploy/up"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name, args := "up", os.Args[1:]
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	if err := run(ctx, name, args...); err != nil {
		fmt.Fprintf(os.Stderr, "make %s: %v\n", name, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name string, args ...string) error {
	command, ok := commands[name]
	if !ok {
		return fmt.Errorf("no such command; legal are %s", strings.Join(slices.Sorted(maps.Keys(commands)), ", "))
	}
	if len(args) > 0 && name != "voters" {
		if !slices.Contains([]string{"-h", "-help", "--help", "help"}, args[0]) {
			return fmt.Errorf("argument %q: settings are given as NAME=value before the command, or after make %s; -h explains it", args[0], name)
		}
		fmt.Printf("make %s\n\n%s\n", name, command.help)
		return nil
	}
	s, err := readSettings()
	if err != nil {
		return err
	}
	return command.do(ctx, s)
}

// onSystem makes a command of one of the system's methods.
func onSystem(do func(*up.System, context.Context) error) func(context.Context, settings) error {
	return func(ctx context.Context, s settings) error {
		return withSystem(ctx, s, func(system *up.System) error { return do(system, ctx) })
	}
}

// voters runs the load program against the running system, with what it needs to judge it; further arguments are its own.
func voters(ctx context.Context, s settings) error {
	return withSystem(ctx, s, func(system *up.System) error {
		command := exec.CommandContext(ctx, "go", slices.Concat([]string{"run", "./deploy/lab/voters"}, system.VotersArgs(), os.Args[2:])...)
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		if path := system.Target.Manager.Path; path != "" {
			command.Env = append(os.Environ(), "PATH="+path+string(os.PathListSeparator)+os.Getenv("PATH"))
		}
		// It ends with its verdict at the first interrupt; until then it may not be killed.
		command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
		return command.Run()
	})
}

func makeCodes(ctx context.Context, s settings) error {
	return onSystem(func(system *up.System, ctx context.Context) error {
		return system.Codes(ctx, up.CodesConfig{Poll: s.Poll, Count: s.Count, Out: s.Out, Ballot: s.Ballot})
	})(ctx, s)
}

// preview serves the pages of the poll file until it is interrupted.
func preview(ctx context.Context, s settings) error {
	command := exec.CommandContext(ctx, "go", "run", "./deploy/preview", fmt.Sprintf("127.0.0.1:%d", s.Port))
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	return command.Run()
}

func printSummary(ctx context.Context, s settings) error {
	return onSystem(func(system *up.System, ctx context.Context) error { return system.Summary(ctx, s.Poll) })(ctx, s)
}

func verifySummary(ctx context.Context, s settings) error {
	if s.Summary == "" {
		return fmt.Errorf("SUMMARY is missing; make verify SUMMARY=file")
	}
	return onSystem(func(system *up.System, ctx context.Context) error {
		return system.VerifySummary(ctx, s.Summary, s.Key, s.Offline)
	})(ctx, s)
}

// purge asks before it deletes.
func purge(ctx context.Context, s settings) error {
	if !s.Yes {
		fmt.Print("This deletes all votes, passwords and functions. Type yes to go on: ")
		answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil || strings.TrimSpace(answer) != "yes" {
			return fmt.Errorf("not confirmed; nothing was deleted (YES=1 confirms without asking)")
		}
	}
	return onSystem((*up.System).Purge)(ctx, s)
}

// makeRelease puts the archive for this machine's architecture into the folder dist.
func makeRelease(ctx context.Context, s settings) error {
	progress := up.NewProgress(os.Stdout)
	return progress.Step("release", func() (string, error) {
		return release.Make(ctx, release.Config{Root: ".", Out: "dist", Version: s.Version, Progress: progress.Note})
	})
}

// defaultCluster is the name of the cluster that `make cluster` makes.
const defaultCluster = "waggle"

// clusterDir keeps the inventory of a cluster of node containers, and what is generated for it.
func (s settings) clusterDir() string { return filepath.Join(s.StateDir, "cluster-"+clusterName(s)) }

func clusterName(s settings) string {
	if s.Cluster == "" {
		return defaultCluster
	}
	return s.Cluster
}

func createCluster(ctx context.Context, s settings) error {
	machine := docker.Engine{}
	if _, err := machine.Ping(ctx); err != nil {
		return err
	}
	progress := up.NewProgress(os.Stdout)
	err := progress.Step("cluster", func() (string, error) {
		_, err := up.CreateMachines(ctx, ".", s.clusterDir(), cluster.Config{
			Engine: machine, Name: clusterName(s), Nodes: s.Nodes, PortBase: s.ClusterPort, Progress: progress.Note,
		})
		return fmt.Sprintf("%d node(s)", s.Nodes), err
	})
	if err != nil {
		return err
	}
	fmt.Printf("\nIts machines are described in %s.\nBring Waggle up on it with: make up CLUSTER=%s\n",
		filepath.Join(s.clusterDir(), up.InventoryFile), clusterName(s))
	return nil
}

func deleteCluster(ctx context.Context, s settings) error {
	progress := up.NewProgress(os.Stdout)
	return progress.Step("cluster", func() (string, error) {
		if err := cluster.Delete(ctx, docker.Engine{}, clusterName(s)); err != nil {
			return "", err
		}
		return "removed", os.RemoveAll(s.clusterDir()) // its passwords open nothing any more
	})
}
