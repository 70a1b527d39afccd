package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"waggle/provider/swarm"
)

const (
	// The labels and defaults of OpenFaaS' alert-driven scaling.
	labelScaleMin    = "com.openfaas.scale.min"
	labelScaleMax    = "com.openfaas.scale.max"
	labelScaleFactor = "com.openfaas.scale.factor"

	defaultScaleMin    = 1
	defaultScaleMax    = 20
	defaultScaleFactor = 10
	// maxAlerts bounds one message of Alertmanager, which groups them by function.
	maxAlerts = 1000
)

// alertMessage is what Alertmanager's webhook sends, as far as it matters here.
type alertMessage struct {
	Status string `json:"status"`
	Alerts []struct {
		Status string            `json:"status"`
		Labels map[string]string `json:"labels"`
	} `json:"alerts"`
}

// alert scales by messages of Alertmanager, for those who bring their own: one that fires adds a step, one that is
// resolved goes back to the lower bound. What is about no function, or about one that is gone, is let pass: Alertmanager
// groups alerts as its user likes, and alerts outlive the functions they are about.
func (a *API) alert(w http.ResponseWriter, r *http.Request) error {
	var message alertMessage
	if err := decode(w, r, &message); err != nil {
		return err
	}
	if len(message.Alerts) > maxAlerts {
		return badRequest("alerts: %d of them; want at most %d", len(message.Alerts), maxAlerts)
	}
	var problems []error
	for i, alert := range message.Alerts {
		status := alert.Status
		if status == "" {
			status = message.Status
		}
		function := alert.Labels["function_name"]
		if function == "" {
			continue
		}
		if err := a.follow(r.Context(), status, function); err != nil {
			problems = append(problems, fmt.Errorf("alerts[%d]: %w", i, err))
		}
	}
	return errors.Join(problems...)
}

// follow acts on one alert.
func (a *API) follow(ctx context.Context, status, function string) error {
	name, namespace := function, ""
	if dot := strings.LastIndexByte(function, '.'); dot >= 0 {
		name, namespace = function[:dot], function[dot+1:]
	}
	current, err := a.cluster.Status(ctx, namespace, name, false)
	if errors.Is(err, swarm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	replicas := replicasAfter(status, current.Replicas, current.Labels)
	if replicas == current.Replicas {
		return nil
	}
	return a.cluster.Scale(ctx, namespace, name, replicas)
}

// replicasAfter decides. A function asleep is not woken by the end of an alert, and a status that is neither firing nor
// resolved changes nothing.
func replicasAfter(status string, current uint64, labels *map[string]string) uint64 {
	least := label(labels, labelScaleMin, defaultScaleMin)
	most := max(label(labels, labelScaleMax, defaultScaleMax), least)
	switch status {
	case "firing":
		factor := min(label(labels, labelScaleFactor, defaultScaleFactor), 100)
		step := (most*factor + 99) / 100
		if factor == 0 || current >= most {
			return current
		}
		return min(current+step, most)
	case "resolved":
		if current == 0 {
			return 0
		}
		return max(least, 1)
	}
	return current
}

// label reads a number; the cluster has refused deployments with others.
func label(labels *map[string]string, key string, absent uint64) uint64 {
	if labels == nil {
		return absent
	}
	n, err := strconv.ParseUint((*labels)[key], 10, 32)
	if err != nil {
		return absent
	}
	return n
}
