// Command loadsim plays load curves against autoscalers, in virtual time: the product's own decision, and
// models of others. The models are of OpenFaaS CE and Pro, Kubernetes, KEDA and Knative, made from their
// sources and documents.
//
// In: a type of scaling, a kind of work, the tuned curves or unseen ones drawn from a seed. Out: a table, its JSON,
// and plots as SVG. The table has the time under capacity, what waited, and the cost beside an ideal that knows the
// rate. All algorithms see the same requests, and the same gateways hold what finds no place. RESULTS.md has the
// figures.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "loadsim:", err)
		os.Exit(1)
	}
}

// options are the command's flags.
type options struct {
	kind, work, set string
	seed            uint64
	runs            int
	start           float64
	all             bool
	json, plots     string
}

func run(args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("loadsim", flag.ContinueOnError)
	flags.StringVar(&o.kind, "type", "rps", "`type` of scaling: rps, capacity or cpu")
	flags.StringVar(&o.work, "work", "web", "web (0.2 s, ten at once), slow (2 s, one at once), misset (web, with a target three times too high), unlimited (web without max_inflight)")
	flags.StringVar(&o.set, "curves", "tuned", "tuned, or unseen: 20 drawn from -seed")
	flags.Uint64Var(&o.seed, "seed", 1, "of unseen curves")
	flags.IntVar(&o.runs, "runs", 1, "how often each curve is played, with other requests each time")
	flags.Float64Var(&o.start, "start", 1.5, "`seconds` from a scale call to a ready replica")
	flags.BoolVar(&o.all, "each", false, "a row for each curve too")
	flags.StringVar(&o.json, "json", "", "`file` to write all figures to")
	flags.StringVar(&o.plots, "plots", "", "`folder` to write a plot of each curve to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := o.setting()
	if err != nil {
		return err
	}
	var curves []curve
	switch o.set {
	case "tuned":
		curves = tuned(s.unit())
	case "unseen":
		curves = unseen(s.unit(), 20, o.seed)
	default:
		return fmt.Errorf("-curves %q: want tuned or unseen", o.set)
	}
	return o.compare(curves, s, out)
}

// setting is that of a type and a kind of work.
func (o options) setting() (setting, error) {
	s := setting{kind: o.kind, proportion: 0.9, least: 1, most: 60, places: 10, hard: true, service: 0.2, spread: 0.5, start: o.start,
		gateways: 2, warm: 90}
	switch o.kind {
	case "rps":
		s.target = 50
	case "capacity":
		s.target = 10
	case "cpu":
		s.target, s.cost = 1000, 100 // ten at once take one processor
	default:
		return s, fmt.Errorf("-type %q: want rps, capacity or cpu", o.kind)
	}
	switch o.work {
	case "web":
	case "unlimited":
		s.hard = false
	case "misset":
		s.target, s.right = 3*s.target, s.target
	case "slow":
		s.service, s.spread, s.places = 2, 0.7, 1
		s.target = map[string]float64{"rps": 0.5, "capacity": 1, "cpu": 100}[o.kind]
	default:
		return s, fmt.Errorf("-work %q: want web, slow, misset or unlimited", o.work)
	}
	if o.runs < 1 || o.start <= 0 {
		return s, fmt.Errorf("-runs %d and -start %g: want at least 1, and more than 0", o.runs, o.start)
	}
	return s, nil
}

// contender is an algorithm under its name.
type contender struct {
	name string
	make func() algorithm
}

func contenders(kind string) []contender {
	list := []contender{
		{"OpenFaaS CE alerts", func() algorithm { return &alerts{} }},
		{"OpenFaaS Pro", func() algorithm { return &pro{} }},
		{"OpenFaaS Pro, window 60 s", func() algorithm { return &pro{window: 60} }},
		{"Kubernetes HPA", func() algorithm { return &hpa{} }},
	}
	if kind != "cpu" { // neither reads processors
		list = append(list,
			contender{"KEDA HTTP add-on", func() algorithm { return &hpa{keda: true} }},
			contender{"Knative KPA", func() algorithm { return &kpa{} }},
			contender{"Knative KPA, 70 %", func() algorithm { return &kpa{proportion: 0.7} }})
	}
	return append(list, contender{"Waggle", func() algorithm { return &waggle{} }})
}

// compare plays every curve against every contender and writes what came of it.
func (o options) compare(curves []curve, s setting, out io.Writer) error {
	began := time.Now()
	list := contenders(s.kind)
	results := make(map[string]map[string]result) // by curve and contender
	totals := make([]result, len(list))
	if o.all {
		fmt.Fprintf(out, header, "curve")
	}
	for _, c := range curves {
		results[c.name] = make(map[string]result)
		for i, who := range list {
			r := o.play(c, s, who)
			totals[i].add(r)
			r.settle()
			results[c.name][who.name] = r
			if o.all {
				r.row(out, c.name, who.name)
			}
		}
		if o.plots != "" {
			name := filepath.Join(o.plots, strings.ReplaceAll(fmt.Sprintf("%s-%s-%s.svg", o.kind, o.work, c.name), " ", "-"))
			if err := os.WriteFile(name, plot(c, results[c.name]), 0o600); err != nil {
				return fmt.Errorf("writing a plot: %w", err)
			}
		}
	}
	if o.all {
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, header, fmt.Sprintf("%s, %s, %d %s curves", o.kind, o.work, len(curves), o.set))
	results["all"] = make(map[string]result)
	for i, who := range list {
		totals[i].settle()
		results["all"][who.name] = totals[i]
		totals[i].row(out, "all", who.name)
	}
	fmt.Fprintf(out, "\n%d requests per algorithm and run, in %.1f s\n", totals[0].Requests/o.runs, time.Since(began).Seconds())
	if o.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return fmt.Errorf("encoding the figures: %w", err)
	}
	return os.WriteFile(o.json, text, 0o600)
}

// play sums up the runs of one curve.
func (o options) play(c curve, s setting, who contender) (sum result) {
	for i := range o.runs {
		r := newWorld(s, newTrace(c, s, uint64(1000+i)), uint64(i)).run(who.make())
		sum.add(r)
		sum.series = r.series
	}
	return sum
}
