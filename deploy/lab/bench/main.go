// Command bench measures what a request costs in the gateway, beside the proxies that people know.
//
// It runs everything on loopback, one proxy after the other in front of the same function. It reads each
// proxy's CPU time from the kernel, so the load generator and the function do not blur the figure. In: wrk, for
// HTTP/2 h2load, and haproxy and nginx where they are installed. Out: a table on standard output. Absolute
// figures are those of one machine; quote ratios. The case vote sets a vote to the disk beside the same vote in
// Flask, gunicorn and Redis, where those are installed. The case chain then measures the whole system, the engine and
// its logging included, on a Swarm of one node container.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		exit(runRole(os.Args[2], os.Args[3:]))
	}
	var b bench
	only := flag.String("only", "", "comma-separated names of the proxies to measure; default: all")
	cases := flag.String("cases", "reply12,reply64k,post64k,slow,vote,chain", "comma-separated cases; slow is clients that trickle, vote is a vote to the disk beside the same in Flask, chain is the whole system on a Swarm of its own, and needs Docker")
	flag.DurationVar(&b.time, "time", 2*time.Second, "length of each run, whole seconds")
	flag.IntVar(&b.connections, "connections", 64, "client connections, 1 to 10000")
	protocolName := flag.String("protocol", "http1", "what clients speak: http1, https1, h2c (HTTP/2 without TLS) or h2")
	flag.IntVar(&b.streams, "streams", 10, "requests under way on each connection of HTTP/2, 1 to 250")
	flag.IntVar(&b.rounds, "rounds", 5, "runs of each proxy, which take turns; medians count")
	flag.IntVar(&b.idle, "idle", 10000, "idle connections for the memory figure; 0 leaves it out")
	flag.IntVar(&b.slow, "slow", 2000, "slow clients beside the load, for the case slow")
	flag.StringVar(&b.profile, "profile", "", "file for a CPU profile of the gateway")
	flag.Parse()
	if b.time < time.Second || b.time%time.Second != 0 || b.connections < 1 || b.connections > 10000 || b.rounds < 1 {
		exit(fmt.Errorf("time is %s, connections %d, rounds %d: legal is 1s and more in whole seconds, 1 to 10000, 1 and more", b.time, b.connections, b.rounds))
	}
	var known bool
	if b.protocol, known = protocols[*protocolName]; !known || b.streams < 1 || b.streams > 250 {
		exit(fmt.Errorf("protocol is %q, streams %d: legal is http1, https1, h2c or h2, and 1 to 250", *protocolName, b.streams))
	}
	b.only, b.cases = split(*only), split(*cases)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func split(list string) map[string]bool {
	if list == "" {
		return nil
	}
	out := make(map[string]bool)
	for _, s := range strings.Split(list, ",") {
		out[strings.TrimSpace(s)] = true
	}
	return out
}

// bench is one run of the program.
type bench struct {
	time        time.Duration
	connections int
	rounds      int
	idle        int
	slow        int
	protocol    protocol
	streams     int
	only, cases map[string]bool
	profile     string
	dir         string // for configuration files
	// from is what a load generator is started with, if it is to run elsewhere than here.
	from []string
}

func (b *bench) run(ctx context.Context) error {
	program, pkg := b.protocol.generator()
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("looking for the load generator: %w (Debian package %s)", err, pkg)
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "waggle-bench"); err != nil {
		return fmt.Errorf("making a folder for configuration: %w", err)
	}
	defer os.RemoveAll(b.dir)
	if err := b.makeCertificate(); err != nil {
		return err
	}
	function, err := startRole(ctx, "function", nil)
	if err != nil {
		return err
	}
	defer function.stop()
	for _, c := range allCases {
		if !b.cases[c.name] {
			continue
		}
		if err := b.compare(ctx, c, function); err != nil {
			return err
		}
	}
	if b.idle > 0 {
		if err := b.measureIdle(ctx, function); err != nil {
			return err
		}
	}
	if b.protocol.name != "http1" {
		return nil // what follows measures the system, not a version of HTTP
	}
	if b.cases["slow"] {
		if err := b.measureSlow(ctx, function); err != nil {
			return err
		}
	}
	if b.cases["vote"] {
		if err := b.measureVote(ctx); err != nil {
			return err
		}
	}
	if b.cases["chain"] {
		return b.measureChain(ctx, function)
	}
	return nil
}
