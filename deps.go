//go:build deps

package waggle

import (
	_ "github.com/containerd/errdefs"
	_ "github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/kelseyhightower/envconfig"
	_ "github.com/moby/moby/api/types/swarm"
	_ "github.com/moby/moby/client"
	_ "github.com/openfaas/faas-provider/types"
	_ "github.com/openfaas/go-sdk"
	_ "github.com/openfaas/go-sdk/builder"
	_ "github.com/openfaas/go-sdk/stack"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/testutil"
	_ "github.com/redis/go-redis/v9"
	_ "go.uber.org/goleak"
	_ "golang.org/x/net/http2"
	_ "golang.org/x/sync/errgroup"
	_ "pgregory.net/rapid"
)
