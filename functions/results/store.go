package results

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed count.sql
var countSQL string

// turnoutWindow is how much of a poll's turnout is read and shown, up to its end; turnoutKept is how long after the end.
const (
	turnoutWindow = 2 * time.Hour
	turnoutKept   = 24 * time.Hour
	// maxTurnouts bounds the polls whose turnout is read: the ones at the head of the file.
	maxTurnouts = 50
)

// session is a connection to Postgres that listens for the counts that siblings read. It is for one goroutine.
type session struct {
	conn  *pgx.Conn
	polls []poll
	parts pieces
}

// dial connects and listens.
func dial(ctx context.Context, config *pgx.ConnConfig, polls []poll) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connecting to Postgres: %w", err)
	}
	s := &session{conn: conn, polls: polls}
	if _, err := conn.Exec(ctx, "LISTEN result_count"); err != nil {
		s.close()
		return nil, fmt.Errorf("listening for counts: %w", err)
	}
	return s, nil
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // what is left of it is Postgres's to find
}

// id orders the sessions of one Postgres.
func (s *session) id() uint32 { return s.conn.PgConn().PID() }

// read asks Postgres, and lets it tell all other sessions.
func (s *session) read(ctx context.Context, now time.Time) (*count, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var text string
	var told int64
	polls, firsts, lasts := turnoutWindows(s.polls, now)
	if err := s.conn.QueryRow(ctx, countSQL, polls, firsts, lasts).Scan(&text, &told); err != nil {
		return nil, fmt.Errorf("reading the tally: %w", err)
	}
	return decodeCount([]byte(text))
}

// await returns the next count that another session has read and that session's id, or nothing at the given moment.
func (s *session) await(ctx context.Context, until time.Time) (*count, uint32, error) {
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		n, err := s.conn.WaitForNotification(waiting)
		switch {
		case ctx.Err() != nil:
			return nil, 0, ctx.Err()
		case errors.Is(err, context.DeadlineExceeded) && !s.conn.IsClosed():
			return nil, 0, nil
		case err != nil:
			return nil, 0, fmt.Errorf("waiting for a count: %w", err)
		case n.PID == s.id():
			continue
		}
		text, err := s.parts.add(n.PID, n.Payload)
		if err != nil {
			return nil, 0, err
		}
		if text != nil {
			c, err := decodeCount(text)
			return c, n.PID, err
		}
	}
}

// pieces puts a count together again; see count.sql.
type pieces struct {
	from uint32
	next int
	text []byte
}

// add returns the whole text with its last piece, and nothing before. Pieces of a count whose beginning was sent before
// this session listened are passed over.
func (p *pieces) add(from uint32, payload string) ([]byte, error) {
	var i, n int
	head, body, found := strings.Cut(payload, " ")
	if _, err := fmt.Sscanf(head, "%d/%d", &i, &n); err != nil || !found || i < 1 || i > n {
		return nil, fmt.Errorf("a notification of a count begins with %s: it must be piece/pieces", quoted(head))
	}
	if i == 1 {
		p.from, p.next, p.text = from, 1, p.text[:0]
	}
	if from != p.from || i != p.next {
		p.next = 0
		return nil, nil
	}
	text, err := base64.StdEncoding.AppendDecode(p.text, []byte(body))
	if err != nil {
		return nil, fmt.Errorf("decoding a notification of a count: %w", err)
	}
	p.text, p.next = text, i+1
	if i < n {
		return nil, nil
	}
	return p.text, nil
}

// turnoutWindows says which minutes of which polls to read at now.
func turnoutWindows(polls []poll, now time.Time) (ids []int32, firsts, lasts []int64) {
	ids, firsts, lasts = []int32{}, []int64{}, []int64{}
	for i := range polls {
		p := &polls[i]
		if !p.hasTurnout(now) || len(ids) == maxTurnouts {
			continue
		}
		last := p.turnoutEnd(now)
		ids = append(ids, p.ID)
		firsts = append(firsts, last.Add(-turnoutWindow).Unix()/60+1)
		lasts = append(lasts, last.Unix()/60)
	}
	return ids, firsts, lasts
}
