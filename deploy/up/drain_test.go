package up

import (
	"context"
	"strings"
	"testing"

	"github.com/openfaas/go-sdk/stack"
)

// line is a node as docker node inspect prints it in the format that members asks for.
func line(name, role, state string, labels ...string) string {
	var pairs []string
	for _, label := range labels {
		pairs = append(pairs, `"`+label+`":"true"`)
	}
	return `{"ID":"id-` + name + `","Hostname":"` + name + `","Role":"` + role + `","State":"` + state + `","Labels":{` + strings.Join(pairs, ",") + `}}`
}

func TestNodesThatAreNeededAreNotTaken(t *testing.T) {
	three := strings.Join([]string{
		line("a", "manager", "ready", edgeLabel, workerLabel, storeLabel),
		line("b", "worker", "ready", edgeLabel, captureLabel),
		line("c", "worker", "ready", captureLabel),
	}, "\n")
	drain := func(s *System, ctx context.Context, name string) error { _, err := s.mayDrain(ctx, name); return err }
	remove := func(s *System, ctx context.Context, name string) error { _, err := s.mayRemove(ctx, name); return err }
	retire := func(s *System, ctx context.Context, name string) error { _, err := s.forget(ctx, name); return err }
	for name, test := range map[string]struct {
		do            func(*System, context.Context, string) error
		node          string
		nodes, copies string
		want          string // of the error; "" is success
	}{
		"one of two":               {drain, "b", three, "copies=2 prefer", ""},
		"a name nobody has":        {drain, "x", three, "", `NODE is "x": must be one of a, b, c`},
		"no capture node":          {drain, "a", three, "", "must be a capture node"},
		"an interrupted drain":     {drain, "c", strings.Replace(three, line("c", "worker", "ready", captureLabel), line("c", "worker", "ready", drainingLabel), 1), "", ""},
		"the last that takes":      {drain, "b", strings.Replace(three, line("c", "worker", "ready", captureLabel), line("c", "worker", "ready", captureLabel, drainingLabel), 1), "", "b is the only capture node that takes votes"},
		"the others are down":      {drain, "b", strings.Replace(three, line("c", "worker", "ready", captureLabel), line("c", "worker", "down", captureLabel), 1), "", "only capture node"},
		"two copies are demanded":  {drain, "b", three, "copies=2 require", `COPIES is "2 require"`},
		"one that is down":         {drain, "b", strings.Replace(three, "worker\",\"State\":\"ready", "worker\",\"State\":\"down", 1), "", "make retire NODE=b"},
		"removing the store":       {remove, "a", three, "", "a holds Postgres"},
		"removing the only worker": {remove, "a", strings.Replace(three, `,"`+storeLabel+`":"true"`, "", 1), "", "a is the only node with role"},
		"removing":                 {remove, "b", three, "", ""},
		"retiring a live one":      {retire, "b", three, "", "b: the Swarm sees it as ready. If it is to go: make remove NODE=b"},
	} {
		t.Run(name, func(t *testing.T) {
			fakeDocker(t, map[string]string{"node ls": "ids", "node inspect": test.nodes, "service inspect": test.copies})
			err := test.do(newTestSystem(t, nil), t.Context(), test.node)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestAFunctionThatStaysOnADrainingNodeIsNamed(t *testing.T) {
	const capture = `node.labels.waggle.capture == true`
	fakeDocker(t, map[string]string{"service ls": "ids", "service inspect": `vote|{"Constraints":["` + capture + `","node.labels.waggle.draining != true"]}
results|{}`})
	if got, err := newTestSystem(t, nil).captureFunctions(t.Context()); err != nil || len(got) != 1 || got[0] != "vote" {
		t.Errorf("got %v, %v; want vote", got, err)
	}
	fakeDocker(t, map[string]string{"service ls": "ids", "service inspect": `survey|{"Constraints":["` + capture + `"]}`})
	if _, err := newTestSystem(t, nil).captureFunctions(t.Context()); err == nil || !strings.Contains(err.Error(), "function survey lacks the constraint node.labels.waggle.draining != true") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyRunningTasksAreOnANode(t *testing.T) {
	fakeDocker(t, map[string]string{"node ps": "vote.1.x Running 5 seconds ago\nvote.2.y Rejected 1 second ago\nwaggle_redis.id.z Running 2 hours ago"})
	s := newTestSystem(t, nil)
	if got, err := s.runningOn(t.Context(), "n"); err != nil || strings.Join(got, " ") != "vote waggle_redis" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := s.runningOn(t.Context(), "n", "waggle_redis"); err != nil || strings.Join(got, " ") != "waggle_redis" {
		t.Errorf("of one service: %v, %v", got, err)
	}
}

func TestTheAccountOfANodeIsItsNewest(t *testing.T) {
	t.Parallel()
	l := Ledger{Streams: []Stream{{Node: "a", State: "replaced", Pending: 1}, {Node: "a", State: "active", Pending: 2}, {Node: "b", State: "retired"}}}
	if got, ok := l.of("a"); !ok || got.Pending != 2 {
		t.Errorf("a: %+v, %v", got, ok)
	}
	if got, ok := l.of("b"); !ok || got.State != "retired" {
		t.Errorf("b: %+v, %v", got, ok)
	}
	if _, ok := l.of("c"); ok {
		t.Error("c has no account")
	}
}

func TestBallotsAreOnEveryCaptureNode(t *testing.T) {
	t.Parallel()
	function := func(constraint string, labels map[string]string) stack.Function {
		return stack.Function{Constraints: &[]string{constraint}, Labels: &labels}
	}
	vote := function("node.labels.waggle.capture == true", map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "20"})
	for nodes, want := range map[int][2]string{1: {"2", "20"}, 3: {"3", "20"}, 25: {"25", "25"}} {
		f := vote
		if err := onEveryNode(&f, nodes); err != nil || (*f.Labels)["com.openfaas.scale.min"] != want[0] || (*f.Labels)["com.openfaas.scale.max"] != want[1] {
			t.Errorf("with %d capture nodes %v, %v; want %v", nodes, *f.Labels, err, want)
		}
	}
	if (*vote.Labels)["com.openfaas.scale.min"] != "2" {
		t.Error("the stack file's own labels were changed")
	}
	other := function("node.role == worker", map[string]string{"com.openfaas.scale.min": "1"})
	if err := onEveryNode(&other, 5); err != nil || (*other.Labels)["com.openfaas.scale.min"] != "1" {
		t.Errorf("another function: %v, %v", *other.Labels, err)
	}
	wrong := function("node.labels.waggle.capture == true", map[string]string{"com.openfaas.scale.min": "two"})
	if err := onEveryNode(&wrong, 1); err == nil || !strings.Contains(err.Error(), `com.openfaas.scale.min is "two": must be a number`) {
		t.Errorf("a label that is no number: %v", err)
	}
}
