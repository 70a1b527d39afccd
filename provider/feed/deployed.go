package feed

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// The provider answers a deploy before the table that names the function has reached every gateway. A gateway that is
// asked for a name it does not know asks the provider once, before it says that there is no such function.

// deployedTimeout bounds one such question, on both ends.
const deployedTimeout = 3 * time.Second

// serveDeployed answers from Swarm itself, not from the last table.
func (h *Hub) serveDeployed(w http.ResponseWriter, r *http.Request) {
	name, namespace := r.FormValue("name"), r.FormValue("namespace")
	if name == "" || len(name) > maxNameLen || len(namespace) > maxNameLen {
		http.Error(w, fmt.Sprintf("name is %q and namespace %q: legal is 1 to %d characters and at most %d",
			name, namespace, maxNameLen, maxNameLen), http.StatusBadRequest)
		return
	}
	if h.cfg.Deployed == nil {
		http.Error(w, "nobody can say which functions are deployed", http.StatusNotImplemented)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), deployedTimeout)
	defer cancel()
	switch deployed, err := h.cfg.Deployed(ctx, name, namespace); {
	case err != nil:
		http.Error(w, "looking for "+name+": "+err.Error(), http.StatusServiceUnavailable)
	case !deployed:
		http.Error(w, ErrUnknownFunction.Error(), http.StatusNotFound)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// Deployed asks the provider whether a function is deployed, so that it will be in a table soon. An error says that
// the provider could not tell.
func (c *Client) Deployed(ctx context.Context, name, namespace string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, deployedTimeout)
	defer cancel()
	query := url.Values{"name": {name}, "namespace": {namespace}}
	resp, err := c.send(ctx, http.MethodGet, "/feed/deployed?"+query.Encode(), nil)
	if err != nil {
		return false, fmt.Errorf("asking the provider for a function: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNoContent:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("asking the provider for a function: it answered %s", resp.Status)
}
