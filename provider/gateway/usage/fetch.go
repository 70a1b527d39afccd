package usage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	// maxPage bounds what is read of one replica's answer. A watchdog's has a few KiB.
	maxPage = 1 << 20
	// maxLine bounds a line that is parsed; ours have less than 100 bytes.
	maxLine = 4 << 10
)

// errNoFigures means that a replica shows metrics of which none says what it consumes.
var errNoFigures = errors.New("no CPU and memory figures")

// sample is what a replica has used of the processors up to a time, in seconds, and its memory then, in bytes.
type sample struct {
	at          time.Time
	cpu, memory float64
}

// since is the average use of processors between two samples, in thousandths. Ok is false without a sample before, or
// if its counter has restarted.
func (s sample) since(before sample) (milliCPU float64, ok bool) {
	elapsed := s.at.Sub(before.at)
	if before.at.IsZero() || elapsed <= 0 || s.cpu < before.cpu {
		return 0, false
	}
	return (s.cpu - before.cpu) / elapsed.Seconds() * 1000, true
}

// fetcher reads metrics over HTTP.
type fetcher struct {
	port    string
	timeout time.Duration
	http    *http.Client
}

func newFetcher(config Config) *fetcher {
	return &fetcher{port: strconv.Itoa(config.Port), timeout: config.Timeout, http: &http.Client{
		// Connections are not kept: each would cost some 20 KiB for ten seconds to save what a new one costs, 0.1 ms. And a
		// page that is compressed could be of any size.
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
			DialContext: (&net.Dialer{}).DialContext},
		// A replica may not send us elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// fetch takes a sample from the replica that serves at an address, or gives errNoFigures.
func (f *fetcher) fetch(ctx context.Context, address string) (sample, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return sample{}, fmt.Errorf("reading usage of %s: %w", address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, f.port)+"/metrics", nil)
	if err != nil {
		return sample{}, fmt.Errorf("reading usage of %s: %w", address, err)
	}
	response, err := f.http.Do(request)
	if err != nil {
		return sample{}, fmt.Errorf("reading usage of %s: %w", address, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return sample{}, fmt.Errorf("reading usage of %s: it answers %s", address, response.Status)
	}
	at := time.Now()
	cpu, memory, err := parse(io.LimitReader(response.Body, maxPage))
	if err != nil {
		return sample{}, fmt.Errorf("reading usage of %s: %w", address, err)
	}
	return sample{at: at, cpu: cpu, memory: memory}, nil
}

// Names of the figures. The container's own, under cAdvisor's names, count everything that runs in it. A process's,
// under the names of Prometheus' clients, are the whole only where the function is that process. A watchdog, which
// shows how many requests are in flight, would report itself and not the function that it has started.
const (
	containerCPU    = "container_cpu_usage_seconds_total"
	containerMemory = "container_memory_working_set_bytes"
	processCPU      = "process_cpu_seconds_total"
	processMemory   = "process_resident_memory_bytes"
	watchdogMark    = "http_requests_in_flight"
)

// parse looks for the figures in Prometheus' text format, or gives errNoFigures. A line that was not read to its end
// does not count: half a number is another number.
func parse(page io.Reader) (cpu, memory float64, err error) {
	found := map[string]float64{}
	in := bufio.NewReaderSize(page, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err == nil:
			if name, value, ok := parseLine(line); ok {
				if _, twice := found[name]; !twice {
					found[name] = value
				}
			}
		case errors.Is(err, bufio.ErrBufferFull):
			if err := skipLine(in); err != nil {
				return figures(found, err)
			}
		default:
			return figures(found, err)
		}
	}
}

// figures chooses among what was found by the end of a page.
func figures(found map[string]float64, end error) (cpu, memory float64, err error) {
	if !errors.Is(end, io.EOF) {
		return 0, 0, end
	}
	pairs := [][2]string{{containerCPU, containerMemory}, {processCPU, processMemory}}
	if _, watchdog := found[watchdogMark]; watchdog {
		pairs = pairs[:1]
	}
	for _, names := range pairs {
		cpu, hasCPU := found[names[0]]
		memory, hasMemory := found[names[1]]
		if hasCPU && hasMemory {
			return cpu, memory, nil
		}
	}
	return 0, 0, errNoFigures
}

func skipLine(in *bufio.Reader) error {
	for {
		if _, err := in.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// parseLine reads `name{labels} value time`, of which labels and time may be missing, if the name is one looked for.
func parseLine(line []byte) (name string, value float64, ok bool) {
	end := bytes.IndexAny(line, "{ \t")
	if end < 0 {
		return "", 0, false
	}
	switch string(line[:end]) {
	case containerCPU, containerMemory, processCPU, processMemory, watchdogMark:
	default:
		return "", 0, false
	}
	rest := line[end:]
	if rest[0] == '{' { // a label's value may hold a brace, a number cannot
		rest = rest[bytes.LastIndexByte(rest, '}')+1:]
	}
	fields := bytes.Fields(rest)
	if len(fields) < 1 || len(fields) > 2 {
		return "", 0, false
	}
	value, err := strconv.ParseFloat(string(fields[0]), 64)
	if err != nil || math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
		return "", 0, false
	}
	return string(line[:end]), value, true
}
