// Package api is the provider's REST surface: every OpenFaaS call that manages functions, exact to what unmodified
// clients expect.
//
// In: HTTP requests of faas-cli, SDKs and, for the open edge, of our gateway. Out: calls to the cluster, which package
// swarm implements, and JSON in the types of OpenFaaS. Everything under /system and /feed is behind basic auth; no
// route keeps anything between two requests. Success is 200 or 202 (201 for a new namespace alone), because clients
// take other codes for failures.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"waggle/provider/autoscale"
	"waggle/provider/feed"
	"waggle/provider/settings"
)

// Functions is where functions live. An empty namespace is the default one. Errors are of the kinds of package swarm.
type Functions interface {
	List(ctx context.Context, namespace string) ([]types.FunctionStatus, error)
	Status(ctx context.Context, namespace, name string, usage bool) (types.FunctionStatus, error)
	Deploy(ctx context.Context, deployment types.FunctionDeployment) error
	Update(ctx context.Context, deployment types.FunctionDeployment) error
	Delete(ctx context.Context, namespace, name string) error
}

// Scaler sets the number of a function's replicas.
type Scaler interface {
	Scale(ctx context.Context, namespace, name string, replicas uint64) error
}

// Secrets is where secrets live.
type Secrets interface {
	ListSecrets(ctx context.Context, namespace string) ([]types.Secret, error)
	CreateSecret(ctx context.Context, secret types.Secret) error
	UpdateSecret(ctx context.Context, secret types.Secret) error
	DeleteSecret(ctx context.Context, namespace, name string) error
}

// Namespaces is where namespaces live.
type Namespaces interface {
	Namespaces(ctx context.Context) ([]string, error)
	GetNamespace(ctx context.Context, name string) (types.FunctionNamespace, error)
	CreateNamespace(ctx context.Context, namespace types.FunctionNamespace) error
	UpdateNamespace(ctx context.Context, namespace types.FunctionNamespace) error
	DeleteNamespace(ctx context.Context, name string) error
}

// Observer tells what goes on: what functions wrote, and whether the cluster answers at all.
type Observer interface {
	Logs(ctx context.Context, request logs.Request, emit func(logs.Message) error) error
	Ping(ctx context.Context) error
}

// Cluster is all of it; *swarm.Cluster implements it.
type Cluster interface {
	Functions
	Scaler
	Secrets
	Namespaces
	Observer
}

// Invocations counts what gateways have seen completed; *feed.Hub implements it.
type Invocations interface {
	Invocations(name, namespace string) float64
	// CountingSince is the time from which on none is left out.
	CountingSince() time.Time
}

// Autoscaler scales by load and by alerts; *autoscale.Scaler implements it.
type Autoscaler interface {
	// View says how a function is scaled; false if there is none of that name.
	View(namespace, name string) (autoscale.View, bool)
	// Alert acts on an alert of Alertmanager that fires, or is resolved; feed.ErrUnknownFunction if there is no such function.
	Alert(ctx context.Context, namespace, name string, firing bool) error
}

// Config says what the API serves and how.
type Config struct {
	// Cluster is required.
	Cluster Cluster
	// Autoscaler is required.
	Autoscaler Autoscaler
	// Invocations may be nil: then every count is 0.
	Invocations Invocations
	// Feed serves /feed/; nil means that there is none.
	Feed http.Handler
	// Table gives the newest replica table, by which /function/ finds replicas; nil: the API has no /function/.
	Table func() feed.Table
	// Gateway is the host:port of a gateway that answers /function/ instead, for a provider that cannot reach replicas.
	Gateway string
	// Credentials are what /system and /feed ask for; the zero value asks for nothing.
	Credentials settings.Credentials
	// Closing is done when the process is to end, and ends the streams. Nil: they end with their clients.
	Closing context.Context
	// Timeout bounds every call but those that stream. Default 60 s.
	Timeout time.Duration
	// Release and Commit name this build in /system/info. Default "dev" and "unknown": clients take neither empty.
	Release, Commit string
	// Metrics takes this package's metrics and is what /metrics serves. Required.
	Metrics *prometheus.Registry
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Closing == nil {
		c.Closing = context.Background()
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.Release == "" {
		c.Release = "dev"
	}
	if c.Commit == "" {
		c.Commit = "unknown"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	var problems []error
	if c.Cluster == nil {
		problems = append(problems, errors.New("field Cluster: missing"))
	}
	if c.Autoscaler == nil {
		problems = append(problems, errors.New("field Autoscaler: missing"))
	}
	if c.Metrics == nil {
		problems = append(problems, errors.New("field Metrics: missing"))
	}
	if (c.Credentials.User == "") != (c.Credentials.Password == "") {
		problems = append(problems, errors.New("field Credentials: user or password is empty: must be both, or neither for no authentication"))
	}
	if c.Timeout < 0 {
		problems = append(problems, fmt.Errorf("field Timeout is %s: must be more than 0", c.Timeout))
	}
	return errors.Join(problems...)
}

// API answers requests. It is an http.Handler for concurrent use, and has no goroutine of its own.
type API struct {
	cfg     Config
	cluster Cluster
	handler http.Handler
	// functions serves /function/; nil: nobody does.
	functions http.Handler
}

// New checks the configuration and builds the routes.
func New(config Config) (*API, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("configuring the API: %w", err)
	}
	a := &API{cfg: config, cluster: config.Cluster}
	a.handler = newMetrics(config.Metrics).observe(a.routes())
	if config.Table != nil {
		a.functions = functionProxy(config.Table, config.Gateway)
	}
	return a, nil
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Not by the router, which would redirect paths that only the function understands.
	if a.functions != nil && strings.HasPrefix(r.URL.EscapedPath(), "/function/") {
		a.functions.ServeHTTP(w, r)
		return
	}
	a.handler.ServeHTTP(w, r)
}

// routes is the whole surface. What is bounded gets Config.Timeout; the streams end with their client.
func (a *API) routes() *http.ServeMux {
	system := http.NewServeMux()
	bounded := func(pattern string, handle handler) { system.Handle(pattern, a.within(a.answer(handle))) }

	bounded("GET /system/functions", a.listFunctions)
	bounded("POST /system/functions", a.deployFunction)
	bounded("PUT /system/functions", a.updateFunction)
	bounded("DELETE /system/functions", a.deleteFunction)
	bounded("GET /system/function/{name}", a.describeFunction)
	bounded("POST /system/scale-function/{name}", a.scaleFunction)
	bounded("POST /system/alert", a.alert)
	bounded("GET /system/autoscale/{name}", a.explainScaling)

	bounded("GET /system/secrets", a.listSecrets)
	bounded("POST /system/secrets", a.createSecret)
	bounded("PUT /system/secrets", a.updateSecret)
	bounded("DELETE /system/secrets", a.deleteSecret)

	bounded("GET /system/namespaces", a.listNamespaces)
	bounded("POST /system/namespace/{$}", a.createNamespace)
	bounded("POST /system/namespace/{name}", a.createNamespace)
	bounded("GET /system/namespace/{name}", a.getNamespace)
	bounded("PUT /system/namespace/{name}", a.updateNamespace)
	bounded("DELETE /system/namespace/{name}", a.deleteNamespace)

	bounded("GET /system/info", a.info)
	bounded("GET /system/telemetry", a.telemetry)
	system.Handle("GET /system/logs", a.stream(a.answer(a.logs)))

	// The password is asked for first: without it no path under /system can be told from another, existing or not.
	mux := http.NewServeMux()
	mux.Handle("/system/", a.guard(system))
	if a.cfg.Feed != nil {
		mux.Handle("/feed/", a.guard(a.cfg.Feed))
		mux.Handle("GET /feed/table", a.guard(a.stream(a.cfg.Feed)))
	}
	mux.HandleFunc("GET /healthz", a.health)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.cfg.Metrics, promhttp.HandlerOpts{}))
	return mux
}
