package swarmtest

import (
	"context"
	"errors"
	"time"

	"waggle/provider/swarm"
)

// scaled scales as an autoscaler does: what an update under way puts off is asked for again, until patience ends.
func (b *bench) scaled(ctx context.Context, cluster *swarm.Cluster, name string, replicas uint64) error {
	for began := time.Now(); ; {
		err := cluster.Scale(ctx, "", name, replicas)
		if !errors.Is(err, swarm.ErrUnavailable) || time.Since(began) > b.Patience {
			return err
		}
	}
}
