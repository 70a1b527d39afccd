package api_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestRefusalsSayWhatIsLegal tries every route and every way to get its call wrong. The answer is one line that
// names what is wrong, and says what is legal or which of the existing things is meant.
func TestRefusalsSayWhatIsLegal(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, made := range []struct{ method, path, body string }{
		{"POST", "/system/functions", fn},
		{"POST", "/system/secrets", `{"name":"key","value":"v"}`},
		{"POST", "/system/functions", strings.Replace(fn, `"fn"`, `"reader","secrets":["key"]`, 1)},
		{"POST", "/system/namespace/", `{"name":"dev","labels":{"openfaas":"1"}}`},
		{"POST", "/system/functions", strings.Replace(fn, `"fn"`, `"fn","namespace":"dev"`, 1)},
	} {
		if got := b.do(made.method, made.path, made.body); got.Code >= 300 {
			t.Fatal(made, got.Code, got.Body)
		}
	}
	deployment := func(more string) string { return strings.Replace(fn, `"fn"`, `"other",`+more, 1) }
	long := strings.Repeat("x", 64)
	huge := `{"service":"` + strings.Repeat("x", 3<<20) + `"}`
	for _, call := range []struct {
		method, path, body string
		status             int
		says               []string
	}{
		// What every body is held to.
		{"POST", "/system/functions", "", 400, []string{"body is empty", "JSON object"}},
		{"PUT", "/system/functions", "null", 400, []string{"body", `'n'`, "JSON object"}},
		{"DELETE", "/system/functions", "[]", 400, []string{"body", `'['`, "JSON object"}},
		{"POST", "/system/secrets", `{"name":"x"`, 400, []string{"body is not JSON", "JSON object"}},
		{"PUT", "/system/secrets", `{} {}`, 400, []string{"body is not JSON", "JSON object"}},
		{"DELETE", "/system/secrets", "", 400, []string{"body is empty", "JSON object"}},
		{"POST", "/system/namespace/", "x", 400, []string{"body", "JSON object"}},
		{"PUT", "/system/namespace/dev", "", 400, []string{"body is empty", "JSON object"}},
		{"POST", "/system/scale-function/fn", "", 400, []string{"body is empty", "JSON object"}},
		{"POST", "/system/alert", "", 400, []string{"body is empty", "JSON object"}},
		{"POST", "/system/functions", huge, 413, []string{"body", "at most", "2097152"}},
		{"POST", "/system/alert", huge, 413, []string{"body", "at most", "2097152"}},

		// A deployment, field by field.
		{"POST", "/system/functions", `{"service":1}`, 400, []string{"service is a JSON number", "a string"}},
		{"POST", "/system/functions", deployment(`"labels":[]`), 400, []string{"labels is a JSON array", "an object whose values are strings"}},
		{"POST", "/system/functions", deployment(`"envVars":{"a":1}`), 400, []string{"envVars", "is a JSON number", "a string"}},
		{"POST", "/system/functions", deployment(`"secrets":"key"`), 400, []string{"secrets is a JSON string", "a list"}},
		{"POST", "/system/functions", deployment(`"limits":"1"`), 400, []string{"limits is a JSON string", "an object"}},
		{"POST", "/system/functions", deployment(`"limits":{"cpu":1}`), 400, []string{"limits.cpu is a JSON number", "a string"}},
		{"POST", "/system/functions", deployment(`"readOnlyRootFilesystem":"yes"`), 400, []string{"readOnlyRootFilesystem is a JSON string", "true or false"}},
		{"POST", "/system/functions", `{"image":"x"}`, 400, []string{`service is ""`, "1 to 63 of a-z"}},
		{"PUT", "/system/functions", `{"service":"A","image":"x"}`, 400, []string{`service is "A"`, "1 to 63 of a-z"}},
		{"POST", "/system/functions", `{"service":"` + long + `","image":"x"}`, 400, []string{"service", "1 to 63 of a-z"}},
		{"POST", "/system/functions", `{"service":"x"}`, 400, []string{"image is missing", "such as ghcr.io/owner/name:tag"}},
		{"POST", "/system/functions", `{"service":"x","image":"a b"}`, 400, []string{`image is "a b"`, "such as ghcr.io/owner/name:tag"}},
		{"POST", "/system/functions", `{"service":"x","image":"private/x:1"}`, 400, []string{`image is "private/x:1"`, "the registry said"}},
		{"POST", "/system/functions", deployment(`"namespace":"A"`), 400, []string{`namespace is "A"`, "1 to 63 of a-z"}},
		{"POST", "/system/functions", deployment(`"namespace":"none"`), 400, []string{`namespace is "none", which does not exist`, "create it first"}},
		{"POST", "/system/functions", deployment(`"limits":{"memory":"lots"}`), 400, []string{`limits.memory is "lots"`, "Mi", "at most 1Pi"}},
		{"POST", "/system/functions", deployment(`"requests":{"cpu":"much"}`), 400, []string{`requests.cpu is "much"`, "100m", "from 1m"}},
		{"POST", "/system/functions", deployment(`"limits":{"nvidia.com/gpu":"1"}`), 400, []string{`limits.nvidia.com/gpu is "1"`, "left out"}},
		{"POST", "/system/functions", deployment(`"constraints":["a=b"]`), 400, []string{`constraints is "a=b"`, "node.role == worker"}},
		{"POST", "/system/functions", deployment(`"envVars":{"a=b":"c"}`), 400, []string{`envVars is "a=b"`, "hold no ="}},
		{"POST", "/system/functions", deployment(`"secrets":["none"]`), 400, []string{`secrets is "none", which does not exist`, "create it first"}},
		{"POST", "/system/functions", deployment(`"envVars":{"a":"` + strings.Repeat("x", 500<<10) + `"}`), 400, []string{"deployment has ", "at most 409600"}},
		{"POST", "/system/functions", deployment(`"labels":{"com.openfaas.scale.min":"some"}`), 400, []string{`label com.openfaas.scale.min is "some"`, "must be a whole number from 0 to 10000"}},
		{"POST", "/system/functions", deployment(`"labels":{"com.openfaas.scale.max":"0"}`), 400, []string{`label com.openfaas.scale.max is "0"`, "must be a whole number from 1 to 10000"}},
		{"POST", "/system/functions", deployment(`"labels":{"com.openfaas.scale.min":"3","com.openfaas.scale.max":"2"}`), 400, []string{`label com.openfaas.scale.min is "3"`, "must be at most com.openfaas.scale.max, which is 2"}},
		{"POST", "/system/functions", deployment(`"annotations":{"com.waggle.volumes":"/a:/b"}`), 400, []string{`com.waggle.volumes is "/a:/b"`, "name:/path"}},
		{"POST", "/system/functions", deployment(`"annotations":{"com.waggle.volumes":"a:/b"}`), 403, []string{"com.waggle.volumes", `"a"`, "allows none"}},
		{"POST", "/system/functions", deployment(`"annotations":{"com.waggle.networks":"host"}`), 403, []string{"com.waggle.networks", `"host"`, "allows none"}},
		{"POST", "/system/functions", deployment(`"annotations":{"com.waggle.networks":"a/b"}`), 400, []string{`com.waggle.networks is "a/b"`, "must be"}},
		{"POST", "/system/functions", deployment(`"annotations":{"com.waggle.stop-grace":"long"}`), 400, []string{`com.waggle.stop-grace is "long"`, "such as 90s"}},
		{"POST", "/system/functions", deployment(`"annotations":{"com.waggle.health.path":"x"}`), 400, []string{`com.waggle.health.path is "x"`, "begins with /"}},
		{"POST", "/system/functions", deployment(`"annotations":{"com.waggle.idempotent":"yes"}`), 400, []string{`com.waggle.idempotent is "yes"`, "true or false"}},
		{"POST", "/system/functions", deployment(`"annotations":{"com.waggle.max-replicas-per-node":"x"}`), 400, []string{`com.waggle.max-replicas-per-node is "x"`, "from 0 to 10000"}},
		{"POST", "/system/functions", fn, 409, []string{`function "fn" exists`, "openfaas-fn"}},
		{"PUT", "/system/functions", strings.Replace(fn, `"fn"`, `"none"`, 1), 404, []string{`function "none" does not exist`, "openfaas-fn"}},

		// The other calls about functions.
		{"GET", "/system/functions?namespace=A", "", 400, []string{`namespace is "A"`, "1 to 63 of a-z"}},
		{"GET", "/system/functions?namespace=none", "", 400, []string{`namespace is "none", which does not exist`, "create it first"}},
		{"GET", "/system/function/none", "", 404, []string{`function "none" does not exist`, "openfaas-fn"}},
		{"GET", "/system/function/fn?usage=2", "", 400, []string{`usage is "2"`, "must be 1 or 0"}},
		{"DELETE", "/system/functions", `{}`, 400, []string{"functionName is missing", "the name of a function"}},
		{"DELETE", "/system/functions", `{"functionName":"none"}`, 404, []string{`function "none" does not exist`}},
		{"DELETE", "/system/functions?namespace=a", `{"functionName":"fn","namespace":"b"}`, 400, []string{`namespace is "b" in the body and "a" in the query`, "must be one"}},
		{"POST", "/system/scale-function/fn", `{}`, 400, []string{"replicas is missing", "a whole number from 0"}},
		{"POST", "/system/scale-function/fn", `{"replicas":-1}`, 400, []string{"replicas is a JSON number -1", "a whole number from 0"}},
		{"POST", "/system/scale-function/fn", `{"replicas":1.5}`, 400, []string{"replicas is a JSON number 1.5", "a whole number from 0"}},
		{"POST", "/system/scale-function/fn", `{"replicas":10001}`, 400, []string{"replicas is 10001", "0 to 10000"}},
		{"POST", "/system/scale-function/fn", `{"replicas":1,"serviceName":"x"}`, 400, []string{`serviceName is "x"`, `must be "fn"`}},
		{"POST", "/system/scale-function/none", `{"replicas":1}`, 404, []string{`function "none" does not exist`}},
		{"POST", "/system/alert", `{"alerts":[{"labels":1}]}`, 400, []string{"alerts.labels is a JSON number", "an object whose values are strings"}},
		{"POST", "/system/alert", `{"alerts":[` + strings.Repeat("{},", 1000) + `{}]}`, 400, []string{"alerts are 1001", "at most 1000"}},
		{"GET", "/system/logs", "", 400, []string{"name is missing", "the name of a function"}},
		{"GET", "/system/logs?name=none", "", 404, []string{`function "none" does not exist`}},
		{"GET", "/system/logs?name=fn&tail=x", "", 422, []string{`tail is "x"`, "a whole number"}},
		{"GET", "/system/logs?name=fn&since=x", "", 422, []string{`since is "x"`, "2006-01-02T15:04:05Z"}},

		// Secrets.
		{"GET", "/system/secrets?namespace=none", "", 400, []string{`namespace is "none", which does not exist`, "create it first"}},
		{"POST", "/system/secrets", `{"name":"../x","value":"v"}`, 400, []string{`name is "../x"`, "1 to 63 of a-z, A-Z"}},
		{"POST", "/system/secrets", `{"value":"v"}`, 400, []string{`name is ""`, "1 to 63 of a-z, A-Z"}},
		{"POST", "/system/secrets", `{"name":"x"}`, 400, []string{"value has 0 bytes", "must be 1 to 511999"}},
		{"POST", "/system/secrets", `{"name":"x","value":"` + strings.Repeat("x", 512000) + `"}`, 400, []string{"value has 512000 bytes", "must be 1 to 511999"}},
		{"POST", "/system/secrets", `{"name":"x","rawValue":"!!!!"}`, 400, []string{"rawValue", "base64"}},
		{"POST", "/system/secrets", `{"name":"x","rawValue":1}`, 400, []string{"rawValue", "base64"}},
		{"POST", "/system/secrets", `{"name":"key","value":"v"}`, 409, []string{`secret "key" exists`}},
		{"POST", "/system/secrets", `{"name":"x","value":"v","namespace":"none"}`, 400, []string{`namespace is "none", which does not exist`, "create it first"}},
		{"PUT", "/system/secrets", `{"name":"none","value":"v"}`, 404, []string{`secret "none" does not exist`}},
		{"DELETE", "/system/secrets", `{"name":"none"}`, 404, []string{`secret "none" does not exist`}},
		{"DELETE", "/system/secrets", `{}`, 400, []string{`name is ""`, "1 to 63 of a-z, A-Z"}},
		{"DELETE", "/system/secrets", `{"name":"key"}`, 409, []string{`secret "key" is used by reader`, "remove or update them first"}},

		// Namespaces.
		{"POST", "/system/namespace/", `{"name":"A","labels":{"openfaas":"1"}}`, 400, []string{`name is "A"`, "1 to 63 of a-z"}},
		{"POST", "/system/namespace/", `{"name":"x"}`, 400, []string{"labels", `openfaas: "1"`}},
		{"POST", "/system/namespace/", `{"name":"x","labels":{"openfaas":"0"}}`, 400, []string{"labels", `openfaas: "1"`}},
		{"POST", "/system/namespace/", `{"name":"dev","labels":{"openfaas":"1"}}`, 409, []string{`namespace "dev" exists`}},
		{"POST", "/system/namespace/y", `{"name":"x","labels":{"openfaas":"1"}}`, 400, []string{`name is "x"`, `must be "y"`}},
		{"PUT", "/system/namespace/none", `{"name":"none","labels":{"openfaas":"1"}}`, 404, []string{`namespace "none" does not exist`}},
		{"PUT", "/system/namespace/openfaas-fn", `{"name":"openfaas-fn","labels":{"openfaas":"1"}}`, 400, []string{`name is "openfaas-fn"`, "cannot be changed"}},
		{"GET", "/system/namespace/A", "", 400, []string{`namespace is "A"`, "1 to 63 of a-z"}},
		{"GET", "/system/namespace/none", "", 404, []string{`namespace "none" does not exist`}},
		{"DELETE", "/system/namespace/none", "", 404, []string{`namespace "none" does not exist`}},
		{"DELETE", "/system/namespace/dev", "", 409, []string{`namespace "dev" still holds 1 functions and 0 secrets`, "remove them first"}},
		{"DELETE", "/system/namespace/openfaas-fn", "", 400, []string{`name is "openfaas-fn"`, "cannot be removed"}},

		{"GET", "/system/telemetry", "", 404, []string{"no telemetry", "/metrics"}},
	} {
		got := b.do(call.method, call.path, call.body)
		text := strings.TrimSuffix(got.Body.String(), "\n")
		if got.Code != call.status {
			t.Errorf("%s %s %.80s: %d %q, want %d", call.method, call.path, call.body, got.Code, text, call.status)
		}
		for _, part := range call.says {
			if !strings.Contains(text, part) {
				t.Errorf("%s %s %.80s: %q does not say %q", call.method, call.path, call.body, text, part)
			}
		}
		if strings.ContainsAny(text, "\r\n") || len(text) > 1000 || got.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s %s %.80s: no single line of text: %q, %s", call.method, call.path, call.body, text, got.Header())
		}
	}
	// Of a verb that a route does not have, the legal ones stand in the header that is for it.
	for path, legal := range map[string]string{
		"/system/functions": "DELETE, GET, HEAD, POST, PUT", "/system/function/fn": "GET, HEAD", "/system/scale-function/fn": "POST", "/system/alert": "POST",
		"/system/secrets": "DELETE, GET, HEAD, POST, PUT", "/system/namespaces": "GET, HEAD", "/system/namespace/": "POST",
		"/system/namespace/dev": "DELETE, GET, HEAD, POST, PUT", "/system/logs": "GET, HEAD", "/system/info": "GET, HEAD", "/system/telemetry": "GET, HEAD",
		"/healthz": "GET, HEAD", "/metrics": "GET, HEAD",
	} {
		if got := b.do("PATCH", path, ""); got.Code != http.StatusMethodNotAllowed || got.Header().Get("Allow") != legal {
			t.Errorf("PATCH %s: %d, Allow %q; want 405 and %q", path, got.Code, got.Header().Get("Allow"), legal)
		}
	}
}

// TestIllegalScaleLabelsAreRefused: label, value and legal range are named, and nothing changes.
func TestIllegalScaleLabelsAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if got := b.do("POST", "/system/functions", fn); got.Code != 202 {
		t.Fatal(got.Code, got.Body)
	}
	for _, test := range []struct{ label, value, legal string }{
		{"min", "-1", "a whole number from 0 to 10000"},
		{"max", "five", "a whole number from 1 to 10000"},
		{"factor", "101", "a whole number from 0 to 100"},
		{"type", "latency", "rps, capacity, cpu or queue"},
		{"target", "NaN", "a number above 0 and at most 1000000"},
		{"target-proportion", "90%", "a number above 0 and at most 1"},
		{"zero", "yes", "true or false"},
		{"zero-duration", "15", "a duration such as 90s, from 1s to 168h0m0s"},
		{"down.window", "6m", "a duration such as 90s, from 0s to 5m0s"},
	} {
		want := `label com.openfaas.scale.` + test.label + ` is "` + test.value + `": must be ` + test.legal + "\n"
		labels := `"labels":{"com.openfaas.scale.` + test.label + `":"` + test.value + `"}`
		for method, body := range map[string]string{
			"PUT":  strings.Replace(fn, `"labels":{}`, labels, 1),
			"POST": strings.Replace(fn, `"fn"`, `"new",`+labels, 1),
		} {
			if got := b.do(method, "/system/functions", body); got.Code != 400 || got.Body.String() != want {
				t.Errorf("%s %s: %d %q, want %q", method, labels, got.Code, got.Body, want)
			}
		}
	}
	if got := b.do("GET", "/system/functions", ""); strings.Contains(got.Body.String(), "new") || !strings.Contains(got.Body.String(), `"labels":{}`) {
		t.Errorf("after the refusals: %s", got.Body)
	}
	unknown := strings.Replace(fn, `"labels":{}`, `"labels":{"com.openfaas.scale.mim":"2"}`, 1)
	got := b.do("PUT", "/system/functions", unknown)
	if warning := got.Header().Get("Warning"); got.Code != 202 || !strings.HasPrefix(warning, `299 waggle "label com.openfaas.scale.mim is unknown and does nothing: known are com.openfaas.scale.min, `) {
		t.Errorf("a misspelt label: %d, Warning: %s", got.Code, warning)
	}
	if got := b.do("GET", "/system/function/fn", ""); !strings.Contains(got.Body.String(), `"com.openfaas.scale.mim":"2"`) || !strings.Contains(got.Body.String(), "com.openfaas.scale.mim is unknown") {
		t.Errorf("it is described as %s", got.Body)
	}
}

// TestUnknownFieldsAreNamed: the client that sent a field which is ignored is told so.
func TestUnknownFieldsAreNamed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sent := `{"service":"fn","image":"` + testImage + `","labels":{"any":"thing"},"network":"x","Namespace":"","replicas":3,"limits":{"memory":"64Mi","disk":"1G"},"requests":null,"a\"b":1}`
	for _, method := range []string{"POST", "PUT"} {
		got := b.do(method, "/system/functions", sent)
		warnings := strings.Join(got.Header().Values("Warning"), "\n")
		for _, field := range []string{"network", "replicas", "limits.disk", `a\"b`} {
			if !strings.Contains(warnings, `299 waggle "field `+strings.ReplaceAll(field, `"`, `\"`)) && !strings.Contains(warnings, "field "+field+" is not of this API") {
				t.Errorf("%s: no warning of %s in %s", method, field, warnings)
			}
		}
		if n := len(got.Header().Values("Warning")); got.Code != 202 || n != 4 {
			t.Errorf("%s: %d with %d warnings: %s", method, got.Code, n, warnings)
		}
	}
}
