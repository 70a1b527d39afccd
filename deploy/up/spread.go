package up

import (
	"context"
	"fmt"
	"strconv"
)

// ballot is the function that voters press.
const ballot = "vote"

// running are the states of a task that runs, runningSoon those of one that does or that its node has taken.
var (
	running     = []string{"Running"}
	runningSoon = []string{"Running", "Assigned", "Accepted", "Preparing", "Ready", "Starting"}
)

// withoutBallot are the nodes that are to capture votes and have no replica of the ballot in one of these states.
func (s *System) withoutBallot(ctx context.Context, states []string) ([]string, error) {
	all, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	var without []string
	for _, m := range all {
		if !m.ready() || !m.has(captureLabel) || m.has(drainingLabel) {
			continue
		}
		found, err := s.tasksOn(ctx, m.ID, states, ballot)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			without = append(without, m.Hostname)
		}
	}
	return without, nil
}

// spreadBallot brings the ballot back to capture nodes that were away. Swarm moves replicas when a node goes and leaves them
// there when it returns. But it starts further ones where there are fewest, and ends those where there are most.
func (s *System) spreadBallot(ctx context.Context) error {
	without, err := s.withoutBallot(ctx, runningSoon)
	if err != nil || len(without) == 0 {
		return err
	}
	s.progress.Note("no ballot on " + joinWords(without) + ": spreading it")
	out, err := s.Target.Manager.Run(ctx, "service", "inspect", "--format", "{{.Spec.Mode.Replicated.Replicas}}", ballot)
	if err != nil {
		return fmt.Errorf("reading the replicas of %s: %w", ballot, err)
	}
	replicas, err := strconv.Atoi(out)
	if err != nil {
		return fmt.Errorf("reading the replicas of %s: %w", ballot, err)
	}
	for _, n := range []int{replicas + len(without), replicas} {
		if _, err := s.Target.Manager.Run(ctx, "service", "scale", "--detach", fmt.Sprintf("%s=%d", ballot, n)); err != nil {
			return fmt.Errorf("spreading %s: %w", ballot, err)
		}
		err := s.await(ctx, func(ctx context.Context) error {
			without, err := s.withoutBallot(ctx, running)
			if err == nil && len(without) > 0 {
				err = fmt.Errorf("no ballot on %s", joinWords(without))
			}
			return err
		})
		if err != nil {
			return advise(err, "See `docker service ps --no-trunc "+ballot+"`.")
		}
	}
	return nil
}
