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

	"waggle/template/go-http/liveness"
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

// healthcheck runs inside the worker's container, see package liveness. A worker that says itself that its loop has
// stopped has not answered.
func healthcheck(ctx context.Context, cfg config) error {
	ask, err := askWorker(cfg)
	if err != nil {
		return err
	}
	return liveness.Run(ctx, ask)
}

func askWorker(cfg config) (liveness.Ask, error) {
	_, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("reading listen: %w", err)
	}
	return liveness.HTTP("127.0.0.1:"+port, "/healthz", http.StatusOK), nil
}
