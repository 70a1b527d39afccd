package up

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Status prints what runs, where it is reached, and whether every captured vote is accounted for. It returns an
// error unless the system is whole.
func (s *System) Status(ctx context.Context) error {
	if _, err := s.Target.Manager.Ping(ctx); err != nil {
		return err
	}
	all, err := s.services(ctx)
	if err != nil && noLeader(err) {
		return s.leaderless(ctx)
	}
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return failf("Run `make up`.", "Waggle is not running here")
	}
	var unwell []string
	for _, v := range all {
		state := "running"
		if v.name == migrateService {
			if done, err := s.migrated(ctx); err != nil {
				return err
			} else if done {
				fmt.Fprintf(s.Out, "%-18s done\n", v.name)
				continue
			}
		}
		if !v.settled() {
			state = "not settled"
			unwell = append(unwell, v.name)
		}
		fmt.Fprintf(s.Out, "%-18s %d/%d %s %s\n", v.name, v.running, v.desired, state, v.update.state)
	}
	absent, err := s.absent(ctx)
	if err != nil {
		return err
	}
	unwell = append(unwell, absent...)
	without, err := s.withoutBallot(ctx)
	if err != nil {
		return err
	}
	for _, node := range without {
		fmt.Fprintf(s.Out, "%-18s no ballot: it gets one within a minute\n", "node "+node)
		unwell = append(unwell, "node "+node)
	}
	functions, err := s.Target.Manager.Run(ctx, "service", "ls", "--filter", "label="+functionLabel, "--format", "{{.Name}} {{.Replicas}}")
	if err != nil {
		return fmt.Errorf("listing functions: %w", err)
	}
	for line := range strings.Lines(functions) {
		fmt.Fprintf(s.Out, "%s\n", "function "+strings.TrimSpace(line))
	}
	d, err := s.newest(ctx)
	if err == nil {
		fmt.Fprintf(s.Out, "\nversion  %s, deployed %s\n", d.Version, d.At.Format("2 January 2006 15:04 UTC"))
	}
	faults, err := s.printVotes(ctx)
	if err != nil {
		return err
	}
	if dir := d.Env[archiveEnv]; dir != "" {
		state, err := s.archiveStatus(ctx)
		if err != nil {
			state, faults = err.Error(), faults+1
		}
		fmt.Fprintf(s.Out, "archive  %s: %s\n", dir, state)
	}
	if len(unwell) > 0 || faults > 0 {
		return failf("See `docker service ps` of what is named above, and docs/operate.md.", "not whole: %s; %d fault(s) in ledger and archive", joinWords(unwell), faults)
	}
	return nil
}

// absent prints how many managers there are, and which nodes are down. It returns those.
func (s *System) absent(ctx context.Context) ([]string, error) {
	listed, err := s.Target.Manager.Run(ctx, "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	var down []string
	managers, reachable := 0, 0
	for line := range strings.Lines(listed) {
		fields := strings.Fields(line)
		if len(fields) > 2 {
			managers++
			if fields[2] != "Unreachable" {
				reachable++
			}
		}
		if len(fields) > 1 && fields[1] == "Down" {
			down = append(down, "node "+fields[0])
		}
	}
	fmt.Fprintf(s.Out, "%-18s %d/%d reachable\n", "managers", reachable, managers)
	for _, node := range down {
		fmt.Fprintf(s.Out, "%-18s down\n", node)
	}
	return down, nil
}

// noLeader is true for the managers' answers while most of them are lost.
func noLeader(err error) bool {
	text := err.Error()
	return strings.Contains(text, "does not have a leader") || strings.Contains(text, "no elected primary") ||
		strings.Contains(text, "code = DeadlineExceeded") || strings.Contains(text, "context deadline exceeded")
}

// leaderless is the state of a Swarm that nothing can be asked but what runs.
func (s *System) leaderless(ctx context.Context) error {
	fmt.Fprintf(s.Out, "%-18s most managers are lost: nothing can be changed, moved or started again\n", "managers")
	if _, err := s.printVotes(ctx); err != nil {
		return fmt.Errorf("most managers are lost, and the votes cannot be read: %w", err)
	}
	fmt.Fprintf(s.Out, "\nVoting, counting, results and calls go on where they run.\n")
	return failf("Start them, or see docs/operate.md, Failures.", "most managers are lost")
}

// printVotes prints the ledger with the reasons that it is not whole, and where the gateways are. It counts the faults.
func (s *System) printVotes(ctx context.Context) (faults int, err error) {
	ledger, err := s.ledger(ctx)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(s.Out, "\nvotes    %s\n", ledger)
	for _, t := range ledger.troubles(time.Now()) {
		fmt.Fprintf(s.Out, "         %s\n", t.text)
		if t.fault {
			faults++
		}
	}
	for _, gateway := range s.Target.Gateways {
		fmt.Fprintf(s.Out, "gateway  %s\n", gateway)
	}
	return faults, nil
}

// String is the ledger's sum, in the words of the results page.
func (l Ledger) String() string {
	text := fmt.Sprintf("%d captured = %d counted + %d pending + %d rejected + %d lost", l.Captured, l.Counted, l.Pending, l.Rejected, l.Lost)
	if l.Recovered > 0 {
		text += fmt.Sprintf("; %d of the counted were recovered from copies", l.Recovered)
	}
	if l.Single > 0 {
		text += fmt.Sprintf("; %d were confirmed with one copy", l.Single)
	}
	if l.Whole {
		text += "; every captured vote is accounted for"
	}
	return text
}

// trouble is a reason for people; a fault does not go away by waiting for the votes on their way.
type trouble struct {
	text  string
	fault bool
}

func (l Ledger) troubles(now time.Time) (all []trouble) {
	for _, r := range l.Reasons {
		t := trouble{fault: !r.Closed}
		at := func(at time.Time) string {
			return fmt.Sprintf("%s (%s ago)", at.UTC().Format("2 January 15:04:05 UTC"), now.Sub(at).Round(time.Second))
		}
		switch r.Code {
		case "pending":
			t = trouble{text: fmt.Sprintf("%d captured votes are not counted yet", r.N)}
		case "silent":
			t.text = fmt.Sprintf("node %s is silent since %s; what it holds is not counted yet", r.Node, at(r.Since))
		case "lost":
			t.text = fmt.Sprintf("%d captured votes are lost", r.N)
		case "gap":
			t.text = fmt.Sprintf("votes captured on node %s between %s and %s cannot be accounted for", r.Node, at(r.Since), at(r.Until))
		case "check":
			t.text = fmt.Sprintf("self-check %s is off by %d", r.Check, r.N)
		case "unread":
			t.text = fmt.Sprintf("the count cannot be read since %s", at(r.Since))
		case "no_nodes":
			t.text = "no node has been read yet"
		case "waiting":
			t.text = fmt.Sprintf("voting opens on %s", r.Since.UTC().Format("2 January 2006, 15:04 UTC"))
		case "open":
			t.text = fmt.Sprintf("voting is open until %s", r.Since.UTC().Format("2 January 2006, 15:04 UTC"))
		case "not_read_since":
			t.text = fmt.Sprintf("node %s has not been read since voting closed", r.Node)
		case "not_checked_since":
			t.text = "the self-checks have not run since voting closed; they run once a minute"
		default:
			t.text = r.Code
		}
		if r.Closed {
			t.text += "; an operator has closed this"
		}
		all = append(all, t)
	}
	return all
}
