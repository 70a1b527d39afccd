// Package books reads what was counted, from Postgres, through a command that runs SQL.
//
// It stands after the drain. In: the tables and views of worker/store, read by psql in the database's own container or
// by any command that the operator names, so that no database password and no driver is needed here. Out: the ledger,
// and whole snapshots for package judge. Each reading is one SQL statement, hence one snapshot, and is refused unless
// it is whole.
package books

import (
	"context"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/deploy/lab/voters/judge"
)

// Stream is one incarnation of a node's vote stream, as the ledger has it. Counts are of entries, and
// Added = Counted + Rejected + Pending + Lost as far as the worker that wrote it has seen.
type Stream struct {
	Node, State                             string
	Added, Counted, Pending, Rejected, Lost int64
	SeenAt                                  time.Time
}

// Ledger is all streams by incarnation, at the database's own time Now.
type Ledger struct {
	Streams map[string]Stream
	Now     time.Time
}

// Snapshot is everything about one poll at one moment.
type Snapshot struct {
	Ledger Ledger
	Rows   []judge.Row
	Counts map[judge.Slot]int64
	Tally  map[judge.Slot]int64
}

// Each line is a kind and nine texts. The line "end" carries the number of votes, so that a reading that was cut off is noticed.
const (
	ledgerSQL = `
SELECT 'stream', incarnation::text, node, state, added::text, counted::text, pending::text, rejected::text, lost::text,
       (extract(epoch FROM seen_at) * 1000000)::bigint::text FROM result_ledger
UNION ALL
SELECT 'now', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text, '', '', '', '', '', '', '', ''`
	votesSQL = `
UNION ALL
SELECT 'vote', replace(voter::text, '-', ''), seq::text, choice::text, '', '', '', '', '', '' FROM vote WHERE poll = %[1]d
UNION ALL
SELECT 'count', poll::text, choice::text, count(*)::text, '', '', '', '', '', '' FROM vote GROUP BY poll, choice
UNION ALL
SELECT 'tally', poll::text, choice::text, sum(n)::text, '', '', '', '', '', '' FROM tally GROUP BY poll, choice`
	endSQL = `
UNION ALL
SELECT 'end', (SELECT count(*) FROM vote WHERE poll = %[1]d)::text, '', '', '', '', '', '', '', ''`
)

func copySQL(poll int32, parts ...string) string {
	body := strings.Join(parts, "")
	if strings.Contains(body, "%[1]d") {
		body = fmt.Sprintf(body, poll)
	}
	return "COPY (" + body + "\n) TO STDOUT WITH (FORMAT csv);\n"
}

// ReadLedger reads the ledger and the number of votes in the poll.
func ReadLedger(ctx context.Context, s Source, poll int32) (Ledger, int64, error) {
	got, votes, err := read(ctx, s, copySQL(poll, ledgerSQL, endSQL))
	if err != nil {
		return Ledger{}, 0, fmt.Errorf("reading the ledger: %w", err)
	}
	return got.Ledger, votes, nil
}

// Read takes a snapshot. It holds 32 bytes per vote of the poll.
func Read(ctx context.Context, s Source, poll int32) (Snapshot, error) {
	got, votes, err := read(ctx, s, copySQL(poll, ledgerSQL, votesSQL, endSQL))
	if err == nil && votes != int64(len(got.Rows)) {
		err = fmt.Errorf("%d votes arrived of %d", len(got.Rows), votes)
	}
	if err != nil {
		return Snapshot{}, fmt.Errorf("reading the votes of poll %d: %w", poll, err)
	}
	return got, nil
}

func read(ctx context.Context, s Source, sql string) (Snapshot, int64, error) {
	var got Snapshot
	var votes int64
	err := s.run(ctx, sql, func(r io.Reader) (err error) {
		got, votes, err = parse(r)
		return err
	})
	return got, votes, err
}

var errCut = errors.New("the output ends before its last line")

// parse reads the lines in any order: SQL promises none.
func parse(r io.Reader) (Snapshot, int64, error) {
	s := Snapshot{
		Ledger: Ledger{Streams: map[string]Stream{}},
		Counts: map[judge.Slot]int64{}, Tally: map[judge.Slot]int64{},
	}
	votes, lines := int64(-1), csv.NewReader(r)
	lines.FieldsPerRecord = 10
	lines.ReuseRecord = true
	for {
		f, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Snapshot{}, 0, fmt.Errorf("parsing what the command printed: %w", err)
		}
		if err := s.line(f, &votes); err != nil {
			return Snapshot{}, 0, fmt.Errorf("parsing line %q: %w", strings.Join(f, ","), err)
		}
	}
	if votes < 0 || s.Ledger.Now.IsZero() {
		return Snapshot{}, 0, errCut
	}
	return s, votes, nil
}

func (s *Snapshot) line(f []string, votes *int64) error {
	p := parser{}
	switch f[0] {
	case "vote":
		s.Rows = append(s.Rows, judge.Row{Pseudonym: p.pseudonym(f[1]), Seq: p.number(f[2], 64), Choice: int16(p.number(f[3], 16))})
	case "count":
		s.Counts[p.slot(f)] = p.number(f[3], 64)
	case "tally":
		s.Tally[p.slot(f)] = p.number(f[3], 64)
	case "stream":
		s.Ledger.Streams[f[1]] = Stream{
			Node: f[2], State: f[3], Added: p.number(f[4], 64), Counted: p.number(f[5], 64), Pending: p.number(f[6], 64),
			Rejected: p.number(f[7], 64), Lost: p.number(f[8], 64), SeenAt: time.UnixMicro(p.number(f[9], 64)),
		}
	case "now":
		s.Ledger.Now = time.UnixMicro(p.number(f[1], 64))
	case "end":
		*votes = p.number(f[1], 64)
	default:
		return fmt.Errorf("kind %q is none of vote, count, tally, stream, now, end", f[0])
	}
	return p.err
}

// parser keeps the first error, so that a line reads as one expression.
type parser struct{ err error }

func (p *parser) number(text string, bits int) int64 {
	n, err := strconv.ParseInt(text, 10, bits)
	if p.err == nil {
		p.err = err
	}
	return n
}

func (p *parser) slot(f []string) judge.Slot {
	return judge.Slot{Poll: int32(p.number(f[1], 32)), Choice: int16(p.number(f[2], 16))}
}

func (p *parser) pseudonym(text string) (out judge.Pseudonym) {
	raw, err := hex.DecodeString(text)
	if err == nil && copy(out[:], raw) != len(out) || len(raw) > len(out) {
		err = fmt.Errorf("voter %q is not 16 bytes in hexadecimal", text)
	}
	if p.err == nil {
		p.err = err
	}
	return out
}

// Growth is what happened to the ledger between two readings of it.
type Growth struct {
	Added    int64 `json:"added"`
	Rejected int64 `json:"rejected"`
	Lost     int64 `json:"lost"`
	// Nodes counts the entries that each node's streams were given.
	Nodes map[string]int64 `json:"nodes"`
}

// Since compares with an earlier reading. Rows of the ledger never go away; one that did is counted as lost entries.
func (l Ledger) Since(before Ledger) Growth {
	g := Growth{Nodes: map[string]int64{}}
	for inc, now := range l.Streams {
		was := before.Streams[inc]
		g.Added += now.Added - was.Added
		g.Rejected += now.Rejected - was.Rejected
		g.Lost += max(now.Lost-was.Lost, 0)
		g.Nodes[now.Node] += now.Added - was.Added
	}
	for inc, was := range before.Streams {
		if _, still := l.Streams[inc]; !still {
			g.Lost += was.Added
		}
	}
	return g
}

// Behind says which streams are not wholly counted as of a moment of the database's clock, and why; none means that
// the drain is complete. A node that is silent for good must be retired first: until then its votes may still come.
func (l Ledger) Behind(since time.Time) []string {
	if len(l.Streams) == 0 {
		return []string{"no stream is in the ledger: no worker has found a node"}
	}
	var out []string
	for _, inc := range slices.Sorted(maps.Keys(l.Streams)) {
		s := l.Streams[inc]
		switch {
		case s.State != "active" && s.State != "missing":
		case !s.SeenAt.After(since):
			out = append(out, fmt.Sprintf("no worker has looked at node %s since %s", s.Node, s.SeenAt.UTC().Format(time.TimeOnly)))
		case s.Pending != 0:
			out = append(out, fmt.Sprintf("node %s has %d entries pending", s.Node, s.Pending))
		}
	}
	return out
}

// Counted is the number of entries that are counted on all streams.
func (l Ledger) Counted() (sum int64) {
	for _, s := range l.Streams {
		sum += s.Counted
	}
	return sum
}

func (l Ledger) added() (sum int64) {
	for _, s := range l.Streams {
		sum += s.Added
	}
	return sum
}

// Settle waits until everything that was captured before the call is counted. It returns why not if ctx ends first;
// none means that it is. Every is the pause between looks at the ledger: each costs a process.
//
// A worker writes what it saw a moment ago, so that one look is not enough: a second one must show that each stream has
// been looked at again since the first, with nothing added and nothing pending. A database that does not answer is
// waited for, too.
func Settle(ctx context.Context, s Source, poll int32, every time.Duration, waiting func(behind []string)) []string {
	behind, calm, added := []string{"the ledger has not been read"}, false, int64(0)
	var since time.Time // By the database's clock, the only one that the ledger knows.
	for {
		ledger, _, err := ReadLedger(ctx, s, poll)
		switch {
		case ctx.Err() != nil:
			return behind
		case err != nil:
			behind, calm = []string{err.Error()}, false
		case since.IsZero():
			since = ledger.Now
		case len(ledger.Behind(since)) > 0:
			behind = ledger.Behind(since)
		case calm && added == ledger.added():
			return nil
		default:
			behind, calm = []string{"the streams have not been looked at twice"}, true
			added, since = ledger.added(), ledger.Now
		}
		waiting(behind)
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return behind
		}
	}
}
