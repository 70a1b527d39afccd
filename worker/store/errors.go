package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrStale means that the stream's account has changed since the caller read it, so nothing was written.
// Another worker was faster, or an earlier attempt with an unknown outcome did succeed. The caller reads the
// account again.
var ErrStale = errors.New("the stream's account has changed")

// Class says what a failed write means for its batch.
type Class int

const (
	// Again means that nothing was written and the same batch may be tried again after a pause.
	Again Class = iota
	// Unknown means that the batch may or may not have been written: only the account can tell.
	Unknown
	// Data means that Postgres refuses the batch for what is in it: trying again can't help, a smaller batch can.
	Data
	// Deploy means that the schema, a right or a password is wrong: a human has to act.
	Deploy
)

// String is the label of the class in metrics and logs.
func (c Class) String() string {
	switch c {
	case Again:
		return "again"
	case Unknown:
		return "unknown"
	case Data:
		return "data"
	case Deploy:
		return "deploy"
	default:
		return fmt.Sprintf("class %d", int(c))
	}
}

// Classify sorts a non-nil error of this package. What it does not recognise is Unknown, the class that assumes least.
func Classify(err error) Class {
	if errors.Is(err, ErrStale) {
		return Again
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		if pgconn.SafeToRetry(err) {
			return Again
		}
		return Unknown
	}
	switch pg.Code {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock_timeout: rolled back
		return Again
	case "57014": // statement_timeout: rolled back
		return Again
	case "21000": // a voter twice in one batch: our own folding is wrong, and bisecting gets past it
		return Data
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case "22", "23":
		return Data
	case "42", "28", "3D":
		return Deploy
	default: // 57P01–57P03 shutdowns, 08 connection, 53 resources, 25006 demoted to a standby, and the rest
		return Unknown
	}
}

// dead reports whether the pool's other connections go the way of this one: the server is ending or became a standby.
func dead(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "25006", "57P01", "57P02", "57P03":
		return true
	}
	return false
}

// Reason is what a reject row says about a batch of one that Postgres refused.
func Reason(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return "refused by Postgres with SQLSTATE " + pg.Code
	}
	return "refused by Postgres"
}

// check wraps err with what was being done, and empties the pool if its connections are of no more use.
func (s *Store) check(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if dead(err) {
		s.pool.Reset()
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w (%w)", doing, err, context.Cause(ctx))
	}
	return fmt.Errorf("%s: %w", doing, err)
}
