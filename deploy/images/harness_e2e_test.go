//go:build e2e

package images

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/deploy/docker"
)

// testLabel marks what these tests make on the machine's engine.
const testLabel = "waggle.test=images"

// readyWithin is generous: a machine that runs all tests at once is slow, and only a failure waits for its end.
const readyWithin = 90 * time.Second

var buildOnce = sync.OnceValues(func() (map[string]Image, error) {
	builder := Builder{Root: filepath.Join("..", "..")}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := builder.EnsureBase(ctx); err != nil {
		return nil, err
	}
	return builder.Build(ctx, Redis, Postgres)
})

// bench is what one test works with: an image, secrets and volumes of its own.
type bench struct {
	t       *testing.T
	engine  docker.Engine
	image   string
	prefix  string
	secrets string
}

func setup(t *testing.T, image string, secrets map[string]string) *bench {
	t.Helper()
	built, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, image: built[image].Reference, prefix: "it-" + strings.ToLower(rand.Text()[:10]), secrets: t.TempDir()}
	if err := os.Chmod(b.secrets, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range secrets {
		b.secret(name, text)
	}
	return b
}

func (b *bench) secret(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.secrets, name)
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o644), os.Chmod(path, 0o644)); err != nil {
		b.t.Fatal(err)
	}
}

// volume makes a named volume that goes with the test.
func (b *bench) volume(name string) string {
	b.t.Helper()
	name = b.prefix + "-" + name
	b.run("volume", "create", "--label", testLabel, name)
	b.t.Cleanup(func() {
		if _, err := b.engine.Run(context.Background(), "volume", "rm", "--force", name); err != nil {
			b.t.Errorf("removing a volume: %v", err)
		}
	})
	return name
}

func (b *bench) run(args ...string) string {
	b.t.Helper()
	out, err := b.engine.Run(b.t.Context(), args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// sh runs a script as root on a volume, to prepare or damage it.
func (b *bench) sh(volume, script string) string {
	b.t.Helper()
	return b.run("run", "--rm", "--label", testLabel, "--network=none", "--user=0:0", "--volume="+volume+":/data",
		"--entrypoint=sh", b.image, "-euc", script)
}

// hardened is how the stack runs every container of ours.
var hardened = []string{"--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=bridge"}

// start runs a container of the image without waiting for anything.
func (b *bench) start(name string, args []string, command ...string) *container {
	b.t.Helper()
	c := &container{bench: b, name: b.prefix + "-" + name}
	all := append([]string{"run", "--detach", "--name=" + c.name, "--label=" + testLabel, "--volume=" + b.secrets + ":/run/secrets:ro"}, hardened...)
	all = append(append(all, args...), b.image)
	// Volumes are removed after the containers: cleanups run last in, first out.
	b.t.Cleanup(func() {
		if _, err := b.engine.Run(context.Background(), "rm", "--force", c.name); err != nil {
			b.t.Errorf("removing a container: %v", err)
		}
	})
	b.run(append(all, command...)...)
	return c
}

type container struct {
	*bench
	name string
}

func (c *container) log() string {
	c.t.Helper()
	log, err := c.engine.Logs(c.t.Context(), c.name, 1000)
	if err != nil {
		c.t.Fatal(err)
	}
	return log
}

// exec runs a command inside; the error is returned, since many tests want one.
func (c *container) exec(args ...string) (string, error) {
	return c.engine.Run(c.t.Context(), append([]string{"exec", c.name}, args...)...)
}

// awaitHealthy waits for the image's own health check to pass.
func (c *container) awaitHealthy() {
	c.t.Helper()
	c.await("health", func() bool { return c.health() == "healthy" })
}

// health is what the engine makes of the image's health checks.
func (c *container) health() string {
	c.t.Helper()
	return strings.TrimSpace(c.run("inspect", "--format={{.State.Health.Status}}", c.name))
}

// refused waits for the container to end and returns its log; an end without an error is a failure.
func (c *container) refused() string {
	c.t.Helper()
	c.await("its end", func() bool { return c.run("inspect", "--format={{.State.Running}}", c.name) == "false" })
	if code := c.run("inspect", "--format={{.State.ExitCode}}", c.name); code == "0" {
		c.t.Errorf("it ended with exit code 0, log:\n%s", c.log())
	}
	return c.log()
}

func (c *container) await(what string, done func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), readyWithin)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			c.t.Fatalf("waiting for %s of %s: %v, log:\n%s", what, c.name, ctx.Err(), c.log())
		case <-tick.C:
		}
	}
}

func assertContains(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s is\n%s\nwant it to contain %q", what, got, want)
	}
}
