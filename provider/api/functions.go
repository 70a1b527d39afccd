package api

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/provider/swarm"
)

func (a *API) listFunctions(w http.ResponseWriter, r *http.Request) error {
	list, err := a.cluster.List(r.Context(), r.URL.Query().Get("namespace"))
	if err != nil {
		return err
	}
	if list == nil {
		list = []types.FunctionStatus{}
	}
	for i := range list {
		a.count(&list[i])
	}
	return reply(w, list)
}

// count adds what gateways have reported.
func (a *API) count(status *types.FunctionStatus) {
	if a.cfg.Invocations != nil {
		status.InvocationCount = a.cfg.Invocations.Invocations(status.Name, status.Namespace)
	}
}

func (a *API) describeFunction(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	// faas-cli sends usage=1, a gateway usage=false, and most send nothing.
	usage, err := strconv.ParseBool(query.Get("usage"))
	if err != nil && query.Get("usage") != "" {
		return badRequest("usage is %q: must be 1 or 0", query.Get("usage"))
	}
	status, err := a.cluster.Status(r.Context(), query.Get("namespace"), r.PathValue("name"), usage)
	if err != nil {
		return err
	}
	a.count(&status)
	a.date(&status)
	a.explain(&status)
	return reply(w, status)
}

// date adds since when invocations are counted, to a description of a function that is older than that. The count lives in
// this process: keeping it over restarts would mean a write to the Swarm's state for each few seconds of traffic.
func (a *API) date(status *types.FunctionStatus) {
	if a.cfg.Invocations == nil {
		return
	}
	if since := a.cfg.Invocations.CountingSince(); status.CreatedAt.Before(since) {
		annotate(status, map[string]string{swarm.AnnotationCountingSince: since.UTC().Format(time.RFC3339)})
	}
}

// explain adds how the function is scaled, to a description alone: lists stay exactly as was deployed.
func (a *API) explain(status *types.FunctionStatus) {
	view, known := a.cfg.Autoscaler.View(status.Namespace, status.Name)
	if !known {
		return // deployed just now
	}
	annotate(status, view.Annotations(swarm.AnnotationScaling))
}

// annotate adds annotations where the user has none of the same name.
func annotate(status *types.FunctionStatus, annotations map[string]string) {
	if status.Annotations != nil {
		maps.Copy(annotations, *status.Annotations)
	}
	status.Annotations = &annotations
}

// explainScaling is how a function is scaled, in full: policy, the last minutes of load and decisions, the last changes.
func (a *API) explainScaling(w http.ResponseWriter, r *http.Request) error {
	namespace, name := r.URL.Query().Get("namespace"), r.PathValue("name")
	view, known := a.cfg.Autoscaler.View(namespace, name)
	if !known {
		return &requestError{http.StatusNotFound, fmt.Sprintf("function %q is not known in namespace %q", name, namespace)}
	}
	return reply(w, view)
}

func (a *API) deployFunction(w http.ResponseWriter, r *http.Request) error {
	deployment, warnings, err := decodeDeployment(w, r)
	if err != nil {
		return err
	}
	if err := a.cluster.Deploy(r.Context(), deployment); err != nil {
		return err
	}
	warn(w, warnings)
	return accepted(w)
}

func (a *API) updateFunction(w http.ResponseWriter, r *http.Request) error {
	deployment, warnings, err := decodeDeployment(w, r)
	if err != nil {
		return err
	}
	if err := a.cluster.Update(r.Context(), deployment); err != nil {
		return err
	}
	warn(w, warnings)
	return accepted(w)
}

func (a *API) deleteFunction(w http.ResponseWriter, r *http.Request) error {
	var request types.DeleteFunctionRequest
	if err := decode(w, r, &request); err != nil {
		return err
	}
	if request.FunctionName == "" {
		return badRequest("functionName is missing: must be the name of a function")
	}
	namespace, err := namespaceOf(r, request.Namespace)
	if err != nil {
		return err
	}
	if err := a.cluster.Delete(r.Context(), namespace, request.FunctionName); err != nil {
		return err
	}
	return accepted(w)
}

func (a *API) scaleFunction(w http.ResponseWriter, r *http.Request) error {
	var request struct {
		ServiceName string  `json:"serviceName"`
		Replicas    *uint64 `json:"replicas"`
		Namespace   string  `json:"namespace"`
	}
	if err := decode(w, r, &request); err != nil {
		return err
	}
	name := r.PathValue("name")
	if request.ServiceName != "" && request.ServiceName != name {
		return badRequest("serviceName is %q: must be %q, as in the path, or nothing", request.ServiceName, name)
	}
	if request.Replicas == nil {
		return badRequest("replicas is missing: must be a whole number from 0")
	}
	namespace, err := namespaceOf(r, request.Namespace)
	if err != nil {
		return err
	}
	if err := a.cluster.Scale(r.Context(), namespace, name, *request.Replicas); err != nil {
		return err
	}
	return accepted(w)
}

// namespaceOf reads the namespace of calls that clients put in the body or in the query.
func namespaceOf(r *http.Request, inBody string) (string, error) {
	inQuery := r.URL.Query().Get("namespace")
	if inBody != "" && inQuery != "" && inBody != inQuery {
		return "", badRequest("namespace is %q in the body and %q in the query: must be one", inBody, inQuery)
	}
	if inBody != "" {
		return inBody, nil
	}
	return inQuery, nil
}
