package api_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/api"
	"waggle/provider/autoscale"
	"waggle/provider/feed"
	"waggle/provider/settings"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

// TestBehindOpenFaaSOwnGateway calls as that does: it asks the provider for its part of the information, and for functions.
func TestBehindOpenFaaSOwnGateway(t *testing.T) {
	t.Parallel()
	function := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.RequestURI)
		w.Header().Set("X-From", r.Header.Get("X-Forwarded-For")+" for "+r.Header.Get("X-Forwarded-Host"))
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(body)
	}))
	t.Cleanup(function.Close)
	address := function.Listener.Addr().String()
	table := feed.Table{Functions: []feed.Function{
		{Name: "fn", Namespace: "openfaas-fn", Service: "fn", Replicas: []feed.Replica{{ID: "a", Address: "192.0.2.1:1", State: feed.Starting}, {ID: "b", Address: address, State: feed.Ready}}},
		{Name: "fn", Namespace: "dev", Service: "dev_fn"},
		{Name: "dead", Namespace: "openfaas-fn", Service: "dead", Replicas: []feed.Replica{{ID: "c", Address: "127.0.0.1:1", State: feed.Ready}}},
	}}
	quiet := slog.New(slog.DiscardHandler)
	cluster, err := swarm.New(swarm.Config{Docker: swarmtest.NewEngine("waggle-functions"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	served, err := api.New(api.Config{Cluster: cluster, Autoscaler: noScaler{}, Credentials: settings.Credentials{User: "admin", Password: "pw"}, Metrics: prometheus.NewRegistry(), Logger: quiet,
		Table: func() feed.Table { return table }})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, target string, info bool) *httptest.ResponseRecorder {
		request := httptest.NewRequest(method, target, strings.NewReader("body"))
		request.Header.Set("X-Forwarded-For", "198.51.100.7:1234")
		request.Header.Set("X-Forwarded-Host", "faas.example")
		if info {
			request.SetBasicAuth("admin", "pw")
		}
		recorder := httptest.NewRecorder()
		served.ServeHTTP(recorder, request)
		return recorder
	}
	if got := ask("GET", "/system/info", true); got.Code != 200 || !strings.HasPrefix(got.Body.String(), `{"provider":"waggle","version":{`) || !strings.Contains(got.Body.String(), `"orchestration":"swarm"`) {
		t.Errorf("its part of the information: %d %s", got.Code, got.Body)
	}
	for _, test := range []struct {
		target string
		status int
		seen   string
		body   string
	}{
		{"/function/fn", 418, "/", "body"},
		{"/function/fn.openfaas-fn/a//b%2Fc?x=%20&y", 418, "/a//b%2Fc?x=%20&y", "body"},
		{"/function/fn.dev/", 503, "", "function fn.dev has no replica that is ready"},
		{"/function/none", 404, "", "function none does not exist"},
		{"/function/dead/", 502, "", "must be on the functions' network"},
	} {
		got := ask("POST", test.target, false)
		if got.Code != test.status || got.Header().Get("X-Seen") != test.seen || !strings.Contains(got.Body.String(), test.body) || (test.seen == "") != (got.Header().Get("X-OpenFaaS-Internal") == "proxy") {
			t.Errorf("%s: %d, seen as %q, %q; want %d, %q, %q", test.target, got.Code, got.Header().Get("X-Seen"), got.Body, test.status, test.seen, test.body)
		}
		if from := got.Header().Get("X-From"); test.seen != "" && from != "198.51.100.7:1234 for faas.example" {
			t.Errorf("%s: from %q", test.target, from)
		}
	}
}

// TestFunctionsByTheGateway: the stack's provider reaches no replica, so a gateway is asked with the path as it was sent.
func TestFunctionsByTheGateway(t *testing.T) {
	t.Parallel()
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI+" "+r.Header.Get("X-Forwarded-For"))
	}))
	quiet := slog.New(slog.DiscardHandler)
	cluster, err := swarm.New(swarm.Config{Docker: swarmtest.NewEngine("waggle-functions"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	served, err := api.New(api.Config{Cluster: cluster, Autoscaler: noScaler{}, Metrics: prometheus.NewRegistry(), Logger: quiet,
		Table: func() feed.Table { return feed.Table{} }, Gateway: gateway.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() *httptest.ResponseRecorder {
		request := httptest.NewRequest("POST", "/function/fn.dev/a//b%2Fc?x=%20&y", strings.NewReader("body"))
		request.Header.Set("X-Forwarded-For", "198.51.100.7:1234")
		recorder := httptest.NewRecorder()
		served.ServeHTTP(recorder, request)
		return recorder
	}
	if got := ask(); got.Code != 200 || got.Body.String() != "POST /function/fn.dev/a//b%2Fc?x=%20&y 198.51.100.7:1234" {
		t.Errorf("by the gateway: %d %q", got.Code, got.Body)
	}
	gateway.Close()
	if got := ask(); got.Code != 502 || !strings.Contains(got.Body.String(), "the gateway at 127.0.0.1") || got.Header().Get("X-OpenFaaS-Internal") != "proxy" {
		t.Errorf("without it: %d %q", got.Code, got.Body)
	}
}

// noScaler knows no function.
type noScaler struct{}

func (noScaler) View(string, string) (autoscale.View, bool)        { return autoscale.View{}, false }
func (noScaler) Alert(context.Context, string, string, bool) error { return feed.ErrUnknownFunction }
