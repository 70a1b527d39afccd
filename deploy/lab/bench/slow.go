package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// trickleEvery is the time between two bytes of a slow client.
const trickleEvery = time.Second

// maxSlowRun is below the time that the gateway gives a request's head: the slow clients last as long as the run.
const maxSlowRun = 8 * time.Second

// measureSlow prints how a load is served while slow clients trickle their requests beside it. Runs with and without
// them alternate, and the medians count, since the machine's own noise would be taken for an effect otherwise.
func (b *bench) measureSlow(ctx context.Context, function *process) error {
	gateway := proxies[slices.IndexFunc(proxies, func(p proxy) bool { return p.name == "waggle" })]
	proc, err := gateway.start(ctx, b, function.address)
	if err != nil {
		return err
	}
	defer proc.stop()
	run := *b
	run.time = min(b.time, maxSlowRun)
	url := "http://" + proc.address + gateway.prefix + "/"
	if _, err := run.load(ctx, url, testCase{}, time.Second, proc, function); err != nil { // warm-up
		return err
	}
	var without, with []result
	for range max(b.rounds, 3) {
		r, err := run.load(ctx, url, testCase{}, run.time, proc, function)
		if err != nil {
			return err
		}
		without = append(without, r)
		stop, err := trickle(ctx, b.slow, proc.address)
		if err != nil {
			return err
		}
		r, err = run.load(ctx, url, testCase{}, run.time, proc, function)
		stop()
		if err != nil {
			return err
		}
		with = append(with, r)
	}
	alone, beside := medianP99(without), medianP99(with)
	fmt.Printf("\n%d clients that send a byte every %s, beside %d connections: p99 %.2f ms, %.2f ms without them (× %.2f); %.0f req/s, %.0f without; %d errors\n",
		b.slow, trickleEvery, b.connections, beside.p99, alone.p99, beside.p99/alone.p99, beside.rate, alone.rate, beside.errors)
	return nil
}

func medianP99(runs []result) result {
	slices.SortFunc(runs, func(x, y result) int { return cmp.Compare(x.p99, y.p99) })
	return runs[len(runs)/2]
}

// trickle opens connections that send a request byte by byte, slowly, until stop is called. They take turns, because
// real ones would not be in step either.
func trickle(ctx context.Context, connections int, address string) (stop func(), err error) {
	conns := make([]net.Conn, connections)
	for i := range conns {
		if conns[i], err = (&net.Dialer{}).DialContext(ctx, "tcp", address); err != nil {
			return nil, fmt.Errorf("opening slow connection %d: %w", i, err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		const head = "GET /function/hello HTTP/1.1\r\nHost: slow\r\n"
		const steps = 100
		tick := time.NewTicker(trickleEvery / steps)
		defer tick.Stop()
		for n := 0; ; n++ {
			for i := n % steps; i < len(conns); i += steps {
				_, _ = conns[i].Write([]byte{head[n/steps%len(head)]}) // one that was closed has nothing to say any more
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		group.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	}, nil
}
