package api_test

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// calls are the routes that take a body or a name, besides the deployment of a function, which FuzzDeploy covers.
var calls = []struct{ method, path string }{
	{"PUT", "/system/functions"}, {"DELETE", "/system/functions"}, {"GET", "/system/functions"}, {"GET", "/system/function/*"},
	{"POST", "/system/scale-function/*"}, {"POST", "/system/alert"},
	{"GET", "/system/secrets"}, {"POST", "/system/secrets"}, {"PUT", "/system/secrets"}, {"DELETE", "/system/secrets"},
	{"POST", "/system/namespace/"}, {"POST", "/system/namespace/*"}, {"PUT", "/system/namespace/*"}, {"GET", "/system/namespace/*"}, {"DELETE", "/system/namespace/*"},
}

// FuzzCalls sends anything as name, query and body of every other call. The answer is never a server's error,
// and a refusal says why. The existing function and secret are still served.
func FuzzCalls(f *testing.F) {
	for route := range calls {
		f.Add(uint8(route), "fn", "namespace=openfaas-fn", `{"serviceName":"fn","replicas":2}`)
	}
	f.Add(uint8(4), "fn", "", `{"replicas":1e99}`)
	f.Add(uint8(5), "", "", `{"alerts":[{"status":"firing","labels":{"function_name":"."}}]}`)
	f.Add(uint8(7), "", "", `{"name":"../x","value":"\u0000"}`)
	f.Add(uint8(9), "", "namespace=%00", `{"name":"key"}`)
	f.Add(uint8(11), "dev", "", `{"name":"dev","labels":{"openfaas":"1"}}`)
	f.Add(uint8(14), "openfaas-fn", "", ``)
	f.Fuzz(func(t *testing.T, route uint8, name, query, body string) {
		b := setup(t)
		b.do("POST", "/system/functions", strings.Replace(fn, `"fn"`, `"kept"`, 1))
		call := calls[int(route)%len(calls)]
		request := httptest.NewRequest(call.method, "/", strings.NewReader(body))
		request.URL.Path = strings.Replace(call.path, "*", name, 1)
		request.URL.RawPath = strings.Replace(call.path, "*", url.PathEscape(name), 1)
		request.URL.RawQuery = query
		request.SetBasicAuth("admin", "pw")
		recorder := httptest.NewRecorder()
		b.api.ServeHTTP(recorder, request)
		// A path that is not clean is redirected, and an empty name is another route.
		if !slices.Contains([]int{200, 201, 202, 301, 307, 400, 403, 404, 405, 409, 413}, recorder.Code) {
			t.Fatalf("%s %s?%s %q: %d %q", call.method, request.URL.Path, query, body, recorder.Code, recorder.Body)
		}
		if recorder.Code >= 400 && strings.TrimSpace(recorder.Body.String()) == "" {
			t.Errorf("%s %s?%s %q: %d without a reason", call.method, request.URL.Path, query, body, recorder.Code)
		}
		if list := b.do("GET", "/system/functions", ""); list.Code != 200 {
			t.Errorf("after %s %s %q the list is %d %q", call.method, request.URL.Path, body, list.Code, list.Body)
		}
	})
}

// FuzzAlert fires and resolves alerts with anything in the labels that bound them. What is accepted moves the
// replicas in the alert's direction, within the bounds; what is refused leaves them as they are.
func FuzzAlert(f *testing.F) {
	f.Add("firing", "fn.openfaas-fn", "2", "9", "10", uint8(3))
	f.Add("resolved", "fn", "", "", "", uint8(0))
	f.Add("firing", ".", "-1", "1e9", "101", uint8(255))
	f.Add("resolved", "fn", "", "", "", uint8(28)) // a number set by hand, above the maximum
	f.Fuzz(func(t *testing.T, status, function, least, most, factor string, start uint8) {
		b := setup(t)
		encode := func(value any) string {
			text, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		bounds := map[string]string{"com.openfaas.scale.min": least, "com.openfaas.scale.max": most, "com.openfaas.scale.factor": factor}
		if got := b.do("POST", "/system/functions", strings.Replace(fn, `"labels":{}`, `"labels":`+encode(bounds), 1)); got.Code != 202 {
			return // refused, and said so: FuzzDeploy's affair
		}
		if err := b.cluster.Scale(t.Context(), "", "fn", uint64(start)); err != nil {
			t.Fatal(err)
		}
		b.published(t)
		got := b.do("POST", "/system/alert", encode(map[string]any{"status": status, "alerts": []any{map[string]any{"labels": map[string]string{"function_name": function}}}}))
		after, err := b.cluster.Status(t.Context(), "", "fn", false)
		if err != nil || got.Code != 200 {
			t.Fatalf("%q of %q: %d %q, %v", status, function, got.Code, got.Body, err)
		}
		bound := func(key string, absent uint64) uint64 {
			if n, err := strconv.ParseUint(bounds[key], 10, 64); err == nil {
				return max(n, 1)
			}
			return absent
		}
		from, to := uint64(start), after.Replicas
		floor, ceiling := bound("com.openfaas.scale.min", 1), bound("com.openfaas.scale.max", 20)
		low, high := from, from // a status of no meaning changes nothing
		switch status {
		case "firing":
			high = max(from, floor, ceiling)
		case "resolved": // one step, which may end above the maximum when a number set by hand is
			low = min(from, floor)
		}
		if to < low || to > high {
			t.Errorf("%q of %q took %d replicas to %d with bounds %v: must be %d to %d", status, function, from, to, bounds, low, high)
		}
	})
}
