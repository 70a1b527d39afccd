package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
)

// The reasons why an engine cannot be used at all. Each message is one line that says what to do.
var (
	// ErrNotInstalled means there is no docker command on PATH.
	ErrNotInstalled = errors.New("the docker command is not installed: as root, run 'apt-get install docker.io' " +
		"or follow https://docs.docker.com/engine/install/")
	// ErrDaemonDown means the command is there but nothing answers it.
	ErrDaemonDown = errors.New("the Docker daemon does not answer: start it with 'systemctl start docker' " +
		"(or 'service docker start') as root, or correct DOCKER_HOST")
	// ErrNoPermission means the daemon's socket refuses this user.
	ErrNoPermission = errors.New("no permission on the Docker socket: add yourself to its group with " +
		"'sudo usermod -aG docker $USER' and log in again, or run this as root")
)

// Ping asks the engine for its version. An engine that cannot be used gives an error that is ErrNotInstalled,
// ErrDaemonDown or ErrNoPermission under errors.Is.
func (e Engine) Ping(ctx context.Context) (version string, err error) {
	version, err = e.Run(ctx, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return "", err
	}
	if version == "" {
		return "", fmt.Errorf("running docker version on %s: %w", e, ErrDaemonDown)
	}
	return version, nil
}

// classify finds the reason in what the command left; nil when the engine was reached and refused by itself.
func classify(err error, complaint string) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return ErrNotInstalled
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("the docker command on PATH may not be executed: %w", err)
	}
	lower := strings.ToLower(complaint)
	// Both phrases occur together when the socket is there and closed to us: permission is then the truth.
	switch {
	case strings.Contains(lower, "permission denied") && strings.Contains(lower, "docker daemon socket"),
		strings.Contains(lower, "permission denied") && strings.Contains(lower, "docker api"):
		return ErrNoPermission
	case strings.Contains(lower, "cannot connect to the docker daemon"),
		strings.Contains(lower, "is the docker daemon running"),
		strings.Contains(lower, "failed to connect to the docker api"),
		strings.Contains(lower, "error during connect"):
		return ErrDaemonDown
	}
	return nil
}
