package books

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// Source is a command that reads SQL on its standard input, runs it in the waggle database and writes what COPY says.
type Source struct {
	argv []string
}

// ContainerPrefix before a name in place of an engine's address means the engine inside that container, reached
// by docker exec. It is for Swarms whose nodes are containers.
const ContainerPrefix = "container:"

// Command is a source that a shell runs.
func Command(line string) Source { return Source{argv: []string{"sh", "-c", line}} }

// Find returns the source that runs psql, as the database's owner, in the running container of a Swarm service.
// It tries the engines in order. An engine is an address for docker's -H, empty for docker's own default, or a
// container's name behind ContainerPrefix.
func Find(ctx context.Context, service string, engines []string) (Source, error) {
	if len(engines) == 0 {
		engines = []string{""}
	}
	var errs []error
	for _, engine := range engines {
		docker := dockerOn(engine)
		argv := append(docker(false), "ps", "--quiet", "--no-trunc", "--filter", "status=running",
			"--filter", "label=com.docker.swarm.service.name="+service)
		out, err := output(ctx, argv, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("asking engine %q: %w", engine, err))
			continue
		}
		if ids := strings.Fields(out); len(ids) > 0 {
			return Source{argv: append(docker(true), append([]string{"exec", "-i", ids[0]}, psql...)...)}, nil
		}
		errs = append(errs, fmt.Errorf("engine %q runs no container of service %s", engine, service))
	}
	return Source{}, fmt.Errorf("finding Postgres: %w", errors.Join(errs...))
}

// psql inside the container runs as the container's own user, over its local socket; it reads no start-up file and
// stops at the first error.
var psql = []string{"psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "waggle"}

// dockerOn returns the docker command for an engine; input says that its standard input is needed.
func dockerOn(engine string) func(input bool) []string {
	name, inside := strings.CutPrefix(engine, ContainerPrefix)
	return func(input bool) []string {
		switch {
		case inside && input:
			return []string{"docker", "exec", "-i", name, "docker"}
		case inside:
			return []string{"docker", "exec", name, "docker"}
		case engine != "":
			return []string{"docker", "-H", engine}
		}
		return []string{"docker"}
	}
}

// run gives sql to the command and hands its output to read, which must consume all of it.
func (s Source) run(ctx context.Context, sql string, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, stderr := command(ctx, s.argv)
	cmd.Stdin = strings.NewReader(sql)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("preparing %s: %w", s.argv[0], err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", s.argv[0], err)
	}
	readErr := read(out)
	cut := errors.Is(readErr, errCut)
	if readErr != nil && !cut {
		cancel() // What is left of the output is of no use, and nobody reads it.
	}
	// A command that failed explains why its output is cut, not the other way round.
	if err := cmd.Wait(); err != nil && (readErr == nil || cut) {
		return fmt.Errorf("running %s: %w: %s", s.argv[0], err, stderr.words())
	}
	return readErr
}

func output(ctx context.Context, argv []string, stdin io.Reader) (string, error) {
	cmd, stderr := command(ctx, argv)
	cmd.Stdin = stdin
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running %s: %w: %s", argv[0], err, stderr.words())
	}
	return string(out), nil
}

func command(ctx context.Context, argv []string) (*exec.Cmd, *tail) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	stderr := &tail{}
	cmd.Stderr = stderr
	return cmd, stderr
}

// tail keeps the last part of what a command complained about, for the one line that a person reads.
type tail struct{ kept []byte }

const tailBytes = 1024

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailBytes; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) words() string {
	return string(bytes.Join(bytes.Fields(t.kept), []byte(" ")))
}
