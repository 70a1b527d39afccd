package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// testCase is one kind of request.
type testCase struct {
	name, title, path string
	script            string // for wrk
	body              int    // for h2load
}

var allCases = []testCase{
	{name: "reply12", title: "GET, 12-byte reply", path: "/"},
	{name: "reply64k", title: "GET, 64 KiB reply", path: "/64k"},
	{name: "post64k", title: "POST of 64 KiB, 12-byte reply", path: "/",
		script: "wrk.method = 'POST'\nwrk.body = string.rep('x', 65536)\n", body: 64 << 10},
}

// result is what one run came to.
type result struct {
	rate, p50, p99   float64 // requests per second; milliseconds
	cpu, functionCPU float64 // microseconds per request
	errors           int
}

// load makes load once and sets the count of requests against the CPU time that the processes used meanwhile.
func (b *bench) load(ctx context.Context, url string, c testCase, length time.Duration, proc, function *process) (result, error) {
	before, beforeFunction := proc.cpu(), function.cpu()
	run := b.loadHTTP1
	if b.protocol.http2 {
		run = b.loadHTTP2
	}
	r, n, err := run(ctx, url, c, length)
	if err == nil && n > 0 {
		r.cpu = float64((proc.cpu() - before).Microseconds()) / n
		r.functionCPU = float64((function.cpu() - beforeFunction).Microseconds()) / n
	}
	return r, err
}

// loadHTTP1 runs wrk once.
func (b *bench) loadHTTP1(ctx context.Context, url string, c testCase, length time.Duration) (result, float64, error) {
	args := []string{"-t1", "-c", strconv.Itoa(b.connections), "-d", strconv.Itoa(int(length.Seconds())) + "s", "--latency"}
	if c.script != "" {
		path := filepath.Join(b.dir, c.name+".lua")
		if err := os.WriteFile(path, []byte(c.script), 0o600); err != nil {
			return result{}, 0, fmt.Errorf("writing wrk's script: %w", err)
		}
		args = append(args, "-s", path)
	}
	command := slices.Concat(b.from, []string{"wrk"}, args, []string{url})
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return result{}, 0, fmt.Errorf("running wrk: %w: %s", err, out)
	}
	return parse(string(out))
}

var (
	reRequests = regexp.MustCompile(`(\d+) requests in`)
	reRate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	reP50      = regexp.MustCompile(`50%\s+([\d.]+)(us|ms|s)`)
	reP99      = regexp.MustCompile(`99%\s+([\d.]+)(us|ms|s)`)
	reNon2xx   = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	reSocket   = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
)

// parse reads wrk's report, and how many requests it is about.
func parse(out string) (r result, n float64, err error) {
	m := reRequests.FindStringSubmatch(out)
	rate := reRate.FindStringSubmatch(out)
	if m == nil || rate == nil {
		return r, 0, fmt.Errorf("wrk said nothing that can be read: %s", out)
	}
	n, _ = strconv.ParseFloat(m[1], 64)
	r.rate, _ = strconv.ParseFloat(rate[1], 64)
	r.p50, r.p99 = millis(reP50.FindStringSubmatch(out)), millis(reP99.FindStringSubmatch(out))
	for _, m := range [][]string{reNon2xx.FindStringSubmatch(out), reSocket.FindStringSubmatch(out)} {
		for i := 1; i < len(m); i++ {
			k, _ := strconv.Atoi(m[i])
			r.errors += k
		}
	}
	return r, n, nil
}

func millis(m []string) float64 {
	if m == nil {
		return 0
	}
	v, _ := strconv.ParseFloat(m[1], 64)
	return v * map[string]float64{"us": 0.001, "ms": 1, "s": 1000}[m[2]]
}

// tick is USER_HZ, which Linux fixes at 100 for all programs.
const tick = 10 * time.Millisecond

// cpu is the CPU time of the process and its children that run now.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	s, _ := readStat(p.cmd.Process.Pid)
	total := s.own
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid))
	for _, f := range strings.Fields(string(children)) {
		if pid, err := strconv.Atoi(f); err == nil {
			s, _ := readStat(pid)
			total += s.own
		}
	}
	return total
}

// stat is what the kernel says of a process; children is the time of those that ended and were waited for.
type stat struct {
	name          string
	parent        int
	own, children time.Duration
}

// readStat reports false for a process that is gone.
func readStat(pid int) (s stat, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, false
	}
	// The command's name, field 2, is in parentheses and may hold spaces and parentheses. Field 4 is the parent,
	// fields 14 to 17 are utime, stime, cutime and cstime (proc(5)).
	_, rest, _ := strings.Cut(string(text), "(")
	end := strings.LastIndexByte(rest, ')')
	if end < 0 {
		return s, false
	}
	f := strings.Fields(rest[end+1:])
	if len(f) < 15 {
		return s, false
	}
	number := func(field int) int { n, _ := strconv.Atoi(f[field-3]); return n }
	return stat{name: rest[:end], parent: number(4), own: time.Duration(number(14)+number(15)) * tick,
		children: time.Duration(number(16)+number(17)) * tick}, true
}

// rss is the resident memory of the process in bytes.
func (p *process) rss() int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kb << 10
		}
	}
	return 0
}
