package api

import (
	"net/http"

	"github.com/openfaas/faas-provider/types"
)

func (a *API) listSecrets(w http.ResponseWriter, r *http.Request) error {
	list, err := a.cluster.ListSecrets(r.Context(), r.URL.Query().Get("namespace"))
	if err != nil {
		return err
	}
	if list == nil {
		list = []types.Secret{}
	}
	return reply(w, list)
}

func (a *API) createSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := decodeSecret(w, r)
	if err != nil {
		return err
	}
	if err := a.cluster.CreateSecret(r.Context(), secret); err != nil {
		return err
	}
	return accepted(w)
}

func (a *API) updateSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := decodeSecret(w, r)
	if err != nil {
		return err
	}
	if err := a.cluster.UpdateSecret(r.Context(), secret); err != nil {
		return err
	}
	return accepted(w)
}

func (a *API) deleteSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := decodeSecret(w, r)
	if err != nil {
		return err
	}
	if err := a.cluster.DeleteSecret(r.Context(), secret.Namespace, secret.Name); err != nil {
		return err
	}
	return accepted(w)
}

func decodeSecret(w http.ResponseWriter, r *http.Request) (types.Secret, error) {
	var secret types.Secret
	if err := decode(w, r, &secret); err != nil {
		return secret, err
	}
	var err error
	secret.Namespace, err = namespaceOf(r, secret.Namespace)
	return secret, err
}
