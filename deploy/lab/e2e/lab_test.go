//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// lab runs providers of its own, as processes of this machine, on the system's Swarm.
type lab struct {
	*project
	binary string
	engine *http.Client
	// base is what was there before the first experiment, steady the provider between two of them.
	base   picture
	steady *child
	// sockets is where providers find their engine while they can be killed at a failpoint.
	sockets  string
	children []*child
}

// newLab builds the provider. What it starts ends with the test.
func (p *project) newLab(t *testing.T) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "waggle-lab-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{project: p, binary: filepath.Join(dir, "provider"), sockets: dir, engine: dialEngine(t, p.target.Manager.Host)}
	t.Cleanup(func() {
		for _, c := range l.children {
			c.kill()
		}
	})
	if out, err := exec.Command("go", "build", "-o", l.binary, "waggle/provider").CombinedOutput(); err != nil {
		t.Fatalf("building the provider: %v\n%s", err, out)
	}
	return l
}

// picture is everything of ours on the Swarm, by kind and name: what the API says and what Docker has. Two systems in
// the same state have equal ones.
type picture map[string]string

// dialEngine is a client of the engine behind a socket.
func dialEngine(t *testing.T, host string) *http.Client {
	t.Helper()
	path, found := strings.CutPrefix(host, "unix://")
	if !found {
		t.Fatalf("the engine is at %q, want a Unix socket", host)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// get reads a list from the engine.
func (l *lab) get(path, filter string, value any) error {
	query := url.Values{"filters": {`{"label":["` + filter + `"]}`}}
	response, err := l.engine.Get("http://engine" + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answers %s to %s", response.Status, path)
	}
	return json.NewDecoder(response.Body).Decode(value)
}

// dockerObject is what services, secrets and configs have in common.
type dockerObject struct {
	ID   string
	Spec map[string]any
}

// picture reads all of it.
func (l *lab) picture(t *testing.T) picture {
	t.Helper()
	seen := picture{}
	for kind, label := range map[string]string{"services": "com.waggle.namespace", "secrets": "com.waggle.secret", "configs": "com.waggle.namespace-spec"} {
		var objects []dockerObject
		if err := l.get("/"+kind, label, &objects); err != nil {
			t.Fatal(err)
		}
		for _, object := range objects {
			steady(object.Spec)
			seen[fmt.Sprint(kind, " ", object.Spec["Name"])] = encode(t, object.Spec)
		}
	}
	var namespaces []string
	l.steady.read(t, "/system/namespaces", &namespaces)
	for _, namespace := range namespaces {
		var details, secrets any
		var functions []map[string]any
		l.steady.read(t, "/system/namespace/"+namespace, &details)
		l.steady.read(t, "/system/secrets?namespace="+namespace, &secrets)
		l.steady.read(t, "/system/functions?namespace="+namespace, &functions)
		for _, function := range functions {
			delete(function, "createdAt")
			delete(function, "availableReplicas")
			seen[fmt.Sprint("function ", function["name"], " in ", namespace)] = encode(t, function)
		}
		seen["namespace "+namespace] = encode(t, []any{details, secrets})
	}
	return seen
}

// steady takes out of a spec what differs between two equal states: the ids of secrets, and the hash in which they are.
func steady(value any) {
	switch value := value.(type) {
	case map[string]any:
		delete(value, "SecretID")
		delete(value, "com.waggle.spec")
		for _, part := range value {
			steady(part)
		}
	case []any:
		for _, part := range value {
			steady(part)
		}
	}
}

func encode(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// unwanted counts the replicas that functions without any still have.
func (l *lab) unwanted() (int, error) {
	var services []struct {
		ID   string
		Spec struct {
			Mode struct{ Replicated struct{ Replicas uint64 } }
		}
	}
	if err := l.get("/services", "com.waggle.namespace", &services); err != nil {
		return 0, err
	}
	asleep := map[string]bool{}
	for _, service := range services {
		asleep[service.ID] = service.Spec.Mode.Replicated.Replicas == 0
	}
	var tasks []struct{ ServiceID string }
	if err := l.get("/tasks", "com.openfaas.function", &tasks); err != nil {
		return 0, err
	}
	left := 0
	for _, task := range tasks {
		if asleep[task.ServiceID] {
			left++
		}
	}
	return left, nil
}

// child is a provider as a process of this machine.
type child struct {
	url     string
	process *exec.Cmd
	cutter  *cutter
	stderr  *bytes.Buffer
	once    sync.Once
	over    chan struct{}
}

// start runs a provider on the engine, through a cutter if there is one, and returns when it answers. Env adds settings.
func (l *lab) start(t *testing.T, cut *cutter, env ...string) *child {
	t.Helper()
	host := l.target.Manager.Host
	if cut != nil {
		host = cut.listen(t, filepath.Join(l.sockets, strconv.Itoa(len(l.children))), l.engine.Transport)
	}
	port := freePort(t)
	c := &child{url: "http://127.0.0.1:" + port, process: exec.Command(l.binary), cutter: cut, stderr: &bytes.Buffer{}, over: make(chan struct{})}
	// The control socket's usual path would lead to this machine's own Swarm.
	c.process.Env = append([]string{"role=provider", "basic_auth=false", "port=" + port, "DOCKER_HOST=" + host, "swarm_control_socket="}, env...)
	c.process.Stderr = c.stderr
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	l.children = append(l.children, c)
	eventually(t, 10*time.Second, func() error {
		status, text, err := c.ask(t.Context(), request{"GET", "/healthz", nil, 200})
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, text)
		}
		return err
	})
	return c
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// kill ends it as a machine that loses power would, and returns when it is gone.
func (c *child) kill() {
	c.once.Do(func() {
		_ = c.process.Process.Kill() // it has not been waited for, so its id is its own
		_ = c.process.Wait()
		if c.cutter != nil {
			_ = c.cutter.server.Close()
		}
		close(c.over)
	})
	<-c.over
}

// ask makes one call; an error means that there was no answer.
func (c *child) ask(ctx context.Context, r request) (status int, text string, err error) {
	body, isText := r.body.(string)
	if !isText && r.body != nil {
		encoded, err := json.Marshal(r.body)
		if err != nil {
			return 0, "", err
		}
		body = string(encoded)
	}
	call, err := http.NewRequestWithContext(ctx, r.method, c.url+r.path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	call.Close = true // the next process at this port is another one
	response, err := http.DefaultClient.Do(call)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	return response.StatusCode, string(read), err
}

// do makes one call that must be answered.
func (c *child) do(t *testing.T, r request) (status int, text string) {
	t.Helper()
	status, text, err := c.ask(t.Context(), r)
	if err != nil {
		t.Fatalf("%s %s: %v; the provider says:\n%s", r.method, r.path, err, c.stderr)
	}
	return status, text
}

// accepted makes one call that must succeed.
func (c *child) accepted(t *testing.T, r request) {
	t.Helper()
	if status, text := c.do(t, r); status != r.status {
		t.Fatalf("%s %s: status %d, want %d: %s", r.method, r.path, status, r.status, text)
	}
}

func (c *child) read(t *testing.T, path string, value any) {
	t.Helper()
	status, text := c.do(t, request{"GET", path, nil, 200})
	if err := json.Unmarshal([]byte(text), value); status != http.StatusOK || err != nil {
		t.Fatalf("GET %s: status %d, %v: %s", path, status, err, text)
	}
}
