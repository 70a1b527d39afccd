package books

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// look is one answer of the ledger: the database's second, and the stream's.
func look(now, seen, added, pending int) string {
	return fmt.Sprintf("stream,0b0b,n1,active,%d,%d,%d,0,0,%d\nnow,%d,,,,,,,,\nend,0,,,,,,,,\n",
		added, added-pending, pending, seen*1e6, now*1e6)
}

// sequence is a source that gives one answer after another, and the last for ever.
func sequence(t *testing.T, looks ...string) Source {
	t.Helper()
	dir := t.TempDir()
	for i, text := range looks {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Command(fmt.Sprintf(`cat >/dev/null; cd '%s'; n=$(cat next 2>/dev/null || echo 0)
		if [ "$n" -lt %d ]; then echo $((n+1)) >next; fi
		grep -q failure "$n" && { cat "$n" >&2; exit 1; }
		cat "$n"`, dir, len(looks)-1))
}

func TestSettle(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		looks []string
		want  []string
	}{
		"everything is counted at once": {
			[]string{look(10, 9, 5, 0), look(11, 11, 5, 0), look(13, 13, 5, 0)},
			[]string{"the ledger has not been read", "the streams have not been read twice"},
		},
		"entries are pending": {
			[]string{look(10, 9, 5, 5), look(12, 11, 5, 3), look(13, 12, 5, 0), look(15, 14, 5, 0)},
			[]string{"the ledger has not been read", "node n1 has 3 entries pending", "the streams have not been read twice"},
		},
		"a late entry begins it again": {
			[]string{look(10, 9, 5, 0), look(12, 11, 5, 0), look(14, 13, 6, 0), look(16, 15, 6, 0)},
			[]string{"the ledger has not been read", "the streams have not been read twice", "the streams have not been read twice"},
		},
		"a look from before the end proves nothing": {
			[]string{look(10, 9, 5, 0), look(12, 9, 5, 0), look(13, 12, 5, 0), look(14, 14, 5, 0)},
			[]string{"the ledger has not been read", "no worker has read node n1 since 00:00:09", "the streams have not been read twice"},
		},
		"an idle worker looks less often than we do": {
			[]string{look(10, 9, 5, 0), look(12, 11, 5, 0), look(13, 11, 5, 0), look(14, 11, 5, 0), look(15, 15, 5, 0)},
			[]string{"the ledger has not been read", "the streams have not been read twice",
				"no worker has read node n1 since 00:00:11", "no worker has read node n1 since 00:00:11"},
		},
		"a database that restarts is waited for": {
			[]string{look(10, 9, 5, 0), "failure: the server is starting", look(13, 12, 5, 0), look(14, 14, 5, 0)},
			[]string{"the ledger has not been read", "failure: the server is starting", "the streams have not been read twice"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			behind := Settle(t.Context(), sequence(t, test.looks...), 1, time.Millisecond, func(behind []string) {
				got = append(got, strings.Join(behind, "; "))
			})
			if len(behind) != 0 || !slices.EqualFunc(got, test.want, strings.Contains) {
				t.Errorf("behind %q after %q, want %q", behind, got, test.want)
			}
		})
	}
}

func TestSettleGivesUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	behind := Settle(ctx, sequence(t, look(10, 9, 5, 5), look(12, 11, 5, 5)), 1, time.Millisecond, func(behind []string) {
		if strings.Contains(behind[0], "pending") {
			cancel()
		}
	})
	if len(behind) != 1 || behind[0] != "node n1 has 5 entries pending" {
		t.Errorf("got %q", behind)
	}
}
