package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// lastVote is how long after its replica was told to stop a vote may still reach a node's Redis. The function
	// answers within 8 s, and its connection ends after 10 s.
	lastVote = 15 * time.Second
	// silence is how long a node must be silent before workers let it be retired.
	silence = time.Minute
)

// Drain takes a capture node out of service and loses no vote. The ballot leaves the node, what its Redis holds is
// counted, Redis stops, and the node's ledger is closed. It may be repeated after an interruption, and until Redis
// stops `make up` undoes it. The node stays a member of the Swarm with its other roles, and keeps its volume.
func (s *System) Drain(ctx context.Context, name string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.drain(ctx, name); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nDrained %s: no vote is on it alone.\nTake role capture from it in the inventory, or the next make up gives it back.\n", name)
	return nil
}

func (s *System) drain(ctx context.Context, name string) error {
	return s.run(
		step{"node", func() (string, error) { return s.mayDrain(ctx, name) }},
		step{"ballot", func() (string, error) { return s.stopBallot(ctx, name) }},
		step{"votes", func() (string, error) { return s.awaitCounted(ctx, name) }},
		step{"redis", func() (string, error) { return s.stopCapture(ctx, name) }},
		step{"ledger", func() (string, error) { return s.closeLedger(ctx, name, true) }},
	)
}

// mayDrain refuses a node that voters cannot do without.
func (s *System) mayDrain(ctx context.Context, name string) (string, error) {
	node, all, err := s.node(ctx, name)
	if err != nil {
		return "", err
	}
	captures := func(m member) bool { return m.has(captureLabel) && !m.has(drainingLabel) }
	if !node.has(captureLabel) && !node.has(drainingLabel) {
		return "", fmt.Errorf("NODE is %q: must be a capture node, and that one is none", name)
	}
	if !node.ready() {
		return "", failf("Start it, or if it is gone for good: make retire NODE="+name, "%s is %s: what its Redis holds cannot be counted now", name, node.State)
	}
	left := others(all, name, captures)
	if left == 0 {
		return "", failf("Add another first: see deploy/README.md.", "%s is the only capture node that takes votes", name)
	}
	if left == 1 {
		copies, err := s.copies(ctx)
		if err != nil {
			return "", err
		}
		if strings.HasSuffix(copies, "require") {
			return "", failf("Add another first, or run `make up COPIES=\"2 prefer\"`.", "COPIES is %q, and without %s one capture node is left: it would refuse every vote", copies, name)
		}
	}
	return fmt.Sprintf("%d other(s) take votes", left), nil
}

// copies is the setting that the ballot runs with.
func (s *System) copies(ctx context.Context) (string, error) {
	out, err := s.Target.Manager.Run(ctx, "service", "inspect", "--format", "{{range .Spec.TaskTemplate.ContainerSpec.Env}}{{println .}}{{end}}", "vote")
	if err != nil {
		return "", advise(fmt.Errorf("reading the settings of the ballot: %w", err), "Is the system up? See make status.")
	}
	for line := range strings.Lines(out) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "copies="); ok {
			return value, nil
		}
	}
	return "", nil
}

// captureFunctions are the functions that run where votes are captured. One that does not say that it leaves a draining
// node is an error.
func (s *System) captureFunctions(ctx context.Context) ([]string, error) {
	out, err := s.Target.Manager.Run(ctx, "service", "ls", "--quiet", "--filter", "label="+functionLabel)
	if err != nil || out == "" {
		return nil, err
	}
	const format = "{{.Spec.Name}}|{{json .Spec.TaskTemplate.Placement}}"
	if out, err = s.Target.Manager.Run(ctx, append([]string{"service", "inspect", "--format", format}, strings.Fields(out)...)...); err != nil {
		return nil, fmt.Errorf("reading functions: %w", err)
	}
	var found []string
	for line := range strings.Lines(out) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), "|")
		var placement struct{ Constraints []string }
		if err := json.Unmarshal([]byte(text), &placement); err != nil {
			return nil, fmt.Errorf("reading the placement of %s: %w", name, err)
		}
		if !slices.ContainsFunc(placement.Constraints, func(c string) bool { return strings.Contains(c, captureLabel) }) {
			continue
		}
		if !slices.ContainsFunc(placement.Constraints, func(c string) bool { return strings.Contains(c, drainingLabel) }) {
			return nil, failf("Run `make up`, which gives the ballot that constraint.", "function %s lacks the constraint node.labels.%s != true and would not leave the node", name, drainingLabel)
		}
		found = append(found, name)
	}
	return found, nil
}

// stopBallot moves the functions that vote away and returns when none of them runs on the node.
func (s *System) stopBallot(ctx context.Context, name string) (string, error) {
	functions, err := s.captureFunctions(ctx)
	if err != nil {
		return "", err
	}
	node, _, err := s.node(ctx, name)
	if err != nil {
		return "", err
	}
	if err := s.label(ctx, node, "+"+drainingLabel); err != nil {
		return "", err
	}
	err = s.await(ctx, func(ctx context.Context) error {
		running, err := s.runningOn(ctx, name, functions...)
		if err == nil && len(running) > 0 {
			err = fmt.Errorf("%s still runs on %s", joinWords(running), name)
		}
		return err
	})
	return joinWords(functions) + " left", err
}

// awaitCounted returns when everything on the node is counted, by a reading that is late enough to have seen its last vote.
func (s *System) awaitCounted(ctx context.Context, name string) (string, error) {
	var from time.Time
	counted := int64(0)
	err := s.await(ctx, func(ctx context.Context) error {
		ledger, err := s.ledger(ctx)
		if err != nil {
			return err
		}
		if from.IsZero() {
			from = ledger.AsOf
		}
		stream, ok := ledger.of(name)
		if !ok {
			return nil // nobody has ever voted there, nor a worker read it
		}
		counted = stream.Counted
		if stream.Pending > 0 {
			return failf("See make status; the ballot has left the node already, so this may be repeated at any time.", "%d votes on %s are not counted yet", stream.Pending, name)
		}
		if stream.SeenAt.Sub(from) < lastVote {
			return fmt.Errorf("the last reading of %s is too old", name)
		}
		return nil
	})
	return fmt.Sprintf("%d counted, none pending", counted), err
}

// stopCapture takes the node's label, and with it its Redis.
func (s *System) stopCapture(ctx context.Context, name string) (string, error) {
	node, _, err := s.node(ctx, name)
	if err != nil {
		return "", err
	}
	if err := s.label(ctx, node, "-"+captureLabel); err != nil {
		return "", err
	}
	err = s.await(ctx, func(ctx context.Context) error {
		running, err := s.runningOn(ctx, name, stackName+"_redis")
		if err == nil && len(running) > 0 {
			err = fmt.Errorf("the Redis of %s still runs", name)
		}
		return err
	})
	return "stopped", err
}

// closeLedger tells the workers no longer to expect the node, and closes its account once it has been silent for long
// enough. drained means that nothing was on it.
func (s *System) closeLedger(ctx context.Context, name string, drained bool) (string, error) {
	if err := s.expectCapture(ctx); err != nil {
		return "", err
	}
	s.progress.Note("waiting until it has been silent for a minute")
	known := true
	err := s.await(ctx, func(ctx context.Context) error {
		ledger, err := s.ledger(ctx)
		if err != nil {
			return err
		}
		var stream Stream
		if stream, known = ledger.of(name); !known || stream.State == "retired" {
			return nil
		}
		if quiet := ledger.AsOf.Sub(stream.SeenAt); quiet <= silence {
			return fmt.Errorf("%s was read %s ago", name, quiet.Round(time.Second))
		}
		args := []string{"retire", "-node", name}
		if drained {
			args = append(args, "-drained")
		}
		_, err = s.inWorker(ctx, args...)
		return err
	})
	if err != nil {
		return "", advise(fmt.Errorf("closing the ledger of %s: %w", name, err), "Repeat the command; see make status.")
	}
	if node, _, err := s.node(ctx, name); err == nil {
		if err := s.label(ctx, node, "-"+drainingLabel); err != nil {
			return "", err
		}
	}
	if !known {
		return "it had none", nil
	}
	return "closed", nil
}

// expectCapture gives the workers the list of capture nodes as the labels are now, as the next `make up` would.
func (s *System) expectCapture(ctx context.Context) error {
	capture, err := s.captureList(ctx)
	if err != nil {
		return err
	}
	worker, setting := stackName+"_worker", "CAPTURE_NODES="+capture
	if s.earlier, err = s.known(ctx, []string{worker}); err != nil {
		return err
	}
	env, err := s.Target.Manager.Run(ctx, "service", "inspect", "--format", "{{range .Spec.TaskTemplate.ContainerSpec.Env}}{{println .}}{{end}}", worker)
	if err != nil {
		return fmt.Errorf("reading the settings of %s: %w", worker, err)
	}
	if slices.Contains(strings.Split(env, "\n"), setting) {
		return nil
	}
	if _, err := s.Target.Manager.Run(ctx, "service", "update", "--detach", "--quiet", "--env-add", setting, worker); err != nil {
		return fmt.Errorf("changing the settings of %s: %w", worker, err)
	}
	return s.settle(ctx, worker)
}

// settle waits until services have done what they were told to, and their updates have not failed.
func (s *System) settle(ctx context.Context, names ...string) error {
	return s.await(ctx, func(ctx context.Context) error {
		all, err := s.services(ctx)
		if err != nil {
			return err
		}
		for _, v := range all {
			switch {
			case !slices.Contains(names, v.name):
			case v.update.failed() && v.update != s.earlier[v.name].update:
				return permanent(s.explain(ctx, v.name, fmt.Errorf("the update of %s failed (%s)", v.name, v.update.state)))
			case !v.settled() || !v.begun(s.earlier[v.name]):
				return fmt.Errorf("waiting for %s", v.name)
			}
		}
		return nil
	})
}

// inWorker runs a command of the worker's in one that can be reached from here.
func (s *System) inWorker(ctx context.Context, args ...string) (string, error) {
	engine, id, err := s.container(ctx, "worker")
	if err != nil {
		return "", err
	}
	return engine.Run(ctx, append([]string{"exec", id, "/worker"}, args...)...)
}

// of is the newest account of a node: the active one, if there is any.
func (l Ledger) of(node string) (Stream, bool) {
	var found Stream
	for _, stream := range l.Streams {
		if stream.Node == node && (found.Node == "" || stream.State != "retired" && stream.State != "replaced") {
			found = stream
		}
	}
	return found, found.Node != ""
}

// errNotDown is said of a node that still answers.
var errNotDown = errors.New("the Swarm sees it as ready")

// Retire writes off a node that is lost for good. It leaves the Swarm's list. Its account is closed after its votes
// were counted from their copies. What copies did not hold is then reported as lost.
func (s *System) Retire(ctx context.Context, name string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	err = s.run(
		step{"node", func() (string, error) { return s.forget(ctx, name) }},
		step{"ledger", func() (string, error) { return s.closeLedger(ctx, name, false) }},
	)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nRetired %s. Take it out of the inventory. See make status for what is accounted for.\n", name)
	return nil
}

// forget removes a node that is down from the Swarm's list, as a manager too.
func (s *System) forget(ctx context.Context, name string) (string, error) {
	all, err := s.members(ctx)
	if err != nil {
		return "", err
	}
	node, ok := find(all, name)
	if !ok {
		ledger, err := s.ledger(ctx)
		if err != nil {
			return "", err
		}
		if _, known := ledger.of(name); !known {
			return "", fmt.Errorf("NODE is %q: must be one of %s, or a node of the ledger", name, names(all))
		}
		return "the Swarm does not know it any more", nil
	}
	if node.ready() {
		return "", failf("If it is to go: make remove NODE="+name, "%s: %w", name, errNotDown)
	}
	if node.Role == "manager" {
		if _, err := s.Target.Manager.Run(ctx, "node", "demote", node.ID); err != nil {
			return "", fmt.Errorf("%s: taking its vote in the Swarm: %w", name, err)
		}
	}
	err = s.await(ctx, func(ctx context.Context) error {
		_, err := s.Target.Manager.Run(ctx, "node", "rm", "--force", node.ID)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: removing it from the Swarm: %w", name, err)
	}
	if node.has(storeLabel) {
		s.progress.Note("it held Postgres: give another machine role store, run make up, then make restore")
	}
	return "removed from the Swarm", nil
}
