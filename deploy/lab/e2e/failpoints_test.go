//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/lab/provider"
	"waggle/deploy/lab/testbed"
)

// operation is one changing call of the API, and what it finds.
type operation struct {
	name string
	// prepare makes what the call is about. Each of it must be accepted.
	prepare []request
	// held is made through the provider that is about to be killed, while the engine refuses to remove secrets: it leaves
	// an outdated version behind.
	held *request
	call request
	// again is the status of the same call once it has been done.
	again int
	// separate means that the call changes several things of which each may be done without the others.
	separate bool
}

// testFailpoints kills a provider at every point of every changing call where the Swarm could be left half
// changed. By the API and by Docker, its successor must find, or complete to, the state before or the one
// requested.
func (p *project) testFailpoints(t *testing.T) {
	p.scale(t, "waggle_provider", 0)
	defer func() {
		p.scale(t, "waggle_provider", 1)
		testbed.Eventually(t, time.Minute, func() error {
			status, text, err := p.ask(t, http.MethodGet, "/system/functions", nil)
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("status %d: %s", status, text)
			}
			return err
		})
	}()
	l := p.newLab(t)
	l.steady = l.start(t, nil)
	l.base = l.picture(t)
	kills := 0
	for _, op := range l.operations() {
		t.Run(op.name, func(t *testing.T) { kills += l.try(t, op) })
	}
	t.Logf("%d kills", kills)
}

// operations is every changing call of the API.
func (l *lab) operations() []operation {
	space := func(team string) types.FunctionNamespace {
		return types.FunctionNamespace{Name: "cut-space", Labels: map[string]string{"openfaas": "1", "team": team}}
	}
	secret := func(value string) types.Secret { return types.Secret{Name: "cut-secret", Value: value} }
	deploy := func(d types.FunctionDeployment) request { return request{"POST", "/system/functions", d, 202} }
	scale := func(name string, replicas uint64) request {
		return request{"POST", "/system/scale-function/" + name, types.ScaleServiceRequest{ServiceName: name, Replicas: replicas}, 202}
	}
	store := request{"POST", "/system/secrets", secret("one"), 202}
	change := request{"PUT", "/system/secrets", secret("two"), 202}
	first, second := l.deployment("cut-one", "first"), l.deployment("cut-one", "second")
	another := l.deployment("cut-two", "first")
	// An update of no replicas is over at once; until it is over, the old version is kept for a roll-back.
	readers := []request{store, deploy(first), deploy(another), scale("cut-one", 0), scale("cut-two", 0)}
	alert := `{"status":"firing","alerts":[{"status":"firing","labels":{"function_name":"cut-one.openfaas-fn"}},{"status":"firing","labels":{"function_name":"cut-two"}}]}`
	return []operation{
		{name: "deploy", prepare: []request{store}, call: deploy(first), again: 409},
		{name: "update", prepare: []request{store, deploy(first), scale("cut-one", 3)}, call: request{"PUT", "/system/functions", second, 202}, again: 202},
		{name: "scale", prepare: []request{store, deploy(first)}, call: scale("cut-one", 4), again: 202},
		{name: "delete", prepare: []request{store, deploy(first)},
			call: request{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "cut-one"}, 202}, again: 404},
		{name: "alert", prepare: []request{store, deploy(first), deploy(another)}, call: request{"POST", "/system/alert", alert, 200}, again: 200, separate: true},
		{name: "create a secret", call: store, again: 409},
		{name: "update a secret of two functions", prepare: readers, call: change, again: 202},
		{name: "delete a secret of two versions", prepare: []request{store}, held: &change,
			call: request{"DELETE", "/system/secrets", types.Secret{Name: "cut-secret"}, 202}, again: 404},
		{name: "create a namespace", call: request{"POST", "/system/namespace/", space("a"), 201}, again: 409},
		{name: "update a namespace", prepare: []request{{"POST", "/system/namespace/", space("a"), 201}},
			call: request{"PUT", "/system/namespace/cut-space", space("b"), 202}, again: 202},
		{name: "delete a namespace", prepare: []request{{"POST", "/system/namespace/", space("a"), 201}},
			call: request{"DELETE", "/system/namespace/cut-space", nil, 202}, again: 404},
	}
}

// deployment differs by mark wherever a deployment can. It is tied to a node that does not exist: what is tried is the
// record of it.
func (l *lab) deployment(name, mark string) types.FunctionDeployment {
	d := l.probe(name, map[string]string{"mark": mark})
	d.EnvProcess = "/handler " + mark
	d.Labels = &map[string]string{"mark": mark, "com.openfaas.scale.max": "20"}
	(*d.Annotations)["mark"] = mark
	d.Constraints = []string{"node.hostname == nowhere", "node.labels.mark != " + mark}
	d.ReadOnlyRootFilesystem = mark == "second"
	d.Limits = &types.FunctionResources{Memory: map[string]string{"first": "64Mi", "second": "128Mi"}[mark]}
	if mark == "first" {
		d.Secrets = []string{"cut-secret"}
	}
	return d
}

// try first makes the call without a fault, to learn what results and how many changes that takes. It then
// makes it once for each point at which the provider may die. It returns how many died.
func (l *lab) try(t *testing.T, op operation) (kills int) {
	before, asked, twice, changes := l.undisturbed(t, op)
	for nth := 1; nth <= changes; nth++ {
		for _, after := range []bool{false, true} {
			point := provider.Failpoint{Nth: nth, After: after}
			l.prepare(t, op)
			l.die(t, op, point)
			kills++
			found := l.settled(t, op, point, changes, before, asked)
			status, text := l.steady.do(t, op.call)
			want, then := op.call.status, asked
			if maps.Equal(found, asked) {
				want, then = op.again, twice
			}
			if status != want {
				t.Errorf("%s: the call again: status %d, want %d: %s", point, status, want, text)
			}
			if got := l.picture(t); !(op.separate && maps.Equal(found, before) == maps.Equal(found, asked)) && !maps.Equal(got, then) {
				t.Errorf("%s: after the call again: %s", point, difference(got, then))
			}
		}
	}
	return kills
}

// undisturbed is what is there before the call, after it, and after it was made twice; and how many changes it takes.
func (l *lab) undisturbed(t *testing.T, op operation) (before, asked, twice provider.Picture, changes int) {
	t.Helper()
	l.prepare(t, op)
	if op.held != nil {
		l.steady.accepted(t, *op.held)
	}
	before = l.picture(t)
	l.prepare(t, op)
	l.steady.Kill()
	cut := &provider.Cutter{}
	l.steady = l.victim(t, op, cut)
	cut.Arm(provider.Failpoint{}, nil)
	l.steady.accepted(t, op.call)
	changes = cut.Count()
	asked = l.picture(t)
	if maps.Equal(before, asked) || changes == 0 {
		t.Fatalf("the call changed nothing, in %d changes", changes)
	}
	if status, text := l.steady.do(t, op.call); status != op.again {
		t.Errorf("the same call twice: status %d, want %d: %s", status, op.again, text)
	}
	return before, asked, l.picture(t), changes
}

// victim starts a provider that is to die, and lets it do what is held.
func (l *lab) victim(t *testing.T, op operation, cut *provider.Cutter) *child {
	t.Helper()
	v := l.start(t, cut)
	if op.held != nil {
		cut.Refuse(true)
		v.accepted(t, *op.held)
		cut.Refuse(false)
	}
	return v
}

// die makes the call through a provider that is killed at the point, and starts its successor.
func (l *lab) die(t *testing.T, op operation, point provider.Failpoint) {
	t.Helper()
	l.steady.Kill()
	cut := &provider.Cutter{}
	v := l.victim(t, op, cut)
	cut.Arm(point, v.Kill)
	if status, _, err := v.ask(t.Context(), op.call); err == nil {
		t.Errorf("%s: a provider that was killed answered %d", point, status)
	}
	if cut.Count() != point.Nth {
		t.Fatalf("%s: the call never got there", point)
	}
	l.steady = l.start(t, nil)
}

// settled waits until the state is that before or the requested one, as far as the point leaves a choice.
func (l *lab) settled(t *testing.T, op operation, point provider.Failpoint, changes int, before, asked provider.Picture) (found provider.Picture) {
	t.Helper()
	testbed.Eventually(t, 20*time.Second, func() error {
		found = l.picture(t)
		untouched, done := maps.Equal(found, before), maps.Equal(found, asked)
		switch {
		case point.Reached() == 0 && !untouched:
			return fmt.Errorf("%s: not as before: %s", point, difference(found, before))
		case point.Reached() == changes && !done:
			return fmt.Errorf("%s: not as asked: %s", point, difference(found, asked))
		case op.separate && mixed(found, before, asked):
			return nil
		case !untouched && !done:
			return fmt.Errorf("%s: half: from before %s; from asked %s", point, difference(found, before), difference(found, asked))
		}
		return nil
	})
	return found
}

// mixed is true where each thing is as before or as asked.
func mixed(found, before, asked provider.Picture) bool {
	for name := range merged(found, before, asked) {
		if found[name] != before[name] && found[name] != asked[name] {
			return false
		}
	}
	return true
}

func merged(pictures ...provider.Picture) provider.Picture {
	all := provider.Picture{}
	for _, one := range pictures {
		maps.Copy(all, one)
	}
	return all
}

// difference names what two pictures do not share.
func difference(got, want provider.Picture) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(merged(got, want))) {
		if got[name] != want[name] {
			parts = append(parts, fmt.Sprintf("%s is %q, want %q", name, got[name], want[name]))
		}
	}
	return strings.Join(parts, "; ")
}

// prepare brings the system to where the operation begins: nothing of an earlier one is left.
func (l *lab) prepare(t *testing.T, op operation) {
	t.Helper()
	for _, r := range []request{
		{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "cut-one"}, 202},
		{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "cut-two"}, 202},
		{"DELETE", "/system/secrets", types.Secret{Name: "cut-secret"}, 202}, {"DELETE", "/system/namespace/cut-space", nil, 202},
	} {
		if status, text := l.steady.do(t, r); status != r.status && status != http.StatusNotFound {
			t.Fatalf("%s %s: status %d: %s", r.method, r.path, status, text)
		}
	}
	if left := l.picture(t); !maps.Equal(left, l.base) {
		t.Fatalf("left behind: %s", difference(left, l.base))
	}
	for _, r := range op.prepare {
		l.steady.accepted(t, r)
	}
	testbed.Eventually(t, 10*time.Second, func() error {
		left, err := l.Unwanted()
		if err == nil && left > 0 {
			err = errors.New("replicas of functions that should have none are still there")
		}
		return err
	})
}
