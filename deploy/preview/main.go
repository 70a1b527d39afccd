// Command preview shows the pages of functions/polls.json: the ballots and, without votes, the results. It runs the two
// functions as they are, without Redis and Postgres, so that a press is answered that nothing was recorded.
//
// In: the address to listen on. Out: the pages, until it is interrupted.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"waggle/functions/results"
	"waggle/functions/vote"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "make preview:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) != 2 {
		return errors.New("name the address to listen on, such as 127.0.0.1:8080")
	}
	dir, err := os.MkdirTemp("", "preview-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir); err != nil {
		return err
	}
	// The functions log that there is no Redis and no Postgres; here that is as it should be.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	ballot, err := vote.New(ctx)
	if err != nil {
		return err
	}
	count, err := results.New(ctx)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	for path, handler := range map[string]http.Handler{"/vote": ballot, "/results": count} {
		mux.Handle(path, http.StripPrefix(path, handler))
		mux.Handle(path+"/", http.StripPrefix(path, handler))
	}
	server := &http.Server{Addr: os.Args[1], Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Printf("ballot   http://%s/vote\nresults  http://%s/results\nCtrl-C ends the preview.\n", os.Args[1], os.Args[1])
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// prepare writes the functions' secrets and settings.
func prepare(dir string) error {
	polls, err := os.ReadFile(filepath.Join("functions", "polls.json"))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"polls": string(polls), "voter-keys": "poll:" + randomKey() + "\nk1:" + randomKey(), "redis-capture": "none", "redis-copies": "none", "postgres-results": "none",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	for name, value := range map[string]string{
		"secret_mount_path": dir, "redis_socket": filepath.Join(dir, "none"), "postgres_host": dir, "results_url": "/results", "vote_url": "/vote",
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

func randomKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(key)
}
