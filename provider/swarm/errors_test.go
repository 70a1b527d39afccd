package swarm_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/provider/swarm"
)

// TestErrorsDoNotNameTheSocket has the real client of an engine that is away, hangs, or is cut off.
func TestErrorsDoNotNameTheSocket(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	connect := func(path string) *swarm.Cluster {
		docker, err := swarm.Connect("unix://" + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { docker.Close() })
		cluster, err := swarm.New(swarm.Config{Docker: docker, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		return cluster
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	engine := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("API-Version", "1.41")
			return
		}
		asked <- struct{}{}
		if r.Header.Get("X-Registry-Auth") == "" && strings.HasSuffix(r.URL.Path, "/services") {
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
	}))
	engine.Listener.Close()
	engine.Listener = listener
	engine.Start()
	t.Cleanup(engine.Close)
	for name, test := range map[string]struct {
		path string
		call func(ctx context.Context, c *swarm.Cluster) error
		kind error
	}{
		"away":             {socket + ".none", func(ctx context.Context, c *swarm.Cluster) error { _, err := c.List(ctx, ""); return err }, swarm.ErrUnavailable},
		"asked for health": {socket + ".none", func(ctx context.Context, c *swarm.Cluster) error { return c.Ping(ctx) }, swarm.ErrUnavailable},
		"cut off":          {socket, func(ctx context.Context, c *swarm.Cluster) error { _, err := c.List(ctx, ""); return err }, nil},
		"hangs until a deadline": {socket, func(ctx context.Context, c *swarm.Cluster) error {
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			return c.Deploy(ctx, types.FunctionDeployment{Service: "fn", Image: "a"})
		}, swarm.ErrUnavailable},
		"hangs until its caller leaves": {socket, func(ctx context.Context, c *swarm.Cluster) error {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(50*time.Millisecond, cancel)
			return c.Deploy(ctx, types.FunctionDeployment{Service: "fn", Image: "a"})
		}, context.Canceled},
	} {
		err := test.call(t.Context(), connect(test.path))
		if err == nil || test.kind != nil && !errors.Is(err, test.kind) || strings.Contains(err.Error(), "sock/") || strings.Contains(err.Error(), socket) || strings.Contains(err.Error(), "http:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
