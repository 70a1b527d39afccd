package usage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// serveEnv makes the test binary a replica's metrics port, whose address it prints: what serves must not be counted as
// what reads.
const serveEnv = "WAGGLE_USAGE_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, watchdogPage) }))
}

// watchdogPage is of the kind and length that a function's watchdog shows.
var watchdogPage = "http_requests_in_flight 0\n" + strings.Repeat("http_request_duration_seconds_bucket{code=\"200\",method=\"GET\",le=\"0.005\"} 17\n", 40) +
	"container_cpu_usage_seconds_total 1.5\ncontainer_memory_working_set_bytes 4096\n"

func TestParse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		page        string
		cpu, memory float64
		none        bool
	}{
		"a watchdog of ours":          {page: watchdogPage, cpu: 1.5, memory: 4096},
		"labels and times":            {page: "container_cpu_usage_seconds_total{id=\"/\",x=\"}\"} 2 1700000000000\ncontainer_memory_working_set_bytes\t{a=\"b\"} 1e6\n", none: true},
		"labels":                      {page: "container_cpu_usage_seconds_total{id=\"/\",x=\"} 7\"} 2 1700000000000\ncontainer_memory_working_set_bytes{a=\"b\"} 1e6\n", cpu: 2, memory: 1e6},
		"a client of Prometheus":      {page: "process_cpu_seconds_total 3.25\nprocess_resident_memory_bytes 1.0485e+07\n", cpu: 3.25, memory: 10485000},
		"a watchdog tells of itself":  {page: "http_requests_in_flight 0\nprocess_cpu_seconds_total 3\nprocess_resident_memory_bytes 1\n", none: true},
		"the container goes first":    {page: "process_cpu_seconds_total 3\nprocess_resident_memory_bytes 3\ncontainer_cpu_usage_seconds_total 1\ncontainer_memory_working_set_bytes 2\n", cpu: 1, memory: 2},
		"one figure alone":            {page: "container_cpu_usage_seconds_total 1\nprocess_resident_memory_bytes 3\n", none: true},
		"no number":                   {page: "container_cpu_usage_seconds_total NaN\ncontainer_memory_working_set_bytes -1\n", none: true},
		"cut off in a number":         {page: "container_cpu_usage_seconds_total 1\ncontainer_memory_working_set_bytes 40", none: true},
		"a long line before":          {page: strings.Repeat("x", 3*maxLine) + "\n" + watchdogPage, cpu: 1.5, memory: 4096},
		"nothing":                     {none: true},
		"a name that begins the same": {page: "container_cpu_usage_seconds_total_x 1\ncontainer_memory_working_set_bytes 2\n", none: true},
	} {
		cpu, memory, err := parse(strings.NewReader(test.page))
		if test.none != errors.Is(err, errNoFigures) || !test.none && (err != nil || cpu != test.cpu || memory != test.memory) {
			t.Errorf("%s: got %g and %g, %v; want %g and %g", name, cpu, memory, err, test.cpu, test.memory)
		}
	}
}

// replicaAt serves a handler and gives the address under which a table would have it.
func replicaAt(t *testing.T, handler http.HandlerFunc) (address string, config Config) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return "127.0.0.1:8080", Config{Port: listener.Addr().(*net.TCPAddr).Port, Timeout: 10 * time.Second}
}

func TestFetch(t *testing.T) {
	t.Parallel()
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := fmt.Fprint(w, strings.Repeat("x", 1<<10)); err != nil {
				return
			}
		}
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		fails   bool
	}{
		"metrics":            {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, watchdogPage) }, false},
		"a page without end": {endless, true},
		"no such page":       {http.NotFound, true},
		"a way to other hosts": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, config := replicaAt(t, test.handler)
			s, err := newFetcher(config).fetch(t.Context(), address)
			if (err != nil) != test.fails || !test.fails && (s.cpu != 1.5 || s.memory != 4096 || s.at.IsZero()) {
				t.Errorf("got %+v, %v", s, err)
			}
		})
	}
}

func TestFetchEndsWithItsTime(t *testing.T) {
	t.Parallel()
	address, config := replicaAt(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	config.Timeout = 20 * time.Millisecond
	if _, err := newFetcher(config).fetch(t.Context(), address); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := newFetcher(config).fetch(t.Context(), "no address"); err == nil {
		t.Error("an address that is none was asked")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(watchdogPage))
	f.Add([]byte("container_cpu_usage_seconds_total{a=\"}\"} 1e999\ncontainer_memory_working_set_bytes 0x1p2 3\n"))
	f.Add([]byte("process_cpu_seconds_total 1\nprocess_resident_memory_bytes 2"))
	f.Fuzz(func(t *testing.T, page []byte) {
		cpu, memory, err := parse(strings.NewReader(string(page)))
		if err != nil && !errors.Is(err, errNoFigures) {
			t.Errorf("%q: %v", page, err)
		}
		if !(cpu >= 0 && cpu <= 1e308) || !(memory >= 0 && memory <= 1e308) {
			t.Errorf("%q: %g and %g", page, cpu, memory)
		}
	})
}

// BenchmarkThousandReplicas reads a thousand replicas once, as a gateway does each ten seconds. It reports the
// gateway's processor time: cpu-ms per round.
func BenchmarkThousandReplicas(b *testing.B) {
	replicas := exec.Command(os.Args[0])
	replicas.Env = append(os.Environ(), serveEnv+"=1")
	out, err := replicas.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := replicas.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = replicas.Process.Kill(); _ = replicas.Wait() }()
	line := make([]byte, 16)
	n, err := out.Read(line)
	if err != nil {
		b.Fatal(err)
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		b.Fatal(err)
	}
	f := newFetcher(Config{Port: port, Timeout: 10 * time.Second})
	before := processorTime(b)
	for b.Loop() {
		for i := range 1000 {
			if _, err := f.fetch(b.Context(), fmt.Sprintf("127.1.%d.%d:8080", i/250, 1+i%250)); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(time.Millisecond)/float64(b.N), "cpu-ms/round")
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
