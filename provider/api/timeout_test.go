package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"
	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/api"
	"waggle/provider/settings"
	"waggle/provider/swarm"
)

// stuck is a Swarm whose manager does not answer.
type stuck struct{ *swarm.Cluster }

func (stuck) List(ctx context.Context, _ string) ([]types.FunctionStatus, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("listing services: %w", ctx.Err())
}

func TestSwarmThatIsTooLateIsNamedWithTheSetting(t *testing.T) {
	t.Parallel()
	b := setup(t)
	served, err := api.New(api.Config{Cluster: stuck{b.cluster}, Autoscaler: b.scaler, Metrics: prometheus.NewRegistry(), Credentials: settings.Credentials{User: "admin", Password: "pw"},
		Timeout: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.api = served
	got := b.do("GET", "/system/functions", "")
	if text := got.Body.String(); got.Code != http.StatusServiceUnavailable || got.Header().Get("Retry-After") == "" ||
		!strings.Contains(text, "20ms") || !strings.Contains(text, "upstream_timeout") {
		t.Errorf("got %d %q", got.Code, text)
	}
}
