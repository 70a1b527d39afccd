package up

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Remove takes a node out of the system and out of the Swarm. A capture node is drained, the asynchronous calls of an
// edge node are made, its other work moves away, and it leaves. Its volumes stay on its disk. It may be repeated
// after an interruption.
func (s *System) Remove(ctx context.Context, name string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var node member
	if err := s.run(step{"roles", func() (_ string, err error) { node, err = s.mayRemove(ctx, name); return node.Role, err }}); err != nil {
		return err
	}
	if node.has(captureLabel) || node.has(drainingLabel) {
		if err := s.drain(ctx, name); err != nil {
			return err
		}
	}
	err = s.run(
		step{"calls", func() (string, error) { return s.awaitCalls(ctx, node) }},
		step{"work", func() (string, error) { return s.moveWork(ctx, name) }},
		step{"swarm", func() (string, error) { return s.leave(ctx, name) }},
	)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nRemoved %s. Take it out of the inventory, or the next make up lets it join again.\n", name)
	return nil
}

// mayRemove refuses a node that is the last to do something.
func (s *System) mayRemove(ctx context.Context, name string) (member, error) {
	node, all, err := s.node(ctx, name)
	if err != nil {
		return node, err
	}
	if !node.ready() {
		return node, failf("Start it, or if it is gone for good: make retire NODE="+name, "%s is %s", name, node.State)
	}
	if node.has(storeLabel) {
		return node, failf("First make backup, give role store to another machine, make up, and make restore.", "%s holds Postgres", name)
	}
	for role, fit := range map[string]func(member) bool{
		"manager": func(m member) bool { return m.Role == "manager" },
		"edge":    func(m member) bool { return m.has(edgeLabel) },
		"worker":  func(m member) bool { return m.has(workerLabel) },
	} {
		if fit(node) && others(all, name, fit) == 0 {
			return node, failf("Give that role to another first, and run make up.", "%s is the only node with role %s", name, role)
		}
	}
	return node, nil
}

// awaitCalls waits until no asynchronous call is on the node. Whoever has a balancer takes the node out of it before.
func (s *System) awaitCalls(ctx context.Context, node member) (string, error) {
	if !node.has(edgeLabel) {
		return "none", nil
	}
	engine, ok := s.engineOf(ctx, node.Hostname)
	if !ok {
		return "", failf("Give INVENTORY, or look yourself and remove it with `docker node rm`.", "%s cannot be reached from here, and may hold asynchronous calls", node.Hostname)
	}
	err := s.await(ctx, func(ctx context.Context) error {
		id, err := engine.Run(ctx, "ps", "--quiet", "--filter", "status=running", "--filter", "label=com.docker.swarm.service.name="+stackName+"_queue")
		if err != nil || id == "" {
			return err
		}
		// Both sets: what is due, and dead letters, which an operator may still want.
		const count = `export REDISCLI_AUTH=$(head -n 1 /run/secrets/redis-queue); for set in due dead; do redis-cli -s /run/queue/redis.sock --no-auth-warning zcard async:$set; done`
		out, err := engine.Run(ctx, "exec", strings.Fields(id)[0], "sh", "-c", count)
		if err != nil {
			return fmt.Errorf("counting the asynchronous calls on %s: %w", node.Hostname, err)
		}
		counts := strings.Fields(out)
		if len(counts) != 2 {
			return fmt.Errorf("counting the asynchronous calls on %s: Redis says %q", node.Hostname, oneLine(out))
		}
		if due, err := strconv.Atoi(counts[0]); err != nil || due > 0 {
			return failf("Take it out of the balancer, and repeat this when they are done.", "%s asynchronous call(s) wait on %s", counts[0], node.Hostname)
		}
		if counts[1] != "0" {
			s.progress.Note(counts[1] + " dead letter(s) go with the node")
		}
		return nil
	})
	return "none", err
}

// moveWork takes the node's roles and lets Swarm start elsewhere what runs there.
func (s *System) moveWork(ctx context.Context, name string) (string, error) {
	node, _, err := s.node(ctx, name)
	if err != nil {
		return "", err
	}
	if err := s.label(ctx, node, "-"+edgeLabel, "-"+workerLabel); err != nil {
		return "", err
	}
	if _, err := s.Target.Manager.Run(ctx, "node", "update", "--availability", "drain", node.ID); err != nil {
		return "", fmt.Errorf("%s: moving its work: %w", name, err)
	}
	err = s.await(ctx, func(ctx context.Context) error {
		running, err := s.runningOn(ctx, name)
		if err == nil && len(running) > 0 {
			err = fmt.Errorf("%s still runs on %s", joinWords(running), name)
		}
		return err
	})
	return "moved", err
}

// leave ends the node's membership: it is demoted first, since a manager that goes without costs the others their majority.
func (s *System) leave(ctx context.Context, name string) (string, error) {
	node, _, err := s.node(ctx, name)
	if err != nil {
		return "", err
	}
	engine, reached := s.engineOf(ctx, name)
	if err := s.useAnotherManager(ctx, name); err != nil {
		return "", err
	}
	if node.Role == "manager" {
		if _, err := s.Target.Manager.Run(ctx, "node", "demote", node.ID); err != nil {
			return "", fmt.Errorf("%s: demoting it: %w", name, err)
		}
	}
	if reached {
		err := s.await(ctx, func(ctx context.Context) error {
			out, err := engine.Run(ctx, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}")
			switch {
			case err != nil:
				return err
			case out == "inactive false":
				return nil
			case strings.HasSuffix(out, "true"):
				return fmt.Errorf("%s is still a manager", name)
			}
			_, err = engine.Run(ctx, "swarm", "leave")
			return err
		})
		if err != nil {
			return "", fmt.Errorf("%s: leaving the Swarm: %w", name, err)
		}
	}
	// Managers notice within seconds that it is gone; one that could not be told has to be removed by force.
	grace := time.Now().Add(30 * time.Second)
	err = s.await(ctx, func(ctx context.Context) error {
		args := []string{"node", "rm", node.ID}
		if !reached || time.Now().After(grace) {
			args = []string{"node", "rm", "--force", node.ID}
		}
		_, err := s.Target.Manager.Run(ctx, args...)
		return err
	})
	return "left", err
}

// useAnotherManager makes sure that the Swarm is not asked through the node that leaves it.
func (s *System) useAnotherManager(ctx context.Context, name string) error {
	const format = "{{.Name}} {{.Swarm.ControlAvailable}}"
	if out, err := s.Target.Manager.Run(ctx, "info", "--format", format); err != nil || !strings.HasPrefix(out, name+" ") {
		return err
	}
	for _, engine := range s.engines() {
		if out, err := engine.Run(ctx, "info", "--format", format); err == nil && strings.HasSuffix(out, " true") && !strings.HasPrefix(out, name+" ") {
			s.Target.Manager = engine
			return nil
		}
	}
	return failf("Run this on another manager, or give INVENTORY.", "%s is the only manager that can be reached from here", name)
}
