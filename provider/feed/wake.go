package feed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// maxWake bounds a wake request: two names of at most 63 characters.
const maxWake = 4 << 10

// ErrUnknownFunction is what a [Waker] returns for a function that is not deployed; a gateway answers 404.
var ErrUnknownFunction = errors.New("unknown function")

// Waker brings a function back from zero replicas. The provider implements it.
type Waker interface {
	// Wake asks for max(min, 1) replicas if the function has none and returns once Swarm has accepted that, not once
	// they run. A function that already has replicas is left alone. The hub never calls it twice at once for one function.
	Wake(ctx context.Context, name, namespace string) error
}

// wakeRequest is the body of POST /feed/wake.
type wakeRequest struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

func (h *Hub) serveWake(w http.ResponseWriter, r *http.Request) {
	var req wakeRequest
	if !decode(w, r, maxWake, &req) {
		return
	}
	if req.Name == "" || len(req.Name) > maxNameLen || len(req.Namespace) > maxNameLen {
		http.Error(w, fmt.Sprintf("name is %q and namespace %q: legal is 1 to %d characters and at most %d",
			req.Name, req.Namespace, maxNameLen, maxNameLen), http.StatusBadRequest)
		return
	}
	err := h.wakes.do(r.Context(), key{req.Name, req.Namespace}, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), h.cfg.WakeTimeout)
		defer cancel()
		return h.cfg.Waker.Wake(ctx, req.Name, req.Namespace)
	})
	switch {
	case err == nil:
		w.WriteHeader(http.StatusAccepted)
	case errors.Is(err, ErrUnknownFunction):
		http.Error(w, err.Error(), http.StatusNotFound)
	case r.Context().Err() != nil:
		// Nobody is left to read an answer.
	default:
		h.cfg.Logger.Warn("waking a function failed", "function", req.Name, "namespace", req.Namespace, "error", err)
		http.Error(w, "waking "+req.Name+": "+err.Error(), http.StatusServiceUnavailable)
	}
}

// Wake asks the provider to bring a function back from zero replicas; [ErrUnknownFunction] if it knows none of that name.
func (c *Client) Wake(ctx context.Context, name, namespace string) error {
	return c.post(ctx, "/feed/wake", 35*time.Second, wakeRequest{Name: name, Namespace: namespace})
}

// wakeGroup lets concurrent wakes of one function share one call.
type wakeGroup struct {
	mu    sync.Mutex
	calls map[key]*wakeCall // guarded by mu
}

type wakeCall struct {
	done chan struct{}
	err  error // written before done is closed
}

// do runs fn unless a call for k is under way, and returns the result of that call. fn outlives a caller that
// leaves, because others may wait for it.
func (g *wakeGroup) do(ctx context.Context, k key, fn func() error) error {
	g.mu.Lock()
	if g.calls == nil {
		g.calls = make(map[key]*wakeCall)
	}
	call, shared := g.calls[k]
	if !shared {
		call = &wakeCall{done: make(chan struct{})}
		g.calls[k] = call
	}
	g.mu.Unlock()
	if shared {
		select {
		case <-call.done:
			return call.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	call.err = fn()
	g.mu.Lock()
	delete(g.calls, k)
	g.mu.Unlock()
	close(call.done)
	return call.err
}
