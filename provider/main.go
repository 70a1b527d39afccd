// Command provider runs functions on a Docker Swarm behind the OpenFaaS API.
//
// Role provider (the only holder of the Docker socket) turns REST calls into Swarm objects and pushes the replica
// table to gateways. Role gateway is the public edge, which needs nothing but that table. Role all is both in one
// process for a single machine. This file is the wiring; config.go is the environment.
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"waggle/provider/api"
	"waggle/provider/async"
	"waggle/provider/feed"
	"waggle/provider/gateway"
	"waggle/provider/settings"
	"waggle/provider/swarm"
)

// version and revision say of which sources this is a build; the linker sets them.
var (
	version  = "dev"
	revision = "unknown"
)

// usage is what `provider help` says before the settings.
const usage = `provider runs a role of Waggle, which the environment configures.

  provider                 run until SIGTERM
  provider config check    print the settings that would be in effect, or each mistake on a line and end with status 2
  provider help            print this
  provider -healthcheck    ask the process in this container whether it is alive
  provider autoscale replay FILE
                           decide anew what a record of the autoscaler tells (autoscale_record), and say what differs
`

//go:embed README.md
var readme string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	arguments := strings.Join(os.Args[1:], " ")
	if record, found := strings.CutPrefix(arguments, "autoscale replay "); found {
		if err := replay(record, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "provider:", err)
			os.Exit(1)
		}
		return
	}
	switch arguments {
	case "help":
		fmt.Fprint(os.Stdout, usage, settings.Tables(readme))
	case "config check":
		c, err := loadConfig()
		os.Exit(settings.Report(os.Stdout, c.effective(), errors.Join(err, c.check())))
	case "", "-healthcheck":
		if err := run(ctx, arguments == "-healthcheck"); err != nil {
			fmt.Fprintln(os.Stderr, "provider:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "provider: argument %q: must be help, config check, autoscale replay FILE, -healthcheck or nothing\n", arguments)
		os.Exit(2)
	}
}

func run(ctx context.Context, healthcheckOnly bool) error {
	c, err := loadConfig()
	if err != nil {
		return err
	}
	if healthcheckOnly {
		return healthcheck(ctx, c)
	}
	logger := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.LogLevel}))
	slog.SetDefault(logger)
	logger.Info("starting", "version", version, "revision", revision, "settings", c.effective())

	group, ctx := errgroup.WithContext(ctx)
	if c.hasProvider() {
		if err := startProvider(ctx, group, c, logger); err != nil {
			return err
		}
	}
	if c.hasGateway() {
		if err := startGateway(ctx, group, c, logger); err != nil {
			return err
		}
	}
	return group.Wait()
}

// startProvider wires Docker → cluster → watcher → hub → API, and adds what runs to the group.
func startProvider(ctx context.Context, group *errgroup.Group, c config, logger *slog.Logger) error {
	docker, err := swarm.Connect("")
	if err != nil {
		return err
	}
	usages := &feed.UsageBook{}
	swarmConfig := c.cluster()
	swarmConfig.Docker, swarmConfig.Usages, swarmConfig.Logger = docker, usages, logger
	var hub *feed.Hub // made below, since it wakes functions of the cluster
	swarmConfig.Unreachable = func() map[string]feed.Unreachable { return hub.Unreachable() }
	swarmConfig.RegistryAuth = registryAuth(c.provider.RegistryConfig, logger)
	cluster, err := swarm.New(swarmConfig)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scaler, err := newScaler(c, cluster, usages, registry, logger)
	if err != nil {
		return err
	}
	hub, err = feed.NewHub(feed.HubConfig{Waker: scaler, Reported: scaler.Reported, Deployed: cluster.Deployed, Usages: usages, Logger: logger})
	if err != nil {
		return err
	}
	var events swarm.TaskEvents
	if socket := c.provider.SwarmControlSocket; socket != "" {
		events = swarm.ControlSocket(socket)
	}
	watcher, err := swarm.NewWatcher(swarm.WatcherConfig{
		Cluster: cluster, Publisher: hub, TaskEvents: events, Registerer: registry, Logger: logger,
	})
	if err != nil {
		return err
	}
	handler, err := api.New(api.Config{
		Closing: ctx, Cluster: cluster, Autoscaler: scaler, Invocations: hub, Feed: hub.Handler(), Table: func() feed.Table { return hub.Newest().Table }, Gateway: c.provider.FunctionsGateway, Credentials: c.credentials,
		Timeout: c.provider.UpstreamTimeout, Release: version, Commit: revision, Metrics: registry, Logger: logger,
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return watcher.Run(ctx) })
	group.Go(func() error { return scaler.Run(ctx, hub) })
	group.Go(func() error { return serve(ctx, c, handler, logger) })
	return nil
}

// startGateway adds the public edge to the group. In role all it finds the provider on loopback.
func startGateway(ctx context.Context, group *errgroup.Group, c config, logger *slog.Logger) error {
	edge := c.gateway
	edge.Release, edge.Logger, edge.Registry = version+"+"+revision, logger, prometheus.NewRegistry()
	var queue *async.Queue
	if c.hasQueue() {
		var err error
		c.queue.Logger, c.queue.Registerer = logger, edge.Registry
		if queue, err = async.New(c.queue); err != nil {
			return err
		}
		edge.Queue = queue
	}
	served, err := gateway.New(edge)
	if err != nil {
		return err
	}
	group.Go(func() error { return runEdge(ctx, served, queue) })
	return nil
}
