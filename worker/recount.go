package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"waggle/worker/store"
)

// recount counts every vote again and writes what it found as JSON; deploy/summary reads it.
func recount(ctx context.Context, cfg config, out io.Writer) error {
	dsn, err := cfg.dsn("waggle_drain", "postgres-drain")
	if err != nil {
		return err
	}
	tally, err := store.New(store.Config{DSN: dsn})
	if err != nil {
		return err
	}
	defer tally.Close()
	counted, err := tally.Recount(ctx)
	if err != nil {
		return err
	}
	found := struct {
		store.Recount
		Faults []string `json:"faults"`
	}{counted, []string{}}
	if err := counted.Check(); err != nil {
		found.Faults = strings.Split(err.Error(), "\n")
	}
	if err := json.NewEncoder(out).Encode(found); err != nil {
		return fmt.Errorf("writing the recount: %w", err)
	}
	return nil
}
