//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/lab/testbed"
)

// binary is a secret that is no text, and that trimming would change.
const binary = "\x00\x01\xfe\xff \r\n"

// request is a call that the client makes for a command.
type request struct {
	method, path string
	body         any
	status       int
}

// command is one command of the official client, or the calls it makes.
type command struct {
	name string
	args []string
	// inProject runs it beside the stack file, else in the empty directory.
	inProject bool
	stdin     string
	// fails wants the client to end with an error, as its user expects it.
	fails bool
	// says must be in its output.
	says []string
	// calls stand in for the command where there is no client. A command without is the client's own affair.
	calls []request
	// holds is checked afterwards, whoever made the calls.
	holds func(t *testing.T)
}

// testCommands goes through the life of a function as its developer does. The order matters.
func (p *project) testCommands(t *testing.T) {
	p.write(t, filepath.Join(p.empty, "file.txt"), "two\n")
	p.write(t, filepath.Join(p.empty, "binary"), binary)
	if err := os.Mkdir(filepath.Join(p.empty, ".secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.write(t, filepath.Join(p.empty, ".secrets", "probe-literal"), "applied\n")
	drifted, err := os.ReadFile(filepath.Join(p.dir, "stack.yml"))
	if err != nil {
		t.Fatal(err)
	}
	p.write(t, filepath.Join(p.dir, "drifted.yml"), strings.Replace(string(drifted), "cpu: 500m", "cpu: 600m", 1))

	for _, c := range slices.Concat(p.accountCommands(t), p.secretCommands(), p.functionCommands(t), p.logCommands(), p.changeCommands(t), p.lastCommands()) {
		t.Run(c.name, func(t *testing.T) { p.try(t, c) })
	}
}

func (p *project) try(t *testing.T, c command) {
	if p.cli == "" {
		for _, r := range c.calls {
			p.call(t, r.method, r.path, r.body, r.status)
		}
	} else if len(c.args) > 0 {
		dir := p.empty
		if c.inProject {
			dir = p.dir
		}
		out, err := p.run(t, dir, c.stdin, c.args...)
		if (err != nil) != c.fails {
			t.Fatalf("faas-cli %s ended with %v, want an error: %t\n%s", strings.Join(c.args, " "), err, c.fails, out)
		}
		for _, part := range c.says {
			if !strings.Contains(out, part) {
				t.Errorf("faas-cli %s does not say %q:\n%s", strings.Join(c.args, " "), part, out)
			}
		}
	}
	if c.holds != nil {
		c.holds(t)
	}
}

// accountCommands are those that need no function.
func (p *project) accountCommands(t *testing.T) []command {
	space := func(labels map[string]string) types.FunctionNamespace {
		return types.FunctionNamespace{Name: "trial-space", Labels: labels, Annotations: map[string]string{"openfaas": "1"}}
	}
	first, second := map[string]string{"openfaas": "1", "team": "a"}, map[string]string{"openfaas": "1", "team": "b"}
	twin := p.probe("twin", nil)
	twin.Namespace = "trial-space"
	return []command{
		{name: "login", args: []string{"login", "--username", "admin", "--password-stdin"}, stdin: p.Credential(t, "basic-auth-password"),
			says: []string{"credentials saved for admin"}, calls: []request{{"GET", "/system/functions", nil, 200}}},
		{name: "version", args: []string{"version", "--warn-update=false"}, says: []string{"waggle", "swarm", "Gateway"},
			calls: []request{{"GET", "/system/info", nil, 200}}},
		{name: "ready", args: []string{"ready"}, says: []string{"gateway is ready"}, calls: []request{{"GET", "/healthz", nil, 200}}},
		{name: "namespace create", args: []string{"namespace", "create", "trial-space", "--label", "team=a"}, says: []string{"Namespace Created: trial-space"},
			calls: []request{{"POST", "/system/namespace/", space(first), 201}}},
		{name: "namespace create, again", args: []string{"namespace", "create", "trial-space"}, fails: true,
			calls: []request{{"POST", "/system/namespace/", space(first), 409}}},
		{name: "namespace update", args: []string{"namespace", "update", "trial-space", "--label", "team=b"}, says: []string{"Namespace Updated"},
			calls: []request{{"PUT", "/system/namespace/trial-space", space(second), 202}},
			holds: func(t *testing.T) {
				var got types.FunctionNamespace
				if err := json.Unmarshal([]byte(p.call(t, "GET", "/system/namespace/trial-space", nil, 200)), &got); err != nil || !reflect.DeepEqual(got, space(second)) {
					t.Errorf("the namespace is %+v (%v), want %+v", got, err, space(second))
				}
			}},
		{name: "namespace list", args: []string{"namespace", "list"}, says: []string{"- trial-space", "- openfaas-fn"},
			calls: []request{{"GET", "/system/namespaces", nil, 200}}},
		{name: "deploy into a namespace", args: []string{"deploy", "--image", p.image, "--name", "twin", "--namespace", "trial-space",
			"--annotation", "com.waggle.stop-grace=1s"}, says: []string{"Deployed. 202 Accepted"},
			calls: []request{{"PUT", "/system/functions", twin, 404}, {"POST", "/system/functions", twin, 202}}},
		{name: "namespace remove, in use", args: []string{"namespace", "remove", "trial-space"}, fails: true,
			calls: []request{{"DELETE", "/system/namespace/trial-space", nil, 409}}},
		{name: "ready in a namespace", args: []string{"ready", "twin", "--namespace", "trial-space"}, says: []string{"twin is ready"},
			holds: func(t *testing.T) {
				testbed.Eventually(t, time.Minute, func() error { return p.answers("/function/twin.trial-space/x", "GET /x") })
			}},
		{name: "invoke in a namespace", args: []string{"invoke", "twin", "--namespace", "trial-space"}, stdin: "hello", says: []string{"POST /\nhello"},
			calls: []request{{"POST", "/function/twin.trial-space", "hello", 200}}},
		{name: "list of a namespace", args: []string{"list", "--namespace", "trial-space"}, says: []string{"twin"},
			calls: []request{{"GET", "/system/functions?namespace=trial-space", nil, 200}}},
		{name: "remove from a namespace", args: []string{"remove", "twin", "--namespace", "trial-space"}, says: []string{"Removing old function"},
			calls: []request{{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "twin", Namespace: "trial-space"}, 202}}},
		{name: "namespace remove", args: []string{"namespace", "remove", "trial-space"}, says: []string{"Namespace Removed"},
			calls: []request{{"DELETE", "/system/namespace/trial-space", nil, 202}},
			holds: func(t *testing.T) { p.call(t, "GET", "/system/namespace/trial-space", nil, 404) }},
		{name: "store list, offline", args: []string{"store", "list", "--url", "http://127.0.0.1:1/functions.json"}, fails: true,
			says: []string{"Cannot connect to OpenFaaS store"}},
	}
}

// secretCommands store what the function is to find. The client ends well whatever the server says, so its words count.
func (p *project) secretCommands() []command {
	return []command{
		{name: "secret create, literal", args: []string{"secret", "create", "probe-literal", "--from-literal", "one"}, says: []string{"Created: 202"},
			calls: []request{{"POST", "/system/secrets", types.Secret{Name: "probe-literal", Value: "one"}, 202}}},
		{name: "secret create, again", args: []string{"secret", "create", "probe-literal", "--from-literal", "other"}, says: []string{"already exists"},
			calls: []request{{"POST", "/system/secrets", types.Secret{Name: "probe-literal", Value: "other"}, 409}}},
		{name: "secret create, file", args: []string{"secret", "create", "probe-file", "--from-file", "file.txt"}, says: []string{"Created: 202"},
			calls: []request{{"POST", "/system/secrets", types.Secret{Name: "probe-file", Value: "two", RawValue: []byte("two\n")}, 202}}},
		{name: "secret create, binary", args: []string{"secret", "create", "probe-binary", "--from-file", "binary"}, says: []string{"Created: 202"},
			calls: []request{{"POST", "/system/secrets", types.Secret{Name: "probe-binary", RawValue: []byte(binary)}, 202}}},
		{name: "secret list", args: []string{"secret", "list"}, says: []string{"probe-literal", "probe-file", "probe-binary"},
			calls: []request{{"GET", "/system/secrets", nil, 200}}},
	}
}

func (p *project) functionCommands(t *testing.T) []command {
	declared := p.declared(t)
	return []command{
		{name: "up", inProject: true, args: []string{"up", "--skip-push", "-f", "stack.yml"}, says: []string{"Deployed. 202 Accepted", "/function/probe"},
			calls: []request{{"PUT", "/system/functions", declared, 404}, {"POST", "/system/functions", declared, 202}}},
		{name: "ready of a function", args: []string{"ready", "probe"}, says: []string{"probe is ready"},
			holds: func(t *testing.T) { p.available(t, "probe", 1) }},
		{name: "secrets are in the function byte for byte", holds: func(t *testing.T) {
			p.secretIs(t, "probe-literal", "one")
			p.secretIs(t, "probe-file", "two\n")
			p.secretIs(t, "probe-binary", binary)
		}},
		{name: "the environment is in the function", holds: func(t *testing.T) {
			if err := p.answers("/function/probe/env?name=greeting", declared.EnvVars["greeting"]); err != nil {
				t.Error(err)
			}
		}},
		{name: "list -v", args: []string{"list", "-v"}, says: []string{"probe", p.image, "vote", "results"},
			calls: []request{{"GET", "/system/functions", nil, 200}}},
		{name: "describe", args: []string{"describe", "probe"}, says: []string{"Ready", p.image, "Function Process:   /handler", "topic: payments,refunds",
			"node.role == manager", "probe-binary", `greeting: a = b, "ëŁ中"`, "CPU: 500m", "Memory: 64Mi"},
			calls: []request{{"GET", "/system/function/probe?usage=1", nil, 200}}},
		{name: "describe of nobody", args: []string{"describe", "nobody"}, fails: true, says: []string{"No such function: nobody"},
			calls: []request{{"GET", "/system/function/nobody?usage=1", nil, 404}}},
		{name: "diff finds no drift", inProject: true, args: []string{"diff", "-f", "stack.yml", "--env", "all"}, says: []string{"no differences found"},
			holds: func(t *testing.T) { p.sameAs(t, declared) }},
		{name: "diff finds a drift", inProject: true, args: []string{"diff", "-f", "drifted.yml"}, fails: true, says: []string{"limits.cpu: 600m", "Differences found"}},
		{name: "invoke", args: []string{"invoke", "probe", "--query", "a=b"}, stdin: "hello", says: []string{"POST /?a=b\nhello"},
			calls: []request{{"POST", "/function/probe.openfaas-fn?a=b", "hello", 200}}},
		{name: "invoke with a method", args: []string{"invoke", "probe", "--method", "PUT"}, stdin: "x", says: []string{"PUT /\nx"},
			calls: []request{{"PUT", "/function/probe.openfaas-fn", "x", 200}}},
		{name: "invoke --async", args: []string{"invoke", "probe", "--async", "--header", "X-Callback-Url: http://gateway:8080/function/probe/note", "--header", "X-Call-Id: from-the-client"},
			stdin: "hello", says: []string{"Function submitted asynchronously"},
			holds: func(t *testing.T) {
				if p.cli == "" {
					p.submit(t, "from-the-client", "probe.openfaas-fn", "http://gateway:8080/function/probe/note")
				}
				testbed.Eventually(t, time.Minute, func() error {
					if told := p.noted(t, "probe").Told["from-the-client"]; told != "200" {
						return fmt.Errorf("its callback was told %q", told)
					}
					return nil
				})
			}},
	}
}

func (p *project) logCommands() []command {
	return []command{
		{name: "logs", args: []string{"logs", "probe", "--tail=false"}, says: []string{"function starting"},
			holds: func(t *testing.T) {
				if lines := p.logLines(t, "name=probe&follow=false&tail=-1"); len(lines) < 1 {
					t.Error("no line in the log")
				}
			}},
		{name: "logs --lines", holds: func(t *testing.T) {
			p.invoke(t, "/function/probe/lines", "11 12 13")
			testbed.Eventually(t, 10*time.Second, func() error {
				if lines := p.logLines(t, "name=probe&tail=2"); len(lines) != 2 || len(lines[0].Text) != 12 || len(lines[1].Text) != 13 {
					return fmt.Errorf("the last two lines are %+v, want those of 12 and 13 bytes", lines)
				}
				return nil
			})
			if p.cli == "" {
				return
			}
			out, err := p.run(t, p.empty, "", "logs", "probe", "--tail=false", "--lines", "2")
			if got := strings.Split(strings.TrimSpace(out), "\n"); err != nil || len(got) != 2 || !strings.HasSuffix(got[1], line(13)) {
				t.Errorf("faas-cli logs --lines 2: %v\n%s", err, out)
			}
		}},
		{name: "logs --since", args: []string{"logs", "probe", "--tail=false", "--since", "1h"}, says: []string{"function starting"}},
		{name: "logs --since-time", holds: func(t *testing.T) {
			since := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
			if lines := p.logLines(t, "name=probe&since="+since); len(lines) > 0 {
				t.Errorf("lines from the future: %+v", lines)
			}
			if p.cli != "" {
				if out, err := p.run(t, p.empty, "", "logs", "probe", "--tail=false", "--since-time", since); err != nil || strings.TrimSpace(out) != "" {
					t.Errorf("faas-cli logs --since-time %s: %v\n%s", since, err, out)
				}
			}
		}},
		{name: "logs of nobody", args: []string{"logs", "nobody", "--tail=false"}, fails: true, says: []string{`404 - function "nobody" does not exist`},
			calls: []request{{"GET", "/system/logs?name=nobody", nil, 404}}},
		{name: "logs, following", holds: p.testFollowCommand},
	}
}

// testFollowCommand wants a line that is written while the client follows.
func (p *project) testFollowCommand(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var stream io.Reader
	if p.cli == "" {
		body := p.openLogs(ctx, t, "name=probe&follow=true&tail=-1")
		defer body.Close()
		stream = body
	} else {
		command := p.command(t, p.empty, "", "logs", "probe")
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		defer command.Wait() // it was killed: its exit code says nothing
		defer command.Process.Kill()
		go func() {
			<-ctx.Done()
			command.Process.Kill()
		}()
		stream = out
	}
	scanner := bufio.NewScanner(stream)
	scanner.Buffer(nil, 1<<20)
	asked := false
	for scanner.Scan() {
		if strings.Contains(scanner.Text(), line(277)) {
			return
		}
		if !asked { // what was there has begun to come: the stream is open
			asked = true
			p.invoke(t, "/function/probe/lines", "277")
		}
	}
	t.Fatalf("the log ends without the line that was written meanwhile: %v", scanner.Err())
}

// changeCommands change the function and its secrets.
func (p *project) changeCommands(t *testing.T) []command {
	declared := p.declared(t)
	flags := p.probe("flags", map[string]string{"round": "1"})
	again := p.probe("flags", map[string]string{"round": "2"})
	deploy := func(round string, more ...string) []string {
		return append([]string{"deploy", "--image", p.image, "--name", "flags", "--env", "round=" + round, "--env", "write_timeout=5s",
			"--env", "healthcheck_interval=500ms", "--annotation", "com.waggle.stop-grace=3s", "--annotation", "com.waggle.idempotent=true"}, more...)
	}
	round := func(want string) func(*testing.T) {
		return func(t *testing.T) {
			testbed.Eventually(t, time.Minute, func() error { return p.answers("/function/flags/env?name=round", want) })
		}
	}
	return []command{
		{name: "deploy, image", args: deploy("1"), says: []string{"Deployed. 202 Accepted"},
			calls: []request{{"PUT", "/system/functions", flags, 404}, {"POST", "/system/functions", flags, 202}}, holds: round("1")},
		{name: "deploy of what exists, without update", args: deploy("2", "--update=false"), fails: true, says: []string{"409", `function "flags" exists`},
			calls: []request{{"POST", "/system/functions", again, 409}}},
		{name: "deploy --update=false --replace", args: deploy("2", "--update=false", "--replace"), says: []string{"Deployed. 202 Accepted"},
			calls: []request{{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: "flags"}, 202}, {"POST", "/system/functions", again, 202}},
			holds: round("2")},
		{name: "deploy of a missing image", args: []string{"deploy", "--image", "localhost/waggle/none:1", "--name", "none"}, fails: true,
			says:  []string{"400", "localhost/waggle/none:1"},
			calls: []request{{"PUT", "/system/functions", types.FunctionDeployment{Service: "none", Image: "localhost/waggle/none:1"}, 404}, {"POST", "/system/functions", types.FunctionDeployment{Service: "none", Image: "localhost/waggle/none:1"}, 400}}},
		{name: "deploy with a wrong limit", args: []string{"deploy", "--image", p.image, "--name", "none", "--memory-limit", "much"}, fails: true,
			says: []string{"400", "limits.memory", "much"}},
		{name: "deploy, stack file, of what runs", inProject: true, args: []string{"deploy", "-f", "stack.yml"}, says: []string{"Deployed. 202 Accepted"},
			calls: []request{{"PUT", "/system/functions", declared, 202}}, holds: func(t *testing.T) { p.sameAs(t, declared) }},
		{name: "secret update", args: []string{"secret", "update", "probe-literal", "--from-literal", "three"}, says: []string{"Updated: 202"},
			calls: []request{{"PUT", "/system/secrets", types.Secret{Name: "probe-literal", Value: "three"}, 202}},
			holds: func(t *testing.T) { p.secretBecomes(t, "probe-literal", "three") }},
		{name: "secret update of nobody", args: []string{"secret", "update", "nobody", "--from-literal", "x"}, says: []string{"nobody"},
			calls: []request{{"PUT", "/system/secrets", types.Secret{Name: "nobody", Value: "x"}, 404}}},
		{name: "secret apply", args: []string{"secret", "apply"}, says: []string{"Updated: 202"},
			calls: []request{{"POST", "/system/secrets", types.Secret{Name: "probe-literal", Value: "applied", RawValue: []byte("applied\n")}, 409}, {"PUT", "/system/secrets", types.Secret{Name: "probe-literal", Value: "applied", RawValue: []byte("applied\n")}, 202}},
			holds: func(t *testing.T) { p.secretBecomes(t, "probe-literal", "applied\n") }},
		{name: "secret remove, in use", args: []string{"secret", "remove", "probe-literal"}, fails: true, says: []string{"409", "is used by probe"},
			calls: []request{{"DELETE", "/system/secrets", types.Secret{Name: "probe-literal"}, 409}}},
	}
}

func (p *project) lastCommands() []command {
	gone := func(name string) func(*testing.T) {
		return func(t *testing.T) {
			testbed.Eventually(t, 30*time.Second, func() error { return p.status404("/function/" + name) })
		}
	}
	removal := func(name string, status int) request {
		return request{"DELETE", "/system/functions", types.DeleteFunctionRequest{FunctionName: name}, status}
	}
	commands := []command{
		{name: "remove", args: []string{"remove", "flags"}, says: []string{"Removing old function"}, calls: []request{removal("flags", 202)}, holds: gone("flags")},
		{name: "remove of nobody", args: []string{"remove", "flags"}, fails: true, says: []string{"No existing function"}, calls: []request{removal("flags", 404)}},
		{name: "remove, stack file", inProject: true, args: []string{"remove", "-f", "stack.yml"}, says: []string{"Removing old function"},
			calls: []request{removal("probe", 202)}, holds: gone("probe")},
		{name: "secret remove of nobody", args: []string{"secret", "remove", "nobody"}, fails: true, says: []string{"Unable to find secret"},
			calls: []request{{"DELETE", "/system/secrets", types.Secret{Name: "nobody"}, 404}}},
	}
	for _, name := range []string{"probe-literal", "probe-file", "probe-binary"} {
		commands = append(commands, command{name: "secret remove " + name, args: []string{"secret", "remove", name}, says: []string{"Removed.. OK."},
			calls: []request{{"DELETE", "/system/secrets", types.Secret{Name: name}, 202}}})
	}
	return commands
}

// answers returns nil if a function answers 200 with a text that begins so.
func (p *project) answers(path, want string) error {
	response, err := callers.Get(p.Gateway + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || !strings.HasPrefix(string(text), want) {
		return fmt.Errorf("%s answers %s %q, want %q", path, response.Status, text, want)
	}
	return nil
}

// invoke posts to a function and wants 200.
func (p *project) invoke(t *testing.T, path, body string) string {
	t.Helper()
	response, err := callers.Post(p.Gateway+path, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %s %q, %v", path, response.Status, text, err)
	}
	return string(text)
}

func (p *project) secretIs(t *testing.T, name, want string) {
	t.Helper()
	if got := p.invoke(t, "/function/probe/secret?name="+name, ""); got != want {
		t.Errorf("in the function secret %s is %q, want %q", name, got, want)
	}
}

// secretBecomes waits for the function to roll, which may have to wait for an update before. While it does, it must go on
// answering.
func (p *project) secretBecomes(t *testing.T, name, want string) {
	t.Helper()
	testbed.Eventually(t, 2*time.Minute, func() error {
		if got := p.invoke(t, "/function/probe/secret?name="+name, ""); got != want {
			return fmt.Errorf("in the function secret %s is %q, want %q", name, got, want)
		}
		return nil
	})
}

// sameAs wants the list to give back what was sent, as a client that compares does.
func (p *project) sameAs(t *testing.T, d types.FunctionDeployment) {
	t.Helper()
	var list []types.FunctionStatus
	if err := json.Unmarshal([]byte(p.call(t, http.MethodGet, "/system/functions", nil, http.StatusOK)), &list); err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.Name != d.Service {
			continue
		}
		got := types.FunctionDeployment{Service: f.Name, Image: f.Image, EnvProcess: f.EnvProcess, EnvVars: f.EnvVars, Constraints: f.Constraints,
			Secrets: f.Secrets, Labels: f.Labels, Annotations: f.Annotations, Limits: f.Limits, Requests: f.Requests, ReadOnlyRootFilesystem: f.ReadOnlyRootFilesystem}
		if !reflect.DeepEqual(got, d) {
			t.Errorf("listed as %+v, want %+v", got, d)
		}
		return
	}
	t.Errorf("%s is not listed", d.Service)
}

// openLogs opens a stream of lines through the gateway.
func (p *project) openLogs(ctx context.Context, t *testing.T, query string) io.ReadCloser {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Gateway+"/system/logs?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("admin", p.Credential(t, "basic-auth-password"))
	response, err := callers.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		t.Fatalf("logs answer %s: %s", response.Status, text)
	}
	return response.Body
}

// logLines reads a log that ends.
func (p *project) logLines(t *testing.T, query string) []logs.Message {
	t.Helper()
	body := p.openLogs(t.Context(), t, query)
	defer body.Close()
	var lines []logs.Message
	for decoder := json.NewDecoder(body); ; {
		var message logs.Message
		err := decoder.Decode(&message)
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, message)
	}
}
