// Package docker drives Docker engines through the docker command, for the deploy program alone.
//
// In: an engine's address and the arguments of one command. Out: what it printed, or one line that says what went
// wrong. The command is used rather than a client library because it already knows the user's contexts, credentials
// and builder. The running system does not import this package: there, only provider/swarm speaks to Docker.
//
// An [Engine] is a value without state and may be used from many goroutines.
package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// killDelay is how long a cancelled command may take to clean up before it is killed. A build or an export removes
// its temporary files within a second.
const killDelay = 5 * time.Second

// Engine is one Docker engine. The zero value is the one the docker command would choose by itself: DOCKER_HOST, the
// current context, or the machine's own.
type Engine struct {
	// Host is a DOCKER_HOST value, such as unix:///run/user/1000/docker.sock; empty means the default.
	Host string
	// Path is a directory that the command looks for its own helpers in first, such as the ssh of ssh:// hosts; empty: none.
	Path string
}

// String names the engine in messages.
func (e Engine) String() string {
	if e.Host == "" {
		return "the default Docker engine"
	}
	return e.Host
}

// Run executes one docker command and returns its standard output without the final newline. The error carries the
// command's standard error as one line and is of a kind listed at [Engine.Ping] when the engine cannot be reached.
func (e Engine) Run(ctx context.Context, args ...string) (string, error) {
	return e.RunInput(ctx, nil, args...)
}

// RunInput is Run with standard input; nil is an empty one.
func (e Engine) RunInput(ctx context.Context, input io.Reader, args ...string) (string, error) {
	var out bytes.Buffer
	err := e.Stream(ctx, input, &out, args...)
	return strings.TrimRight(out.String(), "\n"), err
}

// RunEnv is Run with further NAME=value settings in the command's environment. docker stack deploy reads the values
// of a stack file's variables there.
func (e Engine) RunEnv(ctx context.Context, env []string, args ...string) (string, error) {
	var out bytes.Buffer
	err := e.run(ctx, nil, &out, env, args)
	return strings.TrimRight(out.String(), "\n"), err
}

// Stream executes one docker command between input (nil is empty) and output, for what is too large to hold.
func (e Engine) Stream(ctx context.Context, input io.Reader, output io.Writer, args ...string) error {
	return e.run(ctx, input, output, nil, args)
}

func (e Engine) run(ctx context.Context, input io.Reader, output io.Writer, env, args []string) error {
	cmd := e.command(ctx, args)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin = input
	cmd.Stdout = output
	var complaint tail
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		return e.explain(ctx, args, err, complaint.String())
	}
	return nil
}

// Pipe runs a command on this engine and feeds what it prints to a command on another, as in save and load. It
// returns the output of the second. When both fail, the error of the first is the cause and comes first.
func (e Engine) Pipe(ctx context.Context, args []string, to Engine, toArgs []string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader, writer := io.Pipe()
	first := make(chan error, 1)
	go func() {
		err := e.Stream(ctx, nil, writer, args...)
		writer.CloseWithError(err)
		first <- err
	}()
	out, err := to.RunInput(ctx, reader, toArgs...)
	// The second command is gone: unblock the first if it still writes.
	reader.CloseWithError(io.ErrClosedPipe)
	if err != nil {
		cancel()
	}
	if cause := <-first; cause != nil && !errors.Is(cause, context.Canceled) {
		return out, errors.Join(cause, err)
	}
	return out, err
}

func (e Engine) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = e.environment(os.Environ())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	return cmd
}

// environment points the command at the engine. Settings of the user's that belong to another engine would win over
// or clash with DOCKER_HOST. Attestations hold the time of the build: with them no two builds have the same id.
func (e Engine) environment(base []string) []string {
	env := make([]string, 0, len(base)+3)
	for _, entry := range base {
		name, path, _ := strings.Cut(entry, "=")
		switch name {
		case "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH":
			if e.Host != "" {
				continue
			}
		case "PATH":
			if e.Path != "" {
				entry = "PATH=" + e.Path + string(os.PathListSeparator) + path
			}
		}
		env = append(env, entry)
	}
	if e.Host != "" {
		env = append(env, "DOCKER_HOST="+e.Host)
	}
	return append(env, "DOCKER_CLI_HINTS=false", "BUILDX_NO_DEFAULT_ATTESTATIONS=1")
}

// explain turns the failure of a command into one line. A cancelled context is the reason whatever docker printed.
func (e Engine) explain(ctx context.Context, args []string, err error, complaint string) error {
	what := "docker " + strings.Join(args[:min(2, len(args))], " ")
	if ctx.Err() != nil {
		return fmt.Errorf("running %s: %w", what, context.Cause(ctx))
	}
	if kind := classify(err, complaint); kind != nil {
		return fmt.Errorf("running %s on %s: %w", what, e, kind)
	}
	if line := oneLine(complaint); line != "" {
		return fmt.Errorf("running %s: %s", what, line)
	}
	return fmt.Errorf("running %s: %w", what, err)
}

// oneLine joins what a command complained, without the marks docker puts before it.
func oneLine(complaint string) string {
	var parts []string
	for line := range strings.Lines(complaint) {
		line = strings.TrimSpace(line)
		line = strings.TrimPrefix(line, "docker: ")
		line = strings.TrimPrefix(line, "Error response from daemon: ")
		if line == "" || strings.HasPrefix(line, "See 'docker") || strings.HasPrefix(line, "Run 'docker") {
			continue
		}
		parts = append(parts, line)
	}
	return strings.Join(parts, "; ")
}

// tail keeps the last bytes written to it: docker's reason stands at the end, and a command may complain for hours.
type tail struct {
	kept []byte
}

// tailLimit holds some dozens of lines.
const tailLimit = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailLimit; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.kept) }

// Logs returns the last lines of a container, of both its streams in the order docker gives them.
func (e Engine) Logs(ctx context.Context, container string, lines int) (string, error) {
	args := []string{"logs", "--tail", fmt.Sprint(lines), container}
	cmd := e.command(ctx, args)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", e.explain(ctx, args, err, out.String())
	}
	return strings.TrimSpace(out.String()), nil
}
