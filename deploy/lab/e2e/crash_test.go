//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/lab/testbed"
)

// mutator changes one object again and again, until the provider dies under it.
type mutator struct {
	name string
	// next gives the change that follows on a state and the state it leads to.
	next func(state string, n int) (change request, leadsTo string)
	// state reads what is there; "half" stands for what no change leads to.
	state func() (string, error)
	// whole is checked until it holds after each restart: what the new provider has to complete.
	whole func() error

	// last is the state after the last accepted change, asked the one that a change without an answer would lead to.
	last, asked string
	changes     int
}

// testProviderKilled kills the provider's container at random moments while changes of every kind are under
// way, and checks what its successor makes of it. Voters notice nothing.
func (p *project) testProviderKilled(t *testing.T) {
	rounds := 4
	if os.Getenv("E2E_LONG") == "1" {
		rounds = 20
	}
	p.deploy(t, p.probe("steady", nil))
	testbed.Eventually(t, 30*time.Second, func() error { return p.answers("/function/steady/x", "GET /x") })
	mutators := p.mutators(t)

	stop := make(chan struct{})
	var voters sync.WaitGroup
	var mu sync.Mutex
	served, failures := 0, []string{}
	for range 4 {
		voters.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond): // the pace of one voter
				}
				err := p.answers("/function/steady/x", "GET /x")
				mu.Lock()
				if served++; err != nil {
					failures = append(failures, err.Error())
				}
				mu.Unlock()
			}
		})
	}
	func() {
		defer voters.Wait()
		defer close(stop)
		for round := range rounds {
			p.killDuring(t, mutators)
			for _, m := range mutators {
				p.compare(t, round, m)
			}
		}
	}()
	for _, m := range mutators {
		t.Logf("%s: %d changes", m.name, m.changes)
	}
	t.Logf("%d kills, %d invocations meanwhile, %d failed", rounds, served, len(failures))
	if len(failures) > 0 {
		t.Errorf("%d of %d invocations failed, the first: %s", len(failures), served, failures[0])
	}
}

// killDuring lets all mutators run, kills the provider, and returns when its successor answers.
func (p *project) killDuring(t *testing.T, mutators []*mutator) {
	t.Helper()
	provider := p.oneContainer(t, "waggle_provider")
	var group sync.WaitGroup
	for _, m := range mutators {
		group.Go(func() { p.mutate(t, m) })
	}
	time.Sleep(rand.N(500 * time.Millisecond)) // Not a wait for something: the moment of the fault.
	if _, err := p.Target.Manager.Run(t.Context(), "kill", "--signal", "KILL", provider); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	group.Wait()
	testbed.Eventually(t, time.Minute, func() error {
		status, text, err := p.ask(t, "GET", "/system/functions", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, text)
		}
		return err
	})
	t.Logf("killed, the next one answered after %s", time.Since(killed).Round(10*time.Millisecond))
}

// oneContainer is the id of the only running container of a service on the manager's node.
func (p *project) oneContainer(t *testing.T, service string) string {
	t.Helper()
	id, err := p.Target.Manager.Run(t.Context(), "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+service)
	if err != nil || id == "" || strings.Contains(id, "\n") {
		t.Fatalf("containers of %s: %q, %v; want one", service, id, err)
	}
	return id
}

// mutate makes one change after the other until one has no answer.
func (p *project) mutate(t *testing.T, m *mutator) {
	for t.Context().Err() == nil {
		change, leadsTo := m.next(m.last, m.changes)
		m.asked = leadsTo
		status, text, err := p.ask(t, change.method, change.path, change.body)
		switch {
		case err != nil || status >= http.StatusInternalServerError:
			return
		case status != change.status:
			t.Errorf("%s: %s %s: status %d, want %d: %s", m.name, change.method, change.path, status, change.status, text)
			return
		}
		m.last = leadsTo
		m.changes++
	}
}

// compare wants the state to be the last accepted one, or the one that was asked for.
func (p *project) compare(t *testing.T, round int, m *mutator) {
	t.Helper()
	state, err := m.state()
	if err != nil || (state != m.last && state != m.asked) {
		t.Errorf("round %d: %s is %q (%v), want %q as before or %q as asked", round, m.name, state, err, m.last, m.asked)
	}
	m.last = state
	m.changes++
	if m.whole != nil {
		testbed.Eventually(t, time.Minute, m.whole)
	}
}

// mutators covers every call that changes something. Functions are tied to a node that does not exist: what is tried
// is the record of them.
func (p *project) mutators(t *testing.T) []*mutator {
	t.Helper()
	away := func(name string) types.FunctionDeployment {
		d := p.probe(name, nil)
		d.Constraints = []string{"node.hostname == nowhere"}
		return d
	}
	for _, name := range []string{"killed-update", "killed-scale", "killed-reader"} {
		d := away(name)
		if name == "killed-reader" {
			p.call(t, "POST", "/system/secrets", types.Secret{Name: "killed-secret", Value: "1"}, http.StatusAccepted)
			d.Secrets = []string{"killed-secret"}
		}
		p.call(t, "POST", "/system/functions", d, http.StatusAccepted)
	}
	// An update of no replicas is over at once; until it is over, the old version is kept for a roll-back.
	p.scaleTo(t, "killed-reader", 0)
	t.Cleanup(func() {
		for _, name := range []string{"killed-update", "killed-scale", "killed-reader", "killed-cycle"} {
			p.remove(t, name)
		}
		p.forget(t)
	})
	all := []*mutator{p.updates(t, away("killed-update")), p.scales(t), p.secretUpdates(t)}
	cycled := away("killed-cycle")
	return append(all,
		p.cycle("deploy and delete", func() (int, string, error) { return p.ask(t, "GET", "/system/function/killed-cycle", nil) },
			request{"POST", "/system/functions", cycled, 202}, request{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "killed-cycle"}, 202}),
		p.cycle("create and delete a secret", func() (int, string, error) {
			_, text, err := p.ask(t, "GET", "/system/secrets", nil)
			if !strings.Contains(text, `"killed-brief"`) {
				return http.StatusNotFound, "", err
			}
			return http.StatusOK, text, err
		}, request{"POST", "/system/secrets", types.Secret{Name: "killed-brief", Value: "x"}, 202}, request{"DELETE", "/system/secrets", types.Secret{Name: "killed-brief"}, 202}),
		p.cycle("create and delete a namespace", func() (int, string, error) { return p.ask(t, "GET", "/system/namespace/killed-space", nil) },
			request{"POST", "/system/namespace/", types.FunctionNamespace{Name: "killed-space", Labels: map[string]string{"openfaas": "1"}}, 201},
			request{"DELETE", "/system/namespace/killed-space", nil, 202}),
	)
}

// forget removes what the mutators may have left that is no function.
func (p *project) forget(t *testing.T) {
	t.Helper()
	for _, r := range []struct{ path, body string }{
		{"/system/secrets", `{"name":"killed-secret"}`}, {"/system/secrets", `{"name":"killed-brief"}`}, {"/system/namespace/killed-space", `{}`},
	} {
		request, err := http.NewRequestWithContext(p.background, http.MethodDelete, p.Gateway+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth("admin", p.Credential(t, "basic-auth-password"))
		response, err := callers.Do(request)
		if err != nil {
			t.Errorf("removing %s: %v", r.body, err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != http.StatusAccepted && response.StatusCode != http.StatusNotFound {
			t.Errorf("removing %s %s: %s", r.path, r.body, response.Status)
		}
	}
}

// updates writes one number in many places, of which none may be older than the others.
func (p *project) updates(t *testing.T, d types.FunctionDeployment) *mutator {
	const places = 50
	return &mutator{
		name: "update", last: "0",
		next: func(_ string, n int) (request, string) {
			mark, next := strconv.Itoa(n+1), d
			next.EnvVars = map[string]string{}
			for i := range places {
				next.EnvVars["place"+strconv.Itoa(i)] = mark
			}
			next.Labels = &map[string]string{"mark": mark}
			return request{"PUT", "/system/functions", next, 202}, mark
		},
		state: func() (string, error) {
			status, err := p.status(t, d.Service)
			if err != nil {
				return "", err
			}
			mark := (*status.Labels)["mark"]
			if mark == "" {
				return "0", nil
			}
			for i := range places {
				if status.EnvVars["place"+strconv.Itoa(i)] != mark {
					return "half", nil
				}
			}
			return mark, p.inService(t, d.Service, mark, places)
		},
	}
}

// inService wants what Docker runs to be what the API says: the two are written in one call.
func (p *project) inService(t *testing.T, service, mark string, places int) error {
	t.Helper()
	out, err := p.Target.Manager.Run(t.Context(), "service", "inspect", "--format", "{{json .Spec.TaskTemplate.ContainerSpec.Env}}", service)
	if err != nil {
		return err
	}
	var env []string
	if err := json.Unmarshal([]byte(out), &env); err != nil {
		return err
	}
	found := 0
	for _, entry := range env {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "place") && value == mark {
			found++
		}
	}
	if found != places {
		return fmt.Errorf("docker has %d of %d places with mark %s", found, places, mark)
	}
	return nil
}

func (p *project) scales(t *testing.T) *mutator {
	return &mutator{
		name: "scale", last: "1",
		next: func(state string, n int) (request, string) {
			replicas := uint64(n % 5)
			return request{"POST", "/system/scale-function/killed-scale", types.ScaleServiceRequest{ServiceName: "killed-scale", Replicas: replicas}, 202},
				strconv.FormatUint(replicas, 10)
		},
		state: func() (string, error) {
			status, err := p.status(t, "killed-scale")
			return strconv.FormatUint(status.Replicas, 10), err
		},
	}
}

// secretUpdates counts versions: each accepted change is one more. A change that was cut off must be completed: the
// function moved over, the old version removed.
func (p *project) secretUpdates(t *testing.T) *mutator {
	versions := func() ([]string, error) {
		out, err := p.Target.Manager.Run(t.Context(), "secret", "ls", "--filter", "label=com.waggle.secret=killed-secret", "--format", "{{.Name}}")
		return strings.Fields(out), err
	}
	return &mutator{
		name: "update a secret", last: "1",
		next: func(state string, n int) (request, string) {
			version, err := strconv.Atoi(state)
			if err != nil {
				t.Errorf("version %q: %v", state, err)
			}
			return request{"PUT", "/system/secrets", types.Secret{Name: "killed-secret", Value: strconv.Itoa(n)}, 202}, strconv.Itoa(version + 1)
		},
		state: func() (string, error) {
			names, err := versions()
			newest := 0
			for _, name := range names {
				number, err := strconv.Atoi(name[strings.LastIndexByte(name, '.')+1:])
				if err != nil {
					return "", err
				}
				newest = max(newest, number)
			}
			return strconv.Itoa(newest), err
		},
		whole: func() error {
			names, err := versions()
			if err != nil {
				return err
			}
			mounted, err := p.Target.Manager.Run(t.Context(), "service", "inspect", "--format",
				"{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{.SecretName}} {{end}}", "killed-reader")
			if err != nil {
				return err
			}
			if len(names) != 1 || strings.TrimSpace(mounted) != names[0] {
				return fmt.Errorf("the function has version %s of %v, want the only one", mounted, names)
			}
			return nil
		},
	}
}

// cycle creates and deletes in turn.
func (p *project) cycle(name string, read func() (int, string, error), create, remove request) *mutator {
	return &mutator{
		name: name, last: "gone",
		next: func(state string, _ int) (request, string) {
			if state == "gone" {
				return create, "there"
			}
			return remove, "gone"
		},
		state: func() (string, error) {
			status, text, err := read()
			switch {
			case err != nil:
				return "", err
			case status == http.StatusNotFound:
				return "gone", nil
			case status == http.StatusOK:
				return "there", nil
			}
			return "half", fmt.Errorf("status %d: %s", status, text)
		},
	}
}
