// Command go-http is a function's whole process: the handler package beside it behind the server of package watchdog.
//
// The template uses the standard library only, because it is compiled against its user's module files. It must not
// need a dependency of ours there, nor a version of one.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // the image has no zone files

	"waggle/template/go-http/watchdog"
)

func main() {
	logger := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	slog.SetDefault(logger)
	if err := run(logger); err != nil {
		logger.Error("function stopped", "error", err)
		os.Exit(1)
	}
}

// withoutTime leaves the time of a line to the engine, which keeps one for each: faas-cli logs shows that.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// run keeps two lifetimes apart: the signal starts the drain, and only after it does the handler's context end.
func run(logger *slog.Logger) (err error) {
	config, err := watchdog.ConfigFromEnv(os.Getenv)
	if err != nil {
		return fmt.Errorf("reading the environment: %w", err)
	}
	config.Logger = logger
	watchdog.LimitMemory(os.Getenv)

	signalled, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	life, end := context.WithCancel(context.Background())
	defer end()

	handler, err := start(life)
	if err != nil {
		return fmt.Errorf("starting the function: %w", err)
	}
	config.Handler = handler
	server, err := watchdog.New(config)
	if err != nil {
		return errors.Join(err, watchdog.Flush(life, handler))
	}
	logger.Info("function starting", "config", config)
	return server.Run(signalled)
}
