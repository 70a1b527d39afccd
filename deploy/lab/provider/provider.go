// Package provider runs providers as processes of this machine on a Swarm of node containers. It kills them at
// the points that matter, and compares what the Swarm has before and after.
//
// In: the engine of a manager whose own provider is away. Out: processes that answer the API at loopback, and
// snapshots of all that is ours on the Swarm. A [Cutter] between a process and its engine kills it just before
// or after a change.
package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
	"waggle/deploy/lab/testbed"
)

// Runner starts providers on one engine.
type Runner struct {
	host   string // DOCKER_HOST
	binary string
	engine *http.Client
	// sockets is where providers find their engine while they can be killed at a failpoint.
	sockets   string
	processes []*Process
}

// New builds the provider for the engine at a Unix socket, a DOCKER_HOST. What the runner starts ends with the test.
func New(t *testing.T, host string) *Runner {
	t.Helper()
	dir, err := os.MkdirTemp("", "waggle-lab-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &Runner{host: host, binary: filepath.Join(dir, "provider"), sockets: dir, engine: dialEngine(t, host)}
	t.Cleanup(func() {
		for _, p := range r.processes {
			p.Kill()
		}
	})
	if out, err := exec.Command("go", "build", "-o", r.binary, "waggle/provider").CombinedOutput(); err != nil {
		t.Fatalf("building the provider: %v\n%s", err, out)
	}
	return r
}

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

// Process is a provider as a process of this machine.
type Process struct {
	// URL is the base of its API, which asks for no credentials.
	URL     string
	process *exec.Cmd
	cutter  *Cutter
	stderr  *bytes.Buffer
	once    sync.Once
	over    chan struct{}
}

// Start runs a provider on the engine, through a cutter if there is one, and returns when it answers. Env adds settings.
func (r *Runner) Start(t *testing.T, cut *Cutter, env ...string) *Process {
	t.Helper()
	host := r.host
	if cut != nil {
		host = cut.listen(t, filepath.Join(r.sockets, strconv.Itoa(len(r.processes))), r.engine.Transport)
	}
	port := strconv.Itoa(harness.FreePort(t))
	p := &Process{URL: "http://127.0.0.1:" + port, process: exec.Command(r.binary), cutter: cut, stderr: &bytes.Buffer{}, over: make(chan struct{})}
	// The control socket's usual path would lead to this machine's own Swarm.
	p.process.Env = append([]string{"role=provider", "basic_auth=false", "port=" + port, "DOCKER_HOST=" + host, "swarm_control_socket="}, env...)
	p.process.Stderr = p.stderr
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	r.processes = append(r.processes, p)
	testbed.Eventually(t, 10*time.Second, func() error {
		status, text, err := p.Ask(t.Context(), http.MethodGet, "/healthz", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, text)
		}
		return err
	})
	return p
}

// Kill ends it as a machine that loses power would, and returns when it is gone.
func (p *Process) Kill() {
	p.once.Do(func() {
		_ = p.process.Process.Kill() // it has not been waited for, so its id is its own
		_ = p.process.Wait()
		if p.cutter != nil {
			_ = p.cutter.server.Close()
		}
		close(p.over)
	})
	<-p.over
}

// Ask makes one call, with a body that is text or becomes JSON; an error means that there was no answer.
func (p *Process) Ask(ctx context.Context, method, path string, content any) (status int, text string, err error) {
	body, isText := content.(string)
	if !isText && content != nil {
		encoded, err := json.Marshal(content)
		if err != nil {
			return 0, "", err
		}
		body = string(encoded)
	}
	call, err := http.NewRequestWithContext(ctx, method, p.URL+path, strings.NewReader(body))
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

// Log is what it has written.
func (p *Process) Log() string { return p.stderr.String() }
