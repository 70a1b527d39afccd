package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"
	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/api"
	"waggle/provider/settings"
)

// restarted are the counts of a provider that began to count at a time.
type restarted struct{ at time.Time }

func (r restarted) Invocations(string, string) float64 { return 3 }
func (r restarted) CountingSince() time.Time           { return r.at }

// TestCountOfARestartedProviderIsDated describes a function before and after everything that counted its invocations has
// been started again, and sends back what was told.
func TestCountOfARestartedProviderIsDated(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if got := b.do("POST", "/system/functions", fn); got.Code != 202 {
		t.Fatal(got.Body)
	}
	const since = "com.waggle.invocations.since"
	if got := b.do("GET", "/system/function/fn", ""); strings.Contains(got.Body.String(), since) {
		t.Errorf("all invocations of the function's life are counted, and its description says %s", got.Body)
	}
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	served, err := api.New(api.Config{Cluster: b.cluster, Autoscaler: b.scaler, Invocations: restarted{at}, Credentials: settings.Credentials{User: "admin", Password: "pw"},
		Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	b.api = served
	var told types.FunctionStatus
	if err := json.Unmarshal(b.do("GET", "/system/function/fn", "").Body.Bytes(), &told); err != nil {
		t.Fatal(err)
	}
	if got, want := (*told.Annotations)[since], at.UTC().Format(time.RFC3339); got != want || told.InvocationCount != 3 {
		t.Errorf("%g invocations since %q, want 3 since %q", told.InvocationCount, got, want)
	}
	back, err := json.Marshal(types.FunctionDeployment{Service: told.Name, Image: testImage, Annotations: told.Annotations})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.do("PUT", "/system/functions", string(back)); got.Code != 202 {
		t.Fatal(got.Body)
	}
	if list := b.do("GET", "/system/functions", "").Body.String(); strings.Contains(list, since) {
		t.Errorf("what a description added is kept as the user's own: %s", list)
	}
}
