package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"

	"waggle/worker/store"
)

// onNode runs retire or close, the commands with which an operator decides about a node's losses.
func onNode(ctx context.Context, cfg config, command string, args []string) error {
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	node := flags.String("node", "", "name of the capture node")
	drained := false
	if command == "retire" {
		flags.BoolVar(&drained, "drained", false, "nobody could vote on it any more when it was read last")
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *node == "" || flags.NArg() > 0 {
		return fmt.Errorf("%s needs -node NAME and nothing else", command)
	}
	dsn, err := cfg.dsn("waggle_drain", "postgres-drain")
	if err != nil {
		return err
	}
	tally, err := store.New(store.Config{DSN: dsn})
	if err != nil {
		return err
	}
	defer tally.Close()
	if command == "close" {
		return closeLosses(ctx, cfg, tally, *node)
	}
	return retire(ctx, cfg, tally, *node, drained)
}

func retire(ctx context.Context, cfg config, tally *store.Store, node string, drained bool) error {
	n, err := tally.Retire(ctx, node, drained)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("node %q has no stream to retire: its name must be one that the ledger shows as missing", node)
	}
	cfg.logger().Info("retired a node", "node", node, "streams", n)
	return nil
}

func closeLosses(ctx context.Context, cfg config, tally *store.Store, node string) error {
	gaps, lost, err := tally.CloseLosses(ctx, node)
	if err != nil {
		return err
	}
	if gaps == 0 && lost == 0 {
		return fmt.Errorf("node %q has nothing to close: its name must be one for which the ledger shows losses", node)
	}
	cfg.logger().Info("closed a node's losses", "node", node, "gaps", gaps, "lost", lost)
	return nil
}

// expect tells the ledger which capture nodes there should be. Without a list it knows those that workers have reached.
func expect(ctx context.Context, tally *store.Store, nodes []string, log *slog.Logger) error {
	if len(nodes) == 0 {
		return nil
	}
	err := tally.Expect(ctx, nodes)
	if err != nil && store.Classify(err) != store.Deploy {
		log.Warn("the expected capture nodes were not stored; the next start does it", "error", err)
		return nil
	}
	return err
}
