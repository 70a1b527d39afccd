package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"waggle/template/go-http/liveness"
)

// serve answers until ctx ends, then lets running calls end within the shutdown timeout.
func serve(ctx context.Context, c config, handler http.Handler, logger *slog.Logger) error {
	listener, err := net.Listen("tcp", c.address())
	if err != nil {
		return fmt.Errorf("listening on port %d: %w", c.provider.Port, err)
	}
	// Streams end when this does: they would outlast any shutdown.
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: c.provider.ReadTimeout,
		WriteTimeout: c.provider.WriteTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return streams },
		ErrorLog:    slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	logger.Info("listening", "address", listener.Addr().String())
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.provider.ShutdownTimeout)
	defer cancel()
	time.AfterFunc(time.Second, endStreams)
	if err := server.Shutdown(deadline); err != nil {
		logger.Warn("calls were cut off by the shutdown", "error", errors.Join(err, server.Close()))
	}
	logger.Info("stopped")
	return nil
}

// healthcheck runs inside the container of a provider or gateway, see package liveness. Whatever it is answered will do:
// while Docker is away, a restart would lose the replica table and mend nothing.
func healthcheck(ctx context.Context, c config) error {
	port := c.provider.Port
	if c.hasGateway() {
		port = c.gateway.Port
	}
	return liveness.Run(ctx, liveness.HTTP("127.0.0.1:"+strconv.Itoa(port), "/healthz", 0))
}
