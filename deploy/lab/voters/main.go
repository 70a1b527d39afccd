// Command voters is the crowd and the judge. It votes against a running system, then compares what it was told with
// what Postgres has counted.
//
// It stands outside the system. In: addresses of the vote function, the secret that names voters in the books,
// and a way to run SQL. Out: progress, a table, optionally JSON, and an exit status that a script can trust.
// Status 0 means that the drain is complete, the tally is exact, and no acknowledged vote is outdated, missing,
// wrong or unaccounted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"waggle/deploy/lab/voters/crowd"
)

const (
	exitKept     = 0
	exitBroken   = 1
	exitUnjudged = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the arrivals; with the handler gone, a second one ends the program.
	context.AfterFunc(ctx, stop)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the program. When ctx ends no voter comes any more, and those who came are judged.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parseArgs(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitKept
	}
	var r report
	if err == nil {
		r, err = play(ctx, c, stderr)
	}
	if err == nil {
		err = r.table(stdout)
	}
	if err == nil && c.jsonFile != "" {
		err = r.write(c.jsonFile)
	}
	if err != nil {
		fmt.Fprintf(stderr, "voters: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return exitUnjudged
	}
	return r.exit()
}

// play reads the books, lets the crowd vote, waits for the drain and judges.
func play(ctx context.Context, c config, stderr io.Writer) (report, error) {
	c.crowd.Log = slog.New(slog.NewTextHandler(stderr, nil))
	c.crowd.Pseudonym = nobody
	var b bench
	if c.judging {
		var err error
		if b, err = sit(ctx, &c); err != nil {
			return report{}, err
		}
	}
	people, err := crowd.New(c.crowd)
	if err != nil {
		return report{}, err
	}
	ticker, over := time.NewTicker(time.Second), make(chan struct{})
	progress := make(chan struct{})
	go func() {
		defer close(progress)
		people.Stats().Progress(stderr, c.crowd.Voters, ticker.C, over)
	}()
	began := time.Now()
	err = people.Run(ctx)
	took := time.Since(began)
	ticker.Stop()
	close(over)
	<-progress
	if err != nil {
		return report{}, err
	}
	r := report{Load: loadOf(people.Stats(), took), Seed: c.crowd.Seed}
	if !c.judging {
		return r, nil
	}
	// A signal has ended the voting by now; the judging has its own bounds.
	return b.judge(context.WithoutCancel(ctx), c, r, people.Voters(), stderr)
}
