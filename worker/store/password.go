package store

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"waggle/worker/scram"
)

// Login is a role with the password that it has had and the one that it is to have.
type Login struct {
	// Before and Now are connection strings of the same role with either password.
	Before, Now string
	// Password is the one in Now.
	Password string
}

// AwaitPasswords has roles take their new passwords. A role needs no right to change its own. One that has it already is
// left alone, so runs may be repeated. It waits for Postgres at most for the given time, and logs why.
func AwaitPasswords(ctx context.Context, logins []Login, timeout time.Duration, log *slog.Logger) error {
	return await(ctx, timeout, log, func(ctx context.Context) error {
		for _, l := range logins {
			if err := l.change(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l Login) change(ctx context.Context) error {
	conn, nowErr := pgx.Connect(ctx, l.Now)
	if nowErr == nil {
		return conn.Close(ctx)
	}
	conn, err := pgx.Connect(ctx, l.Before)
	if err != nil {
		return fmt.Errorf("logging in to change a password: with the new one: %w; with the one before: %w", nowErr, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	verifier, err := scram.Verifier(l.Password)
	if err != nil {
		return err
	}
	// The role of the results reads only, unless it is told otherwise. A verifier has no quotes in it.
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "ALTER ROLE CURRENT_USER PASSWORD '"+verifier+"'"); err != nil {
			return fmt.Errorf("changing the password of a role: %w", err)
		}
		return nil
	})
}
