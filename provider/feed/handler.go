package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	// maxReport bounds one load report: 5,000 functions at about 200 bytes each, with room.
	maxReport = 4 << 20
	// maxWake bounds a wake request: two names of at most 63 characters.
	maxWake = 4 << 10
	// maxNameLen is Swarm's own limit on the names that travel here.
	maxNameLen = 256
	// maxUnreachable bounds the replicas that one report calls unreachable, maxReason the text for each.
	maxUnreachable, maxReason = 1000, 512
	// stalledWrite is how long one write to a gateway, of onePiece at most, may take before its stream is given up; it
	// reconnects.
	stalledWrite = 10 * time.Second
	onePiece     = 64 << 10
)

// emptyLine is a heartbeat.
var emptyLine = []byte("\n")

// Handler serves the hub's routes. It does no authentication: the provider wraps it like its other routes.
//
//	GET  /feed/table   ndjson: the newest table at once and whenever it changes; empty lines are heartbeats;
//	                   {"cancel":<call id>} is an asynchronous call that whoever has it is to cancel
//	POST /feed/load    one Report
//	POST /feed/usage   one UsageReport
//	POST /feed/wake    {"name":…,"namespace":…}; 202 once replicas have been asked for, 404 for an unknown function
//	GET  /feed/deployed?name=…&namespace=…  204 if the function exists in Swarm now, 404 if not
//	POST /feed/cancel  {"cancel":<call id>}; 202 once every gateway that listens, or comes back soon, will be told;
//	                   404 if all that do and did lately have said that they have no such call
//	POST /feed/cancelled  {"cancel":<call id>,"gateway":…,"epoch":…,"known":…}: a gateway's answer to the former
func (h *Hub) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /feed/table", h.serveTable)
	mux.HandleFunc("POST /feed/load", h.serveLoad)
	mux.HandleFunc("POST /feed/usage", h.serveUsage)
	mux.HandleFunc("POST /feed/wake", h.serveWake)
	mux.HandleFunc("GET /feed/deployed", h.serveDeployed)
	mux.HandleFunc("POST /feed/cancel", h.serveCancel)
	mux.HandleFunc("POST /feed/cancelled", h.serveCancelled)
	return mux
}

func (h *Hub) serveTable(w http.ResponseWriter, r *http.Request) {
	h.streams.Add(1)
	defer h.streams.Add(-1)
	out := http.NewResponseController(w)
	// The server's own deadlines are for calls that end; this one does not. Recorders without deadlines are fine too.
	_ = out.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	send := func(line []byte) error {
		for piece := range slices.Chunk(line, onePiece) {
			_ = out.SetWriteDeadline(time.Now().Add(stalledWrite))
			if _, err := w.Write(piece); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
		return nil
	}
	heartbeat := time.NewTicker(h.cfg.Heartbeat)
	defer heartbeat.Stop()
	newest := h.newest.Load()
	line := newest.line
	if line == nil {
		line = emptyLine
	}
	told, seen, more := h.cancels.after(0, time.Now())
	if len(told) > 0 && send(told) != nil {
		return
	}
	for send(line) == nil {
		select {
		case <-more:
			line, seen, more = h.cancels.after(seen, time.Now())
		case <-newest.next:
			// Whatever was published while the last write was stuck is skipped: only the newest matters.
			newest = h.newest.Load()
			line = newest.line
		case <-heartbeat.C:
			line = emptyLine
		case <-r.Context().Done():
			return
		}
	}
}

func (h *Hub) serveLoad(w http.ResponseWriter, r *http.Request) {
	var report Report
	if !decode(w, r, maxReport, &report) {
		return
	}
	if err := report.validate(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.loads.add(report, time.Now())
	w.WriteHeader(http.StatusAccepted)
}

func (r Report) validate() error {
	if r.Gateway == "" || len(r.Gateway) > maxNameLen {
		return fmt.Errorf("gateway is %d characters long: legal is 1 to %d", len(r.Gateway), maxNameLen)
	}
	if r.Epoch == "" || len(r.Epoch) > maxNameLen {
		return fmt.Errorf("epoch is %d characters long: legal is 1 to %d", len(r.Epoch), maxNameLen)
	}
	if len(r.Unreachable) > maxUnreachable {
		return fmt.Errorf("unreachable names %d replicas: legal is at most %d", len(r.Unreachable), maxUnreachable)
	}
	for i, u := range r.Unreachable {
		if u.ID == "" || len(u.ID) > maxNameLen || len(u.Reason) > maxReason {
			return fmt.Errorf("unreachable[%d] has an id of %d and a reason of %d characters: legal is 1 to %d and at most %d",
				i, len(u.ID), len(u.Reason), maxNameLen, maxReason)
		}
	}
	seen := make(map[key]bool, len(r.Functions))
	for i, l := range r.Functions {
		switch k := (key{l.Name, l.Namespace}); {
		case l.Name == "" || len(l.Name) > maxNameLen:
			return fmt.Errorf("functions[%d].name is %d characters long: legal is 1 to %d", i, len(l.Name), maxNameLen)
		case len(l.Namespace) > maxNameLen:
			return fmt.Errorf("functions[%d].namespace is %d characters long: legal is 0 to %d", i, len(l.Namespace), maxNameLen)
		case seen[k]:
			return fmt.Errorf("functions[%d] repeats %s in namespace %q", i, l.Name, l.Namespace)
		case l.Inflight < 0 || l.Queued < 0 || l.Pending < 0:
			return fmt.Errorf("functions[%d] has inflight %d, queued %d and pending %d: legal is 0 and more", i, l.Inflight, l.Queued, l.Pending)
		default:
			seen[k] = true
		}
	}
	return nil
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

// decode reads one JSON value of at most limit bytes, or answers 400 or 413 and reports false.
func decode(w http.ResponseWriter, r *http.Request, limit int64, into any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit)).Decode(into)
	if err == nil {
		return true
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("body is larger than %d bytes", limit), http.StatusRequestEntityTooLarge)
	} else {
		http.Error(w, "decoding the body: "+err.Error(), http.StatusBadRequest)
	}
	return false
}
