package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"waggle/provider/feed"
	"waggle/provider/swarm"
)

// maxAlerts bounds one message of Alertmanager, which groups them by function.
const maxAlerts = 1000

// knownWithin is how long the autoscaler may take to know a function that exists.
const knownWithin = 5 * time.Second

// alertMessage is what Alertmanager's webhook sends, as far as it matters here.
type alertMessage struct {
	Status string `json:"status"`
	Alerts []struct {
		Status string            `json:"status"`
		Labels map[string]string `json:"labels"`
	} `json:"alerts"`
}

// alert scales by messages of Alertmanager, for those who bring their own. It ignores alerts about no function
// or a removed one, and statuses other than firing and resolved. Alertmanager groups alerts as its user likes,
// and alerts outlive the functions they are about.
func (a *API) alert(w http.ResponseWriter, r *http.Request) error {
	var message alertMessage
	if err := decode(w, r, &message); err != nil {
		return err
	}
	if len(message.Alerts) > maxAlerts {
		return badRequest("alerts are %d: must be at most %d", len(message.Alerts), maxAlerts)
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
	if status != "firing" && status != "resolved" {
		return nil
	}
	name, namespace := function, ""
	if dot := strings.LastIndexByte(function, '.'); dot >= 0 {
		name, namespace = function[:dot], function[dot+1:]
	}
	ctx, cancel := context.WithTimeout(ctx, knownWithin)
	defer cancel()
	for {
		err := a.cfg.Autoscaler.Alert(ctx, namespace, name, status == "firing")
		if !errors.Is(err, feed.ErrUnknownFunction) {
			return err
		}
		// One that was deployed a moment ago, or this provider itself, may be too young to be known.
		if _, err := a.cluster.Status(ctx, namespace, name, false); errors.Is(err, swarm.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
