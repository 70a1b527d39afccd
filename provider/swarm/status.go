package swarm

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
)

// annotationState is the annotation that a description adds only while something is wrong. Lists and healthy
// functions come back exactly as they were deployed.
const annotationState = privatePrefix + "state"

// AnnotationScaling begins the annotations by which a description tells how the function is scaled.
const AnnotationScaling = privatePrefix + "scaling."

// AnnotationCountingSince is the annotation by which a description says that invocations before that time may be missing.
const AnnotationCountingSince = privatePrefix + "invocations.since"

// labelFaaS is the label of OpenFaaS on Kubernetes, see Config.FunctionLabel.
const labelFaaS = "faas_function"

// deploymentOf reads back what the user sent. An error means that somebody else has changed our label. The
// deployment then has only name, namespace and image: enough to find, serve, scale, replace and remove it.
func deploymentOf(service swarm.Service) (types.FunctionDeployment, error) {
	labels := service.Spec.Labels
	d := types.FunctionDeployment{Service: labels[labelFunction], Namespace: labels[labelNamespace]}
	if container := service.Spec.TaskTemplate.ContainerSpec; container != nil {
		d.Image = container.Image
	}
	var sent types.FunctionDeployment
	if err := json.Unmarshal([]byte(labels[labelDeployment]), &sent); err != nil {
		return d, fmt.Errorf("label %s of service %s cannot be read, deploy the function again: %w", labelDeployment, service.Spec.Name, err)
	}
	sent.Service, sent.Namespace = d.Service, d.Namespace
	return sent, nil
}

// functionStatus is what the API says of a service and its tasks, given those that do not answer. It is pure.
func functionStatus(service swarm.Service, tasks []swarm.Task, silent map[string]feed.Unreachable) types.FunctionStatus {
	d, err := deploymentOf(service)
	status := types.FunctionStatus{
		Name: d.Service, Namespace: d.Namespace, Image: d.Image,
		EnvProcess: d.EnvProcess, EnvVars: d.EnvVars, Constraints: d.Constraints, Secrets: d.Secrets,
		Labels: present(d.Labels), Annotations: present(d.Annotations), Limits: d.Limits, Requests: d.Requests,
		ReadOnlyRootFilesystem: d.ReadOnlyRootFilesystem,
		Replicas:               desired(service), AvailableReplicas: available(tasks, silent),
		CreatedAt: service.CreatedAt,
	}
	if err != nil {
		status.Annotations = &map[string]string{annotationState: err.Error()}
	}
	return status
}

// present is m, or an empty map for none: clients dereference it.
func present(m *map[string]string) *map[string]string {
	if m == nil || *m == nil {
		return &map[string]string{}
	}
	return m
}

func desired(service swarm.Service) uint64 {
	if service.Spec.Mode.Replicated == nil || service.Spec.Mode.Replicated.Replicas == nil {
		return 1 // Swarm's own default
	}
	return *service.Spec.Mode.Replicated.Replicas
}

// available counts the replicas that run, are healthy if their image has a health check, answer, and are to stay.
func available(tasks []swarm.Task, silent map[string]feed.Unreachable) uint64 {
	var n uint64
	for _, task := range tasks {
		if _, found := silent[task.ID]; found {
			continue
		}
		if task.DesiredState == swarm.TaskStateRunning && task.Status.State == swarm.TaskStateRunning {
			n++
		}
	}
	return n
}

// explain adds to a status why the function is not as requested. Its update was rolled back, or its replicas cannot
// start or do not answer.
func explain(status *types.FunctionStatus, service swarm.Service, tasks []swarm.Task, silent map[string]feed.Unreachable) {
	var reasons []string
	d, err := deploymentOf(service)
	if err != nil {
		reasons = append(reasons, err.Error())
	}
	if u := service.UpdateStatus; u != nil {
		switch u.State {
		case swarm.UpdateStateRollbackStarted, swarm.UpdateStateRollbackPaused, swarm.UpdateStateRollbackCompleted:
			reasons = append(reasons, "the last update was rolled back: "+u.Message)
		case swarm.UpdateStatePaused:
			reasons = append(reasons, "the last update is paused: "+u.Message)
		}
	}
	reasons = append(reasons, Warnings(d)...)
	if status.AvailableReplicas < status.Replicas {
		if text := newestError(tasks); text != "" {
			reasons = append(reasons, "a replica cannot run: "+text)
		}
	}
	for _, task := range tasks {
		if u, found := silent[task.ID]; found && wanted(task) {
			reasons = append(reasons, fmt.Sprintf("replica %s %s, since %s", task.ID, u.Reason, u.Since.UTC().Format(time.RFC3339)))
		}
	}
	if len(reasons) == 0 {
		return
	}
	annotations := maps.Clone(deref(status.Annotations))
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationState] = strings.Join(reasons, "; ")
	status.Annotations = &annotations
}

func newestError(tasks []swarm.Task) string {
	tasks = slices.DeleteFunc(slices.Clone(tasks), func(t swarm.Task) bool { return t.Status.Err == "" })
	if len(tasks) == 0 {
		return ""
	}
	return slices.MaxFunc(tasks, func(a, b swarm.Task) int { return a.Status.Timestamp.Compare(b.Status.Timestamp) }).Status.Err
}
