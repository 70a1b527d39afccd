//go:build e2e

package images

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openfaas/go-sdk/builder"

	"waggle/deploy/docker"
)

// part is an image with what it needs to run alone.
type part struct {
	image string
	// template is whose sample function is built instead.
	template string
	secrets  map[string]string
	volumes  []string // paths, of which each container gets a volume of its own
	args     []string
	// server is a pattern of the command line of what is stopped, if that is not the container's first process. It must
	// not match itself.
	server string
}

var parts = map[string]part{
	"gateway": {image: Provider, args: []string{"--env=role=gateway", "--env=basic_auth=false", "--env=functions_provider_url=http://127.0.0.1:9"}},
	"worker": {image: Worker, secrets: map[string]string{"redis-drain": "x", "postgres-drain": "x"},
		args: []string{"--env=REDIS_ADDRESSES=127.0.0.1:1", "--env=POSTGRES_HOST=127.0.0.1", "--env=START_TIMEOUT=10m", "--env=POLLS_FILE=/run/secrets/polls.json"}},
	"go-http":      {template: "go-http"},
	"python3-http": {template: "python3-http", server: "[w]atchdog.py"},
	"redis":        {image: Redis, secrets: redisSecrets, volumes: []string{"/data", "/run/votes"}, args: []string{"--env=NODE=it-node", "--env=REDIS_MAXMEMORY=16mb"}, server: "[r]edis-server"},
	"postgres":     {image: Postgres, secrets: postgresSecrets, volumes: []string{"/data"}},
}

// buildFunction makes the image of a template's sample as faas-cli does. It changes the working directory meanwhile.
func buildFunction(language string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "waggle-function-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(filepath.Join(dir, "template"), os.DirFS(filepath.Join("..", "..", "template"))); err != nil {
		return err
	}
	back, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	defer os.Chdir(back)
	files, err := builder.CreateBuildContext("sample", filepath.Join("template", language, "function"), language, nil)
	if err != nil {
		return err
	}
	args, err := BuildArgs(ctx)
	if err != nil {
		return err
	}
	reference := NoRegistry + "/test-" + language + ":latest"
	_, err = docker.Engine{}.Build(ctx, docker.BuildOptions{Context: files, Tag: reference, BuildArgs: args})
	return err
}

// buildAll adds the programs' images to those that the other tests use.
func buildAll(t *testing.T) map[string]Image {
	t.Helper()
	built, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	all := maps.Clone(built)
	programs, err := (&Builder{Root: filepath.Join("..", "..")}).Build(t.Context(), Provider, Worker)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(all, programs)
	return all
}

func (p part) start(t *testing.T, built map[string]Image, name string) *container {
	t.Helper()
	b := setup(t, Redis, p.secrets)
	if b.image = built[p.image].Reference; p.template != "" {
		b.image = NoRegistry + "/test-" + p.template + ":latest"
	}
	if p.image == Worker {
		polls, err := os.ReadFile(filepath.Join("..", "..", "functions", "polls.json"))
		if err != nil {
			t.Fatal(err)
		}
		b.secret("polls.json", string(polls))
	}
	args := slices.Clone(p.args)
	for _, path := range p.volumes {
		args = append(args, "--volume="+b.volume(filepath.Base(path))+":"+path)
	}
	return b.start(name, args)
}

// signal sends a signal to the server as the machine's kernel would, from outside.
func (c *container) signal(server, signal string) {
	c.t.Helper()
	if server == "" {
		c.run("kill", "--signal="+signal, c.name)
		return
	}
	script := `for p in /proc/[0-9]*; do if grep -qs "$1" "$p/cmdline"; then kill "-$2" "${p#/proc/}"; fi; done`
	if _, err := c.exec("sh", "-c", script, "sh", server, signal); err != nil {
		c.t.Error(err)
	}
}

// TestSlowIsNotDead runs each part with a fiftieth of a processor, and each with a server that is repeatedly stopped
// for 20 s. Neither may fail its health check often enough to be replaced. One that is stopped for good must be.
func TestSlowIsNotDead(t *testing.T) {
	built := buildAll(t)
	for _, p := range parts { // before other tests run beside this one, since the working directory changes
		if p.template == "" {
			continue
		}
		if err := buildFunction(p.template); err != nil {
			t.Fatal(err)
		}
	}
	t.Parallel()
	var trials []trial
	for name, p := range parts {
		trials = append(trials, trial{p.server, p.start(t, built, name+"-starved"), p.start(t, built, name+"-stopped"), p.start(t, built, name+"-paused")})
	}
	for _, all := range trials {
		for _, c := range []*container{all.starved, all.stopped, all.paused} {
			c.awaitHealthy()
		}
	}
	var watches sync.WaitGroup
	for _, all := range trials { // at once: they do little but wait
		watches.Go(func() { all.watch(t) })
	}
	watches.Wait()
}

// trial is one part in three containers, each afflicted in another way.
type trial struct {
	server                   string
	starved, stopped, paused *container
}

func (a trial) watch(t *testing.T) {
	const watched = 90 * time.Second
	// A start with so little would take minutes, and is not under test here.
	a.starved.run("update", "--cpus=0.02", a.starved.name)
	a.stopped.signal(a.server, "STOP")
	var pauses sync.WaitGroup
	began := time.Now()
	pauses.Go(func() {
		for time.Since(began) < watched {
			a.paused.signal(a.server, "STOP")
			time.Sleep(20 * time.Second)
			a.paused.signal(a.server, "CONT")
			time.Sleep(2 * time.Second)
		}
	})
	var dead time.Duration
	for healthy := true; healthy && time.Since(began) < watched; time.Sleep(time.Second) {
		for _, c := range []*container{a.starved, a.paused} {
			if health := c.health(); health != "healthy" {
				t.Errorf("%s is %s after %s: %s", c.name, health, time.Since(began).Round(time.Second), c.checks())
				healthy = false
			}
		}
		if dead == 0 && a.stopped.health() == "unhealthy" {
			dead = time.Since(began)
		}
	}
	pauses.Wait()
	t.Logf("%s: stopped for good, it was unhealthy after %s", a.stopped.name, dead.Round(time.Second))
	if dead == 0 || dead > 45*time.Second {
		t.Errorf("stopped for good, %s is %s after %s: %s", a.stopped.name, a.stopped.health(), dead, a.stopped.checks())
	}
}

// checks are the last results of the image's check.
func (c *container) checks() string {
	c.t.Helper()
	return strings.TrimSpace(c.run("inspect", "--format={{range .State.Health.Log}}{{.Start}} {{.End}} {{.ExitCode}} {{.Output}}; {{end}}", c.name))
}
