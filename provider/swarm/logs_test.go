package swarm_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mobyswarm "github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/logs"

	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// tasksOf gives the ids of a function's replicas, sorted.
func tasksOf(t *testing.T, engine *swarmtest.Engine) []string {
	t.Helper()
	ids := engine.TaskIDs()
	slices.Sort(ids)
	return ids
}

func readLogs(t *testing.T, cluster *swarm.Cluster, r logs.Request) []string {
	t.Helper()
	var texts []string
	if err := cluster.Logs(t.Context(), r, func(m logs.Message) error {
		if m.Name != "fn" || m.Namespace != "openfaas-fn" && m.Instance != "waggle" || m.Instance == "" || m.Timestamp.IsZero() {
			t.Errorf("incomplete message %+v", m)
		}
		texts = append(texts, m.Text)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return texts
}

func TestLogsAreMergedByTime(t *testing.T) {
	t.Parallel()
	engine, cluster := newCluster(t)
	deploy(t, cluster, "fn", 2)
	tasks, start := tasksOf(t, engine), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	long := strings.Repeat("y", 70_000)
	for i, line := range []struct {
		task, text string
		stream     byte
	}{{tasks[0], "a", 1}, {tasks[1], "b", 2}, {tasks[0], long, 1}, {tasks[1], "d", 1}, {tasks[0], "e", 2}} {
		engine.WriteLog(line.task, start.Add(time.Duration(i)*time.Second), line.stream, line.text)
	}
	since := start.Add(2 * time.Second)
	for name, test := range map[string]struct {
		request logs.Request
		want    []string
	}{
		"all":            {logs.Request{Name: "fn", Tail: -1}, []string{"a", "b", long, "d", "e"}},
		"tail":           {logs.Request{Name: "fn", Tail: 2}, []string{"d", "e"}},
		"tail beyond":    {logs.Request{Name: "fn", Tail: 100}, []string{"a", "b", long, "d", "e"}},
		"since":          {logs.Request{Name: "fn", Since: &since}, []string{long, "d", "e"}},
		"one instance":   {logs.Request{Name: "fn", Instance: tasks[1]}, []string{"b", "d"}},
		"no instance":    {logs.Request{Name: "fn", Instance: "nobody"}, nil},
		"with namespace": {logs.Request{Name: "fn", Namespace: "openfaas-fn", Tail: 1}, []string{"e"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := readLogs(t, cluster, test.request); !slices.Equal(got, test.want) {
				t.Errorf("got %d lines %.60q", len(got), got)
			}
		})
	}
}

func TestFollowingIncludesReplicasThatStartLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		deploy(t, cluster, "fn", 1)
		first := tasksOf(t, engine)[0]
		engine.WriteLog(first, time.Now(), 1, "before")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []string
		done := make(chan error)
		go func() {
			done <- cluster.Logs(ctx, logs.Request{Name: "fn", Follow: true}, func(m logs.Message) error {
				got = append(got, m.Text)
				return nil
			})
		}()
		within(t, time.Second)
		if err := cluster.Scale(t.Context(), "", "fn", 3); err != nil {
			t.Fatal(err)
		}
		for i, task := range tasksOf(t, engine)[1:] {
			engine.WriteLog(task, time.Now(), 1, "new "+string(rune('a'+i)))
			within(t, time.Second)
		}
		engine.WriteLog(first, time.Now(), 1, "after")
		within(t, time.Second)
		if want := []string{"before", "new a", "new b", "after"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if err := cluster.Delete(t.Context(), "", "fn"); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("after the function's removal: %v", err)
		}
	})
}

// TestFollowingSurvivesTheEndOfAStream: each line comes once.
func TestFollowingSurvivesTheEndOfAStream(t *testing.T) {
	t.Parallel()
	for name, garbage := range map[string][]byte{"its end": nil, "inside a frame": {1, 0, 0}, "a frame of nonsense": []byte("HTTP/1.1 503 ")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				engine, cluster := newCluster(t)
				deploy(t, cluster, "fn", 2)
				tasks := tasksOf(t, engine)
				write := func(task, text string) {
					engine.WriteLog(task, time.Now(), 1, text)
					within(t, time.Millisecond)
				}
				for _, task := range tasks {
					write(task, "older")
					write(task, "old")
				}
				ctx, cancel := context.WithCancel(t.Context())
				got := map[string][]string{}
				done := make(chan error)
				go func() {
					done <- cluster.Logs(ctx, logs.Request{Name: "fn", Follow: true, Tail: 1}, func(m logs.Message) error {
						got[m.Instance] = append(got[m.Instance], m.Text)
						return nil
					})
				}()
				synctest.Wait()
				want := []string{"old"}
				for _, text := range []string{"a", "b", "c"} {
					engine.CutLogs(tasks[0], garbage)
					synctest.Wait()
					write(tasks[0], text)
					write(tasks[1], text)
					within(t, time.Second)
					want = append(want, text)
				}
				// The last words of a replica that ended while nobody listened are read, too.
				engine.CutLogs(tasks[0], garbage)
				synctest.Wait()
				write(tasks[0], "last words")
				engine.SetTask(tasks[0], func(task *mobyswarm.Task) { task.Status.State = mobyswarm.TaskStateFailed })
				within(t, time.Second)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if all := append(slices.Clone(want), "last words"); !slices.Equal(got[tasks[0]], all) {
					t.Errorf("of the replica whose stream ended: %q, want %q", got[tasks[0]], all)
				}
				if !slices.Equal(got[tasks[1]], want) {
					t.Errorf("of the other: %q, want %q", got[tasks[1]], want)
				}
			})
		})
	}
}

// TestFollowingTriesASilentLogLessOften: of a node that is away, its replicas' logs end at once.
func TestFollowingTriesASilentLogLessOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		deploy(t, cluster, "fn", 1)
		task := tasksOf(t, engine)[0]
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cuts := 0
		var cutter sync.WaitGroup
		cutter.Go(func() {
			for ctx.Err() == nil { // each stream is cut as soon as it is there
				cuts += engine.CutLogs(task, nil)
				time.Sleep(10 * time.Millisecond)
			}
		})
		if err := cluster.Logs(ctx, logs.Request{Name: "fn", Follow: true}, func(logs.Message) error { return nil }); err != nil {
			t.Fatal(err)
		}
		cutter.Wait()
		if cuts < 4 || cuts > 12 {
			t.Errorf("in a minute the log was opened %d times, want about ten", cuts)
		}
	})
}

func TestFollowingEndsWithItsReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		deploy(t, cluster, "fn", 1)
		engine.WriteLog(tasksOf(t, engine)[0], time.Now(), 1, "x")
		left := errors.New("the client left")
		if err := cluster.Logs(t.Context(), logs.Request{Name: "fn", Follow: true}, func(logs.Message) error { return left }); !errors.Is(err, left) {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := cluster.Logs(ctx, logs.Request{Name: "fn", Follow: true}, func(logs.Message) error { return nil }); err != nil {
			t.Errorf("at the end of its context: %v", err)
		}
	})
}

// TestWhatIsMissingOfALogIsSaid: the newest lines are there, and the last one says what is not.
func TestWhatIsMissingOfALogIsSaid(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lines    int
		prepare  func(e *swarmtest.Engine, task string)
		request  logs.Request
		want     int // lines of the function
		says     string
		complete bool
	}{
		"more than is held":       {lines: 100_001, request: logs.Request{Tail: -1}, want: 99_999, says: "only the newest 99999 lines"},
		"as much as is asked for": {lines: 300, request: logs.Request{Tail: 200}, want: 200, complete: true},
		"all there is":            {lines: 300, request: logs.Request{Tail: -1}, want: 300, complete: true},
		"too slow":                {lines: 1000, prepare: func(e *swarmtest.Engine, _ string) { e.SlowLogs(50 * time.Millisecond) }, request: logs.Request{Tail: -1}, want: 99, says: "only the newest 99 lines"},
		"too slow for any":        {lines: 1000, prepare: func(e *swarmtest.Engine, _ string) { e.SlowLogs(time.Minute) }, request: logs.Request{Tail: -1}, says: "not all lines were read"},
		"the engine says so":      {lines: 3, prepare: func(e *swarmtest.Engine, task string) { e.Notice(task, "node n2 is not available") }, request: logs.Request{Tail: -1}, want: 3, says: "lines are missing: node n2 is not available"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				engine, cluster := newCluster(t)
				deploy(t, cluster, "fn", 1)
				task := tasksOf(t, engine)[0]
				for i := range test.lines {
					engine.WriteLog(task, time.Unix(int64(i), 0), 1, strconv.Itoa(i))
				}
				if test.prepare != nil {
					test.prepare(engine, task)
				}
				test.request.Name = "fn"
				got := readLogs(t, cluster, test.request)
				if !test.complete {
					last := len(got) - 1
					if !strings.HasPrefix(got[last], "waggle: of replica "+task) || !strings.Contains(got[last], test.says) {
						t.Errorf("the last line is %q, want %q", got[last], test.says)
					}
					got = got[:last]
				}
				if len(got) != test.want || len(got) > 0 && got[len(got)-1] != strconv.Itoa(test.lines-1) {
					t.Errorf("%d lines, want the newest %d", len(got), test.want)
				}
			})
		})
	}
}

// TestFollowingSaysOnceWhatIsMissing, however often the log is opened again.
func TestFollowingSaysOnceWhatIsMissing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		deploy(t, cluster, "fn", 1)
		task := tasksOf(t, engine)[0]
		engine.Notice(task, "node n2 is not available")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var got []string
		time.AfterFunc(5*time.Second, func() { engine.CutLogs(task, nil) })
		if err := cluster.Logs(ctx, logs.Request{Name: "fn", Follow: true}, func(m logs.Message) error { got = append(got, m.Text); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || !strings.Contains(got[0], "node n2 is not available") {
			t.Errorf("got %q", got)
		}
	})
}

// TestALogBeginsWithAWholeLine asks for the last lines of a log whose lines are long: engines count pieces of 16 KiB.
func TestALogBeginsWithAWholeLine(t *testing.T) {
	t.Parallel()
	kb := func(n int, letter string) string { return strings.Repeat(letter, n<<10) }
	for name, test := range map[string]struct {
		lines []string
		tail  int
		want  []string // what a message has at most is 256 KiB
	}{
		"of three pieces":         {[]string{"a", kb(40, "b"), kb(40, "c")}, 2, []string{kb(40, "b"), kb(40, "c")}},
		"the last of many":        {append(slices.Repeat([]string{kb(100, "a")}, 40), "z"), 30, append(slices.Repeat([]string{kb(100, "a")}, 29), "z")},
		"more than there are":     {[]string{kb(40, "b"), "c"}, 9, []string{kb(40, "b"), "c"}},
		"one of several messages": {[]string{"a", kb(600, "b")}, 1, []string{kb(256, "b"), kb(256, "b"), kb(88, "b")}},
		"after one of several":    {[]string{kb(1000, "b"), "c", "d"}, 2, []string{"c", "d"}},
	} {
		for _, follow := range []bool{false, true} {
			t.Run(name+", follow "+strconv.FormatBool(follow), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					engine, cluster := newCluster(t)
					deploy(t, cluster, "fn", 1)
					task := tasksOf(t, engine)[0]
					for _, line := range test.lines {
						engine.WriteLog(task, time.Now(), 1, line)
						within(t, time.Millisecond)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					var got []string
					if err := cluster.Logs(ctx, logs.Request{Name: "fn", Tail: test.tail, Follow: follow}, func(m logs.Message) error {
						if m.Instance != "waggle" {
							got = append(got, m.Text)
						}
						return nil
					}); err != nil {
						t.Fatal(err)
					}
					if !slices.Equal(got, test.want) {
						lengths := func(lines []string) (all []int) {
							for _, line := range lines {
								all = append(all, len(line))
							}
							return all
						}
						t.Errorf("got lines of %d bytes, want %d", lengths(got), lengths(test.want))
					}
				})
			})
		}
	}
}

// TestFollowingReadsOnOverTheEndOfAStream: a line that is older than the last one comes when the log is opened again, and
// what was read twice comes once.
func TestFollowingReadsOnOverTheEndOfAStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine, cluster := newCluster(t)
		deploy(t, cluster, "fn", 1)
		task := tasksOf(t, engine)[0]
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		time.AfterFunc(time.Second, func() {
			engine.WriteLog(task, time.Now(), 1, "out")
			engine.WriteLog(task, time.Now(), 1, "same")
			engine.WriteLog(task, time.Now(), 1, "same")
		})
		for after := 2 * time.Second; after < 30*time.Second; after += 5 * time.Second {
			time.AfterFunc(after, func() { engine.CutLogs(task, nil) })
		}
		time.AfterFunc(2*time.Second+time.Millisecond, func() { engine.WriteLog(task, time.Now().Add(-1002*time.Millisecond), 2, "late") })
		var got []string
		if err := cluster.Logs(ctx, logs.Request{Name: "fn", Tail: 5, Follow: true}, func(m logs.Message) error { got = append(got, m.Text); return nil }); err != nil {
			t.Fatal(err)
		}
		if want := []string{"out", "same", "same", "late"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
