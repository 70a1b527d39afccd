package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"waggle/functions/vote"
	"waggle/template/go-http/watchdog"
)

// flaskVote is the same vote as a Flask application.
//
//go:embed flask_vote.py
var flaskVote string

// votePolls is for the function; the application has the same poll in its text.
const votePolls = `{"polls":[{"id":1,"slug":"pets","question":"?","opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live",
	"options":[{"id":1,"slug":"cats","name":"Cats"},{"id":2,"slug":"dogs","name":"Dogs"}]}]}`

// party is one way for a vote to a disk.
type party struct {
	name  string
	parts []string // what its processes are
	procs []*process
	url   string
	vote  testCase
	runs  []voteRun
}

// voteRun is one run, and what each process used for a vote in microseconds of CPU.
type voteRun struct {
	result
	used []float64
}

func (r voteRun) total() (sum float64) {
	for _, used := range r.used {
		sum += used
	}
	return sum
}

// measureVote compares the way of a vote through gateway, function and Redis with that through gunicorn, Flask and Redis. Either
// Redis syncs its log before it answers, and each vote is on one disk.
func (b *bench) measureVote(ctx context.Context) error {
	var parties []*party
	defer func() {
		for _, p := range parties {
			for _, proc := range p.procs {
				proc.stop()
			}
		}
	}()
	for _, start := range []func(context.Context, *party) error{b.startWaggle, b.startFlaskSync, b.startFlaskThreads} {
		p := &party{}
		parties = append(parties, p)
		if err := start(ctx, p); errors.Is(err, exec.ErrNotFound) {
			fmt.Printf("\nThe case vote needs redis-server, gunicorn, python3-flask and python3-redis: %v\n", err)
			return nil
		} else if err != nil {
			return fmt.Errorf("starting %s: %w", p.name, err)
		}
		if err := b.prepareVote(ctx, p); err != nil {
			return fmt.Errorf("preparing %s: %w", p.name, err)
		}
	}
	for range b.rounds {
		for _, p := range parties {
			run, err := b.loadVote(ctx, p, b.time)
			if err != nil {
				return fmt.Errorf("measuring %s: %w", p.name, err)
			}
			p.runs = append(p.runs, run)
		}
	}
	return b.printVotes(parties)
}

// prepareVote gets a cookie, with which all votes are cast, and warms up.
func (b *bench) prepareVote(ctx context.Context, p *party) error {
	var cookies []string
	for len(cookies) == 0 { // the gateway has to find its function healthy, the function its Redis
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
		if err != nil {
			return fmt.Errorf("preparing the request for a cookie: %w", err)
		}
		r.Header.Set("Accept", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return fmt.Errorf("getting a cookie: %w", err)
		}
		_ = answer.Body.Close()
		for _, c := range answer.Cookies() {
			cookies = append(cookies, c.Name+"="+c.Value)
		}
		if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("getting a cookie: %s", answer.Status)
		}
	}
	p.vote = testCase{name: p.name, script: "wrk.method = 'POST'\nwrk.body = '{\"poll\":\"pets\",\"choice\":\"cats\"}'\n" +
		"wrk.headers['Content-Type'] = 'application/json'\nwrk.headers['Cookie'] = '" + strings.Join(cookies, "; ") + "'\n"}
	_, err := b.loadVote(ctx, p, time.Second)
	return err
}

// loadVote is one run. Every answer must be a receipt.
func (b *bench) loadVote(ctx context.Context, p *party, length time.Duration) (run voteRun, err error) {
	before := make([]time.Duration, len(p.procs))
	for i, proc := range p.procs {
		before[i] = proc.cpu()
	}
	var n float64
	if run.result, n, err = b.loadHTTP1(ctx, p.url, p.vote, length); err != nil {
		return run, err
	}
	if run.errors > 0 || n == 0 {
		return run, fmt.Errorf("%d of %.0f votes were not recorded", run.errors, n)
	}
	for i, proc := range p.procs {
		run.used = append(run.used, float64((proc.cpu()-before[i]).Microseconds())/n)
	}
	return run, nil
}

func (b *bench) printVotes(parties []*party) error {
	fmt.Printf("\nA vote by JSON, to the disk and back, %d connections, medians of %d runs of %s\n", b.connections, b.rounds, b.time)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "way\tvotes/s\tp50 ms\tp99 ms\tCPU µs/vote\tof these\t")
	of := func(p *party, figure func(voteRun) float64) float64 {
		figures := make([]float64, len(p.runs))
		for i, r := range p.runs {
			figures[i] = figure(r)
		}
		return middle(figures)
	}
	for _, p := range parties {
		var parts []string
		for i, name := range p.parts {
			parts = append(parts, fmt.Sprintf("%s %.0f", name, of(p, func(r voteRun) float64 { return r.used[i] })))
		}
		fmt.Fprintf(out, "%s\t%.0f\t%.2f\t%.2f\t%.0f\t%s\t\n", p.name, of(p, func(r voteRun) float64 { return r.rate }), of(p, func(r voteRun) float64 { return r.p50 }),
			of(p, func(r voteRun) float64 { return r.p99 }), of(p, voteRun.total), strings.Join(parts, ", "))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	for _, p := range parties[1:] {
		ratios := make([]float64, b.rounds)
		for i := range ratios {
			ratios[i] = parties[0].runs[i].total() / p.runs[i].total()
		}
		fmt.Printf("a vote costs %.3f of that in %s, the median of the rounds' own ratios\n", middle(ratios), p.name)
	}
	return nil
}

// startRedis makes a Redis as deploy/images/redis has it: it syncs before it answers, and has the stream.
func (b *bench) startRedis(ctx context.Context, p *party) (socket string, err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("looking for Redis: %w", err)
	}
	dir := filepath.Join(b.dir, "redis-"+p.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("making a folder for Redis: %w", err)
	}
	socket = filepath.Join(dir, "redis.sock")
	proc, err := startProcess(ctx, func(address string) *exec.Cmd {
		_, port, _ := net.SplitHostPort(address)
		return exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "yes",
			"--appendfsync", "always", "--user", "capture", "on", ">bench", "~votes", "~votes:inc", "+@all")
	})
	if err != nil {
		return "", err
	}
	p.procs, p.parts = append(p.procs, proc), append(p.parts, "Redis")
	for _, args := range [][]string{
		{"XADD", "votes", "0-1", "kind", "genesis"}, {"SET", "votes:inc", "00000000-0000-4000-8000-000000000000"},
	} {
		if out, err := exec.CommandContext(ctx, "redis-cli", append([]string{"-s", socket}, args...)...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("preparing Redis: %w: %s", err, out)
		}
	}
	return socket, nil
}

// startWaggle starts a Redis, the function as its image has it, and the gateway.
func (b *bench) startWaggle(ctx context.Context, p *party) error {
	p.name = "waggle"
	socket, err := b.startRedis(ctx, p)
	if err != nil {
		return err
	}
	secrets := filepath.Join(b.dir, "secrets")
	if err := os.Mkdir(secrets, 0o700); err != nil {
		return fmt.Errorf("making a folder for secrets: %w", err)
	}
	for name, text := range map[string]string{
		"polls": votePolls, "redis-capture": "bench", "voter-keys": "poll:" + strings.Repeat("c3", 32) + "\nk1:" + strings.Repeat("a1", 32),
	} {
		if _, err := b.config(filepath.Join("secrets", name), text); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	function, err := startProcess(ctx, func(address string) *exec.Cmd {
		cmd := exec.Command(self, "role", "vote", address)
		cmd.Env = append(os.Environ(), "secret_mount_path="+secrets, "redis_socket="+socket, "copies=1")
		return cmd
	})
	if err != nil {
		return err
	}
	p.procs, p.parts = append(p.procs, function), append(p.parts, "function")
	gateway, err := startRole(ctx, "gateway", []string{function.address, "http1", b.dir, ""})
	if err != nil {
		return err
	}
	p.procs, p.parts = append(p.procs, gateway), append(p.parts, "gateway")
	p.url = "http://" + gateway.address + "/function/hello"
	return nil
}

// runVote is the function's process, which the template makes of the handler.
func runVote(ctx context.Context, address string) error {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	handler, err := vote.New(ctx)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(address)
	c, err := watchdog.ConfigFromEnv(func(string) string { return "" })
	if err != nil {
		return fmt.Errorf("reading the defaults: %w", err)
	}
	if c.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("reading the port of %s: %w", address, err)
	}
	c.MetricsPort, c.DrainWait, c.Handler, c.Logger = 0, 0, handler, slog.Default()
	server, err := watchdog.New(c)
	if err != nil {
		return fmt.Errorf("starting the function: %w", err)
	}
	return server.Run(ctx)
}

// startFlaskSync has gunicorn's default kind of worker, which takes one connection after the other and keeps none.
func (b *bench) startFlaskSync(ctx context.Context, p *party) error {
	p.name = "flask"
	return b.startFlask(ctx, p)
}

// startFlaskThreads has as many threads as there are clients, so that connections are kept.
func (b *bench) startFlaskThreads(ctx context.Context, p *party) error {
	p.name = "flask-threads"
	threads := (b.connections + gunicornWorkers - 1) / gunicornWorkers
	return b.startFlask(ctx, p, "--worker-class", "gthread", "--threads", strconv.Itoa(threads), "--keep-alive", "60")
}

// gunicornWorkers is what gunicorn's documents advise.
var gunicornWorkers = 2*runtime.NumCPU() + 1

// startFlask starts a Redis, and the application in gunicorn.
func (b *bench) startFlask(ctx context.Context, p *party, more ...string) error {
	path, err := exec.LookPath("gunicorn")
	if err != nil {
		return fmt.Errorf("looking for gunicorn: %w", err)
	}
	socket, err := b.startRedis(ctx, p)
	if err != nil {
		return err
	}
	if _, err := b.config("flask_vote.py", flaskVote); err != nil {
		return err
	}
	app, err := startProcess(ctx, func(address string) *exec.Cmd {
		cmd := exec.Command(path, append([]string{"--chdir", b.dir, "--bind", address, "--workers", strconv.Itoa(gunicornWorkers),
			"--log-level", "warning"}, append(more, "flask_vote:app")...)...)
		cmd.Env = append(os.Environ(), "REDIS_SOCKET="+socket, "VOTE_KEY="+strings.Repeat("a1", 32), "PYTHONDONTWRITEBYTECODE=1")
		return cmd
	})
	if err != nil {
		return err
	}
	p.procs, p.parts = append(p.procs, app), append(p.parts, "gunicorn and Flask")
	p.url = "http://" + app.address + "/"
	return nil
}
