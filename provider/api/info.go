package api

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"github.com/openfaas/faas-provider/types"
)

// healthTimeout is shorter than what those who ask usually allow.
const healthTimeout = 4 * time.Second

// info always has every field filled: faas-cli does not survive a missing one. Clients take what a gateway answers, with the
// provider's part in it; OpenFaaS' own gateway asks for the provider's part alone, to wrap it. It is told by what it adds to
// each request, and Waggle's gateway by the start time that it alone adds.
func (a *API) info(w http.ResponseWriter, r *http.Request) error {
	version := &types.VersionInfo{Release: a.cfg.Release, SHA: a.cfg.Commit}
	provider := types.ProviderInfo{Name: "waggle", Orchestration: "swarm", Version: version}
	if r.Header.Get("X-Forwarded-For") != "" && r.Header.Get("X-Start-Time") == "" {
		return reply(w, provider)
	}
	return reply(w, struct {
		Provider types.ProviderInfo `json:"provider"`
		Version  *types.VersionInfo `json:"version"`
		Arch     string             `json:"arch"`
	}{Provider: provider, Version: version, Arch: arch()})
}

// telemetry answers as every provider does that gathers none.
func (a *API) telemetry(http.ResponseWriter, *http.Request) error {
	return &requestError{http.StatusNotFound, "no telemetry is gathered or sent: GET /metrics has this provider's own figures"}
}

// arch is the machine's name as uname has it, which is what OpenFaaS shows.
func arch() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

// health says whether requests would be served: the process is there, and so is the Swarm. The reason is for people.
func (a *API) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	if err := a.cluster.Ping(ctx); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("OK\n"))
}
