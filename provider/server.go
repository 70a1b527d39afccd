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

	"github.com/prometheus/procfs"
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

// healthcheck is for images without a shell: it fails unless the process in this container answers. Whatever it answers
// will do: while Docker is away, a restart would lose the replica table and mend nothing.
func healthcheck(ctx context.Context, c config) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	port := c.provider.Port
	if c.hasGateway() {
		port = c.gateway.Port
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(port)+"/healthz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("asking for health: %w", err)
	}
	return response.Body.Close()
}

// watch goes on with a check that passed for a minute, once the container's process has been up for one. Each check costs
// the engine a process, some 50 ms of CPU, and yet the interval between two has to be short while a start waits for one.
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
