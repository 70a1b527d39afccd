package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// Picture is everything of ours on the Swarm, by kind and name: what the API says and what Docker has. Two systems in
// the same state have equal ones.
type Picture map[string]string

// get reads a list from the engine.
func (r *Runner) get(path, filter string, value any) error {
	query := url.Values{"filters": {`{"label":["` + filter + `"]}`}}
	response, err := r.engine.Get("http://engine" + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answers %s to %s", response.Status, path)
	}
	return json.NewDecoder(response.Body).Decode(value)
}

// dockerObject is what services, secrets and configs have in common.
type dockerObject struct {
	ID   string
	Spec map[string]any
}

// Picture reads all of it, the API's part from a provider that runs.
func (r *Runner) Picture(t *testing.T, api *Process) Picture {
	t.Helper()
	seen := Picture{}
	for kind, label := range map[string]string{"services": "com.waggle.namespace", "secrets": "com.waggle.secret", "configs": "com.waggle.namespace-spec"} {
		var objects []dockerObject
		if err := r.get("/"+kind, label, &objects); err != nil {
			t.Fatal(err)
		}
		for _, object := range objects {
			if labels, _ := object.Spec["Labels"].(map[string]any); labels["com.waggle.removed"] != nil {
				continue // the function is gone, its replicas end
			}
			steady(object.Spec)
			seen[fmt.Sprint(kind, " ", object.Spec["Name"])] = encode(t, object.Spec)
		}
	}
	var namespaces []string
	api.read(t, "/system/namespaces", &namespaces)
	for _, namespace := range namespaces {
		var details, secrets any
		var functions []map[string]any
		api.read(t, "/system/namespace/"+namespace, &details)
		api.read(t, "/system/secrets?namespace="+namespace, &secrets)
		api.read(t, "/system/functions?namespace="+namespace, &functions)
		for _, function := range functions {
			delete(function, "createdAt")
			delete(function, "availableReplicas")
			seen[fmt.Sprint("function ", function["name"], " in ", namespace)] = encode(t, function)
		}
		seen["namespace "+namespace] = encode(t, []any{details, secrets})
	}
	return seen
}

// steady takes out of a spec what differs between two equal states: the ids of secrets, and the hash in which they are.
func steady(value any) {
	switch value := value.(type) {
	case map[string]any:
		delete(value, "SecretID")
		delete(value, "com.waggle.spec")
		for _, part := range value {
			steady(part)
		}
	case []any:
		for _, part := range value {
			steady(part)
		}
	}
}

func encode(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Unwanted counts the tasks of functions that are to have none, and those that outlive their function.
func (r *Runner) Unwanted() (int, error) {
	var services []struct {
		ID   string
		Spec struct {
			Mode struct{ Replicated struct{ Replicas uint64 } }
		}
	}
	if err := r.get("/services", "com.waggle.namespace", &services); err != nil {
		return 0, err
	}
	awake := map[string]bool{}
	for _, service := range services {
		awake[service.ID] = service.Spec.Mode.Replicated.Replicas > 0
	}
	var tasks []struct{ ServiceID string }
	if err := r.get("/tasks", "com.openfaas.function", &tasks); err != nil {
		return 0, err
	}
	left := 0
	for _, task := range tasks {
		if !awake[task.ServiceID] {
			left++
		}
	}
	return left, nil
}

func (p *Process) read(t *testing.T, path string, value any) {
	t.Helper()
	status, text, err := p.Ask(t.Context(), http.MethodGet, path, nil)
	if err == nil && status == http.StatusOK {
		err = json.Unmarshal([]byte(text), value)
	}
	if err != nil || status != http.StatusOK {
		t.Fatalf("GET %s: status %d, %v: %s", path, status, err, text)
	}
}
