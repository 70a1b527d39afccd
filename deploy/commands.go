package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"waggle/deploy/capacity"
	"waggle/deploy/up"
)

// command is what the first argument names.
type command struct {
	do func(context.Context, settings) error
	// help is what -h prints.
	help string
}

// where ends the help of every command that works on a running system.
const where = "\n\nINVENTORY=cluster.yml names the machines, CLUSTER=name a cluster of node containers; without either it is this machine."

// commands are all of them. It is filled in below, since help itself looks commands up.
var commands map[string]command

func init() {
	commands = map[string]command{
		"up": {onSystem((*up.System).Up), "Brings the system up, or up to date. It may be repeated at any time: it changes what differs and says what it changed.\n" +
			"Its settings are in deploy/README.md." + where},
		"down":   {onSystem((*up.System).Down), "Stops everything and keeps all data." + where},
		"purge":  {purge, "Stops everything and deletes it, the votes included. It asks first; YES=1 does not." + where},
		"status": {onSystem((*up.System).Status), "Says what runs and whether every vote is accounted for; fails if anything is not as it should be." + where},
		"drain": {onNode((*up.System).Drain), "NODE=name  Takes a capture node out of service without losing a vote: its ballot leaves, its Redis is counted and stops, its\n" +
			"ledger is closed. The node stays in the Swarm. Repeat it after an interruption. Takes about two minutes." + where},
		"remove": {onNode((*up.System).Remove), "NODE=name  Takes a node out of the Swarm: drains it if it captures votes, lets its asynchronous calls end, moves its other\n" +
			"work away, demotes it if it is a manager. The store node cannot be removed." + where},
		"retire": {onNode((*up.System).Retire), "NODE=name  Writes off a node that is lost for good and down: it leaves the Swarm's list, its votes are counted from their\n" +
			"copies, its ledger is closed. What no copy had is reported as lost." + where},
		"rotate": {rotate, "SECRET=name|all  Gives a secret a new value while the system runs: basic-auth-password, redis-capture, redis-copies,\n" +
			"redis-drain, redis-queue, postgres-admin, postgres-drain, postgres-results, voter-keys. Servers take both values meanwhile, so\n" +
			"that no vote is lost. Certificates and registries change with make up TLS_CERT=… TLS_KEY=… and REGISTRY_CONFIG=…." + where},
		"rollback": {onSystem((*up.System).Rollback), "Deploys the version before the one that runs, with its stack files, functions and settings; again: returns. After a failed make\n" +
			"up it goes back to the last that worked. Polls, secrets and the certificate stay. make up deploys these sources again." + where},
		"prune": {onSystem((*up.System).Prune), "Removes old images of Waggle from every node, and keeps those of the running version and of the one before. Nothing of\n" +
			"others is touched, and no volume." + where},
		"backup": {backup, "OUT=folder PASSPHRASE_FILE=file  Writes the passwords and keys, and the votes as they are at one moment, to a new folder in\n" +
			"OUT, encrypted with the first line of the file. The system goes on. Keep the passphrase apart from the backups. Where there is an\n" +
			"archive of Postgres's log (postgres: archive in the inventory, or make up ARCHIVE=directory), it gets a base backup too." + where},
		"restore": {restore, "FROM=folder PASSPHRASE_FILE=file WHAT=state|votes  state: puts passwords and keys on this machine, which can then run every\n" +
			"command. votes: puts the votes of the backup in the place of those in the database; what Redis still holds is counted again,\n" +
			"what it does not hold any more is reported as lost.\n" +
			"AT=2026-11-30T08:20:00Z WHAT=votes  The same with the votes as they were at that moment, out of the archive, without FROM." + where},
		"capacity": {plan, "VOTES=5000000 MINUTES=10 PEAK=3 CORES=4 OUTAGE=1h  Says what machines an event needs: so many votes within so many minutes, the\n" +
			"busiest minute PEAK times the mean, on machines of CORES processors; counting may stand still for OUTAGE. See docs/capacity.md."},
		"roles": {roles, "Prints the statements that make the roles and the database of an external Postgres (postgres: hosts in the inventory):\n" +
			"make --silent roles INVENTORY=cluster.yml | psql \"host=… user=… dbname=postgres\", with a role that may make both." + where},
		"polls":        {onSystem((*up.System).Polls), "Checks functions/polls.json strictly and prints what make up would change." + where},
		"codes":        {makeCodes, "POLL=slug COUNT=1000 OUT=folder BALLOT=address  Makes ballot codes for a poll of mode once."},
		"preview":      {preview, "PORT=8080  Shows the pages of functions/polls.json on this machine, without a system."},
		"summary":      {printSummary, "POLL=slug  Counts the votes again and prints the signed paper for an announcement; without POLL, of all polls." + where},
		"verify":       {verifySummary, "SUMMARY=file KEY=public-key OFFLINE=1  Checks such a paper, and that no vote of it has changed." + where},
		"release":      {makeRelease, "VERSION=1.2.3  Makes dist/waggle-VERSION-linux-ARCH.tar for this machine's architecture."},
		"cluster":      {createCluster, "NODES=3 CLUSTER=waggle  Makes a Swarm of node containers on this machine."},
		"cluster-down": {deleteCluster, "CLUSTER=waggle  Removes it without a trace."},
		"voters":       {voters, "Loads the running system and judges it; its arguments are its own." + where},
	}
}

// onNode makes a command of a method that works on the node that NODE names.
func onNode(do func(*up.System, context.Context, string) error) func(context.Context, settings) error {
	return func(ctx context.Context, s settings) error {
		if s.Node == "" {
			return fmt.Errorf("NODE is empty: must be the name of a node, as docker node ls shows it")
		}
		return withSystem(ctx, s, func(system *up.System) error { return do(system, ctx, s.Node) })
	}
}

func rotate(ctx context.Context, s settings) error {
	return withSystem(ctx, s, func(system *up.System) error { return system.Rotate(ctx, s.Secret) })
}

func backup(ctx context.Context, s settings) error {
	passphrase, err := up.ReadPassphrase(s.PassphraseFile)
	if err != nil {
		return err
	}
	return withSystem(ctx, s, func(system *up.System) error { return system.Backup(ctx, s.Out, passphrase) })
}

// restore of the state asks no machine: all of them may be gone.
func restore(ctx context.Context, s settings) error {
	if s.At != "" {
		return restoreAt(ctx, s)
	}
	if s.From == "" {
		return fmt.Errorf("FROM is empty: must be a folder that make backup made")
	}
	passphrase, err := up.ReadPassphrase(s.PassphraseFile)
	if err != nil {
		return err
	}
	switch s.What {
	case "state":
		dir, err := stateDir(s)
		if err != nil {
			return err
		}
		if err := up.RestoreState(dir, s.From, passphrase); err != nil {
			return err
		}
		fmt.Printf("Restored the state: %s\n", dir)
		return nil
	case "votes":
		return withSystem(ctx, s, func(system *up.System) error { return system.RestoreVotes(ctx, s.From, passphrase) })
	}
	return fmt.Errorf("WHAT is %q: must be state (passwords and keys, on this machine) or votes (in the database)", s.What)
}

// restoreAt needs no backup and no passphrase: the archive has the votes, and the state its key.
func restoreAt(ctx context.Context, s settings) error {
	at, err := time.Parse(time.RFC3339Nano, s.At)
	if err != nil {
		return fmt.Errorf("AT is %q: must be a moment such as 2026-11-30T08:20:00Z", s.At)
	}
	if s.From != "" || s.What != "votes" {
		return fmt.Errorf("AT is %s, FROM is %q, WHAT is %q: AT takes votes from the archive, so FROM must be empty and WHAT votes", s.At, s.From, s.What)
	}
	return withSystem(ctx, s, func(system *up.System) error { return system.RestoreVotesAt(ctx, at) })
}

// plan prints what machines an event needs.
func plan(_ context.Context, s settings) error {
	made, err := capacity.For(capacity.Config{Votes: s.Votes, Minutes: s.Minutes, Peak: s.Peak, Cores: s.Cores, Outage: s.Outage})
	if err != nil {
		return err
	}
	made.Print(os.Stdout)
	return nil
}

// roles asks no machine: the database is needed before there is a cluster.
func roles(ctx context.Context, s settings) error {
	dir, err := stateDir(s)
	if err != nil {
		return err
	}
	return up.PrintRoles(os.Stdout, dir)
}
