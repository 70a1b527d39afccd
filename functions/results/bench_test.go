package results

import (
	"bufio"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
)

var (
	benchVotes    = flag.Int("votes", 10_000, "how many votes are in Postgres in the benchmarks")
	benchWatchers = flag.Int("watchers", 100, "how many watchers BenchmarkWatchers has, on four replicas")
	benchTime     = flag.Duration("watch", 3*time.Second, "how long they watch")
)

// fillLarge makes a poll of eight options with votes from four nodes over two hours.
func fillLarge(b *testing.B, d *harness.Database) {
	b.Helper()
	fill(b, d)
	d.SQL(fmt.Sprintf(`SET synchronous_commit = off; TRUNCATE tally; ALTER TABLE vote DROP CONSTRAINT vote_pkey; INSERT INTO tally SELECT 1, c, s, %d / 128 FROM generate_series(1, 8) c, generate_series(0, 15) s;
		INSERT INTO drain_stream (node, inc, n, added) SELECT 'more' || n, gen_random_uuid(), 9, 9 FROM generate_series(1, 2) n;
		INSERT INTO poll_entries SELECT 1, s, 1000 FROM generate_series(1, 4) s;
		INSERT INTO turnout SELECT 1, extract(epoch FROM now())::bigint / 60 - m, s, 1000 FROM generate_series(0, 119) m, generate_series(1, 4) s;
		INSERT INTO vote SELECT 1, gen_random_uuid(), 1 + n %% 8, NULL, 1, n, gen_random_uuid() FROM generate_series(1, %[1]d) n;
		ALTER TABLE vote ADD PRIMARY KEY (poll, voter); ANALYZE`, *benchVotes))
}

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for wrong arguments only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkView reads the count and renders the page, with nothing cached: the most that a second costs all replicas together.
func BenchmarkView(b *testing.B) {
	d := harness.PostgresAlone(b)
	fillLarge(b, d)
	h := setup(b, d)
	<-h.first
	s, err := dial(b.Context(), h.receipts.pool.Config().ConnConfig, h.polls)
	if err != nil {
		b.Fatal(err)
	}
	defer s.close()
	h.end() // its own readings are not ours
	h.watch.Wait()
	postgres, ours := d.CPU(), used()
	for b.Loop() {
		c, err := s.read(b.Context(), time.Now())
		if err != nil {
			b.Fatal(err)
		}
		v, err := newView(newReport(h.polls, c, time.Now(), false), h.links, nil)
		if err != nil {
			b.Fatal(err)
		}
		if page, err := v.render(variant{format: formatHTML, lang: languages[0]}); err != nil || len(page) < 5000 {
			b.Fatalf("a page of %d bytes, %v", len(page), err)
		}
	}
	b.ReportMetric(float64((d.CPU()-postgres).Microseconds())/float64(b.N)/1000, "postgres-cpu-ms/op")
	b.ReportMetric(float64((used()-ours).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
}

// BenchmarkWatchers lets watchers follow four replicas while votes come in, and counts what Postgres is asked.
func BenchmarkWatchers(b *testing.B) {
	d := harness.PostgresAlone(b)
	fillLarge(b, d)
	var servers []*httptest.Server
	for range 4 {
		h := setup(b, d)
		<-h.first
		servers = append(servers, httptest.NewServer(h))
	}
	scans := func() int64 {
		// Each reading looks once into this table, and nobody else does.
		n, err := strconv.ParseInt(d.SQL(`SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'drain_check'`), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	for b.Loop() {
		var group sync.WaitGroup
		var events, failed sync.Map
		end := time.Now().Add(4*time.Second + *benchTime)
		for i := range *benchWatchers {
			group.Go(func() {
				n := 0
				for time.Now().Before(end) {
					answer, err := http.Get(servers[i%4].URL + "/?format=events")
					if err != nil || answer.StatusCode != 200 {
						failed.Store(i, err)
						return
					}
					lines := bufio.NewScanner(answer.Body)
					lines.Buffer(nil, 1<<20)
					for lines.Scan() && time.Now().Before(end) {
						if len(lines.Bytes()) > 0 {
							n++
						}
					}
					answer.Body.Close()
				}
				events.Store(i, n)
			})
		}
		d.SQL(`SELECT pg_sleep(4)`) // until one replica reads for all, and what was counted before is told
		before, cpu, postgres, began := scans(), used(), d.CPU(), time.Now()
		for time.Now().Before(end) {
			d.SQL(`UPDATE tally SET n = n + 1 WHERE poll = 1 AND choice = 1 AND shard = 0; SELECT pg_sleep(0.2)`)
		}
		seconds := time.Since(began).Seconds()
		b.ReportMetric(float64(scans()-before)/seconds, "queries/s")
		b.ReportMetric(float64((used()-cpu).Microseconds())/1000/seconds, "cpu-ms/s")
		b.ReportMetric(float64((d.CPU()-postgres).Microseconds())/1000/seconds, "postgres-cpu-ms/s")
		group.Wait()
		total := 0
		events.Range(func(_, n any) bool { total += n.(int); return true })
		failed.Range(func(i, err any) bool { b.Errorf("watcher %v: %v", i, err); return false })
		b.ReportMetric(float64(total)/float64(*benchWatchers)/seconds, "events/watcher/s")
	}
	for _, s := range servers {
		s.CloseClientConnections()
		s.Close()
	}
}
