package up

import "context"

// ballot is the function that voters press.
const ballot = "vote"

// withoutBallot are the nodes that are to capture votes and have no replica of the ballot, nor one that starts. The
// autoscaler brings it back to nodes that were away.
func (s *System) withoutBallot(ctx context.Context) ([]string, error) {
	all, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	var without []string
	for _, m := range all {
		if !m.ready() || !m.has(captureLabel) || m.has(drainingLabel) {
			continue
		}
		found, err := s.tasksOn(ctx, m.ID, []string{"Running", "Assigned", "Accepted", "Preparing", "Ready", "Starting"}, ballot)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			without = append(without, m.Hostname)
		}
	}
	return without, nil
}
