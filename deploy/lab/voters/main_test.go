package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"waggle/deploy/lab/voters/judge"
)

// booksVariable makes the test binary stand in for psql: it prints what that address says.
const booksVariable = "VOTERS_TEST_BOOKS"

func TestMain(m *testing.M) {
	address := os.Getenv(booksVariable)
	if address == "" {
		goleak.VerifyTestMain(m)
		return
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	if err == nil {
		var res *http.Response
		if res, err = http.Get(address); err == nil {
			_, err = io.Copy(os.Stdout, res.Body)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// playAll runs the program to its end.
func playAll(t *testing.T, ctx context.Context, args []string) (status int, r report, output string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	var out bytes.Buffer
	status = run(ctx, append(args, "-json", file), &out, &out)
	if text, err := os.ReadFile(file); err == nil {
		if err := json.Unmarshal(text, &r); err != nil {
			t.Fatal(err)
		}
	}
	return status, r, out.String()
}

const (
	habits = " -double 0.2 -change 0.2 -stale 0.2 -replay 0.1 -tabs 0.2 -elsewhere 0 -api 0.4"
	once   = " -double 0 -change 0 -stale 0 -replay 0 -tabs 0 -elsewhere 0"
)

func TestTheProgramSeesEachBrokenPromise(t *testing.T) {
	t.Parallel()
	some := func(n int64) bool { return n > 0 }
	tests := map[string]struct {
		faults faults
		args   string
		status int
		holds  func(judge.Verdict) bool
	}{
		"every promise kept": {faults{}, habits + " -alone", exitKept, func(v judge.Verdict) bool {
			return v.Acked > 60 && v.Counted == 60 && v.Unknown == 0 && v.Unconfirmed == 0
		}},
		"each first press fails": {faults{failFirst: true}, habits + " -alone", exitKept, func(v judge.Verdict) bool {
			return v.Acked > 60 && v.Counted == 60 && v.Unknown == 0
		}},
		"each first answer is lost": {faults{cutFirst: true}, habits + " -alone", exitKept, func(v judge.Verdict) bool {
			return v.Acked > 60 && v.Counted == 60 && v.Unknown == 0
		}},
		"answers are lost, and nobody is patient": {faults{cutFirst: true}, once + " -retry 0", exitKept, func(v judge.Verdict) bool {
			return v.Unconfirmed == 60 && v.Unknown == 60 && v.Acked == 0
		}},
		"nothing is stored and nobody is patient": {faults{failFirst: true}, once + " -retry 0", exitKept, func(v judge.Verdict) bool {
			return v.Unknown == 60 && v.Counted == 0
		}},
		"acknowledged without being captured": {faults{ackOnly: true}, habits, exitBroken, func(v judge.Verdict) bool {
			return v.Missing == 60 && v.Unaccounted == v.Acked
		}},
		"captured but not counted":           {faults{dropRow: true}, habits, exitBroken, func(v judge.Verdict) bool { return v.Missing == 60 && v.Unaccounted == 0 }},
		"the last to arrive wins":            {faults{arrivalOrder: true}, habits, exitBroken, func(v judge.Verdict) bool { return some(v.Outdated) && v.Missing == 0 }},
		"votes are exchanged":                {faults{swapChoice: true}, habits, exitBroken, func(v judge.Verdict) bool { return v.Wrong == 60 }},
		"votes of nobody":                    {faults{ghost: true}, habits + " -alone", exitBroken, func(v judge.Verdict) bool { return some(v.Wrong) && v.Wrong == v.Strangers }},
		"votes of others are nobody's fault": {faults{ghost: true}, habits, exitKept, func(v judge.Verdict) bool { return some(v.Strangers) }},
		"counted twice":                      {faults{doubleTally: true}, habits, exitBroken, func(v judge.Verdict) bool { return some(v.Drift) && v.Wrong == 0 }},
		"the public is told something else":  {faults{shownMore: 2}, habits, exitBroken, func(v judge.Verdict) bool { return v.Drift == 2 }},
		"refused yet counted":                {faults{countRefused: true}, habits, exitBroken, func(v judge.Verdict) bool { return v.Wrong == 60 && some(v.Refused) }},
		"one cookie for all":                 {faults{sharedCookie: true}, once, exitBroken, func(v judge.Verdict) bool { return v.Missing == 59 }},
		"a thawed press has the time at which it came": {faults{freeze: true}, once + " -elsewhere 1 -alone", exitKept, func(v judge.Verdict) bool {
			return v.Unknown == 60 && v.Acked == 60 && v.Counted == 60
		}},
		"a thawed press has the time of the thaw": {faults{freeze: true, byThaw: true}, once + " -elsewhere 1", exitBroken, func(v judge.Verdict) bool {
			return v.Outdated > 10 && v.Outdated < 50 // those on a new page are safe
		}},
		"a disk is lost, and its votes have copies": {faults{loseDisk: true}, once + " -concurrency 1", exitKept, func(v judge.Verdict) bool {
			return v.Recovered == 5 && v.Gaps == 1 && v.Counted == 60
		}},
		"acknowledged before the second copy": {faults{loseDisk: true, ackFirst: true}, once + " -concurrency 1", exitBroken, func(v judge.Verdict) bool {
			return v.Missing == 1 && v.Recovered == 4 && v.Concealed == 0 && v.Unaccounted == 1
		}},
		"and nobody is told": {faults{loseDisk: true, ackFirst: true, noGap: true}, once + " -concurrency 1", exitBroken, func(v judge.Verdict) bool {
			return v.Missing == 1 && v.Concealed == 1
		}},
		"whole in spite of a gap":         {faults{loseDisk: true, whole: true}, once + " -concurrency 1", exitBroken, func(v judge.Verdict) bool { return v.Concealed == 1 && v.Missing == 0 }},
		"the ledger reports a loss":       {faults{lost: 3}, habits, exitBroken, func(v judge.Verdict) bool { return v.Unaccounted == 3 }},
		"the drain never ends":            {faults{pending: 2}, habits + " -drain-timeout 300ms", exitUnjudged, judge.Verdict.Clean},
		"the polling station never opens": {faults{neverOpen: true}, "-retries 1", exitKept, func(v judge.Verdict) bool { return v.Acked == 0 && v.Voters == 60 }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, test.faults)
			status, r, output := playAll(t, t.Context(), s.args(t, test.args))
			if status != test.status || r.Verdict == nil || !test.holds(*r.Verdict) {
				t.Errorf("status %d, want %d; verdict %+v\n%s", status, test.status, r.Verdict, output)
			}
			if r.Clean != (status == exitKept) {
				t.Errorf("status %d, but clean is %v", status, r.Clean)
			}
		})
	}
}

func TestTheProgramInAnOpenLoop(t *testing.T) {
	t.Parallel()
	s := newSystem(t, faults{})
	status, r, output := playAll(t, t.Context(), s.args(t, "-rate 2000 -alone"))
	if status != exitKept || r.Load.Voters != 60 {
		t.Errorf("status %d\n%s", status, output)
	}
}

func TestASignalEndsTheVotingButNotTheJudging(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	s := newSystem(t, faults{})
	s.onVote = stop
	const voters = 1_000_000
	status, r, output := playAll(t, ctx, s.args(t, fmt.Sprintf("-voters %d -alone", voters)))
	if status != exitKept || r.Verdict == nil || r.Load.Voters == 0 || r.Load.Voters == voters || r.Verdict.Counted == 0 {
		t.Errorf("status %d\n%s", status, output)
	}
}

func TestTheProgramSaysWhyItCannotJudge(t *testing.T) {
	t.Parallel()
	s := newSystem(t, faults{})
	tests := map[string]struct{ args, want string }{
		"usage":         {"-voters 0", "voters 0: 1 to 100000000"},
		"no keys":       {"-voter-keys testdata/none", "reading the voter keys: open testdata/none"},
		"no poll key":   {"-voter-keys testdata/polls.json", "no line poll:<hex>"},
		"no way to SQL": {"-psql false", "reading the ledger: running sh: exit status 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, _, output := playAll(t, t.Context(), s.args(t, test.args))
			if status != exitUnjudged || !strings.Contains(output, test.want) || strings.Count(output, "\n") != 1 {
				t.Errorf("status %d, want one line with %q:\n%s", status, test.want, output)
			}
		})
	}
}
