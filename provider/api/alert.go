package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"waggle/provider/feed"
	"waggle/provider/swarm"
)

// maxAlerts bounds one message of Alertmanager, which groups them by function.
const maxAlerts = 1000

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
	replicas := replicasAfter(status, current.Replicas, swarm.ScaleOf(*current.Labels))
	if replicas == current.Replicas {
		return nil
	}
	return a.cluster.Scale(ctx, namespace, name, replicas)
}

// replicasAfter decides. A function asleep is not woken by the end of an alert, and a status that is neither firing nor
// resolved changes nothing.
func replicasAfter(status string, current uint64, scale feed.Scale) uint64 {
	switch status {
	case "firing":
		step := (scale.Max*scale.Factor + 99) / 100
		if step == 0 || current >= scale.Max {
			return current
		}
		return min(current+step, scale.Max)
	case "resolved":
		if current == 0 {
			return 0
		}
		return scale.Min
	}
	return current
}
