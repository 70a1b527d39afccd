//go:build e2e

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/openfaas/faas-provider/types"
)

// testOwnership makes a service, a secret and a network as somebody else on the same Swarm would. It tries
// every call on them, and on the stack's own objects.
func (p *project) testOwnership(t *testing.T) {
	docker := func(stdin string, args ...string) string {
		t.Helper()
		out, err := p.Target.Manager.RunInput(t.Context(), strings.NewReader(stdin), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// The labels of other providers, and even copies of ours, make no service a function of ours.
	docker("", "service", "create", "--detach", "--name", "alien", "--label", "com.openfaas.function=alien", "--no-resolve-image", p.image)
	t.Cleanup(func() { p.cleanUp(t, "service", "rm", "alien") })
	docker("", "service", "create", "--detach", "--name", "forged", "--label", "com.openfaas.function=other", "--label", "com.waggle.namespace=openfaas-fn",
		"--label", `com.waggle.deployment={"service":"other","namespace":"openfaas-fn"}`, "--no-resolve-image", p.image)
	t.Cleanup(func() { p.cleanUp(t, "service", "rm", "forged") })
	docker("not yours", "secret", "create", "alien", "-")
	t.Cleanup(func() { p.cleanUp(t, "secret", "rm", "alien") })
	docker("", "network", "create", "--driver", "overlay", "alien")
	t.Cleanup(func() { p.cleanUp(t, "network", "rm", "alien") })
	// A namespace in which the name of a function would be that of a service of the stack.
	space := types.FunctionNamespace{Name: "waggle", Labels: map[string]string{"openfaas": "1"}}
	p.call(t, "POST", "/system/namespace/", space, 201)
	t.Cleanup(func() { p.cleanUp(t, "config", "rm", "waggle-namespace.waggle") })

	// The stack's own secrets are named after their content.
	password := docker("", "secret", "ls", "--filter", "label=com.waggle.credential=basic-auth-password", "--format", "{{.Name}}")
	capture := docker("", "secret", "ls", "--filter", "label=com.waggle.credential=redis-capture", "--format", "{{.Name}}")
	// Nothing of this may change: Swarm counts changes in the version.
	versions := func() string {
		var all []string
		for _, service := range []string{"alien", "forged", "waggle_gateway", "waggle_provider", "waggle_postgres", "waggle_redis", "waggle_worker"} {
			all = append(all, docker("", "service", "inspect", "--format", "{{.Spec.Name}} {{.Version.Index}}", service))
		}
		for _, secret := range []string{"alien", password, capture} {
			all = append(all, docker("", "secret", "inspect", "--format", "{{.Spec.Name}} {{.Version.Index}}", secret))
		}
		return strings.Join(append(all, docker("", "network", "inspect", "--format", "{{.Id}}", "alien")), ", ")
	}
	before := versions()

	for _, target := range []struct{ name, namespace string }{
		{"alien", ""}, {"alien", "openfaas-fn"}, {"forged", ""}, {"other", ""}, {"waggle_gateway", ""}, {"waggle_provider", ""}, {"gateway", "waggle"}, {"redis", "waggle"},
	} {
		t.Run(target.name+" in "+target.namespace, func(t *testing.T) { p.tryService(t, target.name, target.namespace) })
	}
	for _, name := range []string{"alien", password, capture, "basic-auth-password"} {
		t.Run("secret "+name, func(t *testing.T) { p.trySecret(t, name) })
	}
	for _, name := range []string{"alien", "waggle-control", "waggle-drain", "waggle-store", "ingress", "host", "bridge"} {
		d := p.probe("thief", nil)
		d.Annotations = &map[string]string{"com.waggle.networks": name}
		p.refused(t, d, 403, "waggle-results")
	}
	for _, volume := range []string{"waggle-votes-data:/data", "waggle-postgres-data:/data:ro", "alien:/data"} {
		d := p.probe("thief", nil)
		d.Annotations = &map[string]string{"com.waggle.volumes": volume}
		p.refused(t, d, 403, "waggle-votes-socket")
	}
	for _, volume := range []string{"/var/run/docker.sock:/var/run/docker.sock", "/:/host", "../x:/data", "waggle-votes-socket:/data:ro,z"} {
		d := p.probe("thief", nil)
		d.Annotations = &map[string]string{"com.waggle.volumes": volume}
		p.refused(t, d, 400, "com.waggle.volumes")
	}
	for _, config := range []string{"alien", "polls", "waggle-namespace.waggle"} {
		if status, text, err := p.ask(t, "GET", "/system/namespace/"+config, nil); err != nil || (status != 404 && status != 400) {
			t.Errorf("namespace %s: status %d, %v: %s", config, status, err, text)
		}
	}
	if names := p.functionNames(t); slices.ContainsFunc(names, func(n string) bool { return n != "vote" && n != "results" }) {
		t.Errorf("listed are %v", names)
	}
	if after := versions(); after != before {
		t.Errorf("something changed: %s, before %s", after, before)
	}
}

// cleanUp removes what a test made with Docker, and fails if it is gone already: then somebody else removed it.
func (p *project) cleanUp(t *testing.T, args ...string) {
	t.Helper()
	if _, err := p.Target.Manager.Run(p.background, args...); err != nil {
		t.Errorf("docker %s: %v", strings.Join(args, " "), err)
	}
}

// tryService wants every call about a service that is not ours to be answered as if there were none.
func (p *project) tryService(t *testing.T, name, namespace string) {
	d := p.probe(name, nil)
	d.Namespace = namespace
	query := "?namespace=" + namespace
	legal := name != "waggle_gateway" && name != "waggle_provider" // others cannot be a function's name
	missing, taken := 404, 409
	if !legal || namespace == "waggle" { // its service would have the name of one of ours
		taken = 400
	}
	for _, r := range []request{
		{"GET", "/system/function/" + name + query, nil, missing},
		{"GET", "/system/function/" + name + query + "&usage=1", nil, missing},
		{"POST", "/system/scale-function/" + name, types.ScaleServiceRequest{ServiceName: name, Namespace: namespace, Replicas: 0}, missing},
		{"POST", "/system/scale-function/" + name + query, types.ScaleServiceRequest{ServiceName: name, Replicas: 3}, missing},
		{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: name, Namespace: namespace}, missing},
		{"DELETE", "/system/functions" + query, types.DeleteFunctionRequest{FunctionName: name}, missing},
		{"GET", "/system/logs?follow=false&name=" + name + "&namespace=" + namespace, nil, missing},
		{"GET", "/function/" + strings.TrimSuffix(name+"."+namespace, "."), nil, missing},
	} {
		p.call(t, r.method, r.path, r.body, r.status)
	}
	if status, text, err := p.ask(t, "PUT", "/system/functions", d); err != nil || (legal && status != missing) || (!legal && status != 400) {
		t.Errorf("PUT: status %d, %v: %s", status, err, text)
	}
	if name != "other" { // no service has that name, so that a function may
		p.call(t, "POST", "/system/functions", d, taken)
	}
	alert := `{"status":"firing","alerts":[{"status":"firing","labels":{"function_name":"` + strings.TrimSuffix(name+"."+namespace, ".") + `"}}]}`
	p.call(t, "POST", "/system/alert", alert, 200)
	var list []types.FunctionStatus
	if err := json.Unmarshal([]byte(p.call(t, "GET", "/system/functions"+query, nil, 200)), &list); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(list, func(f types.FunctionStatus) bool { return f.Name == name }) {
		t.Errorf("%s is listed", name)
	}
}

// trySecret wants the same of a secret, and that no function can mount it.
func (p *project) trySecret(t *testing.T, name string) {
	p.call(t, "PUT", "/system/secrets", types.Secret{Name: name, Value: "mine"}, 404)
	p.call(t, "DELETE", "/system/secrets", types.Secret{Name: name}, 404)
	if text := p.call(t, "GET", "/system/secrets", nil, 200); strings.Contains(text, name) {
		t.Errorf("%s is listed: %s", name, text)
	}
	d := p.probe("thief", nil)
	d.Secrets = []string{name}
	p.refused(t, d, 400, name)
	d.Secrets = []string{"../" + name}
	p.refused(t, d, 400, name)
}

// refused wants a deployment to be refused with a status and a text, and nothing to be left of it.
func (p *project) refused(t *testing.T, d types.FunctionDeployment, status int, says string) {
	t.Helper()
	if text := p.call(t, "POST", "/system/functions", d, status); !strings.Contains(text, says) {
		t.Errorf("%v %v is refused with %q, want %q in it", d.Secrets, *d.Annotations, text, says)
	}
	p.call(t, "GET", "/system/function/"+d.Service, nil, 404)
}
