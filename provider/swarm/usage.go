package swarm

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/openfaas/faas-provider/types"
	"golang.org/x/sync/errgroup"

	"waggle/provider/feed"
)

const (
	// usageInterval lies between the two readings of which a rate is made: long enough for a meaningful one, short
	// enough for a user who waits.
	usageInterval = 250 * time.Millisecond
	usageTimeout  = 5 * time.Second
	// maxMeasured bounds how many containers are asked at once, and for one description.
	maxMeasured = 64
)

// usage is what a function's replicas consume: processors in thousandths and memory in bytes. What a gateway
// has read lately comes first, because it is at hand. An engine reads its containers once a second, so a rate
// takes one or two. It is asked about replicas of its own node that no gateway could read, such as one that has
// just started.
//
// The answer is whole or nil: a part of it, or a part scaled up, would be taken for what the function consumes.
// So it is nil for some seconds after a replica has started on another node, and while one runs there that
// shows no figures.
func (c *Cluster) usage(ctx context.Context, tasks []swarm.Task) *types.FunctionUsage {
	var total types.FunctionUsage
	add := func(u feed.Usage) {
		total.CPU += u.CPU
		total.TotalMemoryBytes += u.Memory
	}
	running := 0
	var unknown []swarm.Task
	for _, task := range tasks {
		if task.DesiredState != swarm.TaskStateRunning || task.Status.State != swarm.TaskStateRunning {
			continue
		}
		running++
		if reported, ok := c.cfg.Usages.Of(task.ID, time.Now()); ok {
			add(reported)
		} else {
			unknown = append(unknown, task)
		}
	}
	measured := c.measureOwn(ctx, unknown)
	if running == 0 || len(measured) < len(unknown) {
		return nil
	}
	for _, one := range measured {
		add(one)
	}
	return &total
}

// measureOwn measures tasks that all run on the engine's own node; nil if one does not, or there are too many.
func (c *Cluster) measureOwn(ctx context.Context, tasks []swarm.Task) []feed.Usage {
	if len(tasks) == 0 || len(tasks) > maxMeasured {
		return nil
	}
	node, err := c.ownNode(ctx)
	if err != nil {
		return nil
	}
	containers := make([]string, len(tasks))
	for i, task := range tasks {
		if task.NodeID != node || task.Status.ContainerStatus == nil {
			return nil
		}
		containers[i] = task.Status.ContainerStatus.ContainerID
	}
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	before := c.measure(ctx, containers)
	if err := pause(ctx, usageInterval); err != nil {
		return nil
	}
	after := c.measure(ctx, containers)
	var measured []feed.Usage
	for i, task := range tasks {
		if before[i] != nil && after[i] != nil { // else it ended meanwhile
			measured = append(measured, feed.Usage{ID: task.ID, CPU: milliCPUs(before[i], after[i]), Memory: workingSet(after[i].MemoryStats)})
		}
	}
	return measured
}

// ownNode is the Swarm's id of the node this engine is.
func (c *Cluster) ownNode(ctx context.Context) (string, error) {
	c.nodeOnce.Lock()
	defer c.nodeOnce.Unlock()
	if c.nodeID == "" {
		info, err := c.docker.Info(ctx, client.InfoOptions{})
		if err != nil {
			return "", dockerError("asking for the engine's node", err)
		}
		c.nodeID = info.Info.Swarm.NodeID
	}
	return c.nodeID, nil
}

// measure reads each container once; nil stands for one that could not be read.
func (c *Cluster) measure(ctx context.Context, ids []string) []*container.StatsResponse {
	readings := make([]*container.StatsResponse, len(ids))
	var group errgroup.Group
	for i, id := range ids {
		group.Go(func() error {
			result, err := c.docker.ContainerStats(ctx, id, client.ContainerStatsOptions{})
			if err != nil {
				return nil
			}
			defer result.Body.Close()
			var reading container.StatsResponse
			if json.NewDecoder(io.LimitReader(result.Body, 1<<20)).Decode(&reading) == nil && !reading.Read.IsZero() {
				readings[i] = &reading
			}
			return nil
		})
	}
	_ = group.Wait() // no member returns an error
	return readings
}

func milliCPUs(before, after *container.StatsResponse) float64 {
	elapsed := after.Read.Sub(before.Read)
	if elapsed <= 0 || after.CPUStats.CPUUsage.TotalUsage < before.CPUStats.CPUUsage.TotalUsage {
		return 0
	}
	used := after.CPUStats.CPUUsage.TotalUsage - before.CPUStats.CPUUsage.TotalUsage
	return float64(used) / float64(elapsed.Nanoseconds()) * 1000
}

// workingSet is the memory that cannot be had back by dropping caches. Its name in the kernel's counters differs
// between version 1 and 2 of control groups.
func workingSet(m container.MemoryStats) float64 {
	inactive, found := m.Stats["total_inactive_file"]
	if !found {
		inactive = m.Stats["inactive_file"]
	}
	if inactive > m.Usage {
		return 0
	}
	return float64(m.Usage - inactive)
}
