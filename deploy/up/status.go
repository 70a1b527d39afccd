package up

import (
	"context"
	"fmt"
	"strings"
)

// Status prints what runs, where it is reached, and whether every acknowledged vote is accounted for. It returns an
// error unless the system is whole.
func (s *System) Status(ctx context.Context) error {
	if _, err := s.Target.Manager.Ping(ctx); err != nil {
		return err
	}
	all, err := s.services(ctx)
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
	functions, err := s.Target.Manager.Run(ctx, "service", "ls", "--filter", "label="+functionLabel, "--format", "{{.Name}} {{.Replicas}}")
	if err != nil {
		return fmt.Errorf("listing functions: %w", err)
	}
	for line := range strings.Lines(functions) {
		fmt.Fprintf(s.Out, "%s\n", "function "+strings.TrimSpace(line))
	}
	ledger, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nvotes    %d acknowledged = %d counted + %d pending; %d rejected, %d unaccounted, %d node(s) missing\n",
		ledger.Added, ledger.Counted, ledger.Pending, ledger.Rejected, ledger.Unaccounted, ledger.Missing)
	for _, gateway := range s.Target.Gateways {
		fmt.Fprintf(s.Out, "gateway  %s\n", gateway)
	}
	if len(unwell) > 0 || ledger.Unaccounted != 0 || ledger.Missing != 0 {
		return failf("See `docker service ps` of what is named above.", "not whole: services %s, %d votes unaccounted, %d nodes missing",
			joinWords(unwell), ledger.Unaccounted, ledger.Missing)
	}
	return nil
}
