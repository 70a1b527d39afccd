package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"waggle/provider/api"
	"waggle/template/go-http/liveness"
)

// cutTime is how long calls that the shutdown timeout ends may take to say so.
const cutTime = time.Second

// serve listens where the settings say.
func serve(ctx context.Context, c config, handler http.Handler, logger *slog.Logger) error {
	listener, err := net.Listen("tcp", c.address())
	if err != nil {
		return fmt.Errorf("listening on port %d: %w", c.provider.Port, err)
	}
	return serveOn(ctx, listener, c.provider.server, handler, logger)
}

// serveOn answers until ctx ends. Then streams end at once, and running calls have until the shutdown timeout; what is left
// then is answered with 503.
func serveOn(ctx context.Context, listener net.Listener, c server, handler http.Handler, logger *slog.Logger) error {
	calls, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: c.ReadTimeout,
		WriteTimeout: c.WriteTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return calls },
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
	if !shutDown(server, c.ShutdownTimeout) {
		cut(api.ErrClosing)
		logger.Warn("the shutdown ends calls that still run")
		if !shutDown(server, cutTime) {
			logger.Warn("calls were cut off by the shutdown", "error", server.Close())
		}
	}
	logger.Info("stopped")
	return nil
}

// shutDown reports whether no call is left within the timeout.
func shutDown(server *http.Server, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return server.Shutdown(ctx) == nil
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
