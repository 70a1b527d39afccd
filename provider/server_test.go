package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"
	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/api"
	"waggle/provider/autoscale"
	"waggle/provider/feed"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// slowCluster answers Ping and Namespaces when it is let, and writes a log without end.
type slowCluster struct {
	*swarm.Cluster
	begun, release chan struct{}
}

func (c slowCluster) Namespaces(ctx context.Context) ([]string, error) {
	c.begun <- struct{}{}
	select {
	case <-c.release:
		return []string{"openfaas-fn"}, nil
	case <-ctx.Done():
		return nil, fmt.Errorf(`Get "http://%%2Fvar%%2Frun%%2Fdocker.sock/v1.41/configs": %w`, ctx.Err())
	}
}

func (c slowCluster) Logs(ctx context.Context, _ logs.Request, emit func(logs.Message) error) error {
	if err := emit(logs.Message{Text: "first"}); err != nil {
		return err
	}
	c.begun <- struct{}{}
	<-ctx.Done()
	return nil
}

type noScaler struct{}

func (noScaler) View(string, string) (autoscale.View, bool)        { return autoscale.View{}, false }
func (noScaler) Alert(context.Context, string, string, bool) error { return feed.ErrUnknownFunction }

// TestShutdownAnswersWhoWaits replaces a provider during calls: those that end in time are answered, what cannot end is
// told so, and streams end at once.
func TestShutdownAnswersWhoWaits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		path    string
		ends    bool
		timeout time.Duration
		status  int
		body    string
	}{
		"a call that ends":       {"/system/namespaces", true, 20 * time.Second, 200, `["openfaas-fn"]`},
		"a call that does not":   {"/system/namespaces", false, 10 * time.Millisecond, 503, "the provider is being replaced"},
		"a log that is followed": {"/system/logs?name=fn&follow=true", false, 20 * time.Second, 200, "the provider is being replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			quiet := slog.New(slog.DiscardHandler)
			engine := swarmtest.NewEngine("waggle-functions")
			engine.AddImage("ours/function:1", "sha256:1")
			inner, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			if err := inner.Deploy(t.Context(), types.FunctionDeployment{Service: "fn", Image: "ours/function:1"}); err != nil {
				t.Fatal(err)
			}
			cluster := slowCluster{inner, make(chan struct{}, 1), make(chan struct{})}
			ctx, stop := context.WithCancel(t.Context())
			handler, err := api.New(api.Config{Closing: ctx, Cluster: cluster, Autoscaler: noScaler{}, Metrics: prometheus.NewRegistry(), Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var c config
			c.provider.ReadTimeout, c.provider.WriteTimeout, c.provider.ShutdownTimeout = time.Minute, time.Minute, test.timeout
			served := make(chan error, 1)
			go func() { served <- serveOn(ctx, listener, c.provider.server, handler, quiet) }()
			answered := make(chan *http.Response, 1)
			go func() {
				response, err := http.Get("http://" + listener.Addr().String() + test.path)
				if err != nil {
					t.Error(err)
				}
				answered <- response
			}()
			<-cluster.begun
			stop()
			if test.ends {
				close(cluster.release)
			}
			response := <-answered
			if response == nil {
				return
			}
			body, err := io.ReadAll(bufio.NewReader(response.Body))
			response.Body.Close()
			if err != nil || response.StatusCode != test.status || !strings.Contains(string(body), test.body) || strings.Contains(string(body), "sock") || strings.Contains(string(body), "canceled") {
				t.Errorf("%s %q, %v; want %d with %q", response.Status, body, err, test.status, test.body)
			}
			if response.StatusCode == 503 && response.Header.Get("Retry-After") == "" {
				t.Error("nobody says when to try again")
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}
