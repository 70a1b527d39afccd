package main

import (
	"context"
	"fmt"

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
