package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrateAttempts bounds the repetitions after two first runs raced to create the version table.
const migrateAttempts = 5

// Migrate brings the schema to the version of this binary and returns how many migrations it applied; 0 means
// there was nothing to do. dsn must log in as waggle_admin. Each run is one transaction under an exclusive lock
// on the version table. So runs may be repeated, interrupted and started twice at once.
func Migrate(ctx context.Context, dsn string) (applied int, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, fmt.Errorf("connecting to migrate: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for range migrateAttempts {
		applied, err = migrateOnce(ctx, conn)
		// CREATE TABLE IF NOT EXISTS is not atomic: of two first runs one may fail on the catalogue's unique index.
		if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "23505" && pgErr.Code != "42P07" {
			return applied, err
		}
	}
	return 0, err
}

func migrateOnce(ctx context.Context, conn *pgx.Conn) (applied int, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, fmt.Errorf("beginning the migration: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // a no-op after the commit
	const setup = `CREATE TABLE IF NOT EXISTS schema_version (version int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
		LOCK TABLE schema_version IN EXCLUSIVE MODE`
	if _, err := tx.Exec(ctx, setup); err != nil {
		return 0, fmt.Errorf("preparing the version table: %w", err)
	}
	var current int
	if err := tx.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM schema_version`).Scan(&current); err != nil {
		return 0, fmt.Errorf("reading the schema version: %w", err)
	}
	names, err := fs.Glob(migrationFiles, "migrations/*.sql") // sorted
	if err != nil {
		return 0, fmt.Errorf("listing migrations: %w", err)
	}
	for _, name := range names {
		version, err := migrationVersion(name)
		if err != nil {
			return 0, err
		}
		if version <= current {
			continue
		}
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			return 0, fmt.Errorf("reading migration %s: %w", name, err)
		}
		if _, err := tx.Exec(ctx, string(text)); err != nil {
			return 0, fmt.Errorf("applying migration %s: %w", name, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO schema_version (version) VALUES ($1)`, version); err != nil {
			return 0, fmt.Errorf("recording migration %s: %w", name, err)
		}
		applied++
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, fmt.Errorf("committing the migration: %w", err)
	}
	return applied, nil
}

// migrationVersion reads the number that a migration's file name starts with.
func migrationVersion(name string) (int, error) {
	number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
	version, err := strconv.Atoi(number)
	if err != nil || version < 1 {
		return 0, fmt.Errorf("migration %q: its name must start with a number from 1 and an underscore", name)
	}
	return version, nil
}

// retryStart is the pause between two attempts to find Postgres, or its schema, at start-up.
const retryStart = time.Second

// AwaitMigrate is Migrate, repeated until Postgres is there, at most for the given time. It logs why it waits.
func AwaitMigrate(ctx context.Context, dsn string, timeout time.Duration, log *slog.Logger) (applied int, err error) {
	err = await(ctx, timeout, log, func(ctx context.Context) error {
		applied, err = Migrate(ctx, dsn)
		return err
	})
	return applied, err
}

// AwaitSchema waits until the schema is at least the one this binary knows, at most for the given time.
func (s *Store) AwaitSchema(ctx context.Context, timeout time.Duration, log *slog.Logger) error {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		return fmt.Errorf("listing migrations: %w", err)
	}
	want, err := migrationVersion(names[len(names)-1])
	if err != nil {
		return err
	}
	return await(ctx, timeout, log, func(ctx context.Context) error {
		var have int
		err := s.pool.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM schema_version`).Scan(&have)
		if err != nil {
			return fmt.Errorf("reading the schema version: %w", err)
		}
		if have < want {
			return fmt.Errorf("the schema has version %d, this worker needs %d: run worker migrate", have, want)
		}
		return nil
	})
}

// await repeats step until it succeeds, ctx ends or the time is up. It goes on after every error: before the first
// migration a missing table, and before Postgres has its roles a refused password, are nothing unusual.
func await(ctx context.Context, timeout time.Duration, log *slog.Logger, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(retryStart)
	defer tick.Stop()
	for {
		err := step(ctx)
		if err == nil {
			return nil
		}
		log.Warn("Postgres is not ready", "error", err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for Postgres: %w", err)
		}
	}
}
