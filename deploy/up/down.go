package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"waggle/deploy/docker"
)

// Down stops everything and keeps the data: volumes, secrets and the credentials in the state directory stay.
func (s *System) Down(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.stop(ctx); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nDown. The votes and queued calls are kept; `make up` goes on with them.\n")
	return nil
}

// stop removes the functions and the stack.
func (s *System) stop(ctx context.Context) error {
	if _, err := s.Target.Manager.Ping(ctx); err != nil {
		return err
	}
	if err := s.progress.Step("functions", func() (string, error) { return s.removeFunctions(ctx) }); err != nil {
		return err
	}
	return s.progress.Step("stack", func() (string, error) { return s.removeStack(ctx) })
}

// removeFunctions removes the functions first: their services hold the stack's networks.
func (s *System) removeFunctions(ctx context.Context) (string, error) {
	out, err := s.Target.Manager.Run(ctx, "service", "ls", "--quiet", "--filter", "label="+functionLabel)
	if err != nil {
		return "", fmt.Errorf("listing functions: %w", err)
	}
	ids := strings.Fields(out)
	if len(ids) > 0 {
		if _, err := s.Target.Manager.Run(ctx, append([]string{"service", "rm"}, ids...)...); err != nil {
			return "", fmt.Errorf("removing functions: %w", err)
		}
	}
	return fmt.Sprintf("%d removed", len(ids)), nil
}

// removeStack removes the stack and waits until its containers and networks are gone, so that what follows finds none.
func (s *System) removeStack(ctx context.Context) (string, error) {
	err := s.await(ctx, func(ctx context.Context) error {
		// A network is only removed once its last container has left, so the command is repeated until nothing is left.
		if _, err := s.Target.Manager.Run(ctx, "stack", "rm", stackName); err != nil && ctx.Err() != nil {
			return err
		}
		for _, engine := range s.engines() {
			left, err := engine.Run(ctx, "ps", "--all", "--quiet", "--filter", "label=com.docker.stack.namespace="+stackName)
			if err != nil {
				return fmt.Errorf("listing containers: %w", err)
			}
			if left != "" {
				return fmt.Errorf("%d containers are still stopping", len(strings.Fields(left)))
			}
		}
		left, err := s.Target.Manager.Run(ctx, "network", "ls", "--quiet", "--filter", "label=com.docker.stack.namespace="+stackName)
		if err != nil {
			return fmt.Errorf("listing networks: %w", err)
		}
		if left != "" {
			return errors.New("the stack's networks are still in use")
		}
		return nil
	})
	return "removed", err
}

// engines are the engines of all nodes that can be reached from here.
func (s *System) engines() []docker.Engine {
	if len(s.Target.Nodes) > 0 {
		return s.Target.Nodes
	}
	return []docker.Engine{s.Target.Manager}
}

// Purge takes the system down and deletes everything it ever stored, the votes included. It does not ask.
func (s *System) Purge(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.stop(ctx); err != nil {
		return err
	}
	if err := s.progress.Step("secrets", func() (string, error) { return s.removeSecrets(ctx) }); err != nil {
		return err
	}
	if err := s.progress.Step("volumes", func() (string, error) { return s.removeVolumes(ctx) }); err != nil {
		return err
	}
	if s.externalPostgres() {
		s.progress.Note("the votes in the external Postgres stay: drop database waggle there")
	}
	return s.progress.Step("passwords", func() (string, error) { return "removed", os.RemoveAll(s.StateDir) })
}

// removeSecrets removes the stack's secrets and configs and those that the provider made for functions.
func (s *System) removeSecrets(ctx context.Context) (string, error) {
	removed := 0
	for _, kind := range []string{"secret", "config"} {
		for _, label := range []string{ownLabel, functionLabel, "com.docker.stack.namespace=" + stackName} {
			out, err := s.Target.Manager.Run(ctx, kind, "ls", "--quiet", "--filter", "label="+label)
			if err != nil {
				return "", fmt.Errorf("listing %ss: %w", kind, err)
			}
			ids := strings.Fields(out)
			if len(ids) == 0 {
				continue
			}
			if _, err := s.Target.Manager.Run(ctx, append([]string{kind, "rm"}, ids...)...); err != nil {
				return "", fmt.Errorf("removing %ss: %w", kind, err)
			}
			removed += len(ids)
		}
	}
	return fmt.Sprintf("%d removed", removed), nil
}

// removeVolumes removes the stack's volumes from every node in reach; a node that is not keeps its own.
func (s *System) removeVolumes(ctx context.Context) (string, error) {
	removed := 0
	for _, engine := range s.engines() {
		for _, volume := range []string{"waggle-votes-data", "waggle-votes-socket", "waggle-queue-data", "waggle-queue-socket", "waggle-postgres-data"} {
			out, err := engine.Run(ctx, "volume", "ls", "--quiet", "--filter", "name=^"+volume+"$")
			if err != nil {
				return "", fmt.Errorf("listing volumes: %w", err)
			}
			if out == "" {
				continue
			}
			// A container that has just ended may hold its volume for another moment.
			err = s.await(ctx, func(ctx context.Context) error { _, err := engine.Run(ctx, "volume", "rm", volume); return err })
			if err != nil {
				return "", fmt.Errorf("removing volume %s: %w", volume, err)
			}
			removed++
		}
	}
	return fmt.Sprintf("%d removed", removed), nil
}

// get fetches a page as a voter would; anything but 200 is an error.
func (s *System) get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %.200s", url, response.Status, oneLine(string(body)))
	}
	return body, nil
}
