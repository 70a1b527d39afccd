package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/voters/crowd"
)

func TestParseArgs(t *testing.T) {
	t.Parallel()
	c, err := parseArgs(strings.Fields(`-url http://127.0.0.1:8080/function/vote -url http://localhost:8081/function/vote
		-voters 500 -double 12.5% -change 0.25 -tabs 0 -rate 100 -polls testdata/polls.json -poll colours -voter-keys keys -docker-host container:node1
		-docker-host unix:///run/docker.sock -drain-timeout 5s -seed 9`), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := crowd.Shares{Double: 0.125, Change: 0.25, Stale: 0.01, Replay: 0.02, Elsewhere: 0.02, Retry: 1, API: 0.2}
	if c.crowd.Shares != want {
		t.Errorf("shares %+v", c.crowd.Shares)
	}
	if len(c.crowd.Targets) != 2 || c.crowd.Voters != 500 || c.crowd.Rate != 100 || c.crowd.Seed != 9 || !c.rules.FirstWins ||
		c.poll != 7 || c.crowd.Options[1] != (crowd.Option{Slug: "blue", ID: 20}) || len(c.engines) != 2 || c.drainTimeout != 5*time.Second || !c.judging {
		t.Errorf("got %+v", c)
	}
}

func TestParseArgsRefuses(t *testing.T) {
	t.Parallel()
	const fine = "-polls testdata/polls.json -url http://127.0.0.1:1/ -voter-keys k "
	tests := map[string]struct{ args, want string }{
		"no address":          {"-voter-keys k", "-url: at least one address is needed"},
		"another machine":     {"-voter-keys k -url http://192.0.2.1/", "give -allow-remote"},
		"a strange address":   {"-voter-keys k -url vote", `url "vote": it must be http://`},
		"no keys":             {"-url http://127.0.0.1:1/", "-voter-keys: the judge needs the secret"},
		"a share of too much": {fine + "-double 110%", "it must be 0% to 100%"},
		"a share of nothing":  {fine + "-double x", "it must be 0% to 100%"},
		"no such poll":        {fine + "-poll birds", `-poll "birds": testdata/polls.json has pets, colours, over`},
		"a closed poll":       {fine + "-poll over", "-poll over: it is open from 2020-01-01T00:00:00Z to 2020-01-02T00:00:00Z"},
		"no poll file":        {fine + "-polls testdata/none.json", "-polls: open testdata/none.json"},
		"no JSON":             {fine + "-polls config_test.go", "-polls config_test.go: invalid character"},
		"no patience":         {fine + "-drain-timeout 0s", "-drain-timeout 0s: more than 0"},
		"a stray word":        {fine + "now", "there are no arguments without a name"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parseArgs(strings.Fields(test.args), io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	if _, err := parseArgs(strings.Fields("-polls testdata/polls.json -voter-keys k -allow-remote -url http://192.0.2.1/"), io.Discard); err != nil {
		t.Errorf("-allow-remote: %v", err)
	}
	if _, err := parseArgs(strings.Fields("-polls testdata/polls.json -load-only -url http://127.0.0.1/"), io.Discard); err != nil {
		t.Errorf("-load-only: %v", err)
	}
}
