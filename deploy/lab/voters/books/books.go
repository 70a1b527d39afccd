// Package books reads what was counted, from Postgres, through a command that runs SQL.
//
// It stands after the drain. In: the tables and views of worker/store, read by psql in the database's own
// container or by any command that the operator names. So no database password and no driver is needed here.
// Out: the ledger, and whole snapshots for package judge. Each reading is one SQL statement, hence one
// snapshot, and is refused unless it is whole.
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
	// Recovered is the part of Counted that came from copies. Single is the number of entries that were confirmed
	// with one copy, Closed the part of Lost that an operator has closed.
	Recovered, Single, Closed int64
	// ClosedAt is when the stream was replaced or retired; zero while it is not. Unread are nodes whose copies of its votes have
	// still to be compared.
	ClosedAt time.Time
	Unread   string
}

// recovering is how long after a stream was closed its votes may still be counted from copies: workers look every 5 s.
const recovering = 20 * time.Second

// Ledger is all streams by incarnation, and all gaps by number with whether they are open, at the database's own time Now.
type Ledger struct {
	Streams map[string]Stream
	Gaps    map[string]bool
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
SELECT 'copies', incarnation::text, recovered::text, single::text, lost_closed::text,
       coalesce((extract(epoch FROM closed_at) * 1000000)::bigint, 0)::text, array_to_string(unread, ' '), '', '', '' FROM result_ledger
UNION ALL
SELECT 'gap', id::text, (closed_at IS NULL)::int::text, '', '', '', '', '', '', '' FROM result_gap
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
		Ledger: Ledger{Streams: map[string]Stream{}, Gaps: map[string]bool{}},
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
		st := s.Ledger.Streams[f[1]]
		st.Node, st.State, st.Added, st.Counted, st.Pending = f[2], f[3], p.number(f[4], 64), p.number(f[5], 64), p.number(f[6], 64)
		st.Rejected, st.Lost, st.SeenAt = p.number(f[7], 64), p.number(f[8], 64), time.UnixMicro(p.number(f[9], 64))
		s.Ledger.Streams[f[1]] = st
	case "copies":
		st := s.Ledger.Streams[f[1]]
		st.Recovered, st.Single, st.Closed, st.Unread = p.number(f[2], 64), p.number(f[3], 64), p.number(f[4], 64), f[6]
		if at := p.number(f[5], 64); at != 0 {
			st.ClosedAt = time.UnixMicro(at)
		}
		s.Ledger.Streams[f[1]] = st
	case "gap":
		s.Ledger.Gaps[f[1]] = p.number(f[2], 8) == 1
	case "now":
		s.Ledger.Now = time.UnixMicro(p.number(f[1], 64))
	case "end":
		*votes = p.number(f[1], 64)
	default:
		return fmt.Errorf("kind %q is none of vote, count, tally, stream, copies, gap, now, end", f[0])
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
	// Recovered entries were counted from copies, Single ones were confirmed with one copy; Gaps have been noted.
	Recovered int64 `json:"recovered"`
	Single    int64 `json:"single"`
	Gaps      int64 `json:"gaps"`
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
		g.Recovered += now.Recovered - was.Recovered
		g.Single += now.Single - was.Single
		g.Nodes[now.Node] += now.Added - was.Added
	}
	for inc, was := range before.Streams {
		if _, still := l.Streams[inc]; !still {
			g.Lost += was.Added
		}
	}
	for id := range l.Gaps {
		if _, known := before.Gaps[id]; !known {
			g.Gaps++
		}
	}
	return g
}

// Open is the number of lost entries and of gaps that nobody has closed.
func (l Ledger) Open() (n int64) {
	for _, s := range l.Streams {
		n += s.Lost - s.Closed
	}
	for _, open := range l.Gaps {
		if open {
			n++
		}
	}
	return n
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
		case s.Unread != "":
			out = append(out, fmt.Sprintf("the copies of node %s on %s have not been compared", s.Node, s.Unread))
		case s.ClosedAt.Add(recovering).After(l.Now):
			out = append(out, fmt.Sprintf("node %s was closed at %s, and its copies may not have been read since", s.Node, s.ClosedAt.UTC().Format(time.TimeOnly)))
		case s.State != "active" && s.State != "missing":
		case !s.SeenAt.After(since):
			out = append(out, fmt.Sprintf("no worker has read node %s since %s", s.Node, s.SeenAt.UTC().Format(time.TimeOnly)))
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

// Settle waits until everything that was captured before the call is counted. If ctx ends first it returns what
// is missing; nil means that all is counted. Every is the pause between readings of the ledger: each costs a
// process.
//
// A worker writes what it saw a moment ago, so one reading is not enough. A second one must show that each
// stream was read again since the first, with nothing added and nothing pending. It also waits for a database
// that does not answer.
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
			behind, calm = []string{"the streams have not been read twice"}, true
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
