package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/lab/voters/crowd"
	"waggle/deploy/lab/voters/judge"
)

// config is the command line.
type config struct {
	crowd        crowd.Config
	rules        judge.Rules
	results      string
	poll         int32
	keys         string
	engines      []string
	service      string
	psql         string
	drainTimeout time.Duration
	drainEvery   time.Duration
	jsonFile     string
	judging      bool
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(text string) error {
	*l = append(*l, text)
	return nil
}

// share is a part of all voters, written 10% or 0.1.
type share float64

func (s *share) String() string { return strconv.FormatFloat(float64(*s)*100, 'g', -1, 64) + "%" }

func (s *share) Set(text string) error {
	number, percent := strings.CutSuffix(text, "%")
	part, err := strconv.ParseFloat(number, 64)
	if percent {
		part /= 100
	}
	if err != nil || !(part >= 0 && part <= 1) {
		return fmt.Errorf("it must be 0%% to 100%%, or 0 to 1")
	}
	*s = share(part)
	return nil
}

const usage = `Votes like a crowd, then compares what it was told with what Postgres has counted.

Exit status: 0 every promise was kept; 1 outdated, missing, wrong, drift or unaccounted is not 0; 2 it could not be judged.

`

// parseArgs reads the command line. Whatever is wrong with it is one error.
func parseArgs(args []string, stderr io.Writer) (config, error) {
	var urls, engines list
	var polls, slug string
	var allowRemote, loadOnly bool
	c := config{}
	s := crowd.Shares{Double: 0.10, Change: 0.05, Stale: 0.01, Replay: 0.02, Tabs: 0.02, Elsewhere: 0.02, Retry: 1, API: 0.2}

	f := flag.NewFlagSet("voters", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, usage)
		f.PrintDefaults()
	}
	f.Var(&urls, "url", "address of the vote function, for example http://127.0.0.1:8080/function/vote; repeat it for several gateways")
	f.StringVar(&c.results, "results", "", "address of the results function; what it shows must then equal what is counted")
	f.IntVar(&c.crowd.Voters, "voters", 20000, "how many voters come")
	f.Float64Var(&c.crowd.Rate, "rate", 0, "voters per second, on a schedule that waits for nobody (0: one comes when another has finished)")
	f.IntVar(&c.crowd.Concurrency, "concurrency", 64, "most voters served at once")
	f.DurationVar(&c.crowd.Duration, "duration", 0, "end of arrivals (0: when all have come)")
	f.DurationVar(&c.crowd.Timeout, "timeout", 10*time.Second, "longest wait for one answer")
	f.IntVar(&c.crowd.Retries, "retries", 20, "how often a patient voter presses again")
	f.Uint64Var(&c.crowd.Seed, "seed", rand.Uint64(), "decides chance; a run prints its own")
	f.Var((*share)(&s.Double), "double", "share of voters who vote twice the same")
	f.Var((*share)(&s.Change), "change", "share who vote, then change their mind")
	f.Var((*share)(&s.Stale), "stale", "share who change their mind and whose first form then arrives again")
	f.Var((*share)(&s.Replay), "replay", "share who send the very same form twice")
	f.Var((*share)(&s.Tabs), "tabs", "share who press different choices in two tabs at once")
	f.Var((*share)(&s.Elsewhere), "elsewhere", "share who, without an answer, press another choice through another gateway, on the same page or a new one")
	f.Var((*share)(&s.Retry), "retry", "share who press again after an error, until it is acknowledged or -retries is used up")
	f.Var((*share)(&s.API), "api", "share who speak JSON; the others send forms")
	f.StringVar(&polls, "polls", "functions/polls.json", "file with the polls that the functions were given")
	f.StringVar(&slug, "poll", "", "slug of the poll (default: the first of the file)")
	f.BoolVar(&c.rules.Alone, "alone", false, "nobody else votes in this poll meanwhile: a new vote of anybody else is wrong")
	f.StringVar(&c.keys, "voter-keys", "", "file with the secret voter-keys, to know the voters' names in the books")
	f.Var(&engines, "docker-host", "engine on which to look for Postgres, as for docker -H, or container:NAME for the engine in that container; repeat it for several (default: docker's own)")
	f.StringVar(&c.service, "service", "waggle_postgres", "Swarm service whose container holds Postgres")
	f.StringVar(&c.psql, "psql", "", "shell command to use instead: reads SQL, prints what COPY says, for example 'psql -X -q postgresql:///waggle'")
	f.DurationVar(&c.drainTimeout, "drain-timeout", 2*time.Minute, "longest wait for the drain")
	f.DurationVar(&c.drainEvery, "drain-every", time.Second, "pause between two looks at the ledger; each starts a process")
	f.StringVar(&c.jsonFile, "json", "", "file for the report as JSON")
	f.BoolVar(&loadOnly, "load-only", false, "do not judge: needs neither Postgres nor the keys, and proves nothing")
	f.BoolVar(&allowRemote, "allow-remote", false, "allow addresses other than this machine's loopback")
	if err := f.Parse(args); err != nil {
		return config{}, err
	}

	c.engines, c.crowd.Shares, c.judging = engines, s, !loadOnly
	return c, errors.Join(c.readPoll(polls, slug), c.check(f.Args(), urls, allowRemote))
}

// check completes the configuration with its addresses. The crowd checks its own part when it is made.
func (c *config) check(stray, urls []string, allowRemote bool) error {
	var errs []error
	reject := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	reject(len(stray) > 0, "%q: there are no arguments without a name", stray)
	reject(len(urls) == 0, "-url: at least one address is needed")
	reject(c.drainTimeout <= 0, "-drain-timeout %v: more than 0", c.drainTimeout)
	reject(c.drainEvery <= 0, "-drain-every %v: more than 0", c.drainEvery)
	reject(c.judging && c.keys == "", "-voter-keys: the judge needs the secret (or give -load-only)")
	address := func(flag, raw string) crowd.Target {
		target, err := crowd.NewTarget(raw)
		reject(err != nil, "%s: %w", flag, err)
		reject(err == nil && !allowRemote && !target.Loopback(), "%s %s: not this machine; give -allow-remote if you may load it", flag, raw)
		return target
	}
	for _, raw := range urls {
		c.crowd.Targets = append(c.crowd.Targets, address("-url", raw))
	}
	if c.results != "" {
		address("-results", c.results)
	}
	return errors.Join(errs...)
}

// readPoll takes from the poll file what voters and judge need of one poll: its id, its options, and which vote
// of a voter counts. functions/vote defines and checks the file's form.
func (c *config) readPoll(file, slug string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("-polls: %w", err)
	}
	var content struct {
		Polls []struct {
			ID            int32
			Slug, Mode    string
			Opens, Closes time.Time
			Options       []crowd.Option
		}
	}
	if err := json.Unmarshal(text, &content); err != nil {
		return fmt.Errorf("-polls %s: %w", file, err)
	}
	var slugs []string
	for _, p := range content.Polls {
		slugs = append(slugs, p.Slug)
		if slug != "" && slug != p.Slug {
			continue
		}
		if now := time.Now(); now.Before(p.Opens) || !now.Before(p.Closes) {
			return fmt.Errorf("-poll %s: it is open from %s to %s", p.Slug, p.Opens.Format(time.RFC3339), p.Closes.Format(time.RFC3339))
		}
		c.poll, c.crowd.Poll, c.crowd.Options, c.rules.FirstWins = p.ID, p.Slug, p.Options, p.Mode == "first"
		return nil
	}
	return fmt.Errorf("-poll %q: %s has %s", slug, file, strings.Join(slugs, ", "))
}
