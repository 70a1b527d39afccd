//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"waggle/deploy/lab/provider"
)

// lab runs providers of its own, as processes of this machine, on the system's Swarm.
type lab struct {
	*project
	*provider.Runner
	// base is what was there before the first experiment, steady the provider between two of them.
	base   provider.Picture
	steady *child
}

func (p *project) newLab(t *testing.T) *lab {
	t.Helper()
	return &lab{project: p, Runner: provider.New(t, p.Target.Manager.Host)}
}

// start runs a provider, through a cutter if there is one, and returns when it answers. Env adds settings.
func (l *lab) start(t *testing.T, cut *provider.Cutter, env ...string) *child {
	t.Helper()
	return &child{l.Start(t, cut, env...)}
}

// picture is what is there now.
func (l *lab) picture(t *testing.T) provider.Picture {
	t.Helper()
	return l.Picture(t, l.steady.Process)
}

// child is a provider that answers requests as tests state them.
type child struct{ *provider.Process }

// ask makes one call; an error means that there was no answer.
func (c *child) ask(ctx context.Context, r request) (status int, text string, err error) {
	return c.Ask(ctx, r.method, r.path, r.body)
}

// do makes one call that must be answered.
func (c *child) do(t *testing.T, r request) (status int, text string) {
	t.Helper()
	status, text, err := c.ask(t.Context(), r)
	if err != nil {
		t.Fatalf("%s %s: %v; the provider says:\n%s", r.method, r.path, err, c.Log())
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
