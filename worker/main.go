// The worker counts votes: it drains the capture nodes' Redis streams into Postgres. It is the only part that reads
// those streams and the only one that writes the tally; any number of workers may run. Its commands are in [usage].
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"waggle/provider/settings"
	"waggle/worker/drain"
	"waggle/worker/store"
)

// usage is what `worker help` says before the settings.
const usage = `worker counts votes, as the environment tells it.

  worker                     drain until SIGTERM
  worker migrate             bring the schema up to date (secret postgres-admin), and roles' passwords in a Postgres of others
  worker retire -node NAME   write off a node that will never come back; with -drained, one that held no vote any more
  worker close -node NAME    close what a node has lost: it stays in the ledger and raises no alarm any more
  worker recount             count every vote again and print what was found as JSON
  worker config check        print the settings that would be in effect, or each mistake on a line and end with status 2
  worker help                print this
  worker -healthcheck        ask the worker in this container whether it is alive
`

//go:embed README.md
var readme string

// version and revision say of which sources this is a build; the linker sets them.
var (
	version  = "dev"
	revision = "unknown"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch strings.Join(os.Args[1:], " ") {
	case "help":
		fmt.Fprint(os.Stdout, usage, settings.Tables(readme))
	case "config check":
		cfg, err := loadConfig()
		os.Exit(settings.Report(os.Stdout, settings.List(cfg), errors.Join(err, cfg.check())))
	default:
		if err := command(ctx, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
	}
}

func command(ctx context.Context, args []string) error {
	cfg, err := loadConfig()
	if err != nil {
		return err
	}
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	switch name {
	case "":
		return run(ctx, cfg)
	case "-healthcheck":
		return healthcheck(ctx, cfg)
	case "migrate":
		return migrate(ctx, cfg)
	case "retire", "close":
		return onNode(ctx, cfg, name, args[1:])
	case "recount":
		return recount(ctx, cfg, os.Stdout)
	default:
		return fmt.Errorf("command is %q: must be migrate, retire, close, recount, config check, help, -healthcheck, or none to drain", name)
	}
}

// run wires the worker up and blocks until ctx ends or it can't go on.
func run(ctx context.Context, cfg config) error {
	log := cfg.logger()
	log.Info("starting", "version", version, "revision", revision, "settings", settings.List(cfg))
	polls, err := drain.LoadPolls(cfg.PollsFile)
	if err != nil {
		return err
	}
	password, err := settings.ReadSecret(cfg.SecretMountPath, "redis-drain")
	if err != nil {
		return err
	}
	dsn, err := cfg.dsn("waggle_drain", "postgres-drain")
	if err != nil {
		return err
	}
	tally, err := store.New(store.Config{DSN: dsn, Shard: cfg.shard()})
	if err != nil {
		return err
	}
	defer tally.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	worker, err := drain.New(drain.Config{
		Worker: cfg.WorkerName, Store: tally, Polls: polls, Resolve: cfg.resolver(), User: cfg.RedisUser, Password: password,
		BatchSize: cfg.BatchSize, PollInterval: cfg.PollInterval, Retention: cfg.Retention, RetentionEntries: cfg.RetentionEntries,
		RecoverAfter:    cfg.RecoverAfter,
		ShutdownTimeout: cfg.ShutdownTimeout, Logger: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	// The server outlives the worker, so that the last batches can still be watched.
	served, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serve(served, cfg.Listen, worker.Healthy, registry) })
	g.Go(func() error {
		defer stopServing()
		err := tally.AwaitSchema(ctx, cfg.StartTimeout, log)
		if ctx.Err() != nil {
			return nil // asked to stop while waiting
		}
		if err != nil {
			return err
		}
		if err := expect(ctx, tally, cfg.CaptureNodes, log); err != nil {
			return err
		}
		return worker.Run(ctx)
	})
	err = g.Wait()
	log.Info("stopped", "error", err)
	return err
}

func migrate(ctx context.Context, cfg config) error {
	dsn, err := cfg.dsn("waggle_admin", "postgres-admin")
	if err != nil {
		return err
	}
	changed, err := cfg.changedPasswords()
	if err != nil {
		return err
	}
	log := cfg.logger()
	if len(changed) > 0 {
		if err := store.AwaitPasswords(ctx, changed, cfg.StartTimeout, log); err != nil {
			return err
		}
		log.Info("passwords are up to date", "changed", len(changed))
	}
	applied, err := store.AwaitMigrate(ctx, dsn, cfg.StartTimeout, log)
	if err == nil {
		log.Info("the schema is up to date", "applied", applied)
	}
	return err
}
