package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/procfs"
)

// serve answers /healthz and /metrics until ctx ends.
func serve(ctx context.Context, addr string, healthy func() error, registry *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health and metrics: %w", err)
	}
	return nil
}

func healthcheck(ctx context.Context, cfg config) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return fmt.Errorf("reading listen: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("making the health request: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("asking for health: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("unhealthy: %s", response.Status)
	}
	return nil
}

// watch goes on with a check that passed for a minute, once the container's process has been up for one. Each check costs
// the engine a process, some 50 ms of CPU, and yet the interval between two has to be short while a start waits for one.
// The provider has the same lines: neither program imports the other's packages, and each image is built from its own.
func watch(ctx context.Context, up time.Duration, check func(context.Context) error) error {
	if err := check(ctx); err != nil || up < time.Minute {
		return err
	}
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for range 20 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// age is how long the container's process has been up, 0 if that cannot be told.
func age() time.Duration {
	first, err := procfs.NewProc(1)
	if err != nil {
		return 0
	}
	stat, err := first.Stat()
	if err != nil {
		return 0
	}
	started, err := stat.StartTime()
	if err != nil {
		return 0
	}
	return time.Since(time.Unix(int64(started), 0))
}
