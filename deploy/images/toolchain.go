package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// goSeries is the Go that Golang promises.
const goSeries = "go1.26"

// importGo puts this machine's Go on top of Debian. The tree is streamed into a container as one archive. A COPY
// would first send it to the engine as a build context and take several times as long.
func (b *Builder) importGo(ctx context.Context) error {
	env, err := goEnv(ctx, "GOROOT", "GOVERSION")
	if err != nil {
		return err
	}
	if version := env["GOVERSION"]; version != goSeries && !strings.HasPrefix(version, goSeries+".") {
		return fmt.Errorf("this machine's Go is %s and %s needs %s: install it or make a registry reachable", version, Golang, goSeries)
	}
	container, err := b.Engine.Run(ctx, "create", Debian)
	if err != nil {
		return fmt.Errorf("opening %s: %w", Debian, err)
	}
	defer func() {
		if _, err := b.Engine.Run(context.WithoutCancel(ctx), "rm", container); err != nil {
			b.progress("removing the container %s failed: %v", container, err)
		}
	}()
	// Tests, documents and the API history of the toolchain are never read by a build.
	archive := []string{"-C", env["GOROOT"], "--owner=0", "--group=0", "--exclude=./test", "--exclude=./doc", "--exclude=./api",
		"--transform=flags=r;s,^\\.,go,", "-c", "."}
	if _, err := b.feedTar(ctx, archive, "cp", "-", container+":/usr/local"); err != nil {
		return err
	}
	_, err = b.Engine.Run(ctx, "commit",
		"--change", "ENV GOPATH=/go GOTOOLCHAIN=local PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"--change", "WORKDIR /go", container, Golang)
	return err
}

// goSettings are the settings of this machine's Go that builds inside images need too, to reach the same modules.
var goSettings = []string{"GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOINSECURE", "GOFLAGS"}

// proxySettings are understood by the builder itself, in both spellings.
var proxySettings = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

// BuildArgs are the build arguments with which a build reaches the network as this machine does. They are what its
// user has set for Go's modules and for proxies. Defaults are left out, so that they do not make images differ.
func BuildArgs(ctx context.Context) (map[string]string, error) {
	args, err := goEnv(ctx, append([]string{"-changed"}, goSettings...)...)
	if err != nil {
		return nil, err
	}
	for _, name := range proxySettings {
		if value := os.Getenv(name); value != "" {
			args[name] = value
		}
	}
	return args, nil
}

// goEnv asks this machine's Go for its settings.
func goEnv(ctx context.Context, names ...string) (map[string]string, error) {
	out, err := exec.CommandContext(ctx, "go", append([]string{"env", "-json"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("asking go env: %w", err)
	}
	env := map[string]string{}
	if err := json.Unmarshal(out, &env); err != nil {
		return nil, fmt.Errorf("reading go env: %w", err)
	}
	return env, nil
}

// feedTar streams an archive made by tar into a docker command.
func (b *Builder) feedTar(ctx context.Context, archive []string, dockerArgs ...string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tar := exec.CommandContext(ctx, "tar", archive...)
	var complaint strings.Builder
	tar.Stderr = &complaint
	stream, err := tar.StdoutPipe()
	if err != nil {
		return "", fmt.Errorf("preparing tar: %w", err)
	}
	if err := tar.Start(); err != nil {
		return "", fmt.Errorf("starting tar: %w", err)
	}
	out, err := b.Engine.RunInput(ctx, stream, dockerArgs...)
	if err != nil {
		cancel()
	}
	// What docker did not read must not keep tar waiting.
	_, _ = io.Copy(io.Discard, stream)
	if tarErr := tar.Wait(); tarErr != nil && err == nil {
		err = fmt.Errorf("archiving with tar: %w: %s", tarErr, strings.TrimSpace(complaint.String()))
	}
	return out, err
}

// runTool runs a program of this machine; its last words are the error.
func runTool(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("running %s: %w: %s", name, err, strings.Join(lines[max(0, len(lines)-3):], "; "))
	}
	return nil
}

// roomyDir makes a temporary directory on the first disk that has room for so many bytes.
func roomyDir(room uint64) (string, error) {
	var tried []string
	for _, parent := range []string{"/var/tmp", os.TempDir(), "."} {
		var disk syscall.Statfs_t
		if err := syscall.Statfs(parent, &disk); err != nil {
			tried = append(tried, fmt.Sprintf("%s: %v", parent, err))
			continue
		}
		if free := disk.Bavail * uint64(disk.Bsize); free < room {
			tried = append(tried, fmt.Sprintf("%s has %d MB free", parent, free>>20))
			continue
		}
		return os.MkdirTemp(parent, "waggle-base-")
	}
	return "", errors.New("not enough disk: " + fmt.Sprintf("%d MB are needed, %s", room>>20, strings.Join(tried, ", ")))
}
