package up

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/docker"
)

// restored is the database that a restore fills before it takes the place of the one in use.
const restored = "waggle_restored"

// source is where a restore takes the votes from.
type source struct {
	// open finds them, before anything stops, and says which they are. Container id of the engine has Postgres.
	open func(ctx context.Context, engine docker.Engine, id string) (string, error)
	// fill puts them into the empty database restored.
	fill func(ctx context.Context, engine docker.Engine, id string) error
	// then says what they were; open fills it in.
	then string
}

// RestoreVotes puts the votes of a backup in the place of those in the database.
func (s *System) RestoreVotes(ctx context.Context, from, passphrase string) error {
	votes := &source{}
	votes.open = func(context.Context, docker.Engine, string) (string, error) {
		m, err := readManifest(from, votesArchive)
		if err != nil {
			return "", err
		}
		// The right passphrase is found out before anything stops.
		_, closer, err := open(filepath.Join(from, votesArchive), passphrase)
		if err != nil {
			return "", err
		}
		votes.then = "At the backup: " + m.Ledger
		return "of " + m.At.Format(moment), closer.Close()
	}
	votes.fill = func(ctx context.Context, engine docker.Engine, id string) error {
		plain, closer, err := open(filepath.Join(from, votesArchive), passphrase)
		if err != nil {
			return err
		}
		defer closer.Close()
		_, err = engine.RunInput(ctx, plain, intoRestored(id)...)
		return err
	}
	return s.restoreVotes(ctx, votes)
}

// intoRestored is the command that reads a dump into the database restored.
func intoRestored(id string) []string {
	return []string{"exec", "--interactive", id, "pg_restore", "--exit-on-error", "--dbname=" + restored}
}

// restoreVotes puts votes in the place of those in the database. Workers stop meanwhile and votes wait in Redis. Afterwards
// workers count again, from where the restored votes stood, what Redis still holds; what it does not hold any more is
// reported as lost. The votes from before stay in a database of their own. An interrupted restore changes nothing but the
// number of workers, and may be repeated.
func (s *System) restoreVotes(ctx context.Context, votes *source) error {
	if s.externalPostgres() {
		return failf("Use its own tools, with the workers stopped: `docker service scale waggle_worker=0`.", "the votes are in an external Postgres")
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var engine docker.Engine
	var id, before, scaled string
	err = s.run(
		step{"backup", func() (_ string, err error) {
			if engine, id, err = s.container(ctx, "postgres"); err != nil {
				return "", err
			}
			return votes.open(ctx, engine, id)
		}},
		step{"workers", func() (_ string, err error) {
			if _, err = s.remember(ctx); err != nil {
				return "", err
			}
			scaled, err = s.stopWorkers(ctx)
			return "stopped", err
		}},
		step{"database", func() (string, error) { return "filled", s.fill(ctx, engine, id, votes) }},
		step{"exchange", func() (_ string, err error) {
			before, err = exchange(ctx, engine, id)
			return "the votes from before are in database " + before, err
		}},
		step{"workers", func() (string, error) { return scaled + " running", s.startWorkers(ctx, scaled) }},
		step{"answers", func() (string, error) { return s.awaitAnswers(ctx) }},
	)
	if err != nil && scaled == "" {
		return err
	}
	if err != nil {
		return advise(err, "Repeat the command, or `make up`, which starts the workers again.")
	}
	ledger, err := s.awaitPending(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nRestored. %s\nNow: %s\n", votes.then, ledger)
	for _, t := range ledger.troubles(time.Now()) {
		fmt.Fprintf(s.Out, "  %s\n", t.text)
	}
	fmt.Fprintf(s.Out, "When all is well, delete the votes from before where Postgres runs: docker exec $(docker ps -qf name=waggle_postgres) dropdb %s\n", before)
	return nil
}

// stopWorkers returns how many there were to be.
func (s *System) stopWorkers(ctx context.Context) (string, error) {
	worker := stackName + "_worker"
	scaled, err := s.Target.Manager.Run(ctx, "service", "inspect", "--format", "{{.Spec.Mode.Replicated.Replicas}}", worker)
	if err != nil {
		return "", fmt.Errorf("reading the number of workers: %w", err)
	}
	if scaled == "0" { // an interrupted restore
		d, err := s.newest(ctx)
		if err != nil {
			return "", err
		}
		scaled = d.Env["WORKERS"]
	}
	if _, err := strconv.Atoi(scaled); err != nil {
		return "", fmt.Errorf("reading the number of workers: %w", err)
	}
	if _, err := s.Target.Manager.Run(ctx, "service", "scale", "--detach", worker+"=0"); err != nil {
		return "", fmt.Errorf("stopping the workers: %w", err)
	}
	return scaled, s.await(ctx, func(ctx context.Context) error {
		running, err := s.runningWhere(ctx, worker)
		if err == nil && len(running) > 0 {
			err = fmt.Errorf("a worker still runs on %s", joinWords(running))
		}
		return err
	})
}

// runningWhere lists the nodes on which a service runs, without those that are down. Swarm counts what those ran as running
// until they are back or removed.
func (s *System) runningWhere(ctx context.Context, service string) ([]string, error) {
	nodes, err := s.Target.Manager.Run(ctx, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	tasks, err := s.Target.Manager.Run(ctx, "service", "ps", "--format", "{{.Node}} {{.CurrentState}}", service)
	if err != nil {
		return nil, fmt.Errorf("listing what runs of %s: %w", service, err)
	}
	states := strings.Split(nodes, "\n")
	var found []string
	for line := range strings.Lines(tasks) {
		node, state, _ := strings.Cut(line, " ")
		// A machine that joined again is listed twice.
		down := slices.Contains(states, node+" Down") && !slices.Contains(states, node+" Ready")
		if strings.HasPrefix(state, "Running") && !down {
			found = append(found, node)
		}
	}
	return found, nil
}

func (s *System) startWorkers(ctx context.Context, scaled string) error {
	worker := stackName + "_worker"
	if _, err := s.Target.Manager.Run(ctx, "service", "scale", "--detach", worker+"="+scaled); err != nil {
		return fmt.Errorf("starting the workers: %w", err)
	}
	return s.settle(ctx, worker)
}

// fill makes the database of the restored votes beside the one in use.
func (s *System) fill(ctx context.Context, engine docker.Engine, id string, votes *source) error {
	for _, args := range [][]string{{"dropdb", "--if-exists", restored}, {"createdb", "--owner=waggle_admin", restored}} {
		if _, err := engine.Run(ctx, append([]string{"exec", id}, args...)...); err != nil {
			return fmt.Errorf("making database %s: %w", restored, err)
		}
	}
	if err := votes.fill(ctx, engine, id); err != nil {
		return fmt.Errorf("reading the votes into database %s: %w", restored, err)
	}
	return nil
}

// exchange renames both databases in one transaction, and returns the name that the one in use then has.
func exchange(ctx context.Context, engine docker.Engine, id string) (before string, err error) {
	before = "waggle_before_" + time.Now().UTC().Format("20060102150405")
	script := `ALTER DATABASE waggle ALLOW_CONNECTIONS false;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'waggle';
SELECT pg_sleep(0.5);
BEGIN;
ALTER DATABASE waggle RENAME TO ` + before + `;
ALTER DATABASE ` + restored + ` RENAME TO waggle;
COMMIT;
`
	psql := []string{"exec", "--interactive", id, "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname=postgres"}
	if _, err = engine.RunInput(ctx, strings.NewReader(script), psql...); err != nil {
		// Whatever happened, nobody must be locked out.
		_, again := engine.RunInput(context.WithoutCancel(ctx), strings.NewReader("ALTER DATABASE waggle ALLOW_CONNECTIONS true;"), psql...)
		if again != nil {
			return "", advise(fmt.Errorf("exchanging the databases: %w; and %w", err, again), "Run `ALTER DATABASE waggle ALLOW_CONNECTIONS true` in psql there.")
		}
		return "", fmt.Errorf("exchanging the databases: %w", err)
	}
	// Who may connect is no part of a dump.
	if _, err := engine.Run(ctx, "exec", id, "psql", "--no-psqlrc", "--quiet", "--dbname=postgres", "--file=/usr/share/waggle/roles.sql"); err != nil {
		return "", fmt.Errorf("giving the roles their rights: %w", err)
	}
	return before, nil
}

// awaitPending waits until workers have counted what Redis holds; while voting goes on, until they have caught up.
func (s *System) awaitPending(ctx context.Context) (Ledger, error) {
	var ledger Ledger
	s.progress.Note("waiting until what Redis holds is counted")
	start := time.Now()
	err := s.await(ctx, func(ctx context.Context) (err error) {
		if ledger, err = s.ledger(ctx); err != nil {
			return err
		}
		// Under load something is always pending; a twentieth of what is counted says that the rest is caught up.
		if ledger.Pending > ledger.Counted/20 && time.Since(start) < s.Timeout/2 {
			return fmt.Errorf("%d votes are pending", ledger.Pending)
		}
		return nil
	})
	return ledger, err
}
