package liveness

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// part is what a check asks and looks at, at moments counted from the start of the test.
type part struct {
	begin time.Time
	// hangs are the times within which a question is left unanswered; refuses has it refused instead.
	hangs   [][2]time.Duration
	refuses bool
	// works says of how many looks in ten the processes are at work.
	works int

	asked, looked int
	past          past
}

func (p *part) load() past   { return p.past }
func (p *part) store(s past) { p.past = s }

func (p *part) ask(ctx context.Context) error {
	p.asked++
	for _, hang := range p.hangs {
		at := time.Since(p.begin)
		if at < hang[0] || at >= hang[1] {
			continue
		}
		if p.refuses {
			return errors.New("refused")
		}
		select {
		case <-time.After(hang[1] - at):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (p *part) atWork() bool {
	p.looked++
	return p.looked%10 < p.works
}

func (p *part) check() error {
	return check{ask: p.ask, atWork: p.atWork, memory: p}.run(context.Background())
}

const forever = 1000 * time.Hour

func TestOneCheck(t *testing.T) {
	t.Parallel()
	from := func(from, to time.Duration) [][2]time.Duration { return [][2]time.Duration{{from, to}} }
	for name, tc := range map[string]struct {
		part   part
		past   past
		fails  string
		takes  time.Duration // at least, and a second more at most
		leaves past
	}{
		"the first answer ends the check":             {part{}, silent, "", 0, answered},
		"a late first answer does too":                {part{hangs: from(0, 3*time.Second)}, silent, "", 3 * time.Second, answered},
		"a start refused for a while is seen at once": {part{hangs: from(0, 3*time.Second), refuses: true}, silent, "", 3 * time.Second, answered},
		"a start at work is waited for":               {part{hangs: from(0, 100*time.Second), works: 10}, silent, "", 100 * time.Second, answered},
		"a start asleep fails":                        {part{hangs: from(0, forever)}, silent, "no answer", 4 * time.Second, silent},
		"a start that refuses fails with its reason":  {part{hangs: from(0, forever), refuses: true}, silent, "refused", 4 * time.Second, silent},
		"a start at work for ever fails in the end":   {part{hangs: from(0, forever), works: 10}, silent, "no first answer", lingerFor, silent},
		"later checks go on":                          {part{}, answered, "", lingerFor, answered},
		"a hang ends a later check":                   {part{hangs: from(60*time.Second, forever)}, answered, "no answer", 82 * time.Second, failed},
		"a refusal ends a later check":                {part{hangs: from(60*time.Second, forever), refuses: true}, answered, "refused", 82 * time.Second, failed},
		"background work is a hang":                   {part{hangs: from(60*time.Second, forever), works: 4}, answered, "44 of 110 looks", 82 * time.Second, failed},
		"work at half the looks is slow":              {part{hangs: from(60*time.Second, forever), works: 5}, answered, "", lingerFor, answered},
		"a hang shorter than the looks is nothing":    {part{hangs: from(60*time.Second, 80*time.Second)}, answered, "", lingerFor, answered},
		"after a failure an answer ends the check":    {part{}, failed, "", 0, answered},
		"after a failure work ends the check":         {part{hangs: from(0, forever), works: 10}, failed, "", time.Second, answered},
		"after a failure a hang fails again":          {part{hangs: from(0, forever)}, failed, "no answer", time.Second, failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := tc.part
				p.begin, p.past = time.Now(), tc.past
				err := p.check()
				took := time.Since(p.begin)
				if (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("check = %v, want %q", err, tc.fails)
				}
				if took < tc.takes || took > tc.takes+askEvery+time.Second {
					t.Errorf("it took %s, want %s", took, tc.takes)
				}
				if p.past != tc.leaves {
					t.Errorf("it leaves %q, want %q", p.past, tc.leaves)
				}
			})
		})
	}
}

// replaced is an engine: it runs a check a second after the one before and gives the container up after five failures in
// a row. It returns when, or 0 if it never does within an hour.
func replaced(p *part) time.Duration {
	p.begin = time.Now()
	for streak := 0; time.Since(p.begin) < time.Hour; {
		time.Sleep(time.Second)
		if p.check() == nil {
			streak = 0
		} else if streak++; streak == 5 {
			return time.Since(p.begin)
		}
	}
	return 0
}

func TestWhatTheEngineMakesOfIt(t *testing.T) {
	t.Parallel()
	stops := func(stop, run time.Duration) (hangs [][2]time.Duration) {
		for at := 10 * time.Second; at < time.Hour; at += stop + run {
			hangs = append(hangs, [2]time.Duration{at, at + stop})
		}
		return hangs
	}
	for name, tc := range map[string]struct {
		hangs    [][2]time.Duration
		works    int
		min, max time.Duration
	}{
		"healthy":                      {},
		"stopped for good":             {hangs: [][2]time.Duration{{100 * time.Second, forever}}, min: 130 * time.Second, max: 135 * time.Second},
		"stopped 20 s, runs 0.1 s":     {hangs: stops(20*time.Second, 100*time.Millisecond)},
		"stopped 20 s, runs 1 s":       {hangs: stops(20*time.Second, time.Second)},
		"stopped 20 s, runs 7 s":       {hangs: stops(20*time.Second, 7*time.Second)},
		"stopped 20 s, runs 20 s":      {hangs: stops(20*time.Second, 20*time.Second)},
		"late by 5 minutes, but works": {hangs: stops(5*time.Minute, time.Second), works: 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				if at := replaced(&part{hangs: tc.hangs, works: tc.works}); at < tc.min || at > tc.max {
					t.Errorf("given up after %s, want %s to %s", at, tc.min, tc.max)
				}
			})
		})
	}
}

// A check that is started late, or runs late, must not count its own lateness: here every look comes 30 s late.
func TestAStarvedCheckForgivesItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &part{begin: time.Now(), past: answered, hangs: [][2]time.Duration{{0, 5 * time.Minute}}}
		c := check{ask: p.ask, memory: p, atWork: func() bool { time.Sleep(30 * time.Second); return false }}
		if err := c.run(t.Context()); err != nil {
			t.Errorf("check = %v after %d looks in %s", err, p.looked, time.Since(p.begin))
		}
	})
}

func TestAnHTTPServerIsAsked(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_/health" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for name, tc := range map[string]struct {
		ctx           context.Context
		address, path string
		want          int
		answered      bool
	}{
		"200":                {t.Context(), server.Listener.Addr().String(), "/_/health", 200, true},
		"503, any will do":   {t.Context(), server.Listener.Addr().String(), "/x", 0, true},
		"503, 200 is wanted": {t.Context(), server.Listener.Addr().String(), "/x", 200, false},
		"nobody listens":     {t.Context(), "127.0.0.1:1", "/_/health", 0, false},
		"no answer":          {soon, silent.Addr().String(), "/_/health", 0, false},
	} {
		if err := HTTP(tc.address, tc.path, tc.want)(tc.ctx); (err == nil) != tc.answered {
			t.Errorf("%s: %v, want an answer: %t", name, err, tc.answered)
		}
	}
}

func TestThreadStates(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]byte{
		"1 (handler) S 0 1 1": 'S', "7 (a) R (b) D 0 1 1": 'D', "7 () R 0": 'R', "7 (x)": 0, "7 (x) ": 0, "": 0,
	} {
		if got := threadState([]byte(stat)); got != want {
			t.Errorf("%q is in state %q, want %q", stat, got, want)
		}
	}
}

// The kernel is the authority on states: a process that computes, one that sleeps and one that is stopped.
func TestStatesOfRealProcesses(t *testing.T) {
	t.Parallel()
	stats := func(script string) (glob string, kill func()) {
		command := exec.Command("sh", "-c", script)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		return filepath.Join("/proc", strconv.Itoa(command.Process.Pid), "task/[0-9]*/stat"), func() {
			_ = command.Process.Signal(syscall.SIGKILL)
			_ = command.Wait()
		}
	}
	for name, tc := range map[string]struct {
		script string
		atWork bool
	}{
		"computes": {"while :; do :; done", true},
		"sleeps":   {"exec sleep 1000", false},
		"stopped":  {"kill -STOP $$; while :; do :; done", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			glob, kill := stats(tc.script)
			defer kill()
			for atWork(glob, "none") != tc.atWork { // it takes a moment to get there
				runtime.Gosched()
			}
		})
	}
}

func TestTheMarkerKeepsThePast(t *testing.T) {
	t.Parallel()
	m := markerFile(filepath.Join(t.TempDir(), "marker"))
	if got := m.load(); got != silent {
		t.Errorf("new: %q", got)
	}
	for _, p := range []past{answered, failed, answered} {
		if m.store(p); m.load() != p {
			t.Errorf("stored %q, loaded %q", p, m.load())
		}
	}
	nowhere := markerFile(filepath.Join(t.TempDir(), "missing", "marker"))
	if nowhere.store(answered); nowhere.load() != silent {
		t.Error("a marker that cannot be written was read")
	}
	if _, err := os.Stat(string(nowhere)); err == nil {
		t.Error("it exists")
	}
}
