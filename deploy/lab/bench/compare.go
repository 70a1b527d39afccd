package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"text/tabwriter"
	"time"
)

// contestant is a proxy that was started, and what its runs came to.
type contestant struct {
	proxy
	proc *process // nil for the function itself
	url  string
	runs []result
}

// compare prints the table of one case. The proxies run side by side and take turns under load: a machine's
// speed changes from one minute to the next. A proxy that waits costs nothing.
func (b *bench) compare(ctx context.Context, c testCase, function *process) (err error) {
	var contestants []*contestant
	defer func() {
		for _, k := range contestants {
			if k.proc != nil {
				k.proc.stop()
			}
		}
	}()
	var missing []string
	for _, p := range proxies {
		if b.only != nil && !b.only[p.name] || p.shortOnly && c.name != "reply12" || p.plainOnly && b.protocol.name != "http1" {
			continue
		}
		k, err := b.enter(ctx, p, c, function)
		if errors.Is(err, exec.ErrNotFound) {
			missing = append(missing, p.name)
			continue
		}
		if err != nil {
			return fmt.Errorf("starting %s: %w", p.name, err)
		}
		contestants = append(contestants, k)
		if _, err := b.load(ctx, k.url, c, time.Second, k.proc, function); err != nil { // warm-up
			return fmt.Errorf("measuring %s: %w", p.name, err)
		}
	}
	for range b.rounds {
		for _, k := range contestants {
			r, err := b.load(ctx, k.url, c, b.time, k.proc, function)
			if err != nil {
				return fmt.Errorf("measuring %s: %w", k.name, err)
			}
			k.runs = append(k.runs, r)
		}
	}
	fmt.Printf("\n%s, %s, %d connections, medians of %d runs of %s\n", c.title, b.protocol.name, b.connections, b.rounds, b.time)
	return table(contestants, missing)
}

// enter starts a proxy.
func (b *bench) enter(ctx context.Context, p proxy, c testCase, function *process) (*contestant, error) {
	k := &contestant{proxy: p, url: b.protocol.scheme() + function.address + c.path}
	if p.start == nil {
		return k, nil
	}
	var err error
	if k.proc, err = p.start(ctx, b, function.address); err != nil {
		return nil, err
	}
	k.url = b.protocol.scheme() + k.proc.address + p.prefix + c.path
	return k, nil
}

// table prints medians. A ratio is the median of the rounds' own, as the two runs of one round had the same weather.
func table(contestants []*contestant, missing []string) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "proxy\treq/s\tp50 ms\tp99 ms\t× haproxy\tCPU µs/req\t× haproxy\tfunction µs/req\terrors\t")
	var reference []result
	if i := slices.IndexFunc(contestants, func(k *contestant) bool { return k.name == "haproxy" }); i >= 0 {
		reference = contestants[i].runs
	}
	cpu, p99 := func(r result) float64 { return r.cpu }, func(r result) float64 { return r.p99 }
	for _, k := range contestants {
		errors := 0
		for _, r := range k.runs {
			errors += r.errors
		}
		fmt.Fprintf(out, "%s\t%.0f\t%.2f\t%.2f\t%s\t%.1f\t%s\t%.1f\t%d\t\n", k.name, median(k.runs, func(r result) float64 { return r.rate }),
			median(k.runs, func(r result) float64 { return r.p50 }), median(k.runs, p99), ratio(k.runs, reference, p99),
			median(k.runs, cpu), ratio(k.runs, reference, cpu), median(k.runs, func(r result) float64 { return r.functionCPU }), errors)
	}
	for _, name := range missing {
		fmt.Fprintf(out, "%s\tnot installed\t\t\t\t\t\t\t\t\n", name)
	}
	return out.Flush()
}

func median(runs []result, figure func(result) float64) float64 {
	figures := make([]float64, len(runs))
	for i, r := range runs {
		figures[i] = figure(r)
	}
	return middle(figures)
}

// ratio is how many times the reference's figure a proxy's is; empty if there is nothing to compare.
func ratio(runs, reference []result, figure func(result) float64) string {
	var ratios []float64
	for i := range min(len(runs), len(reference)) {
		if of := figure(reference[i]); of > 0 && figure(runs[i]) > 0 {
			ratios = append(ratios, figure(runs[i])/of)
		}
	}
	if len(ratios) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", middle(ratios))
}

func middle(figures []float64) float64 {
	slices.Sort(figures)
	return figures[len(figures)/2]
}
