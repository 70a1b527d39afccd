package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/openfaas/faas-provider/types"

	"waggle/provider/swarm"
)

// decodeDeployment reads a request to create or update a function. Warnings are of what is accepted and yet may not do what
// the client means: fields that nobody knows among them.
func decodeDeployment(w http.ResponseWriter, r *http.Request) (d types.FunctionDeployment, warnings []string, err error) {
	body, err := readObject(w, r)
	if err != nil {
		return d, nil, err
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return d, nil, malformed(err)
	}
	for _, name := range unknownFields(body, reflect.TypeOf(d), "") {
		if strings.EqualFold(name, "registryAuth") {
			if err := refuseRegistryAuth(body); err != nil {
				return d, nil, err
			}
			continue
		}
		warnings = append(warnings, fmt.Sprintf("field %s is not of this API and was left out", name))
	}
	return d, append(warnings, swarm.Warnings(d)...), nil
}

// refuseRegistryAuth is about a field of older clients, a password for the image's registry. It could not be kept out of the
// Swarm's own state, and whoever updates the function later would not have it.
func refuseRegistryAuth(body []byte) error {
	var sent struct {
		RegistryAuth any `json:"registryAuth"`
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return malformed(err)
	}
	if sent.RegistryAuth != nil && sent.RegistryAuth != "" {
		return badRequest("registryAuth is given: must be left out; the provider has credentials of its own, from the setting registry_config (make up REGISTRY_CONFIG=…)")
	}
	return nil
}

// unknownFields names, sorted, the keys of a JSON object that have no place in a struct of the given type, nor in those
// within it. Like the decoder it passes over the case of letters.
func unknownFields(object []byte, t reflect.Type, prefix string) (names []string) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(object, &fields) != nil {
		return nil // null: of a part that was not given
	}
	known := make(map[string]reflect.Type)
	for i := range t.NumField() {
		tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		known[strings.ToLower(tag)] = t.Field(i).Type
	}
	for name, value := range fields {
		kind, found := known[strings.ToLower(name)]
		if !found {
			names = append(names, prefix+name)
			continue
		}
		if kind.Kind() == reflect.Pointer && kind.Elem().Kind() == reflect.Struct {
			names = append(names, unknownFields(value, kind.Elem(), prefix+name+".")...)
		}
	}
	slices.Sort(names)
	return names
}
