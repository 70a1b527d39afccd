package api

import (
	"net/http"

	"github.com/openfaas/faas-provider/types"
)

func (a *API) listNamespaces(w http.ResponseWriter, r *http.Request) error {
	list, err := a.cluster.Namespaces(r.Context())
	if err != nil {
		return err
	}
	if list == nil {
		list = []string{}
	}
	return reply(w, list)
}

func (a *API) getNamespace(w http.ResponseWriter, r *http.Request) error {
	namespace, err := a.cluster.GetNamespace(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return reply(w, namespace)
}

func (a *API) createNamespace(w http.ResponseWriter, r *http.Request) error {
	namespace, err := decodeNamespace(w, r)
	if err != nil {
		return err
	}
	if err := a.cluster.CreateNamespace(r.Context(), namespace); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (a *API) updateNamespace(w http.ResponseWriter, r *http.Request) error {
	namespace, err := decodeNamespace(w, r)
	if err != nil {
		return err
	}
	if err := a.cluster.UpdateNamespace(r.Context(), namespace); err != nil {
		return err
	}
	return accepted(w)
}

// deleteNamespace ignores the body that clients send along: the path says it all.
func (a *API) deleteNamespace(w http.ResponseWriter, r *http.Request) error {
	if err := a.cluster.DeleteNamespace(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	return accepted(w)
}

func decodeNamespace(w http.ResponseWriter, r *http.Request) (types.FunctionNamespace, error) {
	var namespace types.FunctionNamespace
	if err := decode(w, r, &namespace); err != nil {
		return namespace, err
	}
	if inPath := r.PathValue("name"); inPath != "" && namespace.Name != inPath {
		return namespace, badRequest("name is %q: must be %q, as in the path", namespace.Name, inPath)
	}
	// OpenFaaS' mark of a namespace for functions, in either map: clients set it in both.
	if namespace.Labels["openfaas"] != "1" && namespace.Annotations["openfaas"] != "1" {
		return namespace, badRequest(`labels lack openfaas: must have openfaas: "1" among them`)
	}
	return namespace, nil
}
