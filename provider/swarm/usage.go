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
)

const (
	// usageInterval lies between the two readings of which a rate is made: long enough for a meaningful one, short
	// enough for a user who waits.
	usageInterval = 250 * time.Millisecond
	usageTimeout  = 5 * time.Second
	// maxMeasured bounds how many containers are asked at once, and for one description.
	maxMeasured = 64
)

// usage measures what a function's replicas consume: processors in thousandths and memory in bytes. A manager's
// engine can only look into its own containers, so the replicas on other nodes are not in it; nil when none of them
// is here, because a part that is 0 would be taken for the whole.
func (c *Cluster) usage(ctx context.Context, tasks []swarm.Task) *types.FunctionUsage {
	node, err := c.ownNode(ctx)
	if err != nil {
		return nil
	}
	var ids []string
	for _, task := range tasks {
		if task.NodeID == node && task.Status.State == swarm.TaskStateRunning && task.Status.ContainerStatus != nil && len(ids) < maxMeasured {
			ids = append(ids, task.Status.ContainerStatus.ContainerID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	before := c.measure(ctx, ids)
	if err := pause(ctx, usageInterval); err != nil {
		return nil
	}
	after := c.measure(ctx, ids)

	var total types.FunctionUsage
	measured := false
	for i := range ids {
		if before[i] == nil || after[i] == nil {
			continue // it ended meanwhile
		}
		measured = true
		total.CPU += milliCPUs(before[i], after[i])
		total.TotalMemoryBytes += workingSet(after[i].MemoryStats)
	}
	if !measured {
		return nil
	}
	return &total
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
