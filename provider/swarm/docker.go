package swarm

import (
	"context"
	"fmt"

	"github.com/moby/moby/client"
)

// Docker is what this package needs of an engine that is a Swarm manager. *client.Client implements it, and so
// does the cluster in memory of package swarmtest.
type Docker interface {
	ServiceAPI
	TaskAPI
	SecretAPI
	ConfigAPI
	EngineAPI
}

// ServiceAPI is the part for services.
type ServiceAPI interface {
	ServiceList(ctx context.Context, options client.ServiceListOptions) (client.ServiceListResult, error)
	ServiceInspect(ctx context.Context, id string, options client.ServiceInspectOptions) (client.ServiceInspectResult, error)
	ServiceCreate(ctx context.Context, options client.ServiceCreateOptions) (client.ServiceCreateResult, error)
	ServiceUpdate(ctx context.Context, id string, options client.ServiceUpdateOptions) (client.ServiceUpdateResult, error)
	ServiceRemove(ctx context.Context, id string, options client.ServiceRemoveOptions) (client.ServiceRemoveResult, error)
}

// TaskAPI is the part for the replicas of services, and for what they wrote and where they run.
type TaskAPI interface {
	TaskList(ctx context.Context, options client.TaskListOptions) (client.TaskListResult, error)
	NodeList(ctx context.Context, options client.NodeListOptions) (client.NodeListResult, error)
	TaskLogs(ctx context.Context, id string, options client.TaskLogsOptions) (client.TaskLogsResult, error)
	ContainerStats(ctx context.Context, id string, options client.ContainerStatsOptions) (client.ContainerStatsResult, error)
}

// SecretAPI is the part for secrets.
type SecretAPI interface {
	SecretList(ctx context.Context, options client.SecretListOptions) (client.SecretListResult, error)
	SecretCreate(ctx context.Context, options client.SecretCreateOptions) (client.SecretCreateResult, error)
	SecretRemove(ctx context.Context, id string, options client.SecretRemoveOptions) (client.SecretRemoveResult, error)
}

// ConfigAPI is the part for config objects, in which namespaces live.
type ConfigAPI interface {
	ConfigList(ctx context.Context, options client.ConfigListOptions) (client.ConfigListResult, error)
	ConfigCreate(ctx context.Context, options client.ConfigCreateOptions) (client.ConfigCreateResult, error)
	ConfigUpdate(ctx context.Context, id string, options client.ConfigUpdateOptions) (client.ConfigUpdateResult, error)
	ConfigRemove(ctx context.Context, id string, options client.ConfigRemoveOptions) (client.ConfigRemoveResult, error)
}

// EngineAPI is the part for the engine itself, its images and its registry.
type EngineAPI interface {
	Ping(ctx context.Context, options client.PingOptions) (client.PingResult, error)
	Info(ctx context.Context, options client.InfoOptions) (client.SystemInfoResult, error)
	SwarmInspect(ctx context.Context, options client.SwarmInspectOptions) (client.SwarmInspectResult, error)
	Events(ctx context.Context, options client.EventsListOptions) client.EventsResult
	ImageInspect(ctx context.Context, image string, options ...client.ImageInspectOption) (client.ImageInspectResult, error)
	DistributionInspect(ctx context.Context, image string, options client.DistributionInspectOptions) (client.DistributionInspectResult, error)
}

// TaskEvents are events of tasks, which Docker's API does not send. [ControlSocket] does, and so does the cluster in
// memory.
type TaskEvents interface {
	// FollowTasks calls begun once no later change will be missed. It then calls changed with the id of its
	// service for each task that was created, changed or removed. It returns when ctx or the stream ends,
	// always with an error. The callbacks must not block. No two of their calls overlap, and none comes after
	// the return.
	FollowTasks(ctx context.Context, begun func(), changed func(service string)) error
}

// Connect returns a client of the engine at host, such as unix:///var/run/docker.sock; "" means what the usual
// DOCKER_* variables say. Nothing is dialled yet, so an engine that is down now may come later. The API version
// is negotiated on first use: engines from 20.10 (API 1.41) on serve.
func Connect(host string) (*client.Client, error) {
	options := []client.Opt{client.FromEnv}
	if host != "" {
		options = append(options, client.WithHost(host))
	}
	docker, err := client.New(options...)
	if err != nil {
		return nil, fmt.Errorf("configuring the Docker client: %w", err)
	}
	return docker, nil
}
