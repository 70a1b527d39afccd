package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	pg := func(code string) error { return fmt.Errorf("counting a batch: %w", &pgconn.PgError{Code: code}) }
	for name, tc := range map[string]struct {
		err  error
		want Class
	}{
		"another worker was faster":     {ErrStale, Again},
		"serialization failure":         {pg("40001"), Again},
		"deadlock":                      {pg("40P01"), Again},
		"lock timeout":                  {pg("55P03"), Again},
		"statement timeout":             {pg("57014"), Again},
		"terminated by an admin":        {pg("57P01"), Unknown},
		"crash shutdown":                {pg("57P02"), Unknown},
		"starting up":                   {pg("57P03"), Unknown},
		"connection failure":            {pg("08006"), Unknown},
		"disk full":                     {pg("53100"), Unknown},
		"demoted to a standby":          {pg("25006"), Unknown},
		"numeric out of range":          {pg("22003"), Data},
		"check violation":               {pg("23514"), Data},
		"a voter twice in a batch":      {pg("21000"), Data},
		"no such table":                 {pg("42P01"), Deploy},
		"wrong password":                {pg("28P01"), Deploy},
		"no such database":              {pg("3D000"), Deploy},
		"an error Postgres never named": {pg(""), Unknown},
		"connection broke":              {io.ErrUnexpectedEOF, Unknown},
		"deadline":                      {context.DeadlineExceeded, Unknown},
		"anything else":                 {errors.New("x"), Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Classify(tc.err); got != tc.want {
				t.Errorf("Classify(%v) = %v, want %v", tc.err, got, tc.want)
			}
		})
	}
}
