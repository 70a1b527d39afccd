package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"waggle/provider/api"
	"waggle/provider/autoscale"
	"waggle/provider/feed"
	"waggle/provider/settings"
	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testImage = "ours/function:1"

// bundle is an API over a Swarm in memory.
type bundle struct {
	engine   *swarmtest.Engine
	cluster  *swarm.Cluster
	api      *api.API
	registry *prometheus.Registry
	scaler   *autoscale.Scaler
}

type counts map[string]float64

func (c counts) Invocations(name, namespace string) float64 { return c[name+"."+namespace] }
func (c counts) CountingSince() time.Time                   { return countingSince }

// countingSince is long before the tests' functions are made.
var countingSince = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

func setup(t testing.TB) bundle {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	engine := swarmtest.NewEngine("waggle-functions")
	engine.AddImage(testImage, "sha256:1")
	cluster, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	scaler, err := autoscale.New(autoscale.Config{Cluster: cluster, Usages: &feed.UsageBook{}, Namespace: "openfaas-fn", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	served, err := api.New(api.Config{
		Cluster: cluster, Autoscaler: scaler, Invocations: counts{"fn.openfaas-fn": 7}, Credentials: settings.Credentials{User: "admin", Password: "pw", Also: []string{"old"}}, Metrics: registry, Logger: quiet,
		Feed: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "feed") }),
	})
	if err != nil {
		t.Fatal(err)
	}
	return bundle{engine, cluster, served, registry, scaler}
}

// published hands the autoscaler the table of now, as a watcher makes it.
func (b bundle) published(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	watcher, err := swarm.NewWatcher(swarm.WatcherConfig{Cluster: b.cluster, Publisher: firstTable{b.scaler, cancel}})
	if err != nil {
		t.Fatal(err)
	}
	if err := watcher.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// firstTable is a publisher for one table.
type firstTable struct {
	scaler *autoscale.Scaler
	done   context.CancelFunc
}

func (f firstTable) Publish(table feed.Table) { f.scaler.Follow(table); f.done() }
func (f firstTable) Forget(string, string)    {}

func (b bundle) do(method, target, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	request.SetBasicAuth("admin", "pw")
	recorder := httptest.NewRecorder()
	b.api.ServeHTTP(recorder, request)
	return recorder
}

const fn = `{"service":"fn","image":"` + testImage + `","labels":{},"annotations":{}}`

// TestStatuses walks through what clients do; each step sees what the ones before it did.
func TestStatuses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, step := range []struct {
		name, method, target, body string
		status                     int
		contains                   string
	}{
		{"no function yet", "GET", "/system/functions", "", 200, "[]\n"},
		{"unknown on PUT", "PUT", "/system/functions", fn, 404, "does not exist"},
		{"create", "POST", "/system/functions", fn, 202, ""},
		{"create again", "POST", "/system/functions", fn, 409, "exists"},
		{"labels null", "POST", "/system/functions", `{"service":"nulls","image":"` + testImage + `","labels":null,"annotations":null,"envVars":null}`, 202, ""},
		{"update", "PUT", "/system/functions", fn, 202, ""},
		{"old fields", "PUT", "/system/functions", `{"service":"fn","image":"` + testImage + `","registryAuth":"","network":"x"}`, 202, ""},
		{"credentials", "PUT", "/system/functions", `{"service":"fn","image":"` + testImage + `","registryAuth":"eA=="}`, 400, "registryAuth is given: must be left out"},
		{"no UTF-8", "PUT", "/system/functions", `{"service":"fn","image":"` + testImage + `","envProcess":"` + "\xff" + `"}`, 400, "not UTF-8"},
		{"list", "GET", "/system/functions", "", 200, `"name":"fn"`},
		{"list the default namespace", "GET", "/system/functions?namespace=openfaas-fn", "", 200, `"invocationCount":7`},
		{"list an unknown namespace", "GET", "/system/functions?namespace=none", "", 400, "namespace"},
		{"describe", "GET", "/system/function/fn?namespace=&usage=false", "", 200, `"availableReplicas":1`},
		{"describe with usage", "GET", "/system/function/fn?usage=1", "", 200, `"totalMemoryBytes":`},
		{"describe unknown", "GET", "/system/function/none", "", 404, ""},
		{"describe in another namespace", "GET", "/system/function/fn?namespace=dev", "", 404, ""},
		{"usage of nonsense", "GET", "/system/function/fn?usage=x", "", 400, "usage"},
		{"what was told comes back", "PUT", "/system/functions", strings.Replace(fn, `"annotations":{}`, `"annotations":{"com.waggle.state":"rolled back","topic":"t"}`, 1), 202, ""},
		{"the state is not kept", "GET", "/system/function/fn", "", 200, `"annotations":{"topic":"t"}`},
		{"scale", "POST", "/system/scale-function/fn", `{"serviceName":"fn","replicas":3}`, 202, ""},
		{"scale by query", "POST", "/system/scale-function/fn?namespace=openfaas-fn", `{"serviceName":"fn","replicas":2}`, 202, ""},
		{"scale to zero", "POST", "/system/scale-function/fn", `{"replicas":0}`, 202, ""},
		{"scale without number", "POST", "/system/scale-function/fn", `{"serviceName":"fn"}`, 400, "replicas"},
		{"scale below zero", "POST", "/system/scale-function/fn", `{"replicas":-1}`, 400, "replicas"},
		{"scale beyond reason", "POST", "/system/scale-function/fn", `{"replicas":10001}`, 400, "10000"},
		{"scale another", "POST", "/system/scale-function/fn", `{"serviceName":"x","replicas":1}`, 400, "serviceName"},
		{"scale unknown", "POST", "/system/scale-function/none", `{"replicas":1}`, 404, ""},
		{"two namespaces", "POST", "/system/scale-function/fn?namespace=a", `{"replicas":1,"namespace":"b"}`, 400, "namespace"},

		{"no body", "POST", "/system/functions", "", 400, "body"},
		{"no JSON", "POST", "/system/functions", "{", 400, "JSON"},
		{"no object", "POST", "/system/functions", "[]", 400, "object"},
		{"wrong type", "POST", "/system/functions", `{"service":1}`, 400, "service"},
		{"no image", "POST", "/system/functions", `{"service":"x"}`, 400, "image"},
		{"no name", "POST", "/system/functions", `{"image":"` + testImage + `"}`, 400, "service"},
		{"bad name", "POST", "/system/functions", `{"service":"A_b","image":"x"}`, 400, "a-z"},
		{"image of no registry", "POST", "/system/functions", `{"service":"x","image":"private/x:1"}`, 400, "may require authorization"},
		{"bad limit", "POST", "/system/functions", `{"service":"x","image":"` + testImage + `","limits":{"memory":"lots"}}`, 400, "limits.memory"},
		{"forbidden volume", "POST", "/system/functions", `{"service":"x","image":"` + testImage + `","annotations":{"com.waggle.volumes":"v:/v"}}`, 403, "allows none"},
		{"huge body", "POST", "/system/functions", `{"service":"` + strings.Repeat("x", 3<<20) + `"}`, 413, "bytes"},

		{"no secret yet", "GET", "/system/secrets", "", 200, "[]\n"},
		{"create secret", "POST", "/system/secrets", `{"name":"key","value":"v"}`, 202, ""},
		{"create secret again", "POST", "/system/secrets", `{"name":"key","value":"v"}`, 409, "exists"},
		{"list secrets", "GET", "/system/secrets", "", 200, `[{"name":"key","namespace":"openfaas-fn"}]`},
		{"update secret", "PUT", "/system/secrets", `{"name":"key","rawValue":"AAE="}`, 202, ""},
		{"update unknown secret", "PUT", "/system/secrets", `{"name":"none","value":"v"}`, 404, ""},
		{"empty secret", "POST", "/system/secrets", `{"name":"empty"}`, 400, "value"},
		{"secret of a path", "POST", "/system/secrets", `{"name":"../x","value":"v"}`, 400, "name"},
		{"use secret", "PUT", "/system/functions", `{"service":"fn","image":"` + testImage + `","secrets":["key"]}`, 202, ""},
		{"remove used secret", "DELETE", "/system/secrets", `{"name":"key"}`, 409, "used by fn"},
		{"free secret", "PUT", "/system/functions", fn, 202, ""},
		{"remove secret", "DELETE", "/system/secrets", `{"name":"key"}`, 202, ""},
		{"remove unknown secret", "DELETE", "/system/secrets", `{"name":"key"}`, 404, ""},

		{"namespaces", "GET", "/system/namespaces", "", 200, `["openfaas-fn"]`},
		{"create namespace", "POST", "/system/namespace/", `{"name":"dev","labels":{"openfaas":"1"}}`, 201, ""},
		{"create namespace again", "POST", "/system/namespace/", `{"name":"dev","labels":{"openfaas":"1"}}`, 409, ""},
		{"namespace without mark", "POST", "/system/namespace/", `{"name":"x"}`, 400, "openfaas"},
		{"namespace of another name", "PUT", "/system/namespace/dev", `{"name":"x","labels":{"openfaas":"1"}}`, 400, "name"},
		{"update namespace", "PUT", "/system/namespace/dev", `{"name":"dev","labels":{"openfaas":"1","a":"b"}}`, 202, ""},
		{"get namespace", "GET", "/system/namespace/dev", "", 200, `"a":"b"`},
		{"get unknown namespace", "GET", "/system/namespace/none", "", 404, ""},
		{"same name in it", "POST", "/system/functions", strings.Replace(fn, `"fn"`, `"fn","namespace":"dev"`, 1), 202, ""},
		{"remove used namespace", "DELETE", "/system/namespace/dev", `{"name":"dev"}`, 409, "1 functions"},
		{"remove from it by query", "DELETE", "/system/functions?namespace=dev", `{"functionName":"fn"}`, 202, ""},
		{"remove namespace", "DELETE", "/system/namespace/dev", `{"name":"dev","labels":{"openfaas":"1"}}`, 202, ""},
		{"remove unknown namespace", "DELETE", "/system/namespace/dev", "", 404, ""},
		{"remove default namespace", "DELETE", "/system/namespace/openfaas-fn", "", 400, "default"},

		{"logs of unknown", "GET", "/system/logs?name=none&follow=true&tail=-1", "", 404, ""},
		{"logs of nobody", "GET", "/system/logs", "", 400, "name"},
		{"logs with bad tail", "GET", "/system/logs?name=fn&tail=x", "", 422, "tail"},
		{"logs with bad since", "GET", "/system/logs?name=fn&since=yesterday", "", 422, "since"},

		{"info", "GET", "/system/info", "", 200, `"orchestration":"swarm"`},
		{"telemetry", "GET", "/system/telemetry", "", 404, "telemetry"},
		{"wrong verb", "PATCH", "/system/functions", "", 405, ""},
		{"health", "GET", "/healthz", "", 200, "OK"},
		{"health by HEAD", "HEAD", "/healthz", "", 200, ""},
		{"metrics", "GET", "/metrics", "", 200, "provider_http_requests_total"},
		{"feed", "GET", "/feed/table", "", 200, "feed"},

		{"remove without name", "DELETE", "/system/functions", `{}`, 400, "functionName"},
		{"remove", "DELETE", "/system/functions", `{"functionName":"fn"}`, 202, ""},
		{"remove again", "DELETE", "/system/functions", `{"functionName":"fn"}`, 404, ""},
	} {
		got := b.do(step.method, step.target, step.body)
		if got.Code != step.status || !strings.Contains(got.Body.String(), step.contains) {
			t.Errorf("%s: %s %s: %d %q; want %d with %q", step.name, step.method, step.target, got.Code, got.Body, step.status, step.contains)
		}
		if got.Code >= 400 && got.Code < 500 && strings.Count(strings.TrimSpace(got.Body.String()), "\n") > 0 {
			t.Errorf("%s: more than one line: %q", step.name, got.Body)
		}
	}
	if n := testutil.CollectAndCount(b.registry, "provider_http_requests_total"); n > 80 {
		t.Errorf("%d series: a path became a label", n)
	}
}

func TestPasswordIsAskedForEverywhere(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, route := range []string{
		"GET /system/functions", "POST /system/functions", "PUT /system/functions", "DELETE /system/functions", "GET /system/function/fn",
		"POST /system/scale-function/fn", "GET /system/secrets", "POST /system/secrets", "GET /system/logs", "GET /system/info",
		"GET /system/namespaces", "POST /system/namespace/", "GET /system/namespace/dev", "DELETE /system/namespace/dev",
		"POST /system/alert", "GET /system/telemetry", "GET /system/whatever", "PATCH /system/functions", "GET /feed/table", "POST /feed/load",
	} {
		method, path, _ := strings.Cut(route, " ")
		for name, header := range map[string]string{
			"none": "", "empty bearer": "Bearer ", "wrong password": "Basic YWRtaW46eA==", "wrong user": "Basic eDpwdw==", "nonsense": "Basic !",
		} {
			request := httptest.NewRequest(method, path, strings.NewReader("{}"))
			if header != "" {
				request.Header.Set("Authorization", header)
			}
			recorder := httptest.NewRecorder()
			b.api.ServeHTTP(recorder, request)
			if recorder.Code != http.StatusUnauthorized || recorder.Header().Get("WWW-Authenticate") != `Basic realm="Restricted"` || strings.TrimSpace(recorder.Body.String()) != "invalid credentials" {
				t.Errorf("%s with %s: %d %q", route, name, recorder.Code, recorder.Body)
			}
		}
	}
}

func TestASecondPasswordIsTakenWhileTheyAreExchanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for password, want := range map[string]int{"pw": http.StatusOK, "old": http.StatusOK, "older": http.StatusUnauthorized} {
		request := httptest.NewRequest(http.MethodGet, "/system/functions", nil)
		request.SetBasicAuth("admin", password)
		recorder := httptest.NewRecorder()
		b.api.ServeHTTP(recorder, request)
		if recorder.Code != want {
			t.Errorf("password %s: %d, want %d", password, recorder.Code, want)
		}
	}
}

func TestDockerAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.do("POST", "/system/functions", fn)
	b.engine.SetAway(true)
	for _, route := range []string{"GET /system/functions", "GET /system/function/fn", "GET /system/secrets", "GET /system/namespaces", "GET /healthz", "GET /system/logs?name=fn"} {
		method, path, _ := strings.Cut(route, " ")
		if got := b.do(method, path, ""); got.Code != http.StatusServiceUnavailable || !strings.Contains(got.Body.String(), "Docker") {
			t.Errorf("%s: %d %q", route, got.Code, got.Body)
		}
	}
	for _, method := range []string{"POST", "PUT"} {
		if got := b.do(method, "/system/functions", fn); got.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %q", method, got.Code, got.Body)
		}
	}
	b.engine.SetAway(false)
	if got := b.do("GET", "/system/function/fn", ""); got.Code != http.StatusOK {
		t.Errorf("afterwards: %d %q", got.Code, got.Body)
	}
}

// TestInfoIsComplete: faas-cli ends in a panic where one of these is missing.
func TestInfoIsComplete(t *testing.T) {
	t.Parallel()
	var info struct {
		Provider types.ProviderInfo
		Version  *types.VersionInfo
		Arch     string
	}
	if err := json.Unmarshal(setup(t).do("GET", "/system/info", "").Body.Bytes(), &info); err != nil {
		t.Fatal(err)
	}
	if info.Provider.Name == "" || info.Provider.Orchestration == "" || info.Provider.Version == nil || info.Provider.Version.Release == "" ||
		info.Provider.Version.SHA == "" || info.Version == nil || info.Version.Release == "" || info.Version.SHA == "" || info.Arch == "" {
		t.Errorf("incomplete: %+v", info)
	}
}

func TestLogsStreamBeyondTheWriteTimeout(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.do("POST", "/system/functions", fn)
	server := httptest.NewUnstartedServer(b.api)
	server.Config.WriteTimeout = time.Nanosecond // over before the first line, were it not lifted
	server.Start()
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/system/logs?follow=true&name=fn&tail=-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("admin", "pw")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("Content-Type %q", response.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(response.Body)
	task := b.engine.TaskIDs()[0]
	// Each line is written when the one before it was read.
	for i := range 4 {
		b.engine.WriteLog(task, time.Now(), 1, fmt.Sprint("line ", i))
		if !lines.Scan() {
			t.Fatalf("the stream ended before line %d: %v", i, lines.Err())
		}
		var message logs.Message
		if err := json.Unmarshal(lines.Bytes(), &message); err != nil || message.Text != fmt.Sprint("line ", i) || message.Name != "fn" {
			t.Errorf("line %d: %q, %v", i, lines.Text(), err)
		}
	}
}

func TestAlert(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		labels string
		start  uint64
		status string
		want   uint64
	}{
		"fires: a tenth of 20 more": {`{}`, 1, "firing", 3},
		"fires at the upper bound":  {`{"com.openfaas.scale.max":"3"}`, 3, "firing", 3},
		"fires up to the bound":     {`{"com.openfaas.scale.max":"4","com.openfaas.scale.factor":"50"}`, 3, "firing", 4},
		"a step is rounded up":      {`{"com.openfaas.scale.max":"5"}`, 1, "firing", 2},
		"factor zero: no scaling":   {`{"com.openfaas.scale.factor":"0"}`, 2, "firing", 2},
		"resolved: a step less":     {`{"com.openfaas.scale.min":"2"}`, 5, "resolved", 3},
		"resolved near the bound":   {`{"com.openfaas.scale.min":"4"}`, 5, "resolved", 4},
		"resolved while asleep":     {`{}`, 0, "resolved", 0},
		"another status":            {`{"com.openfaas.scale.min":"2"}`, 5, "suppressed", 5},
		"above the bound by hand":   {`{"com.openfaas.scale.max":"3"}`, 7, "firing", 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.do("POST", "/system/functions", strings.Replace(fn, `"labels":{}`, `"labels":`+test.labels, 1))
			if err := b.cluster.Scale(t.Context(), "", "fn", test.start); err != nil {
				t.Fatal(err)
			}
			b.published(t)
			body := `{"status":"firing","receiver":"x","alerts":[{"status":"` + test.status + `","labels":{"alertname":"APIHighInvocationRate","function_name":"fn.openfaas-fn"}},{"status":"firing","labels":{"function_name":"unknown"}}]}`
			if got := b.do("POST", "/system/alert", body); got.Code != http.StatusOK || got.Body.Len() != 0 {
				t.Errorf("%d %q", got.Code, got.Body)
			}
			status, err := b.cluster.Status(t.Context(), "", "fn", false)
			if err != nil || status.Replicas != test.want {
				t.Errorf("%d replicas, %v; want %d", status.Replicas, err, test.want)
			}
		})
	}
	// An alert waits for the autoscaler to know a function that was deployed a moment ago.
	young := setup(t)
	young.do("POST", "/system/functions", fn)
	answered := make(chan int)
	go func() {
		answered <- young.do("POST", "/system/alert", `{"status":"firing","alerts":[{"labels":{"function_name":"fn"}}]}`).Code
	}()
	young.published(t)
	if code := <-answered; code != http.StatusOK {
		t.Errorf("an alert about a young function: %d", code)
	}
	if status, err := young.cluster.Status(t.Context(), "", "fn", false); err != nil || status.Replicas != 3 {
		t.Errorf("%d replicas, %v", status.Replicas, err)
	}
	b := setup(t)
	for body, status := range map[string]int{"": 400, "x": 400, `{"alerts":[{"status":"firing","labels":{"alertname":"disk full"}}]}`: 200, `{}`: 200} {
		if got := b.do("POST", "/system/alert", body); got.Code != status {
			t.Errorf("%q: %d %q, want %d", body, got.Code, got.Body, status)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := api.New(api.Config{Credentials: settings.Credentials{User: "admin"}, Timeout: -1})
	for _, want := range []string{"Cluster", "Autoscaler", "Metrics", "Credentials", "Timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}

// FuzzDeploy sends anything as a deployment: the answer is never a server's error, and what is accepted is listed.
func FuzzDeploy(f *testing.F) {
	f.Add(fn)
	f.Add(`{"service":"a","image":"ours/function:1","limits":{"cpu":"1e3"},"secrets":["x"],"labels":{"com.openfaas.scale.min":"-1"}}`)
	f.Add(`{"service":"a","image":"ours/function:1","annotations":{"com.waggle.volumes":"a:/b"},"envVars":{"=":"\u0000"}}`)
	f.Fuzz(func(t *testing.T, body string) {
		b := setup(t)
		got := b.do("POST", "/system/functions", body)
		if !slices.Contains([]int{202, 400, 403, 409, 413}, got.Code) {
			t.Fatalf("%q: %d %q", body, got.Code, got.Body)
		}
		list := b.do("GET", "/system/functions", "")
		if listed := list.Body.String() != "[]\n"; list.Code != 200 || listed != (got.Code == 202) {
			t.Errorf("%q: %d, then listed %d %q", body, got.Code, list.Code, list.Body)
		}
	})
}

// FuzzLogsQuery sends anything as a query for logs.
func FuzzLogsQuery(f *testing.F) {
	f.Add("name=fn&tail=-1&follow=false")
	f.Add("name=fn&since=2006-01-02T15:04:05Z&tail=99999999999999999999")
	f.Add("%zz&;name=fn")
	f.Fuzz(func(t *testing.T, query string) {
		b := setup(t)
		request := httptest.NewRequest("GET", "/system/logs", nil)
		request.URL.RawQuery = query
		request.SetBasicAuth("admin", "pw")
		recorder := httptest.NewRecorder()
		b.api.ServeHTTP(recorder, request)
		if !slices.Contains([]int{400, 404, 422}, recorder.Code) {
			t.Errorf("%q: %d %q", query, recorder.Code, recorder.Body)
		}
	})
}
