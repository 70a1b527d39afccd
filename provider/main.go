// Command provider runs functions on a Docker Swarm behind the OpenFaaS API.
//
// Role provider (the only holder of the Docker socket) turns REST calls into Swarm objects and pushes the replica table
// to gateways; role gateway is the public edge, which needs nothing but that table; role all is both in one process for
// a single machine. This file is the wiring; config.go is the environment.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"waggle/provider/api"
	"waggle/provider/feed"
	"waggle/provider/gateway"
	"waggle/provider/swarm"
)

// release and commit name the build; the linker sets them.
var (
	release = "dev"
	commit  = "unknown"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "provider:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	c, err := loadConfig()
	if err != nil {
		return err
	}
	if len(args) == 1 && args[0] == "-healthcheck" {
		return watch(ctx, age(), func(ctx context.Context) error { return healthcheck(ctx, c) })
	}
	if len(args) > 0 {
		return fmt.Errorf("argument %q; want none, or -healthcheck: the environment configures it", args[0])
	}
	logger := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.LogLevel}))
	slog.SetDefault(logger)
	logger.Info("starting", "release", release, "commit", commit, "config", c)

	group, ctx := errgroup.WithContext(ctx)
	if c.Role == roleProvider || c.Role == roleAll {
		if err := startProvider(ctx, group, c, logger); err != nil {
			return err
		}
	}
	if c.Role == roleGateway || c.Role == roleAll {
		if err := startGateway(ctx, group, c, logger); err != nil {
			return err
		}
	}
	return group.Wait()
}

// startProvider wires Docker → cluster → watcher → hub → API, and adds what runs to the group.
func startProvider(ctx context.Context, group *errgroup.Group, c config, logger *slog.Logger) error {
	user, password, err := c.credentials()
	if err != nil {
		return err
	}
	docker, err := swarm.Connect("")
	if err != nil {
		return err
	}
	usages := &feed.UsageBook{}
	cluster, err := swarm.New(swarm.Config{
		Docker: docker, Namespace: c.FunctionNamespace, Network: c.FunctionsNetwork, User: c.FunctionUser,
		AllowedNetworks: c.AllowedNetworks, AllowedVolumes: c.AllowedVolumes,
		RegistryAuth: registryAuth(c.RegistryConfig, logger), Usages: usages, Logger: logger,
	})
	if err != nil {
		return err
	}
	hub, err := feed.NewHub(feed.HubConfig{Waker: cluster, Deployed: cluster.Deployed, Usages: usages, Logger: logger})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var events swarm.TaskEvents
	if c.SwarmControlSocket != "" {
		events = swarm.ControlSocket(c.SwarmControlSocket)
	}
	watcher, err := swarm.NewWatcher(swarm.WatcherConfig{
		Cluster: cluster, Publisher: hub, TaskEvents: events, Registerer: registry, Logger: logger,
	})
	if err != nil {
		return err
	}
	handler, err := api.New(api.Config{
		Cluster: cluster, Invocations: hub, Feed: hub.Handler(), User: user, Password: password,
		Timeout: time.Duration(c.UpstreamTimeout), Release: release, Commit: commit, Metrics: registry, Logger: logger,
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return watcher.Run(ctx) })
	group.Go(func() error { return serve(ctx, c, handler, logger) })
	return nil
}

// startGateway adds the public edge to the group. In role all it finds the provider on loopback.
func startGateway(ctx context.Context, group *errgroup.Group, c config, logger *slog.Logger) error {
	edge, err := loadGateway(c)
	if err != nil {
		return err
	}
	edge.Release, edge.Logger, edge.Registry = release, logger, prometheus.NewRegistry()
	queue, err := newQueue(c, edge)
	if err != nil {
		return err
	}
	if queue != nil {
		edge.Queue = callQueue{queue}
	}
	served, err := gateway.New(edge)
	if err != nil {
		return err
	}
	group.Go(func() error { return runEdge(ctx, served, queue) })
	return nil
}
