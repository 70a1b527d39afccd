package drain

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

// BenchmarkDrain moves 2,000 new votes per round from a real Redis through decoding and folding into a real Postgres.
func BenchmarkDrain(b *testing.B) {
	for name, fresh := range map[string]bool{"new voters": true, "changed votes": false} {
		b.Run(name, func(b *testing.B) {
			const batch = 2000
			bench, r := newBench(b), harness.Redis(b)
			c := capture(b, r)
			d := bench.worker("w", func(d *Drain) { d.cfg.BatchSize = batch }, r)
			s := newDrainer(d, r.Addr())
			b.Cleanup(func() { _ = s.source.close() })
			ctx := b.Context()
			inc, node, err := s.source.identify(ctx)
			if err != nil {
				b.Fatalf("identifying: %v", err)
			}
			if s.state, err = s.tally.Register(ctx, node, inc); err != nil {
				b.Fatalf("registering: %v", err)
			}
			s.inc, s.node = inc, node
			b.ReportAllocs()
			round := 0
			var ours time.Duration
			postgres := bench.db.CPU()
			for b.Loop() {
				b.StopTimer()
				votes := crowd(round*batch, batch)
				if !fresh {
					votes = crowd(0, batch)
				}
				for i := range votes {
					votes[i].seq, votes[i].choice = int64(round), 1+(i+round)%3
					votes[i].voter = int(uint64(votes[i].voter+1) * 0x9e3779b97f4a7c15 >> 1) // voters come in no order
				}
				cast(b, c, votes...)
				round++
				before := cpu(b)
				b.StartTimer()
				l, err := s.nextReading(ctx)
				if err == nil {
					seen, _ := s.reconcile(l)
					err = s.count(ctx, seen, l.entries)
				}
				if err != nil || len(l.entries) != batch {
					b.Fatalf("counting %d entries: %v", len(l.entries), err)
				}
				b.StopTimer()
				ours += cpu(b) - before
				b.StartTimer()
			}
			postgres = bench.db.CPU() - postgres
			b.ReportMetric(float64(ours.Nanoseconds())/float64(round*batch), "worker-cpu-ns/vote")
			b.ReportMetric(float64(postgres.Nanoseconds())/float64(round*batch), "postgres-cpu-ns/vote")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(round*batch), "ns/vote")
			if got := bench.db.SQL(`SELECT sum(n) FROM drain_stream`); got != fmt.Sprint(round*batch) {
				b.Fatalf("counted %s entries, want %d", got, round*batch)
			}
		})
	}
}

// cpu is the processor time this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatalf("reading the processor time: %v", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFold is the worker's own share: decode, validate and fold one batch.
func BenchmarkFold(b *testing.B) {
	polls := testPolls(b)
	var entries []entry
	for i, v := range crowd(0, 2000) {
		e := entry{id: idOf(i + 1), at: streamID{1, uint64(i + 1)}}
		for _, f := range v.fields() {
			e.fields = append(e.fields, f.(string))
		}
		entries = append(entries, e)
	}
	b.ReportAllocs()
	var batch store.Batch
	for b.Loop() {
		batch = fold(1, polls, entries, "")
	}
	if len(batch.Votes) != 2000 {
		b.Fatalf("folded to %d votes, want 2000", len(batch.Votes))
	}
}
